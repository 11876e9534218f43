"""Totals by key: what running aggregates and windows have in common."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from onceflow._native import Rows
from onceflow.aggregates import Aggregate
from onceflow.columns import Columns, to_list
from onceflow.exceptions import (
    NotANumberError,
    SerializationError,
    StateError,
    StateOverflowError,
    TypeMismatchError,
    UserFunctionError,
)
from onceflow.graph.partitioning import KeySelector, KeyType
from onceflow.operators.base import OperatorContext
from onceflow.operators.calls import each, shown
from onceflow.operators.keyed import KeyedOperator
from onceflow.operators.keys import decode_key, key_list, key_order, other_keys, plain_key
from onceflow.operators.totals import Totals
from onceflow.operators.values import RefusedValueError, Values, pick, read_values
from onceflow.types import Batch

__all__ = ["Aggregating", "Part"]

#: Most rows that are handed out at once at the end of the input or of a window: Python objects exist for these only.
_ROWS_AT_ONCE = 1 << 14


@dataclass(frozen=True, slots=True)
class Part:
    """Where some records of a batch have their totals.

    Attributes:
        totals: The table's.
        keys: Of the records, as the table has them.
        rows: The records; None: all of the batch.
    """

    totals: Totals
    keys: Any
    rows: npt.NDArray[np.int64] | None


class Aggregating(KeyedOperator):
    """Base: totals by key; those of keys that no native type holds in a table of their own."""

    def __init__(self, selector: KeySelector, key_type: KeyType | None, aggregates: Mapping[str, Aggregate]) -> None:
        super().__init__(selector, key_type)
        self._aggregates = aggregates

    def open(self, context: OperatorContext) -> None:
        self._step_id = context.step_id
        self._native, self._others = (
            Totals(context.step_id, context.backend, context.codec, name, self._aggregates)
            for name in (context.step_id, other_keys(context.step_id))
        )
        if self._native.table is not None:
            self._resume(self._user_key(self._native.table.schema.key))
        self._resume_agreed(context)

    def _user_key(self, key: KeyType) -> KeyType:
        """The type of the step's keys, from that of its table's."""
        return key

    def _table_keys(self, key_type: KeyType, keys: Any, rows: Any) -> tuple[KeyType, Any]:
        """Type and values of the table's keys, from those of the step's at these rows of the batch (None: all)."""
        return key_type, keys

    def _update(self, keys: Any, records: Batch) -> list[Part]:
        """Takes a batch in; where each row's key has its totals."""
        try:
            values = self._read(records)
            if self._is_native:
                try:
                    return [self._update_part(self._native, keys, None, values)]
                except TypeMismatchError:
                    # Nothing was taken in. Some keys may lie elsewhere, or one may be none.
                    listed = list(map(plain_key, key_list(keys)))
                    native = self._native_rows(listed, records)
                    if native.all():
                        raise
            else:
                listed = list(map(plain_key, key_list(keys)))
                native = self._native_rows(listed, records)
            parts = []
            for totals, rows in ((self._native, np.flatnonzero(native)), (self._others, np.flatnonzero(~native))):
                if len(rows):
                    taken = {name: read.take(rows) for name, read in values.items()}
                    parts.append(self._update_part(totals, pick(listed, rows), rows, taken))
            return parts
        except RefusedValueError as error:
            raise self._refused_value(error.aggregate, error.row, error.reason, records) from error
        except SerializationError as error:
            raise SerializationError(f"step {self._step_id!r}: {error}") from error
        except StateError as error:
            raise self._refused(error, keys, records, _hint(error)) from error

    def _update_part(self, totals: Totals, keys: Any, rows: Any, values: Mapping[str, Values]) -> Part:
        key_type: Any = self._key_type
        if totals is self._others:
            key_type, keys = "bytes", self._encoded(keys)
        table_type, table_keys = self._table_keys(key_type, keys, rows)
        try:
            totals.update(table_keys, table_type, values)
        except RefusedValueError as error:
            error.row = error.row if rows is None else int(rows[error.row])
            raise
        return Part(totals, keys, rows)

    def _read(self, records: Batch) -> dict[str, Values]:
        """What each aggregate reads that has a field."""
        rows: list[Any] | None = None
        read: dict[str, Values] = {}
        for name, aggregate in self._aggregates.items():
            field = aggregate.field
            if field is None:
                continue
            if isinstance(records, Columns) and isinstance(field, str):
                values = records[field]
            else:
                if rows is None:
                    rows = records.to_rows() if isinstance(records, Columns) else records
                values = each(self._step_id, itemgetter(field) if isinstance(field, str) else field, rows)
            try:
                read[name] = read_values(values, nan=aggregate.nan, count_bools=aggregate.kind in ("sum", "mean"))
            except RefusedValueError as error:
                error.aggregate = name
                raise
        return read

    def _refused_value(self, name: str, row: int, reason: str, records: Batch) -> UserFunctionError:
        aggregate = self._aggregates[name]
        field = aggregate.field
        if isinstance(field, str):
            value = to_list(records[field][row : row + 1])[0] if isinstance(records, Columns) else records[row][field]
            what = f"has {value!r} as {field!r}"
        else:
            what = f"gives {name!r} the value that its function made"
        return UserFunctionError(
            f"step {self._step_id!r}, {name}={aggregate.kind}(...): a record {what}, {reason}; record {row} of the "
            f"batch is {shown(records, row)}",
            step_id=self._step_id,
        )

    def _key_columns(self, elements: tuple[Any, ...], *, native: bool) -> dict[str, Any]:
        """Result columns of the key, from one array or list for each of its elements, or from the bytes of any keys."""
        fields = self._selector.fields
        if not native:
            keys = list(map(decode_key, elements[0]))
            if len(fields) == 1:
                return {fields[0]: np.fromiter(keys, object, len(keys))}
            return {
                field: np.fromiter(map(itemgetter(index), keys), object, len(keys))
                for index, field in enumerate(fields)
            }
        if len(fields) == 1 and isinstance(self._key_type, tuple):
            # A function's tuple is one column of tuples: numpy would make columns of them.
            keys = list(zip(*map(key_list, elements), strict=True))
            return {fields[0]: np.fromiter(keys, object, len(keys))}
        types = self._key_type if isinstance(self._key_type, tuple) else (self._key_type,)
        return {field: _array(column, kind) for field, column, kind in zip(fields, elements, types, strict=True)}

    def _columns(self, rows: Rows, *, native: bool) -> Columns:
        """Rows of a table as records."""
        totals = self._native if native else self._others
        return Columns({**self._key_columns(rows.key_columns(), native=native), **totals.results(rows)})

    def _sorted(self, native: Rows | None, others: Rows | None) -> Iterator[Columns]:
        """Rows of both tables, each sorted, as records sorted by key; None comes first."""
        if native is None or others is None or not len(native) or not len(others):
            for part, is_native in ((native, True), (others, False)):
                for rows in () if part is None else _slices(part):
                    yield self._columns(rows, native=is_native)
            return
        done = 0
        places = [key_order(self._order_key(key)) for key in key_list(others.keys)]
        for rows in _slices(native):
            orders = [key_order(key) for key in key_list(rows.keys)]
            upto = bisect_left(places, orders[-1], done)
            if upto == done:
                yield self._columns(rows, native=True)
                continue
            between = [bisect_left(orders, place) for place in places[done:upto]]
            both = [self._columns(rows, native=True), self._columns(others.slice(done, upto), native=False)]
            order = np.insert(np.arange(len(rows)), between, len(rows) + np.arange(upto - done))
            yield Columns.concat(both).take(order)
            done = upto
        for rows in _slices(others.slice(done, len(others))):
            yield self._columns(rows, native=False)

    def _order_key(self, key: Any) -> Any:
        """The key of a row of the table of any keys, to be compared with the native ones."""
        return decode_key(key)


def _hint(error: StateError) -> str:
    """What to do about what a table says of the values of a batch, where it does not say it itself."""
    if isinstance(error, StateOverflowError):
        return ". Leave out type= for sums of any size, or filter such records out"
    if isinstance(error, NotANumberError):
        return ". Leave out type=, give nan='skip', or filter such records out"
    return ""


def _array(values: Any, key_type: KeyType | None) -> Any:
    if key_type in ("i64", "u64"):
        return np.asarray(values, dtype=np.int64 if key_type == "i64" else np.uint64)
    return np.fromiter(key_list(values), object, len(values))


def _slices(rows: Rows) -> Iterator[Rows]:
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        yield rows.slice(start, start + _ROWS_AT_ONCE)
