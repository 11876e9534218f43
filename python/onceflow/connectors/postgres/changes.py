"""Changes of tables, as a slot of logical replication decodes them from the server's log.

The position is the place in the log behind the last transaction that was handed out in full, and how many changes of
the next one were. A stream that begins there brings the same transactions, in the order of their commits. The server is
told of a place only when a checkpoint with it is complete (``on_checkpoint_complete``), so it keeps its log from there
on: a job that is away for long, or a slot that nobody needs any more, fills its disk.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import tenacity

from onceflow.checks import CheckContext, Finding
from onceflow.connectors.extras import require
from onceflow.connectors.postgres.decoding import SESSION_OPTIONS, changes_of
from onceflow.connectors.postgres.server import Server
from onceflow.connectors.waiting import Waiting
from onceflow.exceptions import ConfigurationError, SourceChangedError, SourceError, SourceWaitingWarning
from onceflow.leftovers import Leftover, SourceLeftoverContext
from onceflow.log.settings import check_seconds
from onceflow.sources import Source, SourceBatch, SourceContext, SourceReader
from onceflow.types import Plain

if TYPE_CHECKING:
    import psycopg

__all__ = ["PostgresChanges"]

_PARTITION = "0"
_PLUGIN = "test_decoding"
#: The server ends a stream of which it has heard nothing for a minute.
_FEEDBACK_S = 5.0
#: A stream that has brought nothing for so long, not even an answer to that, is no quiet one: it is told of, and begun
#: anew after twice that, and then each time after twice as long, since a large transaction may be what it is busy with.
_SILENT_S = 30.0
_SILENT = (
    "its stream brings nothing, not even answers. It may be stopped or cut off, or be busy with a large transaction; a "
    "new stream is begun after {:.0f} s of that"
)
_SLOT = """
select s.plugin, s.confirmed_flush_lsn - '0/0'::pg_lsn, coalesce(s.wal_status, '') = 'lost',
       (select system_identifier::text from pg_control_system())
  from pg_catalog.pg_replication_slots s where s.slot_name = %s and s.database = current_database()
"""
_KIND = """
select c.relkind::text from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
 where n.nspname || '.' || c.relname = %s and c.relkind in ('r', 'p')
"""
_LSN = "select pg_current_wal_lsn() - '0/0'::pg_lsn"


class PostgresChanges(Source):
    """Inserts, updates, deletes and truncations of a database's tables, in the order of commits: change data capture.

    Needs ``wal_level = logical``, a user with REPLICATION, and the extra ``postgres-changes``. A record is a dict with
    ``table``, ``action``, ``row`` and ``key``: see ``onceflow.connectors.postgres.decoding.changes_of``. Updates and
    deletes tell the old key only where the table has a primary key, or REPLICA IDENTITY says more.

    Args:
        dsn: Of the database, as ``PostgresSink`` takes it.
        slot: Name of the replication slot. It is made when the job begins, and begins there: what was changed before is
            in the tables. Each job has one of its own; when the job is given up, it must be dropped
            (``select pg_drop_replication_slot('…')``), or the server keeps its log for ever.
        tables: Names with schema, such as ``["public.orders"]``; None: all.
        retry_for_s: How long a stream is begun again while the server is away, before the job stops.

    Raises:
        ConfigurationError: Settings that cannot be.
        MissingExtraError: psycopg2 is not installed.
    """

    grows = True

    def __init__(
        self, dsn: str, slot: str, *, tables: Collection[str] | None = None, retry_for_s: float = 300.0
    ) -> None:
        require("psycopg2", extra="postgres-changes", purpose="PostgresChanges")
        if not isinstance(dsn, str):
            raise ConfigurationError("PostgresChanges: give a DSN; a stream needs a connection of its own kind")
        if not isinstance(slot, str) or not slot or not slot.replace("_", "a").isalnum() or slot != slot.lower():
            raise ConfigurationError(
                f"PostgresChanges: slot={slot!r}: give small letters, digits and _", setting="slot"
            )
        if isinstance(tables, str) or (tables is not None and not all("." in name for name in tables)):
            raise ConfigurationError(
                f"PostgresChanges: tables={tables!r}: give names with their schema", setting="tables"
            )
        self._server = Server(dsn)
        self._slot = slot
        self._tables = None if tables is None else frozenset(tables)
        check_seconds("PostgresChanges: retry_for_s", retry_for_s)
        self._retry_for_s = retry_for_s
        #: Readers that are open, by who reads.
        self._readers: dict[tuple[str, str, int], _Reader] = {}

    def partitions(self) -> list[str]:
        """One."""
        return [_PARTITION]

    def open(self, partition: str, position: Plain) -> SourceReader:
        """See ``Source``."""
        return self.open_with_context(partition, position, SourceContext())

    def open_with_context(self, partition: str, position: Plain, context: SourceContext) -> SourceReader:
        """See ``Source``."""
        who = (context.job, context.step_id, context.worker)
        waiting = Waiting(
            f"source '{context.job}/{context.step_id}'",
            f"PostgreSQL {self._server.shown}",
            f"retry_for_s={self._retry_for_s:g}",
            SourceWaitingWarning,
        )
        reader = _Reader(self, position, waiting, caught_up=context.until == "caught_up")
        self._readers[who] = reader
        return reader

    def on_checkpoint_complete(
        self, checkpoint_id: int, positions: Mapping[str, Plain], context: SourceContext
    ) -> None:
        """Tells the server that it need not keep what lies before the checkpoint."""
        reader = self._readers.get((context.job, context.step_id, context.worker))
        position = positions.get(_PARTITION)
        if reader is not None and isinstance(position, dict):
            reader.confirm(_whole(position, "lsn"))

    def check(self, context: CheckContext) -> Iterable[Finding]:
        """See ``Source``."""
        from onceflow.connectors.postgres.inspection import look_at_slot  # noqa: PLC0415 - needs the extra

        return look_at_slot(self._server, self._slot, _PLUGIN, context)

    def leftovers(self, context: SourceLeftoverContext) -> Iterable[Leftover]:
        """See ``Source``."""
        from onceflow.connectors.postgres.leftovers import left_slot  # noqa: PLC0415 - needs the extra

        return left_slot(self._server, self._slot, context)


class _Reader(SourceReader):
    def __init__(self, source: PostgresChanges, position: Plain, waiting: Waiting, *, caught_up: bool) -> None:
        self._source = source
        self._waiting = waiting
        self._stream: Any = None
        self._confirmed = 0
        self._told_s = 0.0
        #: When the stream brought something last, and for how long it may bring nothing before another one is begun.
        self._heard_s = 0.0
        self._patience_s = 2 * _SILENT_S
        at = position if isinstance(position, dict) else None
        slot, end, self._system = self._look(make=at is None)
        #: Behind the last transaction that was handed out in full; how many changes of the next one were.
        self._lsn, self._taken = (slot, 0) if at is None else (_whole(at, "lsn"), _whole(at, "taken"))
        self._end = end if caught_up else None
        if at is not None:
            self._check(slot, at)
        #: Changes of the present transaction that this stream has brought.
        self._brought = 0
        #: Whether it is still to bring its first line: see ``_write_first_line``.
        self._awaits_line = False

    def _look(self, *, make: bool) -> tuple[int, int, str]:
        """Up to where the server was told, the end of its log, and which server it is; makes the slot."""
        mine = self._source
        import psycopg  # noqa: PLC0415 - not before the extra is known to be there

        try:
            with mine._server.connect("onceflow changes") as session:
                row = session.execute(_SLOT, (mine._slot,)).fetchone()
                if make:
                    self._check_tables(session)
                if row is None and make:
                    session.execute("select pg_create_logical_replication_slot(%s, %s)", (mine._slot, _PLUGIN))
                    row = session.execute(_SLOT, (mine._slot,)).fetchone()
                (end,) = session.execute(_LSN).fetchone() or (0,)
        except psycopg.Error as error:
            raise SourceError(f"PostgreSQL {mine._server.shown}: {mine._server.told(error)}") from None
        if row is None:
            raise SourceChangedError(
                f"there is no slot {mine._slot!r} any more, as after a failover or when it was dropped: the changes "
                "since the checkpoint are lost to it. Start over with resume_from='none', from tables as they are then"
            )
        plugin, confirmed, is_lost, system = row
        if plugin != _PLUGIN:
            raise SourceError(f"slot {mine._slot!r} is decoded by {plugin}: give the job a slot of its own")
        if is_lost:
            raise SourceChangedError(
                f"the server has removed the log that slot {mine._slot!r} needs (max_slot_wal_keep_size): the changes "
                "since the checkpoint are lost. Drop the slot, and start over with resume_from='none'"
            )
        return int(confirmed), int(end), system

    def _check(self, slot: int, position: dict[str, Plain]) -> None:
        if position.get("system") != self._system:
            raise SourceChangedError(
                f"the checkpoint is of another server than PostgreSQL {self._source._server.shown}: its places in the "
                "log are none of this one. Start over with resume_from='none'"
            )
        if slot > self._lsn:
            raise SourceChangedError(
                f"slot {self._source._slot!r} was told up to {_text(slot)}, and the checkpoint is at "
                f"{_text(self._lsn)}: it was made anew, or somebody else reads from it, and what lies between is lost "
                "to this job. Run the job with its newest state; or start over with resume_from='none'"
            )

    # -- the stream ------------------------------------------------------------------------------

    def read(self, max_records: int) -> SourceBatch | None:
        import psycopg2  # noqa: PLC0415 - an extra

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_passes),
            wait=tenacity.wait_random_exponential(multiplier=0.05, max=1.0),
            stop=tenacity.stop_after_delay(self._source._retry_for_s),
            before_sleep=self._missed,
            reraise=True,
        )
        try:
            found: SourceBatch | None = retrying(self._read, max_records)
            if time.monotonic() - self._heard_s < _SILENT_S:
                self._waiting.answered()
            else:
                self._waiting.missed(_SILENT.format(self._patience_s), self._heard_s)
            return found
        except psycopg2.Error as error:
            self._drop()
            raise SourceError(
                f"PostgreSQL {self._source._server.shown}: {self._source._server.told(error)}; nothing is lost: run "
                "the job again"
            ) from None

    def _missed(self, attempt: tenacity.RetryCallState) -> None:
        self._drop()
        error = attempt.outcome.exception() if attempt.outcome else None
        self._waiting.missed("" if error is None else self._source._server.told(error))

    def _read(self, max_records: int) -> SourceBatch | None:
        import psycopg2  # noqa: PLC0415 - an extra

        records: list[Any] = []
        try:
            if self._stream is None:
                self._begin()
            while len(records) < max_records and (message := self._stream.read_message()) is not None:
                self._take(message, records)
            self._listen(records)
            self._tell()
        except psycopg2.Error:
            if not records:
                raise
            # They are behind the position already; the next stream begins there.
            self._drop()
            return SourceBatch(records)
        is_at_end = self._end is not None and max(self._lsn, self._stream.wal_end) >= self._end
        return None if is_at_end and not records and not self._taken else SourceBatch(records)

    def _take(self, message: Any, records: list[Any]) -> None:
        """A line of the stream: moves the position on, and appends the records that are new."""
        line = message.payload
        self._awaits_line = False
        self._patience_s = 2 * _SILENT_S
        if line.startswith("message: "):
            # Somebody's words in the log, which are no change.
            return
        if line.startswith("BEGIN"):
            self._brought = 0
        elif line.startswith("COMMIT"):
            # The end of the commit's record: a stream from there on begins with the next transaction.
            self._lsn, self._taken = message.data_start, 0
        else:
            self._brought += 1
            if self._brought > self._taken:
                self._taken = self._brought
                records.extend(filter(self._is_wanted, changes_of(line)))

    def _check_tables(self, session: psycopg.Connection[Any]) -> None:
        """At the first start: later a table may have been dropped, with changes of it still to be read."""
        for name in sorted(self._source._tables or ()):
            (kind,) = session.execute(_KIND, (name,)).fetchone() or (None,)
            if kind is None:
                raise SourceError(
                    f"PostgreSQL {self._source._server.shown} has no table {name!r}: give names with their schema, as "
                    "the catalogue has them (public.orders, in small letters unless they were quoted)"
                )
            if kind == "p":
                raise SourceError(
                    f"table {name!r} is partitioned, and its changes come under the names of its partitions: give "
                    "those, or tables=None for all tables"
                )

    def _is_wanted(self, change: dict[str, Any]) -> bool:
        return self._source._tables is None or change["table"] in self._source._tables

    def _begin(self) -> None:
        import psycopg2.extras  # noqa: PLC0415 - an extra

        # An attempt that hangs is bounded by the connection's own time-outs.
        self._heard_s = time.monotonic()
        self._awaits_line = self._write_first_line()
        settings: dict[str, Any] = {**self._source._server.settings(), "options": SESSION_OPTIONS}
        factory = psycopg2.extras.LogicalReplicationConnection
        connection = psycopg2.connect(connection_factory=factory, **settings)
        self._stream = connection.cursor()
        self._stream.start_replication(
            slot_name=self._source._slot, decode=True, start_lsn=self._lsn, status_interval=_FEEDBACK_S
        )
        self._brought = 0
        self._heard_s = time.monotonic()

    def _listen(self, records: list[Any]) -> None:
        """Whether the stream still lives: a server that stands still, or a cut network, looks like a quiet one."""
        import psycopg2  # noqa: PLC0415 - an extra

        now_s = time.monotonic()
        # Both are the moments of the last word of ours until the server says something.
        if records or self._stream.io_timestamp > self._stream.feedback_timestamp:
            self._heard_s = now_s
        elif now_s - self._heard_s > self._patience_s:
            silent_s, self._patience_s = self._patience_s, 2 * self._patience_s
            raise psycopg2.OperationalError(f"its stream has brought nothing for {silent_s:.0f} s")

    def _write_first_line(self) -> bool:
        """A word of ours in the log, which is the first line of the stream, or follows it.

        Where a stream has brought no line after the place that it confirms, the client moves that place on with the
        server's, further than any checkpoint has come; and a job that is killed then finds the slot ahead of its state.
        So until this line is here the server is told nothing, and not asked how far it has come.
        On a standby, or without the right, nothing is written, and that may happen while nobody writes.
        """
        import psycopg  # noqa: PLC0415 - not before the extra is known to be there

        with contextlib.suppress(psycopg.Error), self._source._server.connect("onceflow changes") as session:
            session.execute("select pg_logical_emit_message(false, 'onceflow', '')")
            return True
        return False

    def confirm(self, lsn: int) -> None:
        """A checkpoint with this place is complete."""
        self._confirmed = max(self._confirmed, lsn)
        self._told_s = 0.0

    def _tell(self) -> None:
        if not self._awaits_line and time.monotonic() - self._told_s >= _FEEDBACK_S:
            self._told_s = time.monotonic()
            # Right before the end of the last transaction: see ``_write_first_line``.
            place = max(self._confirmed - 1, 0)
            # The answer says that it is there, and how far it has come, also where there was no change.
            self._stream.send_feedback(flush_lsn=place, apply_lsn=place, reply=True, force=True)

    def position(self) -> Plain:
        return {"lsn": self._lsn, "taken": self._taken, "system": self._system}

    def close(self) -> None:
        if self._stream is not None:
            # The last checkpoint of the run.
            self._told_s = 0.0
            with contextlib.suppress(Exception):
                self._tell()
        self._drop()

    def _drop(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            with contextlib.suppress(Exception):
                stream.connection.close()


def _passes(error: BaseException) -> bool:
    """Whether a new stream may help: what ends within COPY has no code, and the class of any error."""
    import psycopg2  # noqa: PLC0415 - an extra

    if isinstance(error, (psycopg2.OperationalError, psycopg2.InterfaceError)):
        return True
    return isinstance(error, psycopg2.DatabaseError) and error.pgcode is None


def _whole(position: dict[str, Plain], name: str) -> int:
    value = position.get(name)
    if not isinstance(value, int):
        raise SourceError(f"{position!r} is not a position in a slot; start over with resume_from='none'")
    return value


def _text(lsn: int) -> str:
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"
