"""Steps with user state by key: stateful_map, process, drop_duplicates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from onceflow.columns import rows_of
from onceflow.exceptions import (
    DataflowChangedError,
    OnceflowError,
    SerializationError,
    StateError,
)
from onceflow.keys import AgreedType, KeySelector, KeyType, all_fit, key_list, key_order, plain_key
from onceflow.operators.aggregate import _pick
from onceflow.operators.base import EventTimes, OperatorContext, Output
from onceflow.operators.calls import failed
from onceflow.operators.expiry import Sweep
from onceflow.operators.key_table import KeyTable
from onceflow.operators.keyed import KeyedOperator
from onceflow.state import Processor
from onceflow.types import Batch, Micros

__all__ = ["DropDuplicates", "Process", "StatefulMap"]

_MAX_CACHED = 1_000_000
_ALWAYS: Micros = -(1 << 63)


class _KeyedCache:
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
        columns = {"value": "bytes"} if expires is None else {"value": "bytes", "expires": "i64"}
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
            self.values.clear()

    def _encoded(self, keys: list[Any]) -> list[bytes]:
        codec, values = self._context.codec, self.values
        try:
            return codec.encode_all(list(map(values.__getitem__, keys)))
        except SerializationError:
            for key in keys:
                try:
                    codec.encode(values[key])
                except SerializationError as error:
                    raise SerializationError(f"step {self._context.step_id!r}, key {key!r}: {error}") from error
            raise

    def forget(self, keys: list[Any]) -> None:
        """Deletes what the table says has expired, unless it was written anew since the last barrier."""
        gone = [key for key in keys if key not in self.changed]
        if gone:
            self.table.delete(gone)
            for key in gone:
                self.values.pop(key, None)


class _KeyedStep(KeyedOperator):
    def open(self, context: OperatorContext) -> None:
        self._context = context
        self._step_id = context.step_id
        known = context.backend.tables().get(context.step_id)
        if known is not None:
            self._resume(known.key)
        self._resume_others(context.backend)

    def _listed(self, records: Batch) -> list[Any]:
        """The keys as Python objects, all of one type."""
        listed = key_list(self._keys(records))
        if not self._is_native or not all_fit(self._key_type, listed):
            listed = list(map(plain_key, listed))
            self._native_rows(listed, records)
        return listed


class _CachedStep(_KeyedStep):
    def __init__(self, selector: KeySelector, key_type: KeyType | None) -> None:
        super().__init__(selector, key_type)
        self._cache: _KeyedCache | None = None
        #: By which what has expired is gone.
        self._now = _ALWAYS

    def _make_cache(self) -> _KeyedCache:
        return _KeyedCache(self._context, self._key_type)

    def _loaded(self, records: Batch) -> tuple[list[Any], _KeyedCache]:
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

    def snapshot(self, checkpoint: Any) -> bytes | None:
        if self._cache is not None:
            self._cache.write_back(self._now)
        return None


class StatefulMap(_CachedStep):
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
        keys, cache = self._loaded(records)
        values, function, initial = cache.values, self._function, self._initial
        results: list[Any] = []
        get, add = values.get, results.append
        try:
            for key, record in zip(keys, rows, strict=True):
                state = get(key)
                state, result = function(initial() if state is None else state, record)
                if state is None:
                    values.pop(key, None)
                else:
                    values[key] = state
                add(result)
        except OnceflowError:
            raise
        except Exception as error:
            raise failed(self._step_id, error, rows, len(results)) from error
        cache.changed.update(keys)
        out.emit(results, times)


class Process(_CachedStep):
    """A user's ``Processor``."""

    def __init__(self, selector: KeySelector, key_type: KeyType | None, make: Callable[[], Processor]) -> None:
        super().__init__(selector, key_type)
        self._make = make
        self._watermark = _ALWAYS
        self._sweep: Sweep | None = None

    def open(self, context: OperatorContext) -> None:
        super().open(context)
        self._watermark = _ALWAYS if context.watermark is None else context.watermark
        self._processor = self._make()
        if context.restored is not None:
            self._check_states(msgspec.msgpack.decode(context.restored))

    def _check_states(self, known: dict[str, str]) -> None:
        declared = self._processor.states
        gone = sorted(name for name in known if name not in declared)
        if gone:
            added = sorted(name for name in declared if name not in known)
            renamed = f" (was one renamed to {added}?)" if added else ""
            raise DataflowChangedError(
                f"step {self._step_id!r} has states that its processor no longer declares: {gone}{renamed}. Give them "
                "back their names, or start over with fresh state"
            )
        for name, kind in known.items():
            if declared[name] != kind:
                raise DataflowChangedError(
                    f"step {self._step_id!r}: the state {name!r} was a {kind} and is a {declared[name]}. Give it "
                    "another name beside the old one, or start over with fresh state"
                )

    def _make_cache(self) -> _KeyedCache:
        cache = _KeyedCache(self._context, self._key_type, self._processor.expires)
        periods = self._processor.ttls.values()
        if periods:
            self._sweep = Sweep(cache.table, "expires", self._context.backend.key_groups, min(periods))
        return cache

    def process(self, records: Batch, times: EventTimes, out: Output) -> None:
        rows = rows_of(records)
        keys, cache = self._loaded(records)
        processor, watermark = self._processor, self._watermark
        now = self._context.passed.now_us()
        if times is None:
            moments = [round(self._context.clock.now() * 1_000_000)] * len(rows)
            reached = [now] * len(rows)
        else:
            moments, reached = times.values.tolist(), times.reached(watermark).tolist()
        results: list[Any] = []
        counts: list[int] = []
        number = 0
        try:
            for number, (key, record) in enumerate(zip(keys, rows, strict=True)):
                processor.key = key
                processor.now_us = moments[number]
                processor.state_time_us = reached[number]
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
        except OnceflowError:
            raise
        except Exception as error:
            raise failed(self._step_id, error, rows, number) from error
        self._now = now if times is None else watermark
        if self._sweep is not None:
            cache.forget(self._sweep.expired(self._now, len(rows)))
        out.emit(results, None if times is None else times.repeat(counts))

    def on_watermark(self, watermark: Micros, out: Output) -> None:
        self._watermark = watermark

    def snapshot(self, checkpoint: Any) -> bytes | None:
        super().snapshot(checkpoint)
        return msgspec.msgpack.encode(self._processor.states)


class DropDuplicates(_KeyedStep):
    """Passes on the first record of a key, and the next one only after the horizon.

    Time is the record's, or the watermark where that is later: once it has passed a key's horizon the key is forgotten.

    Args:
        selector: What makes records equal.
        key_type: Its type; None: by the first keys.
        horizon_us: How long a key is remembered after the record that was passed on, in microseconds of event time; of
            time that has passed where records have none.
    """

    def __init__(self, selector: KeySelector, key_type: KeyType | None, horizon_us: int) -> None:
        super().__init__(selector, key_type)
        self._horizon = horizon_us
        self._table: KeyTable | None = None
        self._watermark = _ALWAYS

    def open(self, context: OperatorContext) -> None:
        super().open(context)
        self._watermark = _ALWAYS if context.watermark is None else context.watermark

    def process(self, records: Batch, times: EventTimes, out: Output) -> None:
        keys = self._listed(records)
        if self._table is None:
            self._table = KeyTable(self._context.backend, self._step_id, self._key_type, {"seen": "i64"})
            self._sweep = Sweep(self._table, "seen", self._context.backend.key_groups, self._horizon)
        now = self._context.passed.now_us()
        moments = [now] * len(keys) if times is None else times.reached(self._watermark).tolist()
        try:
            found = self._table.get(keys, "seen")
        except StateError as error:
            raise self._refused(error, keys, records) from error
        seen = {key: moment for key, moment in zip(keys, found, strict=True) if moment is not None}
        fresh: dict[Any, int] = {}
        kept: list[int] = []
        for row, (key, moment) in enumerate(zip(keys, moments, strict=True)):
            before = seen.get(key)
            if before is None or moment - before >= self._horizon:
                seen[key] = fresh[key] = moment
                kept.append(row)
        if fresh:
            self._table.put(list(fresh), seen=list(fresh.values()))
        expired = self._sweep.expired((now if times is None else self._watermark) - self._horizon, len(keys))
        if expired:
            self._table.delete(expired)
        rows = np.array(kept, dtype=np.int64)
        out.emit(_pick(records, rows), None if times is None else times[rows])

    def on_watermark(self, watermark: Micros, out: Output) -> None:
        self._watermark = watermark
