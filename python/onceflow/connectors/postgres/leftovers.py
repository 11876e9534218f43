"""Markers that jobs have left beside a table; the slot for which a server keeps its log."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from onceflow.connectors.file_system import size_text
from onceflow.connectors.outbox.leftovers import left_markers
from onceflow.connectors.postgres.catalogue import read_table
from onceflow.connectors.postgres.markers import MARKERS, Markers
from onceflow.connectors.postgres.server import Server
from onceflow.exceptions import SinkError, SourceError
from onceflow.leftovers import Leftover, LeftoverContext, SourceLeftoverContext

if TYPE_CHECKING:
    from onceflow.connectors.postgres.destination import Settings

__all__ = ["left_in_postgres", "left_slot"]

_SLOT = """
select active_pid, coalesce(wal_status, '') = 'lost',
       coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::int8
  from pg_catalog.pg_replication_slots where slot_name = %s and database = current_database()
"""


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


def left_slot(server: Server, slot: str, context: SourceLeftoverContext) -> Iterator[Leftover]:
    """The slot of a source. It is never removed: a run that comes goes on from it, and what it holds would be lost."""
    try:
        with closing(server.connect("onceflow doctor")) as session, session.cursor(row_factory=tuple_row) as cursor:
            row = cursor.execute(_SLOT, (slot,)).fetchone()
    except psycopg.Error as error:
        raise SourceError(f"PostgreSQL {server.shown}: {server.told(error)}") from None
    if row is None:
        return
    pid, is_lost, held = row
    drop = f"when the job is given up: select pg_drop_replication_slot('{slot}')"
    if is_lost:
        text = f"the server has removed the log that it needs, so no run can go on from it; {drop}"
    else:
        whose = "a checkpoint" if context.positions or not context.complete else "no checkpoint"
        text = (
            f"holds {size_text(int(held))} of the server's log, and more till somebody reads; {whose} needs it; {drop}"
        )
    if pid is not None:
        text = f"process {pid} of the server reads from it, for a client that is no run of this job; {text}"
    yield Leftover("kept", f"slot {slot!r} of PostgreSQL {server.shown}", text)
