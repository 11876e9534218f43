"""Steps with user state by key: stateful_map, process, drop_duplicates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from onceflow._native import Table
from onceflow.exceptions import SerializationError
from onceflow.keys import KeySelector, KeyType, key_list, key_type_of
from onceflow.operators.aggregate import _pick
from onceflow.operators.base import EventTimes, Operator, OperatorContext, Output
from onceflow.operators.calls import failed
from onceflow.operators.stateless import rows_of
from onceflow.state import Processor
from onceflow.types import Batch, Micros

__all__ = ["DropDuplicates", "Process", "StatefulMap"]

_MAX_CACHED = 1_000_000
_MISSING = object()


class _KeyedCache:
    """Decoded values over a table: written back at the barrier, only those that changed."""

    def __init__(self, context: OperatorContext, key_type: KeyType) -> None:
        self._context = context
        self._table: Table = context.backend.table(context.step_id, key=key_type, columns={"value": "bytes"})
        self.values: dict[Any, Any] = {}
        self.changed: set[Any] = set()

    def load(self, keys: list[Any]) -> None:
        """Makes the values of these keys present in ``values``, as far as they have one."""
        values = self.values
        missing = [key for key in dict.fromkeys(keys) if key not in values]
        if missing and len(self._table):
            for key, data in zip(missing, self._table.get_bytes(missing, "value"), strict=True):
                if data is not None:
                    values[key] = self._context.codec.decode(data)

    def write_back(self) -> None:
        """Brings the table up to date."""
        changed = sorted(self.changed)
        gone = [key for key in changed if self.values.get(key, _MISSING) is _MISSING]
        kept = [key for key in changed if self.values.get(key, _MISSING) is not _MISSING]
        if gone:
            self._table.delete(gone)
        if kept:
            encode = self._context.codec.encode
            encoded = []
            for key in kept:
                try:
                    encoded.append(encode(self.values[key]))
                except SerializationError as error:
                    raise SerializationError(f"step {self._context.step_id!r}, key {key!r}: {error}") from error
            self._table.put(kept, value=encoded)
        self.changed.clear()
        if len(self.values) > _MAX_CACHED:
            self.values.clear()


class _KeyedStep(Operator):
    def __init__(self, selector: KeySelector, key_type: KeyType | None) -> None:
        self._selector = selector
        self._key_type = key_type
        self._cache: _KeyedCache | None = None

    def open(self, context: OperatorContext) -> None:
        self._context = context
        known = context.backend.tables().get(context.step_id)
        if known is not None:
            self._key_type = known.key

    def _keys(self, records: Batch) -> list[Any]:
        keys = self._selector.keys(self._context.step_id, records)
        if self._key_type is None:
            self._key_type = key_type_of(keys)
        return key_list(keys)

    def _loaded(self, keys: list[Any]) -> _KeyedCache:
        if self._cache is None:
            self._cache = _KeyedCache(self._context, self._key_type or "str")
        self._cache.load(keys)
        return self._cache

    def snapshot(self, checkpoint: Any) -> bytes | None:
        if self._cache is not None:
            self._cache.write_back()
        return None


class StatefulMap(_KeyedStep):
    """``function(state, record) -> (state, result)``; state None means none, and is forgotten."""

    def __init__(
        self,
        selector: KeySelector,
        key_type: KeyType | None,
        function: Callable[[Any, Any], tuple[Any, Any]],
        initial: Callable[[], Any],
    ) -> None:
        super().__init__(selector, key_type)
        self._function = function
        self._initial = initial

    def process(self, records: Batch, times: EventTimes, out: Output) -> None:
        rows = rows_of(records)
        keys = self._keys(records)
        cache = self._loaded(keys)
        values, function, initial = cache.values, self._function, self._initial
        results: list[Any] = []
        add = results.append
        try:
            for key, record in zip(keys, rows, strict=True):
                state = values.get(key)
                state, result = function(initial() if state is None else state, record)
                values[key] = state
                add(result)
        except Exception as error:
            raise failed(self._context.step_id, error, rows, len(results)) from error
        cache.changed.update(keys)
        for key in [key for key in set(keys) if values[key] is None]:
            del values[key]
        out.emit(results, times)


class Process(_KeyedStep):
    """A user's ``Processor``."""

    def __init__(self, selector: KeySelector, key_type: KeyType | None, make: Callable[[], Processor]) -> None:
        super().__init__(selector, key_type)
        self._make = make

    def open(self, context: OperatorContext) -> None:
        super().open(context)
        self._processor = self._make()

    def process(self, records: Batch, times: EventTimes, out: Output) -> None:
        rows = rows_of(records)
        keys = self._keys(records)
        cache = self._loaded(keys)
        processor = self._processor
        moments = None if times is None else times.tolist()
        now = round(self._context.clock.now() * 1_000_000)
        results: list[Any] = []
        counts: list[int] = []
        number = 0
        try:
            for number, (key, record) in enumerate(zip(keys, rows, strict=True)):
                processor.key = key
                processor.now_us = now if moments is None else moments[number]
                processor.cells = cache.values.get(key) or {}
                processor.changed = False
                before = len(results)
                results.extend(processor.process(record) or ())
                counts.append(len(results) - before)
                if processor.changed:
                    cache.changed.add(key)
                    if processor.cells:
                        cache.values[key] = processor.cells
                    else:
                        cache.values.pop(key, None)
        except Exception as error:
            raise failed(self._context.step_id, error, rows, number) from error
        out.emit(results, None if times is None else np.repeat(times, counts))


class DropDuplicates(_KeyedStep):
    """Passes on the first record of a key, and the next one only after the horizon.

    Args:
        selector: What makes records equal.
        key_type: Its type; None: by the first keys.
        horizon_us: How long a key is remembered after the record that was passed on, in microseconds of event time.
    """

    def __init__(self, selector: KeySelector, key_type: KeyType | None, horizon_us: int) -> None:
        super().__init__(selector, key_type)
        self._horizon = horizon_us
        self._table: Table | None = None
        self._swept: Micros | None = None

    def open(self, context: OperatorContext) -> None:
        super().open(context)
        if self._key_type is not None:
            self._table = self._make_table(self._key_type)

    def _make_table(self, key_type: KeyType) -> Table:
        return self._context.backend.table(self._context.step_id, key=key_type, columns={"seen": "i64"})

    def process(self, records: Batch, times: EventTimes, out: Output) -> None:
        keys = self._keys(records)
        if self._table is None:
            self._table = self._make_table(self._key_type or "str")
        now = round(self._context.clock.now() * 1_000_000)
        moments = [now] * len(keys) if times is None else times.tolist()
        found = self._table.get(keys)
        seen = {
            key: moment
            for key, moment, there in zip(keys, found.columns["seen"].tolist(), found.found.tolist(), strict=True)
            if there
        }
        fresh: dict[Any, int] = {}
        kept: list[int] = []
        for row, (key, moment) in enumerate(zip(keys, moments, strict=True)):
            before = seen.get(key)
            if before is None or moment - before >= self._horizon:
                seen[key] = fresh[key] = moment
                kept.append(row)
        if fresh:
            self._table.put(list(fresh), seen=np.fromiter(fresh.values(), np.int64, len(fresh)))
        rows = np.array(kept, dtype=np.int64)
        out.emit(_pick(records, rows), None if times is None else times[rows])

    def on_watermark(self, watermark: Micros, out: Output) -> None:
        """Forgets keys beyond the horizon, now and then: each time costs a look at all of them."""
        if self._table is None or (self._swept is not None and watermark - self._swept < self._horizon):
            return
        self._swept = watermark
        known = self._table.scan()
        old = np.flatnonzero(known.columns["seen"] <= watermark - self._horizon)
        if len(old):
            keys = key_list(known.keys)
            self._table.delete([keys[row] for row in old])
