"""Rows that the table refuses, in a table beside it: written in the same transaction, so each of them once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec
import psycopg
from psycopg import sql

from onceflow.connectors.postgres.merge import Violation
from onceflow.connectors.postgres.staged import Part

__all__ = ["Rejected"]

_ESCAPE = re.compile(r"\\(.)")
_ESCAPES = {"t": "\t", "n": "\n", "r": "\r"}


class Rejected:
    """Dead letters of one sink.

    Args:
        table: Name, with or without schema; made if it is missing.
        owner: See ``Marker.owner``.
    """

    def __init__(self, table: str, owner: str) -> None:
        self._table = sql.Identifier(*table.split("."))
        self._owner = owner

    def make(self, session: psycopg.Connection[Any]) -> None:
        """Makes the table if it is missing."""
        session.execute(
            sql.SQL(
                "create table if not exists {} (owner text not null, checkpoint bigint not null, code text not null, "
                "reason text not null, record jsonb not null, at timestamptz not null default now())"
            ).format(self._table)
        )

    def write(
        self, session: psycopg.Connection[Any], part: Part, checkpoint_id: int, violations: Sequence[Violation]
    ) -> None:
        """Adds rows, as texts by column, with the server's words on each."""
        statement = sql.SQL(
            "insert into {} (owner, checkpoint, code, reason, record) values (%s, %s, %s, %s, %s::jsonb)"
        ).format(self._table)
        rows = [
            (self._owner, checkpoint_id, each.code, each.reason, msgspec.json.encode(_record(part, each)).decode())
            for each in violations
        ]
        with session.cursor() as cursor:
            cursor.executemany(statement, rows)


def _record(part: Part, violation: Violation) -> dict[str, str | None]:
    return {
        name: None if text is None else _ESCAPE.sub(lambda found: _ESCAPES.get(found[1], found[1]), text)
        for name, text in part.texts_of(violation.row).items()
    }
