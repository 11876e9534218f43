"""A batch of records held as columns, so that no Python object exists for a record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from onceflow.exceptions import LengthMismatchError, UnknownNameError
from onceflow.types import Batch

__all__ = ["Columns", "rows_of", "to_list"]


class Columns:
    """Named columns of one length: numpy arrays, or Arrow arrays (``pyarrow.Array``).

    A column is never changed in place once it is part of a batch: steps share them. Strings are best held
    as Arrow arrays; the state tables read them without a Python call per record.

    Args:
        arrays: name → one-dimensional numpy array or ``pyarrow.Array``.

    Raises:
        LengthMismatchError: if the columns differ in length.
    """

    __slots__ = ("_arrays", "_length")

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        self._arrays: dict[str, Any] = dict(arrays)
        lengths = {name: len(array) for name, array in self._arrays.items()}
        if len(set(lengths.values())) > 1:
            raise LengthMismatchError(f"the columns of one batch must have one length, not {lengths}")
        self._length = next(iter(lengths.values()), 0)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, name: str) -> Any:
        try:
            return self._arrays[name]
        except KeyError:
            known = ", ".join(map(repr, self._arrays)) or "none"
            raise UnknownNameError(f"no column {name!r} in this batch; it has {known}") from None

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

    def with_columns(self, /, **arrays: Any) -> Columns:
        """These columns and further ones; a name that is there is replaced."""
        return Columns({**self._arrays, **arrays})

    def select(self, *names: str) -> Columns:
        """Only the named columns, in this order."""
        return Columns({name: self[name] for name in names})

    def take(self, indices: npt.NDArray[np.int64]) -> Columns:
        """The rows at these indices."""
        return Columns({name: _take(array, indices) for name, array in self._arrays.items()})

    def filter(self, mask: npt.NDArray[np.bool_]) -> Columns:
        """The rows whose entry in ``mask`` is true."""
        if len(mask) != self._length:
            raise LengthMismatchError(f"the mask has {len(mask)} entries, the batch {self._length} rows")
        return self.take(np.flatnonzero(mask))

    def slice(self, start: int, stop: int) -> Columns:
        """Rows ``start <= row < stop``, without a copy."""
        return Columns({name: array[start:stop] for name, array in self._arrays.items()})

    def to_rows(self) -> list[dict[str, Any]]:
        """One dict a row, of Python objects: the way back to per-record functions."""
        lists = [to_list(array) for array in self._arrays.values()]
        names = list(self._arrays)
        # A dict display takes a third of the time of dict(zip(...)), and most results have few columns.
        if len(names) == 2:
            a, b = names
            return [{a: x, b: y} for x, y in zip(*lists, strict=True)]
        if len(names) == 3:
            a, b, c = names
            return [{a: x, b: y, c: z} for x, y, z in zip(*lists, strict=True)]
        return [dict(zip(names, row, strict=True)) for row in zip(*lists, strict=True)]

    @classmethod
    def concat(cls, parts: list[Columns]) -> Columns:
        """All rows of several batches of the same columns."""
        if len(parts) == 1:
            return parts[0]
        return cls({name: _concat([part[name] for part in parts]) for name in parts[0]})


def rows_of(records: Batch) -> list[Any]:
    """Records as Python objects; a list is not copied."""
    return records.to_rows() if isinstance(records, Columns) else records


def _take(array: Any, indices: npt.NDArray[np.int64]) -> Any:
    return array.take(indices)


def to_list(array: Any) -> list[Any]:
    """A column as Python objects. Times lose what is below a microsecond, which Python does not have."""
    if isinstance(array, np.ndarray):
        if array.dtype.kind in "mM" and np.datetime_data(array.dtype)[0] in ("ns", "ps", "fs", "as"):
            array = array.astype(f"{array.dtype.kind}8[us]")
        rows: list[Any] = array.tolist()
        return rows
    if getattr(array.type, "unit", None) == "ns":
        import pyarrow as pa  # noqa: PLC0415 - only where Arrow arrays already are

        if pa.types.is_timestamp(array.type):
            micros = pa.timestamp("us", array.type.tz)
        else:
            micros = pa.duration("us") if pa.types.is_duration(array.type) else pa.time64("us")
        array = array.cast(micros, safe=False)
    return list(array.to_pylist())


def _concat(arrays: list[Any]) -> Any:
    if all(isinstance(array, np.ndarray) for array in arrays):
        return np.concatenate(arrays)
    import pyarrow as pa  # noqa: PLC0415 - only where Arrow arrays already are

    return pa.concat_arrays([array if isinstance(array, pa.Array) else pa.array(array) for array in arrays])
