"""A table of a database behind an outbox.

The transaction of a checkpoint, in the order of its statements:

1. The fence's row is locked, and the sink's markers are read behind the lock: whether this run may write, and whether
   the checkpoint is there already. In SQLite the transaction is alone from its beginning; in DuckDB the row is written,
   so that of two transactions which overlap one is refused.
2. The rows.
3. The marker.
4. The table's columns are looked at: what was written locks them against a change, so this is what the rows met. If
   they are not those that the rows were checked against, all is rolled back, and checked against the present ones.

So rows and marker are there together, or neither is. Where the connection is lost, also within the commit, where
others hold a lock, or where the database sees a conflict, all of it is repeated for a while: step 1 finds what was
committed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
import tenacity
from sqlalchemy.engine import Connection, Engine

from onceflow.connectors.outbox import Marker, OutboxTarget
from onceflow.connectors.outbox.marker import FENCE, key_of
from onceflow.connectors.sql.dialect import Dialect
from onceflow.connectors.sql.duckdb import DuckdbDialect
from onceflow.connectors.sql.mysql import MysqlDialect
from onceflow.connectors.sql.postgresql import PostgresqlDialect
from onceflow.connectors.sql.sqlite import SqliteDialect
from onceflow.connectors.sql.table import Row, Shape, Target, Wanted
from onceflow.connectors.waiting import Waiting
from onceflow.crash import crash_point
from onceflow.exceptions import ConfigurationError, SinkError
from onceflow.process import HomeProcess

__all__ = ["MARKERS", "SqlTarget"]

#: The table of the markers, in the schema of the table that they are about.
MARKERS = "onceflow_sql_markers"

_DIALECTS: dict[str, type[Dialect]] = {
    "sqlite": SqliteDialect,
    "postgresql": PostgresqlDialect,
    "mysql": MysqlDialect,
    "mariadb": MysqlDialect,
    "duckdb": DuckdbDialect,
}


_DECIDED = ". This output was decided: change the table so that it takes it, and run the job again"
_NOT_DECIDED = ". Nothing of this checkpoint was written: change the table or the dataflow, and run the job again"


class _TableChangedError(Exception):
    """The table is another one than the rows were checked against."""


class SqlTarget(OutboxTarget):
    """A table that exists, and the markers beside it.

    Args:
        make_engine: Gives an engine of its own.
        wanted: What is written where.
        retry_s: So long a transaction is repeated that failed for a reason that may pass.

    Raises:
        ConfigurationError: A kind of database that is not known.
        SinkError: It cannot be reached, or the table is not as it has to be.
    """

    def __init__(self, make_engine: Callable[[], Engine], wanted: Wanted, retry_s: float) -> None:
        self._home = HomeProcess()
        self._wanted = wanted
        self._retry_s = retry_s
        self._waiting = Waiting("SqlSink", wanted.where, f"retry_for={retry_s:g} s")
        #: Whether the table of the markers was seen.
        self._are_made = False
        #: What to do about an error that does not pass.
        self._hint = ""
        with self._errors():
            engine = make_engine()
        if not isinstance(engine, Engine):
            raise ConfigurationError(f"SqlSink: the function has given a {type(engine).__name__}, no Engine")
        if engine.dialect.name not in _DIALECTS:
            known = ", ".join(_DIALECTS)
            raise ConfigurationError(
                f"SqlSink: {engine.dialect.name} is not one of {known}, for which it is known how to be exact; for "
                "other databases derive a target from OutboxTarget"
            )
        self._dialect = _DIALECTS[engine.dialect.name]()
        self._base = engine
        if engine.url.database:
            shown = engine.url.set(username=None, password=None, query={}).render_as_string()
            self.shown = shown if wanted.schema is None else f"schema {wanted.schema!r} of {shown}"
        self._engine = engine
        self._markers = sa.Table(
            MARKERS,
            sa.MetaData(),
            sa.Column("owner", self._dialect.exact_text, primary_key=True),
            sa.Column("marker", sa.String(40), primary_key=True),
            sa.Column("standing", sa.String(1000), nullable=False),
            schema=wanted.schema,
            **self._dialect.table_arguments,
        )
        try:
            self._dialect.check_database(engine.url, f"the database of {wanted.where}")
            self._engine = self._dialect.prepare(engine)
            # What cannot be reached is told at once: there may be a wrong name behind it.
            with self._errors(), self._transaction(writes=True, commits=False) as connection:
                self._target = self._checked(connection)
                connection.execute(self._dialect.probe(self._target))
        except BaseException:
            self.close()
            raise

    # -- what the outbox asks for --------------------------------------------------------------

    def read_markers(self, owner: str) -> Mapping[str, str]:
        self._waiting.who = f"sink {owner!r}"

        def read(connection: Connection) -> dict[str, str]:
            return self._kept(connection, owner) if self._has_markers(connection) else {}

        kept: dict[str, str] = self._repeated(read, writes=False)
        return kept

    def owners(self) -> list[str]:
        def read(connection: Connection) -> list[str]:
            if not self._has_markers(connection):
                return []
            found = connection.execute(sa.select(self._markers.columns.owner).distinct()).scalars()
            return sorted(each.decode() if isinstance(each, bytes) else str(each) for each in found)

        owners: list[str] = self._repeated(read, writes=False)
        return owners

    def forget(self, owner: str) -> None:
        mine = self._markers.columns.owner == self._owner(owner)
        self._repeated(lambda connection: connection.execute(self._markers.delete().where(mine)))

    def how_to_forget(self, owner: str) -> str:
        mine = self._markers.columns.owner == sa.literal(owner, sa.String())
        statement = self._markers.delete().where(mine)
        return str(statement.compile(self._base, compile_kwargs={"literal_binds": True})).replace("\n", "")

    def fence(self, marker: Marker) -> None:
        if len(marker.owner.encode()) > 400:
            raise SinkError(
                f"the names of job and sink are too long together: {marker.owner!r} has more than 400 bytes"
            )

        def make(connection: Connection) -> None:
            if not self._has_markers(connection):
                connection.execute(sa.schema.CreateTable(self._markers, if_not_exists=True))

        def keep(connection: Connection) -> None:
            kept = self._locked(connection, marker.owner)
            if marker.is_due(kept):
                self._keep(connection, marker, kept)

        self._repeated(make)
        self._repeated(keep)

    def apply(self, records: list[Any], marker: Marker) -> None:
        def write(connection: Connection, rows: list[Row]) -> None:
            kept = self._locked(connection, marker.owner)
            if not marker.is_due(kept):
                return
            self._write(connection, rows)
            self._keep(connection, marker, kept)
            self._check_unchanged(connection)
            crash_point("sql.pre_commit")

        self._hint = _DECIDED
        self._written(records, write)
        crash_point("sql.post_commit")

    def check(self, records: list[Any]) -> None:
        def rehearse(connection: Connection, rows: list[Row]) -> None:
            if self._rehearses:
                self._write(connection, rows)
                self._dialect.before_rollback(connection)
            self._check_unchanged(connection)

        self._hint = _NOT_DECIDED
        self._written(records, rehearse, writes=self._rehearses, commits=False)

    def close(self) -> None:
        self._waiting.close()
        self._base.dispose(close=not self._home.is_left)

    # -- the table -----------------------------------------------------------------------------

    def _checked(self, connection: Connection) -> Target:
        """The table as it is now.

        Raises:
            SinkError: It is not as it has to be.
        """
        wanted, dialect = self._wanted, self._dialect
        shape = dialect.shape(connection, wanted)
        if shape.columns:
            dialect.check(connection, wanted)
        target = Target(wanted, shape)
        keys = dialect.unique_keys(connection, wanted)
        key = frozenset(wanted.key)
        if key and key not in keys:
            raise SinkError(
                f"{wanted.where} has no primary key and no unique constraint of {list(wanted.key)} alone that holds "
                f"for all rows, at once, and tells all values apart; it has {[sorted(each) for each in keys]}. Make one"
            )
        others = [each for each in keys if each != key]
        if key and others and dialect.upserts_by_any_key:
            raise SinkError(
                f"{wanted.where} has other unique keys than {list(wanted.key)}: {[sorted(each) for each in others]}; "
                "the database would replace a row that has one of them. Remove them, or write to a table without"
            )
        # A key that the database fills in is not violated by what is written.
        self._rehearses = dialect.has_rules(connection, wanted) or any(each & target.written.keys() for each in others)
        self._statement = dialect.statement(target)
        return target

    def _written(
        self,
        records: list[Any],
        work: Callable[[Connection, list[Row]], None],
        *,
        writes: bool = True,
        commits: bool = True,
    ) -> None:
        """Has rows written, checked against the columns that the table has when they are."""
        while True:
            rows = self._target.rows(records)
            try:
                self._repeated(lambda connection: work(connection, rows), writes=writes, commits=commits)  # noqa: B023 - called here
                return
            except (SinkError, _TableChangedError):
                # What a table refuses, too, may be because of what it has become.
                if not self._has_changed():
                    raise
            self._target = self._repeated(self._checked, writes=False)

    def _has_changed(self) -> bool:
        shape: Shape = self._repeated(lambda connection: self._dialect.shape(connection, self._wanted), writes=False)
        return shape.definition != self._target.shape.definition

    def _check_unchanged(self, connection: Connection) -> None:
        if self._dialect.shape(connection, self._wanted).definition != self._target.shape.definition:
            raise _TableChangedError

    def _write(self, connection: Connection, rows: list[Row]) -> None:
        if rows:
            self._dialect.write(connection, self._statement, rows)

    # -- the markers ---------------------------------------------------------------------------

    def _has_markers(self, connection: Connection) -> bool:
        # Asked of the catalogue until it is there: each checkpoint reads markers a few times.
        self._are_made = self._are_made or bool(
            self._dialect.shape(connection, replace(self._wanted, table=MARKERS)).columns
        )
        return self._are_made

    def _kept(self, connection: Connection, owner: str, *, locks: bool = False) -> dict[str, str]:
        columns = self._markers.columns
        query = sa.select(columns.marker, columns.standing).where(columns.owner == self._owner(owner))
        if locks:
            query = query.with_for_update()
        return {str(key): str(text) for key, text in connection.execute(query)}

    def _locked(self, connection: Connection, owner: str) -> dict[str, str]:
        """The markers of an owner, which nobody else changes until this transaction ends."""
        columns = self._markers.columns
        fence = (columns.owner == self._owner(owner)) & (columns.marker == key_of(FENCE))
        if not self._dialect.locks_rows:
            connection.execute(self._markers.update().where(fence).values(standing=columns.standing))
            return self._kept(connection, owner)
        connection.execute(sa.select(columns.standing).where(fence).with_for_update()).all()
        # A statement of its own: what was committed while the lock was waited for is seen by the next one only.
        return self._kept(connection, owner, locks=True)

    def _keep(self, connection: Connection, marker: Marker, kept: Mapping[str, str]) -> None:
        columns = self._markers.columns
        owner = self._owner(marker.owner)
        if marker.key in kept:
            mine = (columns.owner == owner) & (columns.marker == marker.key)
            connection.execute(self._markers.update().where(mine).values(standing=marker.text))
        else:
            values = {"owner": owner, "marker": marker.key, "standing": marker.text}
            connection.execute(self._markers.insert().values(values))

    def _owner(self, owner: str) -> Any:
        return owner.encode() if self._dialect.binary_owners else owner

    # -- transactions --------------------------------------------------------------------------

    @contextmanager
    def _transaction(self, *, writes: bool, commits: bool = True) -> Iterator[Connection]:
        with self._engine.connect() as connection:
            try:
                if writes:
                    self._dialect.begin(connection)
                yield connection
                self._home.check()
                if commits:
                    connection.commit()
                else:
                    connection.rollback()
            except BaseException:
                if self._home.is_left:
                    # A rollback would be one of the parent's transaction, and it would not know. So the session ends
                    # with the child: the parent loses its connection, and repeats the transaction.
                    connection.invalidate()
                raise

    def _repeated(self, work: Callable[[Connection], Any], *, writes: bool = True, commits: bool = True) -> Any:
        """What work gives, done in one transaction, which is repeated where it fails for a reason that may pass."""
        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception(self._may_pass),
            stop=tenacity.stop_after_delay(self._retry_s),
            wait=tenacity.wait_random_exponential(multiplier=0.02, max=1.0),
            before_sleep=self._missed,
            reraise=True,
        )
        found = None
        with self._errors():
            for attempt in attempts:
                with (
                    attempt,
                    self._waiting.watched(),
                    self._transaction(writes=writes, commits=commits) as connection,
                ):
                    found = work(connection)
        self._waiting.answered()
        return found

    def _missed(self, attempt: tenacity.RetryCallState) -> None:
        self._waiting.missed(self._told(attempt.outcome.exception() if attempt.outcome else None))

    def _may_pass(self, error: BaseException) -> bool:
        if isinstance(error, sa.exc.TimeoutError):
            return True
        if not isinstance(error, sa.exc.DBAPIError):
            return False
        if isinstance(error, sa.exc.IntegrityError):
            # Two runs that begin at once: the other one's marker is there now.
            return MARKERS in str(error.statement)
        return error.connection_invalidated or self._dialect.is_transient(error) or self._is_unreachable(error)

    def _is_unreachable(self, error: sa.exc.DBAPIError) -> bool:
        # An error of a connection that was not made has no statement.
        return isinstance(error, sa.exc.OperationalError) and error.statement is None

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """What the library raises, without values and passwords."""
        try:
            yield
        except sa.exc.DBAPIError as error:
            hint = "" if self._may_pass(error) else self._hint
            raise SinkError(f"{self._wanted.where}: {self._told(error)}{hint}") from error.orig
        except sa.exc.SQLAlchemyError as error:
            raise SinkError(f"{self._wanted.where}: {self._told(error)}") from None

    def _told(self, error: BaseException | None) -> str:
        """The text of an error, without values and passwords."""
        if isinstance(error, sa.exc.DBAPIError):
            text = f"{type(error.orig).__name__}: {error.orig}".strip()
        else:
            text = str(error)
        engine = getattr(self, "_base", None)
        password = None if engine is None else engine.url.password
        return text.replace(str(password), "***") if password else text
