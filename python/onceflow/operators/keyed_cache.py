"""Decoded values of user state over a table, and the base of the steps that use them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from onceflow.exceptions import SerializationError, StateError
from onceflow.graph.partitioning import KeySelector, KeyType
from onceflow.operators.base import OperatorContext
from onceflow.operators.key_table import KeyTable
from onceflow.operators.keyed import KeyedStep
from onceflow.operators.keys import AgreedType, key_order
from onceflow.types import BEGINNING_OF_TIME, Batch, ColumnType, Micros

__all__ = ["CachedStep", "KeyedCache"]

_MAX_CACHED = 1_000_000


class KeyedCache:
    """Decoded values over a table: written back at the barrier, only those that changed.

    Args:
        context: The step's.
        key_type: Of the keys.
        expires: When a value expires, in microseconds; None: values stay until they are deleted.
    """

    def __init__(
        self, context: OperatorContext, key_type: AgreedType, expires: Callable[[Any], Micros] | None = None
    ) -> None:
        self._context = context
        self._expires = expires
        columns: dict[str, ColumnType] = {"value": "bytes"}
        if expires is not None:
            columns["expires"] = "i64"
        self.table = KeyTable(context.backend, context.step_id, key_type, columns)
        self.values: dict[Any, Any] = {}
        self.changed: set[Any] = set()

    def load(self, keys: list[Any]) -> None:
        """Makes the values of these keys present in ``values``, as far as they have one."""
        values, changed = self.values, self.changed
        # A value that was deleted since the last barrier is in the table still.
        missing = [key for key in set(keys).difference(values) if key not in changed]
        if missing and len(self.table):
            for key, data in zip(missing, self.table.get_bytes(missing, "value"), strict=True):
                if data is not None:
                    values[key] = self._context.codec.decode(data)
            self._after_load(missing)

    def _after_load(self, keys: list[Any]) -> None:
        """Called with keys that were looked for in the table."""

    def write_back(self, now: Micros) -> None:
        """Brings the table up to date; what has expired by now is not kept."""
        values = self.values
        try:
            changed = sorted(self.changed)
        except TypeError:
            # Some are None, or have an element that is.
            changed = sorted(self.changed, key=key_order)
        expires: dict[Any, Micros] = {}
        if self._expires is not None:
            expires = {key: self._expires(values[key]) for key in changed if key in values}
            for key in [key for key, moment in expires.items() if moment <= now]:
                del values[key]
        self._before_write(changed)
        kept = list(filter(values.__contains__, changed))
        if len(kept) < len(changed):
            self.table.delete([key for key in changed if key not in values])
        if kept:
            columns: dict[str, Any] = {"value": self._encoded(kept)}
            if self._expires is not None:
                columns["expires"] = [expires[key] for key in kept]
            self.table.put(kept, **columns)
        self.changed.clear()
        if len(self.values) > _MAX_CACHED:
            self._clear()

    def _clear(self) -> None:
        self.values.clear()

    def _before_write(self, keys: list[Any]) -> None:
        """Called with the keys that have changed, before their rows are written or deleted."""

    def _stored(self, value: Any) -> Any:
        """What the codec is to write for a value."""
        return value

    def _encoded(self, keys: list[Any]) -> list[bytes]:
        values = self.values
        return self._encode_all(keys, [self._stored(values[key]) for key in keys])

    def _encode_all(self, keys: list[Any], values: list[Any]) -> list[bytes]:
        codec = self._context.codec
        try:
            return codec.encode_all(values)
        except SerializationError:
            for key, value in zip(keys, values, strict=True):
                try:
                    codec.encode(value)
                except SerializationError as error:
                    raise SerializationError(f"step {self._context.step_id!r}, key {key!r}: {error}") from error
            raise

    def forget(self, keys: list[Any]) -> None:
        """Deletes what the table says has expired, unless it was written anew since the last barrier."""
        gone = [key for key in keys if key not in self.changed]
        if gone:
            self._before_forget(gone)
            self.table.delete(gone)
            for key in gone:
                self.values.pop(key, None)

    def _before_forget(self, keys: list[Any]) -> None:
        """Called with keys before their rows are deleted."""


class CachedStep(KeyedStep):
    def __init__(self, selector: KeySelector, key_type: KeyType | None) -> None:
        super().__init__(selector, key_type)
        self._cache: KeyedCache | None = None
        #: By which what has expired is gone.
        self._now = BEGINNING_OF_TIME

    def _make_cache(self) -> KeyedCache:
        return KeyedCache(self._context, self._key_type)

    def _loaded(self, records: Batch) -> tuple[list[Any], KeyedCache]:
        """The keys, and the cache with their values."""
        keys = self._listed(records)
        if self._cache is None:
            self._cache = self._make_cache()
        try:
            self._cache.load(keys)
        except SerializationError as error:
            raise SerializationError(f"step {self._step_id!r}: {error}") from error
        except StateError as error:
            raise self._refused(error, keys, records) from error
        return keys, self._cache

    def snapshot(self) -> None:
        if self._cache is not None:
            self._cache.write_back(self._now)
