"""Steps with user state by key: stateful_map, process, drop_duplicates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from onceflow._native import Table
from onceflow.columns import rows_of
from onceflow.entries import CHUNK_ENTRIES, ListEntries, MapEntries
from onceflow.exceptions import (
    DataflowChangedError,
    OnceflowError,
    SerializationError,
    StateError,
    StoreCorruptError,
)
from onceflow.operators.aggregate import _pick
from onceflow.operators.base import EventTimes, OperatorContext, Output
from onceflow.operators.calls import failed
from onceflow.operators.expiry import Sweep
from onceflow.operators.key_table import KeyTable
from onceflow.operators.keyed import KeyedOperator
from onceflow.operators.keys import (
    AgreedType,
    KeySelector,
    KeyType,
    all_fit,
    encode_key,
    key_list,
    key_order,
    plain_key,
)
from onceflow.state import ListState, MapState, Processor
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


class _CellCache(_KeyedCache):
    """The states of a processor by key.

    A key has a row of its values and heads; the chunks of lists and dicts are rows of a table of their own, which is
    made when it is first needed.

    Args:
        context: The step's.
        key_type: Of the keys.
        processor: Whose states they are.
    """

    def __init__(self, context: OperatorContext, key_type: AgreedType, processor: Processor) -> None:
        super().__init__(context, key_type, processor.expires)
        self._kinds = {
            name: ListEntries if kind == ListState.__name__ else MapEntries
            for name, kind in processor.states.items()
            if kind in (ListState.__name__, MapState.__name__)
        }
        self._chunks_name = f"{context.step_id}/entries"
        self._chunks = self._chunk_table() if self._chunks_name in context.backend.tables() else None
        #: Key → name of a state → how many chunks the table has; of keys whose values are here, where there are any.
        self._rows: dict[Any, dict[str, int]] = {}

    def _chunk_table(self) -> Table:
        return self._context.backend.table(self._chunks_name, key="bytes", columns={"value": "bytes"})

    def _after_load(self, keys: list[Any]) -> None:
        wanted: list[tuple[Any, str, int]] = []
        for key in keys:
            cells = self.values.get(key)
            if cells is None:
                continue
            rows = _chunk_rows(cells)
            wanted.extend((key, name, number) for name, count in rows.items() for number in range(count))
            if rows:
                self._rows[key] = rows
        chunks = self._read_chunks(wanted)
        for key in keys:
            for name, cell in self.values.get(key, {}).items():
                kind = self._kinds.get(name)
                if kind is not None:
                    self.values[key][name] = [self._entries(kind, cell, chunks.get((key, name), [])), cell[1]]

    @staticmethod
    def _entries(kind: type[ListEntries | MapEntries], cell: list[Any], chunks: list[Any]) -> ListEntries | MapEntries:
        head = cell[0]
        if not chunks and len(head) >= CHUNK_ENTRIES:
            # Of a version that kept all of it in one piece.
            return kind.of(head.items() if isinstance(head, dict) else head)
        return kind(head, chunks)

    def _read_chunks(self, wanted: list[tuple[Any, str, int]]) -> dict[tuple[Any, str], list[Any]]:
        chunks: dict[tuple[Any, str], list[Any]] = {}
        if wanted:
            table = self._chunk_table() if self._chunks is None else self._chunks
            for place, data in zip(
                wanted, table.get_bytes([_row_key(*place) for place in wanted], "value"), strict=True
            ):
                if data is None:
                    raise StoreCorruptError(
                        f"step {self._context.step_id!r}: chunk {place[2]} of the state {place[1]!r} of key "
                        f"{place[0]!r} is missing; resume from an older checkpoint"
                    )
                chunks.setdefault(place[:2], []).append(self._context.codec.decode(data))
        return chunks

    def _stored(self, value: dict[str, list[Any]]) -> dict[str, list[Any]]:
        stored = {}
        for name, (state, written) in value.items():
            if name not in self._kinds:
                stored[name] = [state, written]
            elif state.chunks:
                stored[name] = [state.head, written, len(state.chunks)]
            else:
                stored[name] = [state.head, written]
        return stored

    def _before_write(self, keys: list[Any]) -> None:
        new: list[tuple[Any, str, int]] = []
        chunks: list[Any] = []
        old: list[bytes] = []
        for key in keys:
            rows: dict[str, int] = {}
            cells = self.values.get(key, {})
            for name in self._kinds.keys() & cells.keys():
                entries = cells[name][0]
                if entries.chunks:
                    rows[name] = len(entries.chunks)
                changed = sorted(entries.changed)
                new.extend((key, name, number) for number in changed)
                chunks.extend(entries.chunks[number] for number in changed)
                entries.changed = set()
            before = self._rows.pop(key, {})
            old.extend(
                _row_key(key, name, number)
                for name, count in before.items()
                for number in range(rows.get(name, 0), count)
            )
            if rows:
                self._rows[key] = rows
        if new:
            if self._chunks is None:
                self._chunks = self._chunk_table()
            data = self._encode_all([key for key, _, _ in new], chunks)
            self._chunks.put([_row_key(*place) for place in new], value=data)
        if old and self._chunks is not None:
            self._chunks.delete(old)

    def _before_forget(self, keys: list[Any]) -> None:
        if self._chunks is None or not len(self._chunks):
            return
        rows = {key: self._rows.pop(key, {}) for key in keys if key in self.values}
        unknown = [key for key in keys if key not in rows]
        for key, data in zip(unknown, self.table.get_bytes(unknown, "value"), strict=True):
            if data is not None:
                rows[key] = _chunk_rows(self._context.codec.decode(data))
        places = [
            (key, name, number) for key, of in rows.items() for name, count in of.items() for number in range(count)
        ]
        if places:
            self._chunks.delete([_row_key(*place) for place in places])

    def _clear(self) -> None:
        super()._clear()
        self._rows.clear()


def _chunk_rows(cells: dict[str, list[Any]]) -> dict[str, int]:
    """How many chunks there are of each state, where there are any; from what ``_stored`` made."""
    return {name: cell[2] for name, cell in cells.items() if len(cell) > 2}


def _row_key(key: Any, name: str, number: int) -> bytes:
    return msgspec.msgpack.encode([encode_key(plain_key(key)), name, number])


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
                "back their names, or start over with fresh=True"
            )
        for name, kind in known.items():
            if declared[name] != kind:
                raise DataflowChangedError(
                    f"step {self._step_id!r}: the state {name!r} was a {kind} and is a {declared[name]}. Give it "
                    "another name beside the old one, or start over with fresh=True"
                )

    def _make_cache(self) -> _KeyedCache:
        cache = _CellCache(self._context, self._key_type, self._processor)
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
