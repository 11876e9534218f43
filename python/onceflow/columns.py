"""A batch of records held as columns, so that no Python object exists for a record."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from onceflow.exceptions import LengthMismatchError, TypeMismatchError, UnknownNameError
from onceflow.types import Batch

__all__ = ["Columns", "as_mask", "rows_of", "to_list"]


class Columns:
    """Named columns of one length: numpy arrays, or Arrow arrays (``pyarrow.Array``).

    A column is never changed in place once it is part of a batch: steps share them. Strings are best held
    as Arrow arrays; the state tables read them without a Python call per record. To compare and compute with a column,
    whatever it is, use ``columns.numpy(name)``.

    Args:
        arrays: name → one-dimensional numpy array or ``pyarrow.Array``; columns of other libraries that hand out Arrow
            data, such as ``polars.Series`` and chunked arrays, become a ``pyarrow.Array``.

    Raises:
        LengthMismatchError: if the columns differ in length.
        TypeMismatchError: if a column is something else, such as a list, or ``arrays`` is not a mapping.
    """

    __slots__ = ("_arrays", "_length")

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        if not isinstance(arrays, Mapping):
            raise TypeMismatchError(
                f"Columns takes a dict of names and arrays, such as {{'price': np.array([1.5])}}, not {arrays!r}"
            )
        self._arrays: dict[str, Any] = {name: _column(name, array) for name, array in arrays.items()}
        lengths = {name: len(array) for name, array in self._arrays.items()}
        if len(set(lengths.values())) > 1:
            raise LengthMismatchError(f"the columns of one batch must have one length, not {lengths}")
        self._length = next(iter(lengths.values()), 0)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, name: str) -> Any:
        try:
            return self._arrays[name]
        except (KeyError, TypeError):
            # Of what cannot be a name it is a TypeError.
            known = ", ".join(map(repr, self._arrays)) or "none"
            raise UnknownNameError(f"no column {name!r} in this batch; it has {known}", name=name) from None

    def __contains__(self, name: object) -> bool:
        return name in self._arrays

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __repr__(self) -> str:
        return f"Columns({list(self._arrays)}, {self._length} rows)"

    @property
    def names(self) -> tuple[str, ...]:
        """The columns' names, in order."""
        return tuple(self._arrays)

    @property
    def arrays(self) -> dict[str, Any]:
        """A new dict of the columns."""
        return dict(self._arrays)

    def numpy(self, name: str) -> npt.NDArray[Any]:
        """A column as a numpy array, to compare and compute with: ``columns.numpy("price") * 2 > 10``.

        Numbers and bools keep their type, times are datetime64 (instants in UTC) and dates datetime64[D], strings and
        all else Python objects. Where values are missing the array is masked (``numpy.ma``): what is computed of them
        is missing, too, and ``filter_batch`` drops rows whose condition is.
        """
        array = self[name]
        if isinstance(array, np.ndarray):
            return array
        plain: npt.NDArray[Any]
        if array.null_count == 0 or str(array.type).startswith(("timestamp", "date", "duration")):
            plain = array.to_numpy(zero_copy_only=False)
            return plain
        missing = ~array.is_valid().to_numpy(zero_copy_only=False)
        return np.ma.MaskedArray(_filled(array).to_numpy(zero_copy_only=False), mask=missing)

    def with_columns(self, /, **arrays: Any) -> Columns:
        """These columns and further ones; a name that is there is replaced."""
        return Columns({**self._arrays, **arrays})

    def select(self, *names: str) -> Columns:
        """Only the named columns, in this order."""
        return Columns({name: self[name] for name in names})

    def take(self, indices: npt.NDArray[np.int64]) -> Columns:
        """The rows at these indices, from 0 on: whole numbers in a list, or a numpy or Arrow array.

        Raises:
            TypeMismatchError: They are something else.
            LengthMismatchError: The batch has no such row.
        """
        rows = _row_numbers(indices, self._length)
        return Columns({name: array.take(rows) for name, array in self._arrays.items()})

    def filter(self, mask: Any) -> Columns:
        """The rows whose entry in ``mask`` is true: bools in a list, or a numpy or Arrow array. As in SQL, a row is
        left out where the entry is missing.

        Raises:
            LengthMismatchError: The mask is not as long as the batch.
            TypeMismatchError: It holds something else than bools.
        """
        return self.take(np.flatnonzero(as_mask(mask, self._length)))

    def slice(self, start: int, stop: int) -> Columns:
        """Rows ``start <= row < stop``, without a copy.

        Raises:
            TypeMismatchError: These are not whole numbers.
        """
        try:
            return Columns({name: array[start:stop] for name, array in self._arrays.items()})
        except TypeError as error:
            raise TypeMismatchError(
                f"slice takes two whole numbers, such as slice(0, {self._length}), not {start!r} and {stop!r}"
            ) from error

    def to_rows(self) -> list[dict[str, Any]]:
        """One dict a row, of Python objects: the way back to per-record functions."""
        lists = [self._listed(name) for name in self._arrays]
        names = list(self._arrays)
        # A dict display takes a third of the time of dict(zip(...)), and most results have few columns.
        if len(names) == 2:
            a, b = names
            return [{a: x, b: y} for x, y in zip(*lists, strict=True)]
        if len(names) == 3:
            a, b, c = names
            return [{a: x, b: y, c: z} for x, y, z in zip(*lists, strict=True)]
        return [dict(zip(names, row, strict=True)) for row in zip(*lists, strict=True)]

    def _listed(self, name: str) -> list[Any]:
        try:
            return to_list(self._arrays[name])
        except TypeMismatchError as error:
            raise TypeMismatchError(f"column {name!r}: {error}") from error

    @classmethod
    def concat(cls, parts: list[Columns]) -> Columns:
        """All rows of several batches of the same columns, one at least.

        Raises:
            TypeMismatchError: There are no batches, or a column is of several types in them.
            UnknownNameError: They have different columns.
        """
        if not isinstance(parts, (list, tuple)) or not parts or not all(isinstance(part, Columns) for part in parts):
            raise TypeMismatchError(f"concat takes a list of one Columns at least, not {parts!r}")
        first = parts[0]
        if len(parts) == 1:
            return first
        for part in parts:
            if part.arrays.keys() != first.arrays.keys():
                raise UnknownNameError(
                    f"concat takes batches of the same columns, and one has {list(first)}, another {list(part)}: bring "
                    "them together by select(...) or with_columns(...)"
                )
        return cls({name: _concat(name, [part[name] for part in parts]) for name in first})


def rows_of(records: Batch) -> list[Any]:
    """Records as Python objects; a list is not copied."""
    return records.to_rows() if isinstance(records, Columns) else records


def _row_numbers(indices: Any, length: int) -> npt.NDArray[np.int64]:
    is_arrow = hasattr(indices, "__arrow_c_array__") or hasattr(indices, "__arrow_c_stream__")
    found = np.asarray(_column("indices", indices) if is_arrow else indices)
    if found.ndim != 1 or (found.dtype.kind not in "iu" and found.size):
        raise TypeMismatchError(f"take takes the numbers of rows, such as np.array([0, 2]), not {indices!r}")
    rows = found.astype(np.int64, copy=False)
    # As unsigned ones negative numbers are large.
    if rows.size and rows.view(np.uint64).max() >= length:
        raise LengthMismatchError(
            f"take takes the numbers of rows, and a batch of {length} rows has them from 0 to {length - 1}; there were "
            f"{rows.min()} to {rows.max()}"
        )
    return rows


def to_list(array: Any) -> list[Any]:
    """A column as Python objects. Numpy's times have no zone and are instants in UTC; as objects they say so.

    Raises:
        TypeMismatchError: A time that Python does not have: below a microsecond, or outside of the years 1 to 9999.
    """
    if isinstance(array, np.ndarray):
        return _numpy_times(array) if array.dtype.kind in "mM" else list(array.tolist())
    if getattr(array.type, "unit", None) == "ns":
        import pyarrow as pa  # noqa: PLC0415 - only where Arrow arrays already are

        if pa.types.is_timestamp(array.type):
            micros = pa.timestamp("us", array.type.tz)
        else:
            micros = pa.duration("us") if pa.types.is_duration(array.type) else pa.time64("us")
        try:
            array = array.cast(micros)
        except pa.ArrowInvalid as error:
            raise TypeMismatchError(_FINER) from error
    try:
        return list(array.to_pylist())
    except (OverflowError, ValueError) as error:
        raise TypeMismatchError(f"{_NO_TIME}: {error}") from error


_FINER = (
    "a time has parts below a microsecond, which Python's times do not have. Round it to microseconds first, or "
    "work on columns only"
)
_NO_TIME = "a time is outside of the years 1 to 9999 and none that Python has. Filter such records out"


def _numpy_times(array: npt.NDArray[Any]) -> list[Any]:
    if np.datetime_data(array.dtype)[0] in ("ns", "ps", "fs", "as"):
        micros = array.astype(f"{array.dtype.kind}8[us]")
        if not ((micros.astype(array.dtype) == array) | np.isnat(array)).all():
            raise TypeMismatchError(_FINER)
        array = micros
    rows: list[Any] = array.tolist()
    if int in set(map(type, rows)):
        # What Python has no object for numpy hands out as a number.
        raise TypeMismatchError(_NO_TIME)
    if array.dtype.kind == "M":
        return [row.replace(tzinfo=UTC) if isinstance(row, datetime) else row for row in rows]
    return rows


def as_mask(mask: Any, length: int) -> npt.NDArray[np.bool_]:
    """Bools of numpy, one a row, of a list or array of bools; False where one is missing.

    Raises:
        LengthMismatchError: Not one a row.
        TypeMismatchError: Something else than bools.
    """
    if hasattr(mask, "__arrow_c_array__") or hasattr(mask, "__arrow_c_stream__"):
        arrow = _column("mask", mask)
        if str(arrow.type) not in ("bool", "null"):
            raise TypeMismatchError(f"the mask holds {arrow.type}, not bools")
        found = np.fromiter((value is True for value in arrow.to_pylist()), bool, len(arrow))
    else:
        found = np.ma.filled(mask, False) if isinstance(mask, np.ma.MaskedArray) else np.asarray(mask)
        if found.ndim == 0:
            raise TypeMismatchError(f"the mask is a {type(mask).__name__}, not bools")
        if found.dtype == object and all(value is None or isinstance(value, (bool, np.bool_)) for value in found.flat):
            found = found == True  # noqa: E712 - element by element
        if found.dtype != np.bool_ and found.size:
            raise TypeMismatchError(f"the mask holds {found.dtype}, not bools")
    if found.shape != (length,):
        shape = f"{len(found)} entries" if found.ndim == 1 else f"the shape {found.shape}"
        raise LengthMismatchError(f"the mask has {shape}, the batch {length} rows")
    return found


def _column(name: str, array: Any) -> Any:
    if isinstance(array, np.ndarray):
        if array.ndim != 1:
            raise TypeMismatchError(f"column {name!r} has {array.ndim} dimensions; give one value a row")
        return array
    arrow = sys.modules.get("pyarrow")
    if arrow is not None and isinstance(array, arrow.Array):
        return array
    if hasattr(array, "__arrow_c_stream__") or hasattr(array, "__arrow_c_array__"):
        return _arrow_column(array)
    raise TypeMismatchError(
        f"column {name!r} is a {type(array).__name__}; give a numpy array or an Arrow array, such as np.array(...) or "
        "pa.array(...)"
    )


def _arrow_column(array: Any) -> Any:
    import pyarrow as pa  # noqa: PLC0415 - only where Arrow data comes

    found = pa.array(array) if hasattr(array, "__arrow_c_array__") else pa.chunked_array(array).combine_chunks()
    if isinstance(found, pa.ChunkedArray):
        # Strings of more than 2 GiB are one array only with longer offsets.
        wider = pa.large_string() if pa.types.is_string(found.type) else pa.large_binary()
        found = found.cast(wider).combine_chunks()
    views = {"string_view": pa.large_string(), "binary_view": pa.large_binary()}
    return found.cast(views[str(found.type)]) if str(found.type) in views else found


def _filled(array: Any) -> Any:
    """With some value of the same kind where one is missing, so that an array keeps its type."""
    import pyarrow as pa  # noqa: PLC0415 - only where Arrow arrays already are

    kind = array.type
    fillers: list[tuple[Any, Any]] = [
        (pa.types.is_boolean, False),
        (pa.types.is_integer, 0),
        (pa.types.is_floating, 0.0),
        (pa.types.is_string, ""),
        (pa.types.is_large_string, ""),
        (pa.types.is_binary, b""),
        (pa.types.is_large_binary, b""),
    ]
    filler = next((value for is_kind, value in fillers if is_kind(kind)), None)
    return array if filler is None else array.fill_null(pa.scalar(filler, type=kind))


def _concat(name: str, arrays: list[Any]) -> Any:
    if all(isinstance(array, np.ndarray) for array in arrays):
        if all(
            one.dtype == other.dtype or one.dtype.kind == other.dtype.kind == "U" for one, other in pairwise(arrays)
        ):
            masked = any(isinstance(array, np.ma.MaskedArray) for array in arrays)
            join: Any = np.ma.concatenate if masked else np.concatenate
            return join(arrays)
        # As one type numbers might change.
        values = [value for array in arrays for value in to_list(array)]
        return np.fromiter(values, object, len(values))
    import pyarrow as pa  # noqa: PLC0415 - only where Arrow arrays already are

    found = [array if isinstance(array, pa.Array) else pa.array(array) for array in arrays]
    try:
        return pa.concat_arrays(found)
    except pa.ArrowException as error:
        kinds = list(dict.fromkeys(str(array.type) for array in found))
        raise TypeMismatchError(f"concat takes columns of one type, and {name!r} is of {kinds}: cast it") from error
