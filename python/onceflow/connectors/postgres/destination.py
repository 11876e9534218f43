"""A table of PostgreSQL as the target of an outbox.

The transaction of a checkpoint, in the order of its statements:

1. Settings for this transaction alone, so that a pooler may stand between: the answer to COMMIT comes when it is
   durable, whatever the role is set to.
2. The fence's row is locked and read (shared: other workers of the run go on), then the worker's own marker: whether
   this run may write, and whether the checkpoint is there already.
3. The marker is written, if it still is what was read. Of two transactions of one worker, as when the end of a COMMIT
   is not known and it is repeated while the first one is still at it, the second one waits here and then finds the
   marker.
4. The table is locked against ALTER, and the types of its columns are compared with those for which the rows were
   staged.
5. The rows.

So data and marker are there together, or neither is. Where the connection is lost, also within COMMIT, all of it is
repeated: step 2 finds what was committed.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import msgspec
import psycopg
from psycopg import errors, sql
from psycopg.rows import tuple_row

from onceflow.connectors.outbox.destination import Destination, Standings, Words
from onceflow.connectors.outbox.marker import FENCE, Marker, Slot, Standing, worker_of
from onceflow.connectors.outbox.staged import Place, Staged
from onceflow.connectors.postgres.catalogue import TableName, read_table
from onceflow.connectors.postgres.encode import Delete, Encode
from onceflow.connectors.postgres.identity import Histories, Identity, identity_of
from onceflow.connectors.postgres.markers import Markers, Target, all_rows
from onceflow.connectors.postgres.merge import Merge, is_violation
from onceflow.connectors.postgres.rejected import Rejected
from onceflow.connectors.postgres.server import Server
from onceflow.connectors.postgres.session import Session
from onceflow.connectors.postgres.staged import Part
from onceflow.crash import crash_point
from onceflow.exceptions import SinkError
from onceflow.sinks import SinkContext
from onceflow.types import Batch

__all__ = ["PostgresDestination", "Settings"]

#: The only one that a sink has: its table stands in what is staged.
_PLACE = Place()

#: For the transaction alone. Limits of the role are for people's queries; texts of intervals depend on a setting; what
#: is deferred to the commit is found where it can be told which row it is.
_BEGIN = """
begin isolation level read committed read write;
select set_config('synchronous_commit',
    case when current_setting('synchronous_commit') = 'remote_apply' then 'remote_apply' else 'on' end, true);
set local statement_timeout = 0;
set local lock_timeout = '{lock_timeout}';
set local idle_in_transaction_session_timeout = '60s';
set local row_security = off;
set local intervalstyle = 'postgres';
set constraints all immediate
"""
#: A run that was replaced may have been stopped within a transaction: its session is ended after so long.
_FENCE_WAIT = "1s"
_TYPES = """
select a.attname::text, pg_catalog.format_type(a.atttypid, a.atttypmod),
       a.attnotnull and not a.atthasdef and a.attidentity = '' and a.attgenerated = '', a.attidentity = 'a',
       (select c.relkind = 'p' from pg_catalog.pg_class c where c.oid = a.attrelid)
  from pg_catalog.pg_attribute a
 where a.attrelid = {}::regclass and a.attnum > 0 and not a.attisdropped
"""


@dataclass(frozen=True, slots=True)
class Settings:
    """Those of ``PostgresSink``."""

    table: str
    mode: Literal["append", "upsert"]
    key: tuple[str, ...]
    columns: tuple[str, ...] | None
    delete: Delete | None
    rejected: str | None
    markers_schema: str | None
    retry_for_s: float
    may_be_emptied: bool


class PostgresDestination(Destination[Part]):
    """See the module."""

    def __init__(self, server: Server, settings: Settings, context: SinkContext) -> None:
        self._server = server
        self._settings = settings
        self._context = context
        self._histories = Histories.restored(context.restored_state)
        self._owner = self._marker(FENCE, 0).owner
        name = _session_name(self._owner)
        self._session = Session(
            server, f"{name} {_digest(context.run)} {self._owner}"[:63], settings.retry_for_s, f"sink {self._owner!r}"
        )
        self._session.greet = self._greet
        #: What a transaction that is under way has read and locked.
        self._locked: dict[str, str] | None = None
        self._target: Target | None = None
        #: The table that the markers are about, if it is another one.
        self._elsewhere = ""
        try:
            with self._errors():
                self._session.connect()
                self._session.run(self._look)
        except BaseException:
            self.close()
            raise
        self._rejected = None if settings.rejected is None else Rejected(settings.rejected, self._owner)
        self.words = Words(
            store="the database",
            thing=f"table {self._table} and the markers of this sink",
            own="a table of its own, under another name of the job or the sink, by which its markers go",
            apart=", or this sink another markers_schema=",
        )

    @property
    def identity(self) -> Identity:
        """Of the server that was met last."""
        return self._histories.newest

    def _greet(self, connection: psycopg.Connection[Any]) -> None:
        self._histories.meet(identity_of(connection), self._server.shown)

    def _look(self, connection: psycopg.Connection[Any]) -> None:
        """What there is at a start; changes nothing."""
        mine = self._settings
        table = read_table(connection, mine.table, mine.mode, deletes=mine.delete is not None)
        columns = table.written(mine.columns, mine.key)
        if mine.key:
            table.check_key(mine.key)
        self._table = table.name
        self._encode = Encode(table, columns, mine.key, mine.delete)
        self._check_types(connection, self._encode.part(), None)
        self._markers = Markers(mine.markers_schema or table.name.schema, self._owner)
        kept = self._markers.read(connection)
        known = self._markers.target(kept)
        now = Target(str(table.name), table.oid, self.identity.database)
        if known is not None and not any(each.checkpoint for each in _standings(kept).values()):
            # A run has begun, and has written nothing.
            self._target = now
        else:
            self._target = self._check_target(connection, now, known)
        self._elsewhere = "" if known is None or known.name == now.name else known.name

    def _check_target(self, connection: psycopg.Connection[Any], now: Target, known: Target | None) -> Target:
        """Whether the table is the one that was written, and still has rows if it had some."""
        if known is None or known.name != now.name or known.database != now.database:
            return now
        forget = f"If it is meant to be so: {self._markers.forget_target()}"
        if known.oid != now.oid:
            raise SinkError(
                f"table {now.name} was dropped and made anew since job {self._context.job!r} has written to it, so its "
                f"output may be missing. {forget}"
            )
        if known.filled and not self._settings.may_be_emptied and not self._has_rows(connection):
            raise SinkError(
                f"table {now.name} is empty, and the output of job {self._context.job!r} was in it: it was truncated. "
                f"{forget}; or, where others take rows away as a rule, set may_be_emptied=True"
            )
        return known

    def _has_rows(self, connection: psycopg.Connection[Any]) -> bool:
        row = connection.execute(sql.SQL("select exists (select from {})").format(self._table.quoted())).fetchone()
        return bool(row and row[0])

    # -- places and markers ----------------------------------------------------------------------

    def where(self, place: str) -> str:
        return f"table {self._table} of PostgreSQL {self._server.shown}"

    def markers_of(self, job: str) -> str:
        owner = f"{job}/{self._context.sink}"
        return f"the markers of {owner!r} ({self._markers.forget(owner)})"

    def elsewhere(self, place: str) -> str:
        return self._elsewhere and f"table {self._elsewhere} of PostgreSQL {self._server.shown}"

    def place(self) -> Place:
        return _PLACE

    def number_of(self, place: str) -> int:
        return _PLACE.number

    def standings(self) -> dict[Slot, Standing]:
        with self._errors():
            return _standings(self._session.run(self._markers.read))

    def jobs(self) -> list[str]:
        with self._errors():
            table = str(self._table)
            return self._session.run(lambda session: self._markers.jobs(session, self._context.sink, table))

    def make(self) -> None:
        with self._errors():
            self._session.run(self._make)

    def _make(self, connection: psycopg.Connection[Any]) -> None:
        connection.execute(_BEGIN.format(lock_timeout="30s"))
        self._markers.make(connection)
        if self._rejected is not None:
            self._rejected.make(connection)
        connection.execute("commit")

    def fence(self, judge: Callable[[Standings], Mapping[Slot, int]]) -> None:
        judge(self.standings())
        crash_point("postgres.pre_fence")
        marker = self._marker(FENCE, 0)

        def taken_over(connection: psycopg.Connection[Any]) -> None:
            connection.execute(_BEGIN.format(lock_timeout=_FENCE_WAIT))
            try:
                kept = self._markers.lock_all(connection)
            except errors.LockNotAvailable:
                connection.execute("rollback")
                self._end_older_sessions(connection)
                raise
            # Under the lock: nobody older can change them any more.
            judge(_standings(kept))
            if marker.is_due(kept):
                with connection.cursor() as cursor:
                    self._markers.check_kept(cursor.execute(self._markers.keeping(marker, kept.get(marker.key))))
            if self._target is not None and self._markers.target(kept) is None:
                # So that who is refused is told of which table.
                self._markers.keep_target(connection, self._target)
            connection.execute("commit")

        with self._errors():
            self._session.run(taken_over)
        crash_point("postgres.post_fence")
        judge(self.standings())

    def _end_older_sessions(self, connection: psycopg.Connection[Any]) -> None:
        """Those of this sink and of other runs: what they have begun is rolled back, and they find the fence."""
        name = _session_name(self._owner)
        with contextlib.suppress(errors.InsufficientPrivilege):
            connection.execute(
                "select pg_terminate_backend(pid) from pg_catalog.pg_stat_activity where pid <> pg_backend_pid() "
                "and starts_with(application_name, %s) and not starts_with(application_name, %s)",
                (f"{name} ", f"{name} {_digest(self._context.run)}"),
            )

    def standing(self, slot: Slot) -> Standing:
        mine, (_, worker) = self._context, slot
        kept = self._locked
        if kept is None:
            with self._errors():
                kept = self._session.run(self._markers.read)
        # Refuses what is not of this run, as a transaction does.
        self._marker(worker, 0).is_due(kept)
        text = kept.get(self._marker(worker, 0).key)
        return Standing(mine.job_epoch, mine.run, 0, mine.lineage) if text is None else Standing.read(text)

    # -- output ----------------------------------------------------------------------------------

    def write(self, parts: list[Part], records: Batch) -> int:
        if not parts:
            parts.append(self._encode.part())
        return self._encode.write(parts[0], records)

    def stage(self, parts: list[Part]) -> None:
        for part in parts:
            part.stage()

    def wall_ms(self) -> int:
        return int(time.time() * 1000)

    def check(self, staged: Staged[list[Part]]) -> None:
        with self._errors():
            (part,) = staged.parts
            self._session.run(partial(self._check_types, part=part, checkpoint_id=None))

    def read(self, handle: bytes) -> Staged[list[Part]]:
        return msgspec.msgpack.decode(handle, type=Staged[list[Part]])

    def apply(self, staged: Staged[list[Part]], checkpoint_id: int, is_due: Callable[[], bool]) -> None:
        key = self._marker(staged.worker, checkpoint_id).key
        fence = self._marker(FENCE, 0).key
        find = False

        def applied(connection: psycopg.Connection[Any]) -> None:
            kept = self._markers.lock(connection, _BEGIN.format(lock_timeout="30s"), fence, key)
            self._locked = kept
            try:
                is_needed = is_due()
            finally:
                self._locked = None
            if not is_needed:
                connection.execute("rollback")
                return
            # A sink stages one part for a checkpoint.
            (part,) = staged.parts
            marker = self._marker(staged.worker, checkpoint_id, kept.get(key))
            keep = self._markers.keeping(marker, kept.get(key))
            overriding, partitioned = self._check_types(connection, part, checkpoint_id, keep)
            merge = Merge(part, overriding=overriding, partitioned=partitioned)
            self._write(connection, merge, part, checkpoint_id, find=find)
            target = self._note_target(connection, part, kept)
            crash_point("postgres.pre_commit")
            connection.execute("commit")
            crash_point("postgres.post_commit")
            self._target = target

        with self._errors():
            try:
                self._session.run(applied)
            except _RowRefused:
                # Once more, and row by row where need be.
                find = True
                self._session.run(applied)

    def _write(
        self, connection: psycopg.Connection[Any], merge: Merge, part: Part, checkpoint_id: int, *, find: bool
    ) -> None:
        if not find:
            try:
                with connection.cursor() as cursor:
                    merge.write(cursor)
            except psycopg.Error as error:
                if is_violation(error):
                    raise _RowRefused from error
                raise
            return
        violations = merge.write_most(connection, stop_at=1 if self._rejected is None else None)
        if violations and self._rejected is None:
            first = violations[0]
            raise SinkError(
                f"table {part.schema}.{part.table} does not take the record {part.texts_of(first.row)} of checkpoint "
                f"{checkpoint_id}: {first.reason}. The checkpoint is decided, and nothing of it is in the table: "
                "change the table so that it takes the record, or have such records put into a table of their own by "
                "rejected=, and run the job again"
            )
        if violations and self._rejected is not None:
            self._rejected.write(connection, part, checkpoint_id, violations)

    def _check_types(
        self,
        connection: psycopg.Connection[Any],
        part: Part,
        checkpoint_id: int | None,
        keep: sql.Composed | None = None,
    ) -> tuple[bool, bool]:
        """Compares the table's columns with those that rows are, or were, staged for.

        Args:
            connection: Within a transaction that keeps a marker the table is locked against changes until it ends.
            part: Its types.
            checkpoint_id: Of rows that were decided.
            keep: A marker to be written in the same call.

        Returns:
            Whether a column that the table numbers itself always is written, and whether the table is partitioned.
        """
        name = TableName(part.schema, part.table)
        types_of = sql.SQL(_TYPES).format(sql.Literal(name.quoted().as_string(connection)))
        with connection.cursor(row_factory=tuple_row) as cursor:
            if keep is None:
                cursor.execute(types_of)
            else:
                lock = sql.SQL("lock table {} in row exclusive mode").format(name.quoted())
                cursor.execute(sql.SQL(";").join([keep, lock, types_of]))
                self._markers.check_kept(cursor)
            rows = list(all_rows(cursor))
        types = {column: shown for column, shown, *_ in rows}
        always = {column for column, _, _, is_always, _ in rows if is_always}
        changed = [
            f"{column!r} was {shown} and is {types.get(column, 'not there')}"
            for column, shown in zip(part.columns, part.types, strict=True)
            if types.get(column) != shown
        ]
        changed += [
            f"{column!r} takes no null and has no default, and is not written"
            for column, _, is_needed, *_ in rows
            if is_needed and column not in part.columns
        ]
        if not changed:
            return not always.isdisjoint(part.columns), any(row[-1] for row in rows)
        if checkpoint_id is None:
            raise SinkError(
                f"table {name} and the sink do not fit: column {'; '.join(changed)}. Nothing of this checkpoint was "
                "decided: run the job again, so that it goes by the table as it is now; or name the columns that are "
                "written in columns="
            )
        raise SinkError(
            f"table {name} was changed since the output of checkpoint {checkpoint_id} was decided for it: column "
            f"{'; '.join(changed)}. Change it back, run the job once, and change it when the job is stopped"
        )

    def _note_target(self, connection: psycopg.Connection[Any], part: Part, kept: dict[str, str]) -> Target | None:
        """Keeps which table it is, and that there are rows in it, where that is news."""
        if self._target is None or self._target.name != f"{part.schema}.{part.table}":
            # Decided for another table, before the settings were changed.
            return self._target
        filled = self._has_rows(connection) if part.gone else True
        target = msgspec.structs.replace(self._target, filled=filled)
        if target != self._markers.target(kept):
            self._markers.keep_target(connection, target)
        return target

    def close(self) -> None:
        self._session.close()

    def _marker(self, worker: int, checkpoint_id: int, before: str | None = None) -> Marker:
        mine = self._context
        left = {} if before is None else Standing.read(before).left_by(mine.lineage)
        return Marker(
            mine.job, mine.sink, worker, mine.lineage, checkpoint_id, mine.job_epoch, mine.run, mine.state_id, left
        )

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """A table that is not there any more, in words."""
        try:
            yield
        except SinkError as error:
            if isinstance(error.__cause__, errors.UndefinedTable):
                raise SinkError(
                    f"a table is gone that the sink {self._context.sink!r} writes to: {error}. Nothing that was "
                    "decided is lost: put it back and run the job again"
                ) from error.__cause__
            raise


class _RowRefused(Exception):  # noqa: N818 - leads to another attempt
    """A row violates what the table asks for."""


def _standings(kept: Mapping[str, str]) -> dict[Slot, Standing]:
    return {(_PLACE.name, worker_of(key)): Standing.read(text) for key, text in Markers.only(dict(kept)).items()}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _session_name(owner: str) -> str:
    """Of all sessions of a sink, whatever run: the server cuts names to 63 bytes."""
    return f"onceflow {_digest(owner)}"
