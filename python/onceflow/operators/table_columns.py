"""A restored table of totals with other columns than it had: some taken away, some new and unset, some widened."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from onceflow._native import Rows, StateBackend
from onceflow.operators.keys import key_list
from onceflow.operators.values import pick
from onceflow.types import ColumnType

__all__ = ["InexactError", "TableChange"]

#: Rows that are written at once.
_ROWS_AT_ONCE = 1 << 16
#: Up to here every whole number is a float.
_EXACT = 1 << 53


class InexactError(Exception):
    """A whole number of a column that no float is."""


class TableChange:
    """A table as it is to be. Making it reads the rows and changes nothing; while it exists they are there twice.

    Args:
        backend: Has the table.
        name: Of the table.
        columns: Types by name, as they are to be.
        kept: Those whose values are kept; all others begin unset.

    Raises:
        InexactError: A column cannot be widened without changing a value.
    """

    def __init__(
        self, backend: StateBackend, name: str, columns: Mapping[str, ColumnType], kept: Iterable[str]
    ) -> None:
        self._backend = backend
        self._name = name
        self._columns = dict(columns)
        known = backend.tables()[name]
        self._key = known.key
        rows = backend.table(name, key=known.key, columns=known.columns).scan()
        self._keys: Any = rows.key_columns() if isinstance(known.key, tuple) else rows.keys
        self._length = len(rows)
        self._cells = {
            column: (self._values(rows, column, known.columns[column], columns[column]), rows.validity(column))
            for column in kept
        }

    def _values(self, rows: Rows, column: str, old: str, new: str) -> Any:
        values = rows.columns[column]
        if old == new:
            return values
        floats = values.astype(np.float64)
        suspects = np.flatnonzero(rows.validity(column) & (np.abs(floats) >= _EXACT))
        for row in suspects.tolist():
            if int(floats[row]) != int(values[row]):
                raise InexactError(
                    f"the value {int(values[row])} of column {column!r}, key {key_list(rows.keys)[row]!r}, of table "
                    f"{self._name!r} is not a float"
                )
        return floats

    def apply(self) -> None:
        """Replaces the table. Where no column is kept, nothing of it is: what all results of it are new of is new."""
        self._backend.drop_table(self._name)
        if not self._cells:
            return
        table = self._backend.table(self._name, key=self._key, columns=self._columns)
        for start in range(0, self._length, _ROWS_AT_ONCE):
            rows = np.arange(start, min(start + _ROWS_AT_ONCE, self._length))
            # A row stays also where none of its cells is set.
            table.update(pick(self._keys, rows), {})
            for column, (values, is_set) in self._cells.items():
                there = rows[is_set[rows]]
                if len(there):
                    table.put(pick(self._keys, there), **{column: pick(values, there)})
