"""Totals by key: where aggregates keep what they have computed.

Whole numbers of 64 bits and floats live in typed columns of one table. Values that a column cannot hold (a float among
whole numbers, a number beyond 64 bits, a time, a Decimal) live beside it, in a table of encoded values for each
aggregate that has met some: a key's value there stands for its cell. Such a table is part of the checkpoint like any
other, so that a resumed job goes on with the types that the job has seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from onceflow._native import Rows, StateBackend, Table
from onceflow.aggregates import Aggregate
from onceflow.codec import Codec
from onceflow.exceptions import NotANumberError, StateError, StateOverflowError, TypeMismatchError
from onceflow.graph.partitioning import KeyType
from onceflow.operators.folds import fold, quotient
from onceflow.operators.keys import can_be_written, key_list
from onceflow.operators.values import RefusedValueError, Values, is_nan, pick
from onceflow.types import ColumnType, KeyElementType, Operation

__all__ = ["Totals", "cells_of", "columns_of"]

#: Types whose values every codec takes.
_LEAVES = frozenset({bool, int, float, bytes, date, timedelta, Decimal})

_OPERATIONS: dict[str, Operation] = {
    "sum": "add",
    "mean": "add",
    "min": "min",
    "max": "max",
    "first": "first",
    "last": "last",
}


class Totals:
    """The totals of a step, or of those of its keys that are of one native type.

    Args:
        step_id: For errors.
        backend: Where the tables are.
        codec: For values that no typed column holds.
        name: Of the table; those beside it are called ``name/aggregate``.
        aggregates: By the name of the result.
    """

    def __init__(
        self, step_id: str, backend: StateBackend, codec: Codec, name: str, aggregates: Mapping[str, Aggregate]
    ) -> None:
        self._step_id = step_id
        self._backend = backend
        self._codec = codec
        self._name = name
        self._aggregates = aggregates
        self._columns: dict[str, ColumnType] = {}
        self._beside: dict[str, Table] = {}
        self.table: Table | None = None
        tables = backend.tables()
        known = tables.get(name)
        if known is None:
            return
        self.table = backend.table(name, key=known.key, columns=known.columns)
        self._columns = dict(known.columns)
        for result in aggregates:
            if f"{name}/{result}" in tables:
                self._beside[result] = self._table_beside(result)

    def update(self, keys: Any, key_type: KeyType, values: Mapping[str, Values]) -> None:
        """Takes a batch in.

        Args:
            keys: One a record, in a form that ``Table`` takes.
            key_type: Of a table that is new.
            values: What each aggregate that has a field reads.

        Raises:
            TypeMismatchError: A key is of another type; then nothing was taken in.
            RefusedValueError: An aggregate does not take a value.
            StateError: Anything else that a table refuses.
        """
        if self.table is None:
            self._columns = columns_of(self._aggregates, values)
            native = cast("KeyElementType | tuple[KeyElementType, ...]", key_type)
            self.table = self._backend.table(self._name, key=native, columns=self._columns)
        together: dict[str, tuple[Operation, Any]] = {}
        apart: list[tuple[npt.NDArray[np.int64], dict[str, tuple[Operation, Any]]]] = []
        folded: list[tuple[str, Values]] = []
        for result, aggregate in self._aggregates.items():
            read = values.get(result)
            updates: dict[str, tuple[Operation, Any]] = {}
            if aggregate.kind == "count":
                updates[result] = ("count", None)
            elif aggregate.kind == "mean":
                updates[f"{result}.count"] = ("count", None)
            if aggregate.kind != "count" and read is not None:
                with _named(result):
                    native = self._native(result, aggregate, read)
                if native is None:
                    folded.append((result, read))
                else:
                    updates[_cell(result, aggregate)] = (_OPERATIONS[aggregate.kind], native)
            if read is None or read.rows is None:
                together |= updates
            elif updates:
                apart.append((read.rows, updates))
        # First all keys, so that each has a row, and one that is refused is so before anything has changed.
        self._apply(keys, together, values)
        for rows, updates in apart:
            if len(rows):
                self._apply(pick(keys, rows), updates, values)
        for result, read in folded:
            self._fold(result, keys if read.rows is None else pick(keys, read.rows), read)

    def _native(self, result: str, aggregate: Aggregate, read: Values) -> Any:
        """The values in a form that the cell takes; None: they are not for it."""
        column = self._columns[_cell(result, aggregate)]
        if column == "bytes" or result in self._beside:
            return None
        if aggregate.kind == "mean":
            return _as_floats(read)
        if read.fits(column):
            return read.values
        return None if aggregate.type is None else _converted(aggregate, read)

    def _apply(self, keys: Any, updates: dict[str, tuple[Operation, Any]], values: Mapping[str, Values]) -> None:
        """Updates the table; what it says does not fit into a cell goes beside it instead."""
        assert self.table is not None
        try:
            self.table.update(keys, updates)
        except (TypeMismatchError, StateOverflowError, NotANumberError) as error:
            moved = [result for result, read in values.items() if self._must_move(result, updates, read, error)]
            if not moved:
                raise
            cells = {_cell(result, self._aggregates[result]) for result in moved}
            self.table.update(keys, {name: update for name, update in updates.items() if name not in cells})
            for result in moved:
                self._fold(result, keys, values[result])

    def _must_move(self, result: str, updates: Mapping[str, Any], read: Values, error: StateError) -> bool:
        aggregate = self._aggregates[result]
        cell = _cell(result, aggregate)
        if aggregate.type is not None or cell not in updates or updates[cell][1] is None:
            return False
        if isinstance(error, TypeMismatchError):
            return read.beyond(self._columns[cell])
        return aggregate.kind in ("sum", "mean")

    def _fold(self, result: str, keys: Any, read: Values) -> None:
        """Takes values in one by one."""
        listed = key_list(keys)
        if not listed:
            return
        aggregate = self._aggregates[result]
        cell = _cell(result, aggregate)
        assert self.table is not None
        if self._columns[cell] == "bytes":
            table, column = self.table, cell
        else:
            if result not in self._beside:
                self._beside[result] = self._table_beside(result)
            table, column = self._beside[result], "value"
        totals = {} if aggregate.kind == "last" else self._load(result, list(dict.fromkeys(listed)))
        with _named(result):
            changed = fold(aggregate.kind, totals, listed, read)
        if aggregate.kind == "last" and read.kind is None and not _can_be_kept(read.values):
            # Values that others replace within the batch must be ones that state can hold, too: whether a value is
            # refused does not depend on where batches end.
            self._codec.encode_all(read.values)
        if changed:
            encoded = self._codec.encode_all(list(changed.values()))
            table.update(list(changed), {column: ("put", encoded)})

    def _table_beside(self, result: str) -> Table:
        assert self.table is not None
        return self._backend.table(f"{self._name}/{result}", key=self.table.schema.key, columns={"value": "bytes"})

    def _load(self, result: str, keys: list[Any]) -> dict[Any, Any]:
        """By key the value so far, of those that have one."""
        assert self.table is not None
        cell = _cell(result, self._aggregates[result])
        if self._columns[cell] == "bytes":
            decode = self._codec.decode
            values = [None if data is None else decode(data) for data in self.table.get_bytes(keys, cell)]
        else:
            rows = self.table.get(keys)
            values = self._mixed(result, rows.columns[cell], rows.validity(cell), keys)
        return {key: value for key, value in zip(keys, values, strict=True) if value is not None}

    def _mixed(self, result: str, cells: Any, there: npt.NDArray[np.bool_], keys: list[Any]) -> list[Any]:
        """The values of native cells and of those beside them; None where there is none yet."""
        values: list[Any] = cells.tolist()
        for row in np.flatnonzero(~there).tolist():
            values[row] = None
        if result in self._beside:
            decode = self._codec.decode
            for row, data in enumerate(self._beside[result].get_bytes(keys, "value")):
                if data is not None:
                    values[row] = decode(data)
        return values

    def results(self, rows: Rows) -> dict[str, Any]:
        """Result columns of rows of the table: numpy arrays, of objects where a value has no native type or is None."""
        columns = rows.columns
        results: dict[str, Any] = {}
        keys: list[Any] | None = None
        for result, aggregate in self._aggregates.items():
            cell = _cell(result, aggregate)
            if aggregate.kind == "count":
                # A cell that was never set is 0.
                results[result] = columns[result]
                continue
            cells = columns[cell]
            if self._columns[cell] != "bytes" and result not in self._beside and rows.is_complete(cell):
                results[result] = cells / columns[f"{result}.count"] if aggregate.kind == "mean" else cells
                continue
            there = rows.validity(cell)
            if self._columns[cell] == "bytes":
                decode = self._codec.decode
                pairs = zip(cells, there.tolist(), strict=True)
                values = [decode(data) if is_there else None for data, is_there in pairs]
            else:
                keys = key_list(rows.keys) if keys is None else keys
                values = self._mixed(result, cells, there, keys)
            if aggregate.kind == "mean":
                counts = columns[f"{result}.count"].tolist()
                sums = zip(values, counts, strict=True)
                values = [None if total is None else quotient(total, number) for total, number in sums]
            results[result] = np.fromiter(values, object, len(values))
        return results

    def drain_below(self, bound: int) -> Rows | None:
        """Removes and returns the rows of windows that have closed; ``forget_below`` follows once they are read."""
        return None if self.table is None else self.table.drain_below(bound)

    def forget_below(self, bound: int) -> None:
        """Removes what was kept beside the rows of these windows."""
        for beside in self._beside.values():
            beside.drain_below(bound)


def _can_be_kept(values: list[Any]) -> bool:
    """True if a look at the types shows that every codec takes the values."""
    kinds = set(map(type, values)) - _LEAVES
    return not kinds or (kinds == {str} and can_be_written([value for value in values if type(value) is str]))


@contextmanager
def _named(result: str) -> Iterator[None]:
    """Names the aggregate that refuses a value."""
    try:
        yield
    except RefusedValueError as error:
        error.aggregate = result
        raise


def columns_of(aggregates: Mapping[str, Aggregate], values: Mapping[str, Values]) -> dict[str, ColumnType]:
    """The columns of a table of totals and their types.

    Args:
        aggregates: By the name of the result.
        values: What the first batch has for them; of those that it does not have nothing is known.
    """
    columns: dict[str, ColumnType] = {}
    for result, aggregate in aggregates.items():
        if aggregate.kind == "count":
            columns[result] = "i64"
        elif aggregate.kind == "mean":
            columns |= {f"{result}.sum": "f64", f"{result}.count": "i64"}
        else:
            read = values.get(result)
            # Where nothing is known yet numbers are most likely.
            is_known = read is not None and len(read.values) > 0
            unknown: ColumnType = "bytes" if is_known or aggregate.kind in ("first", "last") else "i64"
            columns[result] = aggregate.type or (None if read is None else read.kind) or unknown
    return columns


def cells_of(result: str, aggregate: Aggregate) -> tuple[str, ...]:
    """The columns of one result."""
    return (f"{result}.sum", f"{result}.count") if aggregate.kind == "mean" else (result,)


def _cell(result: str, aggregate: Aggregate) -> str:
    return f"{result}.sum" if aggregate.kind == "mean" else result


def _as_floats(read: Values) -> Any:
    """What a mean adds up: floats, also of whole numbers; None: values of another kind."""
    if read.kind is None:
        if not all(isinstance(value, (int, float)) for value in read.values):
            return None
        try:
            return np.array(list(map(float, read.values)), dtype=np.float64)
        except OverflowError:
            return None
    if isinstance(read.values, list):
        return _as_floats(Values(read.values, None))
    return read.values.astype(np.float64, copy=False)


def _converted(aggregate: Aggregate, read: Values) -> Any:
    """The values as ``type=`` says.

    Raises:
        RefusedValueError: One that would change.
    """
    if aggregate.type == "f64" and isinstance(read.values, list):
        floats = []
        for index, value in enumerate(read.values):
            try:
                if not isinstance(value, (int, float)) or (float(value) != value and not is_nan(value)):
                    raise RefusedValueError(read.row(index), _other_type(aggregate))
                floats.append(float(value))
            except OverflowError:
                raise RefusedValueError(read.row(index), _other_type(aggregate)) from None
        return np.array(floats, dtype=np.float64)
    if read.kind is None:
        for index, value in enumerate(read.values):
            if not isinstance(value, int) or isinstance(value, bool):
                raise RefusedValueError(read.row(index), _other_type(aggregate))
        return read.values
    if read.kind == "f64":
        raise RefusedValueError(read.row(0), _other_type(aggregate))
    return read.values


def _other_type(aggregate: Aggregate) -> str:
    return (
        f"and {aggregate.kind} was given type={aggregate.type!r}, which does not hold that exactly. Leave the type "
        "out, choose another, or filter such records out"
    )
