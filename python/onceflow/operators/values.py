"""What an aggregate reads of a batch: the values that are there, and the native type that they share.

Rows and columns of the same values come to the same here: nulls, masked values and None are left out, numpy's numbers
are Python's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt

from onceflow.aggregates import NumberType
from onceflow.columns import Columns, to_list
from onceflow.types import Batch

__all__ = ["RefusedValueError", "Values", "is_nan", "pick", "pick_records", "read_values"]

_LEAST, _MOST = -(1 << 63), (1 << 63) - 1
_MOST_UNSIGNED = (1 << 64) - 1

_ARROW_FLOATS = {"halffloat", "float", "double"}


class RefusedValueError(Exception):
    """A value that an aggregate does not take.

    Attributes:
        row: Of the batch.
        reason: Why not, and what to do about it; follows "a record has the value …,".
        aggregate: Name of its result.
    """

    def __init__(self, row: int, reason: str) -> None:
        super().__init__(reason)
        self.row = row
        self.reason = reason
        self.aggregate = ""


@dataclass(frozen=True, slots=True)
class Values:
    """The values of a batch that are there.

    Attributes:
        values: An array or a list, without missing ones.
        kind: ``"i64"``, ``"u64"`` or ``"f64"`` if all are of this native type; None: Python objects in a list.
        rows: Which rows of the batch they are of; None: all of them.
    """

    values: Any
    kind: NumberType | None
    rows: npt.NDArray[np.int64] | None = None

    def row(self, index: int) -> int:
        """The row of the batch that a value is of."""
        return index if self.rows is None else int(self.rows[index])

    def objects(self) -> list[Any]:
        """The values as Python objects."""
        return self.values if isinstance(self.values, list) else to_list(self.values)

    def take(self, rows: npt.NDArray[np.int64]) -> Values:
        """The values at these rows of the batch, as values of a batch of these rows only."""
        if self.rows is None:
            picked, places = rows, None
        else:
            places = np.flatnonzero(np.isin(rows, self.rows))
            picked = np.searchsorted(self.rows, rows[places])
        values = self.values
        values = [values[index] for index in picked.tolist()] if isinstance(values, list) else values[picked]
        return Values(values, self.kind, places)

    def fits(self, column: str) -> bool:
        """True if a column of this native type takes the values, whole numbers of any size left aside."""
        if self.kind == column:
            return True
        if self.kind == "i64" and column == "u64":
            least = min(self.values, default=0) if isinstance(self.values, list) else np.min(self.values, initial=0)
            return int(least) >= 0
        if self.kind == "u64" and column == "i64":
            return int(np.max(self.values, initial=0)) <= _MOST
        return False

    def beyond(self, column: str) -> bool:
        """True if a whole number does not fit into a column of this type: only numbers of a list can be of any size."""
        if not isinstance(self.values, list) or self.kind != "i64" or not self.values:
            return False
        low, high = (0, _MOST_UNSIGNED) if column == "u64" else (_LEAST, _MOST)
        return bool(min(self.values) < low or max(self.values) > high)


def is_nan(value: Any) -> bool:
    """True for a float or Decimal that is not a number."""
    return (isinstance(value, float) and math.isnan(value)) or (isinstance(value, Decimal) and value.is_nan())


def read_values(values: Any, *, nan: str, count_bools: bool) -> Values:
    """The values of a batch.

    Args:
        values: A list, or a numpy or Arrow array.
        nan: As for aggregates.
        count_bools: True is the number 1.

    Raises:
        RefusedValueError: A NaN.
    """
    if isinstance(values, np.ndarray):
        return _of_numpy(values, nan, count_bools)
    if isinstance(values, list):
        return _of_list(values, nan, count_bools)
    return _of_arrow(values, nan, count_bools)


def _of_numpy(array: npt.NDArray[Any], nan: str, count_bools: bool) -> Values:
    rows = None
    if isinstance(array, np.ma.MaskedArray):
        mask = np.ma.getmaskarray(array)
        rows = np.flatnonzero(~mask) if mask.any() else None
        array = np.asarray(array.compressed())
    kind = array.dtype.kind
    if kind in "iu":
        return Values(array, "u64" if array.dtype.itemsize == 8 and kind == "u" else "i64", rows)
    if kind == "f" and array.dtype.itemsize <= 8:
        return _within(_floats(array, nan, rows), rows)
    if kind == "b" and count_bools:
        return Values(array.astype(np.int64), "i64", rows)
    return _within(_of_list(to_list(array), nan, count_bools, rows), rows)


def _of_arrow(array: Any, nan: str, count_bools: bool) -> Values:
    kind = str(array.type)
    is_number = kind.startswith(("int", "uint")) and not kind.startswith("interval")
    if not is_number and kind not in _ARROW_FLOATS and not (kind == "bool" and count_bools):
        return _of_list(to_list(array), nan, count_bools)
    rows = None
    if array.null_count:
        rows = np.flatnonzero(array.is_valid().to_numpy(zero_copy_only=False))
        array = array.drop_null()
    return _within(_of_numpy(array.to_numpy(zero_copy_only=False), nan, count_bools), rows)


def _of_list(  # noqa: PLR0911 - one a kind
    values: list[Any], nan: str, count_bools: bool, outer: npt.NDArray[np.int64] | None = None
) -> Values:
    kinds = set(map(type, values))
    if type(None) in kinds:
        rows = np.array([row for row, value in enumerate(values) if value is not None], dtype=np.int64)
        there = [value for value in values if value is not None]
        return _within(_of_list(there, nan, count_bools, rows if outer is None else outer[rows]), rows)
    if any(issubclass(kind, np.generic) for kind in kinds):
        values = [_plain(value) for value in values]
        kinds = set(map(type, values))
        if type(None) in kinds:
            return _of_list(values, nan, count_bools, outer)
    if not kinds:
        return Values(values, None)
    if kinds == {int}:
        return Values(values, "i64")
    if kinds == {float}:
        return _floats(np.array(values, dtype=np.float64), nan, outer)
    if all(issubclass(kind, int) for kind in kinds) and (count_bools or bool not in kinds):
        return Values(list(map(int, values)), "i64")
    bad = [] if nan == "keep" else _nans(values, kinds)
    if not bad:
        return Values(values, None)
    if nan == "refuse":
        raise RefusedValueError(_row(bad[0], outer), _NAN)
    rows = np.setdiff1d(np.arange(len(values)), bad)
    return _within(_of_list([values[row] for row in rows.tolist()], nan, count_bools), rows)


def _nans(values: list[Any], kinds: set[type]) -> list[int]:
    """Where NaN is."""
    if kinds <= {int, float, bool}:
        return [index for index, value in enumerate(values) if value != value]  # noqa: PLR0124 - only NaN does
    if not any(issubclass(kind, (float, Decimal)) for kind in kinds):
        return []
    return [index for index, value in enumerate(values) if is_nan(value)]


def _floats(array: npt.NDArray[Any], nan: str, outer: npt.NDArray[np.int64] | None) -> Values:
    array = array.astype(np.float64, copy=False)
    bad = np.isnan(array)
    if not bad.any():
        return Values(array, "f64")
    if nan == "refuse":
        raise RefusedValueError(_row(int(np.argmax(bad)), outer), _NAN)
    if nan == "keep":
        return Values(array.tolist(), None)
    rows = np.flatnonzero(~bad)
    return Values(array[rows], "f64", rows)


_NAN = (
    "which is not a number. Give nan='skip' to pass over NaN as over what is missing, nan='keep' to compute with it, "
    "or filter such records out"
)


def _row(index: int, outer: npt.NDArray[np.int64] | None) -> int:
    return index if outer is None else int(outer[index])


def _within(inner: Values, rows: npt.NDArray[np.int64] | None) -> Values:
    """Values that were read of the rows ``rows`` of a batch, as values of the batch."""
    if rows is None:
        return inner
    return Values(inner.values, inner.kind, rows if inner.rows is None else rows[inner.rows])


def _plain(value: Any) -> Any:
    if isinstance(value, (np.datetime64, np.timedelta64)):
        return to_list(np.asarray([value]))[0]
    return value.item() if isinstance(value, np.generic) else value


def pick(values: Any, rows: npt.NDArray[np.int64]) -> Any:
    """The keys or values at these rows, in the same form."""
    if isinstance(values, tuple):
        return tuple(pick(elements, rows) for elements in values)
    if isinstance(values, list):
        return [values[row] for row in rows.tolist()]
    return values.take(rows)


def pick_records(records: Batch, rows: npt.NDArray[np.int64]) -> Batch:
    """The records of a batch at these rows, in the same form."""
    return records.take(rows) if isinstance(records, Columns) else pick(records, rows)
