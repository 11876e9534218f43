"""Rows into a table within a transaction: by COPY into a temporary table, and from there in the order of their keys."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import psycopg
from psycopg import errors, sql

from onceflow.connectors.postgres.catalogue import TableName
from onceflow.connectors.postgres.staged import Part, Row
from onceflow.exceptions import SinkError

__all__ = ["Merge", "Violation", "is_violation"]

_INCOMING = sql.Identifier("pg_temp", "onceflow_incoming")
#: Keys of rows that are deleted.
_GONE = sql.Identifier("pg_temp", "onceflow_gone")
#: One call to the client takes so many bytes at most.
_COPY_BYTES = 1 << 20


class Violation(Exception):  # noqa: N818 - it is about a row
    """A row that the table refuses.

    Attributes:
        row: Itself.
        reason: The server's words.
        code: Its code of the error.
        misses_a_row: Or may: that a foreign key asks for, or a trigger, of which nobody knows what it asks for.
    """

    def __init__(self, row: Row, error: psycopg.Error) -> None:
        super().__init__(str(error))
        self.row = row
        self.reason = _reason(error)
        self.code = error.sqlstate or ""
        self.misses_a_row = isinstance(error, errors.ForeignKeyViolation) or _is_raised(error)


def is_violation(error: BaseException) -> bool:
    """Whether it is about a row: values that a type, a constraint or a trigger does not take."""
    return isinstance(error, (errors.IntegrityError, errors.DataError)) or _is_raised(error)


def _is_raised(error: BaseException) -> bool:
    """By a trigger on purpose: PL/pgSQL's RAISE and ASSERT, also with a code of its own, which the client has no class
    for."""
    return isinstance(error, psycopg.Error) and (
        (error.sqlstate or "").startswith("P0") or (type(error) is psycopg.DatabaseError and error.sqlstate is not None)
    )


class Merge:
    """Writes the rows of a part.

    Args:
        part: What is staged.
        overriding: Whether a column that the table itself numbers always is written.
        partitioned: Whether the table is.
    """

    def __init__(self, part: Part, *, overriding: bool = False, partitioned: bool = False) -> None:
        self._part = part
        self._table = TableName(part.schema, part.table).quoted()
        names = list(map(sql.Identifier, part.columns))
        key, rest = names[: part.keys], names[part.keys :]
        self._columns, keys = sql.SQL(", ").join(names), sql.SQL(", ").join(key)
        make = sql.SQL("create temporary table {} on commit drop as select {} from {} with no data")
        self._make_incoming = make.format(_INCOMING, self._columns, self._table)
        self._make_gone = make.format(_GONE, keys, self._table)
        copy = sql.SQL("copy {} ({}) from stdin (encoding 'UTF8')")
        self._copy = copy.format(_INCOMING if part.keys else self._table, self._columns)
        self._copy_gone = copy.format(_GONE, keys)
        update = sql.SQL(", ").join(sql.SQL("{} = excluded.{}").format(name, name) for name in rest)
        self._insert = sql.SQL(
            "insert into {table} ({columns}) {overriding} select {columns} from {incoming} "
            "order by {keys} on conflict ({keys}) do {action}"
        ).format(
            table=self._table,
            columns=self._columns,
            overriding=sql.SQL("overriding system value" if overriding else ""),
            incoming=_INCOMING,
            keys=keys,
            action=sql.SQL("update set {}").format(update) if rest else sql.SQL("nothing"),
        )
        # Rows of tables that inherit from this one are others'; those of partitions are its own.
        only = sql.SQL("" if partitioned else "only")
        same = sql.SQL(" and ").join(sql.SQL("t.{0} = g.{0}").format(name) for name in key)
        self._delete = sql.SQL("delete from {} {} t using {} g where {}").format(only, self._table, _GONE, same)
        self._left = sql.SQL("select count(*) from {} {} t join {} g on {}").format(only, self._table, _GONE, same)
        self._has_rest = bool(rest)

    def write(self, cursor: psycopg.Cursor[Any]) -> None:
        """Writes all of the part; or raises, and the transaction is to be rolled back.

        Args:
            cursor: Within the transaction.

        Raises:
            psycopg.Error: The server's own.
            SinkError: A trigger has left rows out.
        """
        self._write(cursor, self._part.blocks, self._part.rows, self._part.gone)

    def _write(self, cursor: psycopg.Cursor[Any], blocks: Iterable[bytes], rows: int, gone: Iterable[bytes]) -> None:
        if gone:
            cursor.execute(self._make_gone)
            self._send(cursor, self._copy_gone, gone)
            cursor.execute(self._delete)
            self._check_deleted(cursor)
        if not rows:
            return
        if self._part.keys:
            cursor.execute(self._make_incoming)
        self._send(cursor, self._copy, blocks)
        if self._part.keys:
            cursor.execute(self._insert)
        if self._has_rest:
            self._check(cursor.rowcount, rows)

    def write_most(self, session: psycopg.Connection[Any], *, stop_at: int | None = None) -> list[Violation]:
        """Writes all rows that the table takes; those that it does not.

        By halves: a half that fails is rolled back to a savepoint and halved again. Rows that miss another row are
        tried again while that helps: it may be one of those that come after them.

        Args:
            session: Within a transaction.
            stop_at: When so many were found the rest is left out.
        """
        found: list[Violation] = []
        halves = [self._part.each()]
        while halves and (stop_at is None or sum(not each.misses_a_row for each in found) < stop_at):
            rows = halves.pop()
            violation = self._violation(session, rows)
            if violation is not None and len(rows) == 1:
                found.append(violation)
            elif violation is not None:
                middle = len(rows) // 2
                # The first half is next, so that the order stays.
                halves += [rows[middle:], rows[:middle]]
        if halves:
            return [each for each in found if not each.misses_a_row]
        return self._without_late(session, found)

    def _without_late(self, session: psycopg.Connection[Any], found: list[Violation]) -> list[Violation]:
        """Without rows that only had to wait for others."""
        while late := [each.row for each in found if each.misses_a_row]:
            # Some that refer to each other go together only.
            if self._violation(session, late) is None:
                return [each for each in found if not each.misses_a_row]
            # Mostly it is the last one that the one before it waits for.
            tried = [self._violation(session, [each.row]) if each.misses_a_row else each for each in reversed(found)]
            left = [each for each in reversed(tried) if each is not None]
            if len(left) == len(found):
                break
            found = left
        return found

    def _violation(self, session: psycopg.Connection[Any], rows: Sequence[Row]) -> Violation | None:
        """Writes some rows; if the table does not take them, why, said of the first one, and none of them is there."""
        try:
            self._write_rows(session, rows)
        except psycopg.Error as error:
            if not is_violation(error):
                raise
            return Violation(rows[0], error)
        return None

    def _write_rows(self, session: psycopg.Connection[Any], rows: Sequence[Row]) -> None:
        """Some rows, or none of them."""
        lines = [row.line for row in rows if not row.is_gone]
        gone = [row.line for row in rows if row.is_gone]
        with session.transaction(), session.cursor() as cursor:
            self._write(cursor, lines, len(lines), gone)
            if gone:
                cursor.execute(sql.SQL("drop table {}").format(_GONE))
            if lines and self._part.keys:
                cursor.execute(sql.SQL("drop table {}").format(_INCOMING))

    @staticmethod
    def _send(cursor: psycopg.Cursor[Any], statement: sql.Composed, blocks: Iterable[bytes]) -> None:
        with cursor.copy(statement) as copy:
            waiting, size = [], 0
            for block in blocks:
                waiting.append(block)
                size += len(block)
                if size > _COPY_BYTES:
                    copy.write(b"".join(waiting))
                    waiting, size = [], 0
            if waiting:
                copy.write(b"".join(waiting))

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
