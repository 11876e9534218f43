"""What differs between databases: how a transaction begins, what the catalogue says of a table, how to upsert a row."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from onceflow.connectors.sql.table import Row, Shape, Target, Wanted

__all__ = ["Dialect", "definition_of", "parts_of", "rows_of_query"]

_TYPE = re.compile(r"\s*([A-Za-z_][A-Za-z_0-9 ]*?)\s*(?:\(\s*(\d+)\s*(?:,\s*(-?\d+)\s*)?\)\s*([A-Za-z_ ]*?)\s*)?")


class Dialect(ABC):
    """One kind of database."""

    #: Of the owner of a marker: two are the same only if each byte is. As bytes, if ``binary_owners``.
    exact_text: sa.types.TypeEngine[Any] = sa.String(400)
    binary_owners: ClassVar[bool] = False
    #: Arguments of the marker table.
    table_arguments: ClassVar[dict[str, Any]] = {}
    #: Whether another transaction's lock is waited for by a row that is read for an update.
    locks_rows: ClassVar[bool] = True
    #: So long a transaction may wait for its process, which may be paused while it holds locks.
    idle_s: ClassVar[int] = 60
    #: Whether an upsert replaces the row that has any of the table's keys, not the one that was named alone.
    upserts_by_any_key: ClassVar[bool] = False

    def check_database(self, database: sa.URL, where: str) -> None:  # noqa: B027 - optional
        """Raises ``SinkError`` for a database that nobody has made: to connect must change nothing."""

    @abstractmethod
    def prepare(self, engine: Engine) -> Engine:
        """The engine, whose sessions keep values as they are and do not wait for ever."""

    def begin(self, connection: Connection) -> None:  # noqa: B027 - optional
        """Called at the beginning of each transaction that writes."""

    @abstractmethod
    def shape(self, connection: Connection, wanted: Wanted) -> Shape:
        """What the catalogue says of the table; a few statements, as often as once a transaction."""

    @abstractmethod
    def check(self, connection: Connection, wanted: Wanted) -> None:
        """Raises ``SinkError`` for a table that exists and cannot keep what was committed with the marker."""

    @abstractmethod
    def unique_keys(self, connection: Connection, wanted: Wanted) -> list[frozenset[str]]:
        """The columns of each key that holds for all rows, at once."""

    @abstractmethod
    def has_rules(self, connection: Connection, wanted: Wanted) -> bool:
        """Whether the table may refuse rows for what is in it, or in others, besides keys."""

    @abstractmethod
    def insert(self, table: sa.Table) -> Any:
        """An insert with the upsert of this dialect."""

    def upsert(self, insert: Any, key: Sequence[str], others: Sequence[str]) -> sa.Executable:
        """The insert, which replaces the other columns where the key is there; as most databases have it."""
        changed = {name: insert.excluded[name] for name in others}
        if not changed:
            return insert.on_conflict_do_nothing(index_elements=list(key))  # type: ignore[no-any-return]
        return insert.on_conflict_do_update(index_elements=list(key), set_=changed)  # type: ignore[no-any-return]

    def write(self, connection: Connection, statement: Any, rows: list[Row]) -> None:
        """Executes what ``statement`` gave for rows, one at least."""
        connection.execute(statement, rows)

    @abstractmethod
    def is_transient(self, error: sa.exc.DBAPIError) -> bool:
        """Whether the whole transaction may succeed when it is repeated, besides where the connection is lost."""

    def before_rollback(self, connection: Connection) -> None:  # noqa: B027 - optional
        """Has the database check what it would check at a commit."""

    def nothing(self, column: sa.Column[Any]) -> sa.ColumnElement[Any]:
        """A value that is missing, where a value for a column is expected."""
        return sa.null().label(column.name)

    def probe(self, target: Target) -> sa.Executable:
        """A statement of the kind that writes, of no rows: names, rights and key are checked, nothing is written."""
        columns = list(target.table.columns)
        nothing = sa.select(*map(self.nothing, columns)).where(sa.false())
        names = [column.name for column in columns]
        return self.statement(target, self.insert(target.table).from_select(names, nothing))

    def statement(self, target: Target, insert: Any = None) -> sa.Executable:
        """What writes rows."""
        insert = self.insert(target.table) if insert is None else insert
        if target.wanted.mode == "append":
            return insert  # type: ignore[no-any-return]
        key = target.wanted.key
        return self.upsert(insert, key, [name for name in target.written if name not in key])


def parts_of(declared: str) -> tuple[str, int | None, int | None, str]:
    """Name in lower case, the numbers in parentheses, and what comes behind them, of a type: ``varchar(10)``."""
    found = _TYPE.fullmatch(declared)
    if found is None:
        return declared.lower(), None, None, ""
    name, first, second, rest = found.groups()
    numbers = [None if each is None else int(each) for each in (first, second)]
    return name.lower(), numbers[0], numbers[1], (rest or "").lower()


def rows_of_query(connection: Connection, statement: str, **values: Any) -> Sequence[Any]:
    """The rows of a query of the catalogue."""
    return connection.execute(sa.text(statement), values).all()


def definition_of(rows: Iterable[Any]) -> str:
    """A text that differs where rows do."""
    return repr([tuple(row) for row in rows])
