"""Markers that jobs have left beside a table."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from onceflow.connectors.outbox.leftovers import left_markers
from onceflow.connectors.postgres.catalogue import read_table
from onceflow.connectors.postgres.markers import MARKERS, Markers
from onceflow.connectors.postgres.server import Server
from onceflow.exceptions import SinkError
from onceflow.leftovers import Leftover, LeftoverContext

if TYPE_CHECKING:
    from onceflow.connectors.postgres.destination import Settings

__all__ = ["left_in_postgres"]


def left_in_postgres(server: Server, settings: Settings, context: LeftoverContext) -> Iterator[Leftover]:
    """Of sinks of this job that it has no more, and of this sink with another state directory."""
    try:
        with closing(server.connect("onceflow doctor")) as session:
            session.execute("begin read only")
            table = read_table(session, settings.table, settings.mode, deletes=False)
            schema = settings.markers_schema or table.name.schema
            statement = sql.SQL(
                "select owner, key, text from {} where starts_with(owner, {}) order by owner, key"
            ).format(sql.Identifier(schema, MARKERS), sql.Literal(f"{context.job}/"))
            try:
                with session.cursor(row_factory=tuple_row) as cursor:
                    rows = cursor.execute(statement).fetchall()
            except psycopg.errors.UndefinedTable:
                return
    except psycopg.Error as error:
        raise SinkError(f"PostgreSQL {server.shown}: {server.told(error)}") from None
    kept: dict[str, dict[str, str]] = {}
    for owner, key, text in rows:
        kept.setdefault(owner, {})[key] = text
    told = {owner: Markers.only(texts) for owner, texts in kept.items()}
    where = f"{schema}.{MARKERS} of PostgreSQL {server.shown}"
    yield from left_markers(told, where, context, functools.partial(_forget, server, schema))


def _forget(server: Server, schema: str, owner: str) -> None:
    statement = sql.SQL("delete from {} where owner = {}").format(sql.Identifier(schema, MARKERS), sql.Literal(owner))
    try:
        with closing(server.connect("onceflow doctor")) as session:
            session.execute(statement)
    except psycopg.Error as error:
        raise SinkError(f"PostgreSQL {server.shown}: {server.told(error)}") from None
