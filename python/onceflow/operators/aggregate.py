"""Running aggregates by key, and aggregates of tumbling windows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from onceflow._native import Table
from onceflow.aggregates import Aggregate, AggregateColumns
from onceflow.columns import Columns
from onceflow.exceptions import SerializationError, StateError
from onceflow.keys import KeySelector, KeyType, key_list
from onceflow.operators.base import EventTimes, OperatorContext, Output
from onceflow.operators.keyed import KeyedOperator
from onceflow.types import END_OF_TIME, Batch, Micros
from onceflow.windows import Tumbling

__all__ = ["AggregateKeys", "AggregateWindows"]


class _Aggregating(KeyedOperator):
    """Base: one table, made when the first batch shows the types."""

    def __init__(self, selector: KeySelector, key_type: KeyType | None, aggregates: Mapping[str, Aggregate]) -> None:
        super().__init__(selector, key_type)
        self._aggregates = aggregates
        self._table: Table | None = None

    def open(self, context: OperatorContext) -> None:
        self._context = context
        self._step_id = context.step_id
        self._columns = AggregateColumns(context.step_id, self._aggregates, context.codec)
        known = context.backend.tables().get(context.step_id)
        if known is not None:
            self._columns.restore(known.columns)
            self._table = context.backend.table(context.step_id, key=known.key, columns=known.columns)
            self._resume(self._user_key(known.key))

    def _user_key(self, key: KeyType) -> KeyType:
        """The type of the step's keys, from that of its table's."""
        return key

    def _table_keys(self, key_type: KeyType, keys: Any) -> tuple[KeyType, Any]:
        """Type and values of the table's keys, from those of the step's."""
        return key_type, keys

    def _update(self, keys: Any, key_type: KeyType, records: Batch) -> Table:
        try:
            table_key, table_keys = self._table_keys(key_type, keys)
            values = self._columns.values(records)
            if self._table is None:
                self._table = self._context.backend.table(
                    self._step_id, key=table_key, columns=self._columns.columns(values)
                )
            self._table.update(table_keys, self._columns.updates(values))
        except SerializationError as error:
            raise SerializationError(f"step {self._step_id!r}: {error}") from error
        except StateError as error:
            hint = "; give type='f64' to sum, min or max, or filter such records out"
            raise self._refused(error, keys, records, hint) from error
        return self._table

    def _key_columns(self, keys: Any) -> dict[str, Any]:
        """Result columns of the key."""
        fields = self._selector.fields
        if len(fields) == 1:
            return {fields[0]: _array(keys, self._key_type)}
        types = self._key_type or fields
        columns = keys if isinstance(keys, tuple) else [[key[index] for key in keys] for index in range(len(fields))]
        return {field: _array(column, kind) for field, column, kind in zip(fields, columns, types, strict=True)}


def _array(values: Any, key_type: KeyType | None) -> Any:
    if key_type in ("i64", "u64"):
        return np.asarray(values, dtype=np.int64 if key_type == "i64" else np.uint64)
    # As objects, whatever they are: numpy would make columns of tuples.
    return np.fromiter(values if isinstance(values, tuple) else key_list(values), object, len(values))


class AggregateKeys(_Aggregating):
    """Totals by key since the beginning.

    Args:
        selector: The key.
        key_type: Its type; None: by the first keys.
        aggregates: By the name of the result.
        emit: ``"changes"``: for each batch the new totals of its keys, in the order in which they occur; ``"final"``:
            all totals, sorted by key, when the input has ended.
    """

    def __init__(
        self, selector: KeySelector, key_type: KeyType | None, aggregates: Mapping[str, Aggregate], emit: str
    ) -> None:
        super().__init__(selector, key_type, aggregates)
        self._emit = emit

    def process(self, records: Batch, times: EventTimes, out: Output) -> None:
        key_type, keys = self._keys(records)
        table = self._update(keys, key_type, records)
        if self._emit == "changes":
            found, indices = table.get_distinct(keys)
            columns = Columns({**self._key_columns(_pick_keys(keys, indices)), **self._columns.results(found.columns)})
            out.emit(columns.to_rows() if isinstance(records, list) else columns)

    def end(self, out: Output) -> None:
        if self._emit != "final" or self._table is None:
            return
        found = self._table.scan()
        keys = key_list(found.keys)
        order = sorted(range(len(keys)), key=keys.__getitem__)
        results = self._columns.results(found.columns)
        columns = Columns({**self._key_columns(keys), **results})
        out.emit(columns.take(np.array(order, dtype=np.int64)))


def _pick_keys(keys: Any, indices: Any) -> Any:
    """The keys at these indices, in the same form."""
    if isinstance(keys, list):
        return [keys[index] for index in indices.tolist()]
    if isinstance(keys, tuple):
        return tuple(_pick_keys(elements, indices) for elements in keys)
    return keys.take(indices)


class AggregateWindows(_Aggregating):
    """Aggregates by key and tumbling window; a window is handed out once, when it closes.

    A window closes when the watermark has passed its end and the allowed lateness. Records of closed windows go to the
    side output ``late``. Windows come out by start, then by key.

    Args:
        selector: The key.
        key_type: Its type; None: by the first keys.
        aggregates: By the name of the result.
        window: Size and offset.
        allowed_lateness_us: How long after its end a window stays open, in microseconds.
    """

    def __init__(
        self,
        selector: KeySelector,
        key_type: KeyType | None,
        aggregates: Mapping[str, Aggregate],
        window: Tumbling,
        allowed_lateness_us: int,
    ) -> None:
        super().__init__(selector, key_type, aggregates)
        self._window = window
        self._wait = window.size_us + allowed_lateness_us
        self._watermark: Micros = -(1 << 63)

    def open(self, context: OperatorContext) -> None:
        super().open(context)
        if context.restored is not None:
            self._watermark = int.from_bytes(context.restored, "little", signed=True)

    def _user_key(self, key: KeyType) -> KeyType:
        elements = tuple(key)[1:]
        return elements[0] if len(elements) == 1 else elements

    def _table_keys(self, key_type: KeyType, keys: Any) -> tuple[KeyType, Any]:
        if isinstance(key_type, tuple):
            return ("i64", *key_type), (self._starts, *self._split(keys))
        return ("i64", key_type), (self._starts, keys)

    def process(self, records: Batch, times: EventTimes, out: Output) -> None:
        if times is None:
            raise StateError(f"step {self._step_id!r}: records without event time reached a window")
        starts = self._window.starts(times)
        late = starts <= self._watermark - self._wait
        if late.any():
            rows = np.flatnonzero(late)
            out.emit_side("late", _pick(records, rows), times[rows])
            rows = np.flatnonzero(~late)
            records, starts = _pick(records, rows), starts[rows]
            if len(records) == 0:
                return
        key_type, keys = self._keys(records)
        self._starts = starts
        self._update(keys, key_type, records)

    def on_watermark(self, watermark: Micros, out: Output) -> None:
        self._watermark = watermark
        if self._table is None:
            return
        # Before the end of time everything closes; its last instant needs a bound that still fits.
        bound = END_OF_TIME if watermark == END_OF_TIME else watermark - self._wait + 1
        closed = self._table.drain_below(bound)
        if len(closed) == 0:
            return
        keys: list[tuple[Any, ...]] = closed.keys
        order = np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)
        starts = np.array([key[0] for key in keys], dtype=np.int64)
        rest = [key[1:] for key in keys] if isinstance(self._key_type, tuple) else [key[1] for key in keys]
        columns = Columns(
            {
                **self._key_columns(rest),
                "window_start": starts.astype("M8[us]"),
                "window_end": (starts + self._window.size_us).astype("M8[us]"),
                **self._columns.results(closed.columns),
            }
        )
        out.emit(columns.take(order), (starts + self._window.size_us - 1)[order])

    def snapshot(self, checkpoint: Any) -> bytes | None:
        return self._watermark.to_bytes(8, "little", signed=True)


def _pick(records: Batch, rows: Any) -> Batch:
    if isinstance(records, Columns):
        return records.take(rows)
    return [records[row] for row in rows]
