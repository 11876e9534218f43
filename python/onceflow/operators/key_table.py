"""A table of a step with keys of any type: those that no native type holds lie in a second table beside the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onceflow._native import StateBackend, Table
from onceflow.operators.keys import (
    AgreedType,
    all_fit,
    decode_key,
    encode_key,
    fits,
    is_native,
    key_list,
    key_type_of,
    other_keys,
)
from onceflow.types import ColumnType

__all__ = ["KeyTable"]


class KeyTable:
    """Rows by key. Keys are given in lists of Python objects, all of the step's type or None.

    Args:
        backend: Where the tables are.
        step_id: Their name.
        key_type: Of the keys, as far as it is known.
        columns: Name and type of each column.
    """

    def __init__(
        self, backend: StateBackend, step_id: str, key_type: AgreedType, columns: Mapping[str, ColumnType]
    ) -> None:
        self._backend = backend
        self._step_id = step_id
        self._columns = dict(columns)
        self._native: Table | None = None
        self._others: Table | None = None
        if other_keys(step_id) in backend.tables():
            self._others = self._make_others()
        if step_id in backend.tables():
            key_type = backend.tables()[step_id].key
        if is_native(key_type):
            self._make_native(key_type)

    def _make_native(self, key_type: Any) -> Table:
        self._native = self._backend.table(self._step_id, key=key_type, columns=self._columns)
        return self._native

    def _make_others(self) -> Table:
        self._others = self._backend.table(other_keys(self._step_id), key="bytes", columns=self._columns)
        return self._others

    def __len__(self) -> int:
        return sum(len(table) for table in (self._native, self._others) if table is not None)

    def _parts(self, keys: list[Any]) -> list[tuple[Table | None, list[Any], Sequence[int] | None]]:
        """For each table its keys as it has them, and which of the given ones they are (None: all), natives first."""
        if self._native is None:
            # A type that was not known yet shows with the first whole key.
            found = next((kind for kind in map(key_type_of, keys) if is_native(kind)), None)
            if found is None:
                return [(self._others, list(map(encode_key, keys)), None)]
            self._make_native(found)
        assert self._native is not None
        key_type = self._native.schema.key
        if all_fit(key_type, keys):
            return [(self._native, keys, None)]
        is_ours = [fits(key_type, key) for key in keys]
        ours = [place for place, there in enumerate(is_ours) if there]
        others = [place for place, there in enumerate(is_ours) if not there]
        return [
            (self._native, [keys[place] for place in ours], ours),
            (self._others, [encode_key(keys[place]) for place in others], others),
        ]

    def get(self, keys: list[Any], column: str) -> list[Any]:
        """One value a key of a column; None where there is no such row."""
        found: list[Any] = [None] * len(keys)
        for table, some, places in self._parts(keys):
            if table is None or not some:
                continue
            rows = table.get(some)
            values = zip(rows.columns[column].tolist(), rows.found.tolist(), strict=True)
            for place, (value, there) in zip(range(len(keys)) if places is None else places, values, strict=True):
                found[place] = value if there else None
        return found

    def get_bytes(self, keys: list[Any], column: str) -> list[bytes | None]:
        """One value a key of a bytes column; None where there is no such row."""
        found: list[bytes | None] = [None] * len(keys)
        for table, some, places in self._parts(keys):
            if table is None or not some:
                continue
            values = table.get_bytes(some, column)
            if places is None:
                return values
            for place, value in zip(places, values, strict=True):
                found[place] = value
        return found

    def put(self, keys: list[Any], **columns: Sequence[Any]) -> None:
        """Sets the columns of rows."""
        for table, some, places in self._parts(keys):
            if not some:
                continue
            picked: dict[str, Any] = dict(columns)
            if places is not None:
                picked = {name: [values[place] for place in places] for name, values in columns.items()}
            (self._make_others() if table is None else table).put(some, **picked)

    def delete(self, keys: list[Any]) -> None:
        """Removes rows."""
        for table, some, _ in self._parts(keys):
            if table is not None and some:
                table.delete(some)

    def keys_upto(self, group: int, column: str, bound: int) -> tuple[list[Any], int]:
        """Keys of the rows of a key group whose i64 column is at most ``bound``; and how many rows the group has."""
        found: list[Any] = []
        count = 0
        for table in (self._native, self._others):
            if table is not None:
                rows = table.scan(group, group + 1)
                count += len(rows)
                old = np.flatnonzero(rows.columns[column] <= bound)
                if len(old):
                    keys = key_list(rows.keys)
                    keys = [keys[row] for row in old.tolist()]
                    found.extend(keys if table is self._native else map(decode_key, keys))
        return found, count
