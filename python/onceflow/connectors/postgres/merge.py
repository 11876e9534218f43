"""Rows into a table within a transaction: by COPY into a temporary table, and from there in the order of their keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import errors, sql

from onceflow.connectors.postgres.catalogue import TableName
from onceflow.connectors.postgres.staged import Part
from onceflow.exceptions import SinkError

__all__ = ["Merge", "Violation", "is_violation"]

_INCOMING = sql.Identifier("pg_temp", "onceflow_incoming")
_DELETED = sql.Identifier("onceflow_deleted")
#: One call to the client takes so many bytes at most.
_COPY_BYTES = 1 << 20


class Violation(Exception):  # noqa: N818 - it is about a row
    """A row that the table refuses.

    Attributes:
        line: Of COPY.
        reason: The server's words.
        code: Its code of the error.
    """

    def __init__(self, line: str, error: psycopg.Error) -> None:
        super().__init__(str(error))
        self.line = line
        self.reason = _reason(error)
        self.code = error.sqlstate or ""


def is_violation(error: BaseException) -> bool:
    """Whether it is about a row: values that a type or a constraint does not take."""
    return isinstance(error, (errors.IntegrityError, errors.DataError))


class Merge:
    """Writes the rows of a part.

    Args:
        part: What is staged.
        overriding: Whether a column that the table itself numbers always is written.
    """

    def __init__(self, part: Part, *, overriding: bool = False) -> None:
        self._part = part
        self._table = TableName(part.schema, part.table).quoted()
        names = list(map(sql.Identifier, part.columns))
        key, rest = names[: part.keys], names[part.keys :]
        self._columns = sql.SQL(", ").join(names)
        self._deletes = part.deletes()
        self._incoming = sql.SQL(", ").join([_DELETED, *names] if self._deletes else names)
        flag = sql.SQL("false as {}, ").format(_DELETED) if self._deletes else sql.SQL("")
        #: Before the rows come; nothing where they go into the table at once.
        self.create = (
            sql.SQL("create temporary table {} on commit drop as select {}{} from {} with no data").format(
                sql.Identifier("onceflow_incoming"), flag, self._columns, self._table
            )
            if part.keys
            else sql.SQL("")
        )
        keys = sql.SQL(", ").join(key)
        update = sql.SQL(", ").join(sql.SQL("{} = excluded.{}").format(name, name) for name in rest)
        self._insert = sql.SQL(
            "insert into {table} ({columns}) {overriding} select {columns} from {incoming} {where} "
            "order by {keys} on conflict ({keys}) do {action}"
        ).format(
            table=self._table,
            columns=self._columns,
            overriding=sql.SQL("overriding system value" if overriding else ""),
            incoming=_INCOMING,
            where=sql.SQL("where not {}").format(_DELETED) if self._deletes else sql.SQL(""),
            keys=keys,
            action=sql.SQL("update set {}").format(update) if rest else sql.SQL("nothing"),
        )
        same = sql.SQL(" and ").join(sql.SQL("t.{0} = i.{0}").format(name) for name in key)
        self._delete = sql.SQL("delete from {} t using {} i where i.{} and {}").format(
            self._table, _INCOMING, _DELETED, same
        )
        self._left = sql.SQL("select count(*) from {} t join {} i on {} where i.{}").format(
            self._table, _INCOMING, same, _DELETED
        )
        self._has_rest = bool(rest)

    def write(self, cursor: psycopg.Cursor[Any], lines: Sequence[str], count: int) -> None:
        """Writes all of the lines, after ``create``; or raises, and the transaction is to be rolled back.

        Args:
            cursor: Within the transaction.
            lines: Of rows that are appended there may be several in each text.
            count: How many there are.

        Raises:
            psycopg.Error: The server's own.
            SinkError: A trigger has left rows out.
        """
        copy = sql.SQL("copy {} ({}) from stdin (encoding 'UTF8')")
        if not self._part.keys:
            self._send(cursor, copy.format(self._table, self._columns), lines)
            self._check(cursor.rowcount, count)
            return
        self._send(cursor, copy.format(_INCOMING, self._incoming), lines)
        deletes = 0
        if self._deletes:
            deletes = sum(line.startswith("t") for line in lines)
            cursor.execute(self._delete)
            self._check_deleted(cursor)
        cursor.execute(self._insert)
        if self._has_rest:
            self._check(cursor.rowcount, count - deletes)

    def write_most(
        self, session: psycopg.Connection[Any], lines: Sequence[str], *, stop_at: int | None = None
    ) -> list[Violation]:
        """Writes all lines that the table takes; those that it does not.

        By halves: a half that fails is rolled back to a savepoint and halved again.

        Args:
            session: Within a transaction.
            lines: What is to be written.
            stop_at: When so many were found the rest is left out.
        """
        found: list[Violation] = []
        halves = [lines]
        while halves and (stop_at is None or len(found) < stop_at):
            part = halves.pop()
            try:
                with session.transaction(), session.cursor() as cursor:
                    if self._part.keys:
                        cursor.execute(self.create)
                    self.write(cursor, part, len(part))
                    if self._part.keys:
                        cursor.execute(sql.SQL("drop table {}").format(_INCOMING))
            except psycopg.Error as error:
                if not is_violation(error):
                    raise
                if len(part) == 1:
                    found.append(Violation(part[0], error))
                else:
                    middle = len(part) // 2
                    # The first half is next, so that the order stays.
                    halves += [part[middle:], part[:middle]]
        return found

    @staticmethod
    def _send(cursor: psycopg.Cursor[Any], statement: sql.Composed, lines: Sequence[str]) -> None:
        with cursor.copy(statement) as copy:
            text, size = [], 0
            for line in lines:
                text.append(line)
                size += len(line)
                if size > _COPY_BYTES:
                    copy.write("\n".join([*text, ""]))
                    text, size = [], 0
            if text:
                copy.write("\n".join([*text, ""]))

    def _check(self, written: int, given: int) -> None:
        if written != given:
            raise SinkError(
                f"table {self._part.schema}.{self._part.table} has taken {written} of {given} rows: a trigger leaves "
                "rows out. Nothing was written; filter the rows out in the dataflow instead"
            )

    def _check_deleted(self, cursor: psycopg.Cursor[Any]) -> None:
        (left,) = cursor.execute(self._left).fetchone() or (0,)
        if left:
            raise SinkError(
                f"table {self._part.schema}.{self._part.table} keeps {left} rows that were to be deleted: a trigger "
                "leaves rows out. Nothing was written"
            )


def _reason(error: psycopg.Error) -> str:
    """The server's words on a row."""
    said = [error.diag.message_primary, error.diag.message_detail, error.diag.context]
    return ". ".join(part for part in said if part) or str(error)
