"""A look at a server and a table before a start. Changes nothing: all of it in a transaction that may only read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import tuple_row

from onceflow.checks import CheckContext, Finding
from onceflow.connectors.file_system import size_text
from onceflow.connectors.outbox.marker import Standing
from onceflow.connectors.postgres.catalogue import read_table
from onceflow.connectors.postgres.identity import identity_of
from onceflow.connectors.postgres.markers import MARKERS, Markers
from onceflow.connectors.postgres.server import Server
from onceflow.exceptions import SinkError, SourceError

if TYPE_CHECKING:
    from onceflow.connectors.postgres.destination import Settings

__all__ = ["look_at_rows", "look_at_slot", "look_at_table"]

_SETTINGS = """
select current_setting('fsync'), current_setting('full_page_writes'), current_setting('max_connections')::int,
       current_setting('superuser_reserved_connections')::int,
       (select count(*) from pg_catalog.pg_stat_activity where backend_type = 'client backend'),
       current_setting('server_version')
"""
_REPLICATION = """
select current_setting('wal_level'), (select rolreplication or rolsuper from pg_catalog.pg_roles
         where rolname = current_user), current_setting('max_replication_slots')::int,
       (select count(*) from pg_catalog.pg_replication_slots), current_setting('max_slot_wal_keep_size')
"""
_SLOT = """
select plugin::text, active, coalesce(wal_status, '') = 'lost',
       coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::int8
  from pg_catalog.pg_replication_slots where slot_name = %s and database = current_database()
"""
_MARKERS = """
select c.relpersistence, has_table_privilege(c.oid, 'select') and has_table_privilege(c.oid, 'insert')
       and has_table_privilege(c.oid, 'update')
  from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
 where n.nspname = %s and c.relname = %s
"""
#: Connections left for others.
_FEW = 5
#: Between this machine's clock and the server's, beyond what the question took.
_CLOCK_S = 2.0


def look_at_table(server: Server, settings: Settings, context: CheckContext) -> Iterator[Finding]:
    """What a sink's first transaction would find."""
    subject = f"PostgreSQL {server.shown}"
    try:
        with closing(server.connect("onceflow check")) as session:
            try:
                identity_of(session)
            except psycopg.errors.ReadOnlySqlTransaction:
                yield Finding("error", subject, "is a replica and takes no writes", "connect to the primary")
                return
            session.execute("begin isolation level repeatable read read only")
            yield from _look_at_server(session, subject, context)
            yield from _look_at_target(session, settings, context)
    except psycopg.Error as error:
        yield Finding("error", subject, server.told(error), "see that it runs, and lets this user in")


def look_at_rows(server: Server, what: str, look: Callable[[], None], context: CheckContext) -> Iterator[Finding]:
    """Whether rows can be read.

    Args:
        server: Where.
        what: The rows in words.
        look: Raises ``SourceError`` for a table, query or key that cannot be read.
        context: Who looks.
    """
    subject = f"PostgreSQL {server.shown}"
    try:
        with closing(server.connect("onceflow check")) as session:
            yield from _look_at_server(session, subject, context)
    except psycopg.Error as error:
        yield Finding("error", subject, server.told(error), "see that it runs, and lets this user in")
        return
    try:
        look()
    except SourceError as error:
        yield Finding("error", what, str(error))
    else:
        yield Finding("ok", what, "can be read")


def look_at_slot(server: Server, slot: str, plugin: str, context: CheckContext) -> Iterator[Finding]:
    """Whether changes can be followed, and what the server keeps for it.

    Args:
        server: Where.
        slot: Its name; it need not exist yet.
        plugin: Which decodes it.
        context: Who looks.
    """
    subject, name = f"PostgreSQL {server.shown}", f"slot {slot!r}"
    try:
        with closing(server.connect("onceflow check")) as session:
            yield from _look_at_server(session, subject, context)
            level, allowed, most, used, kept = _row(session, _REPLICATION)
            found = _rows(session, _SLOT, slot)
    except psycopg.Error as error:
        yield Finding("error", subject, server.told(error), "see that it runs, and lets this user in")
        return
    if level != "logical":
        yield Finding("error", subject, f"wal_level is {level}", "set wal_level = logical, and start it again")
    if not allowed:
        yield Finding("error", subject, "this user may not replicate", "alter role ... with replication")
    if kept == "-1":
        text = "max_slot_wal_keep_size is -1: for a job that is down the server keeps its log, till its disk is full"
        yield Finding("warning", subject, text, "watch it, or bound it")
    else:
        text = f"max_slot_wal_keep_size is {kept}: a job that is down for longer than that of log loses changes"
        yield Finding("warning", subject, text, "it is refused then; make the bound as large as the disk allows")
    if not found:
        if used >= most:
            text = f"all {most} replication slots are taken"
            yield Finding("error", subject, text, "raise max_replication_slots, or drop slots that nobody needs")
        yield Finding("ok", name, "is made by the first run, and begins there")
        return
    [(its_plugin, active, lost, held)] = found
    if its_plugin != plugin:
        yield Finding("error", name, f"is decoded by {its_plugin}", "give the job a slot of its own")
    elif lost:
        text = "the server has removed the log that it needs"
        yield Finding("error", name, text, "drop it, and start over with resume_from='none' (--resume-from none)")
    else:
        read = "is read by a session now" if active else "is read by nobody now"
        yield Finding("ok", name, f"{read}; the server keeps {size_text(int(held))} of its log for it")


def _look_at_server(session: psycopg.Connection[Any], subject: str, context: CheckContext) -> Iterator[Finding]:
    """Settings of the server, and its clock."""
    before, asked = context.clock.now(), context.clock.monotonic()
    (theirs,) = _row(session, "select extract(epoch from clock_timestamp())::float8")
    took = context.clock.monotonic() - asked
    behind = before + took / 2 - theirs
    if abs(behind) > _CLOCK_S + took / 2:
        yield Finding(
            "warning",
            subject,
            f"its clock is {abs(behind):.1f} s {'behind' if behind > 0 else 'ahead of'} this machine's",
            "set both by NTP: times that one writes and the other one compares are off by as much",
        )
    fsync, pages, most, reserved, used, version = _row(session, _SETTINGS)
    if fsync == "off":
        text = "fsync is off: a crash of the machine may damage the database and lose what was answered"
        yield Finding("error", subject, text, "set fsync = on")
    elif pages == "off":
        text = "full_page_writes is off: a crash of the machine may leave pages that are half written"
        yield Finding("warning", subject, text, "set full_page_writes = on, unless the file system writes pages whole")
    if most - reserved - used < _FEW:
        text = f"{used} of {most} connections are taken, {reserved} are reserved for superusers"
        yield Finding("warning", subject, text, "raise max_connections, or put a pooler between")
    yield Finding("ok", subject, f"version {version}, can be reached")


def _look_at_target(session: psycopg.Connection[Any], settings: Settings, context: CheckContext) -> Iterator[Finding]:
    subject = f"table {settings.table}"
    try:
        table = read_table(session, settings.table, settings.mode, deletes=settings.delete is not None)
        columns = table.written(settings.columns, settings.key)
        if settings.key:
            table.check_key(settings.key)
    except SinkError as error:
        yield Finding("error", subject, str(error))
        return
    by = f", by the key {_named(settings.key)}" if settings.key else ""
    yield Finding("ok", subject, f"can be written{by}: {_named(columns)}")
    schema = settings.markers_schema or table.name.schema
    yield from _look_at_markers(session, schema, context)


def _look_at_markers(session: psycopg.Connection[Any], schema: str, context: CheckContext) -> Iterator[Finding]:
    owner = f"{context.job}/{context.step_id}"
    markers = Markers(schema, owner)
    subject = f"table {markers.name}"
    found = _rows(session, _MARKERS, schema, MARKERS)
    if not found:
        (allowed,) = _row(session, "select has_schema_privilege(%s, 'create')", schema)
        if allowed:
            yield Finding("ok", subject, "is made by the first run")
        else:
            text = f"is missing, and this user may not make tables in schema {schema!r}"
            yield Finding(
                "error", subject, text, "have it made as the page of the connector says, or give markers_schema"
            )
        return
    [(kind, allowed)] = found
    if kind != "p":
        text = "is unlogged: after a crash of the server it is empty, and output would be written again"
        yield Finding("error", subject, text, f"alter table {markers.name} set logged")
    if not allowed:
        yield Finding("error", subject, "this user may not read and write it", "grant select, insert, update on it")
        return
    kept = Markers.only(markers.read(session))
    newest = max((Standing.read(text).checkpoint for text in kept.values()), default=0)
    holds = f"output of this sink up to checkpoint {newest}" if newest else "no output of this sink"
    yield Finding("ok", subject, f"tells of {holds}")


def _row(session: psycopg.Connection[Any], statement: str, *values: object) -> tuple[Any, ...]:
    with session.cursor(row_factory=tuple_row) as cursor:
        row = cursor.execute(statement, values or None).fetchone()
    assert row is not None, "an aggregate or a constant has one row"
    return row


def _rows(session: psycopg.Connection[Any], statement: str, *values: object) -> list[tuple[Any, ...]]:
    with session.cursor(row_factory=tuple_row) as cursor:
        return cursor.execute(statement, values).fetchall()


def _named(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))
