"""Running aggregates by key, and aggregates of tumbling windows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from operator import itemgetter
from typing import Any

import numpy as np

from onceflow._native import Batch as Rows
from onceflow.aggregates import Aggregate
from onceflow.columns import Columns, to_list
from onceflow.exceptions import NotANumberError, SerializationError, StateError, StateOverflowError, UserFunctionError
from onceflow.keys import KeySelector, KeyType, key_list
from onceflow.operators.base import EventTimes, OperatorContext, Output
from onceflow.operators.calls import each, shown
from onceflow.operators.keyed import KeyedOperator
from onceflow.operators.totals import Totals
from onceflow.operators.values import RefusedValueError, Values, pick, read_values
from onceflow.types import END_OF_TIME, Batch, Micros
from onceflow.windows import Tumbling

__all__ = ["AggregateKeys", "AggregateWindows"]

#: Most rows that are handed out at once at the end of the input or of a window: Python objects exist for these only.
_ROWS_AT_ONCE = 1 << 16


class _Aggregating(KeyedOperator):
    """Base: totals by key."""

    def __init__(self, selector: KeySelector, key_type: KeyType | None, aggregates: Mapping[str, Aggregate]) -> None:
        super().__init__(selector, key_type)
        self._aggregates = aggregates

    def open(self, context: OperatorContext) -> None:
        self._step_id = context.step_id
        self._totals = Totals(context.step_id, context.backend, context.codec, context.step_id, self._aggregates)
        if self._totals.table is not None:
            self._resume(self._user_key(self._totals.table.schema.key))

    def _user_key(self, key: KeyType) -> KeyType:
        """The type of the step's keys, from that of its table's."""
        return key

    def _table_keys(self, key_type: KeyType, keys: Any) -> tuple[KeyType, Any]:
        """Type and values of the table's keys, from those of the step's."""
        return key_type, keys

    def _update(self, keys: Any, key_type: KeyType, records: Batch) -> None:
        try:
            table_key, table_keys = self._table_keys(key_type, keys)
            self._totals.update(table_keys, table_key, self._read(records))
        except RefusedValueError as error:
            raise self._refused_value(error.aggregate, error.row, error.reason, records) from error
        except SerializationError as error:
            raise SerializationError(f"step {self._step_id!r}: {error}") from error
        except StateError as error:
            raise self._refused(error, keys, records, _hint(error)) from error

    def _read(self, records: Batch) -> dict[str, Values]:
        """What each aggregate reads that has a field."""
        rows: list[Any] | None = None
        read: dict[str, Values] = {}
        for name, aggregate in self._aggregates.items():
            field = aggregate.field
            if field is None:
                continue
            if isinstance(records, Columns) and isinstance(field, str):
                values = records[field]
            else:
                if rows is None:
                    rows = records.to_rows() if isinstance(records, Columns) else records
                values = each(self._step_id, itemgetter(field) if isinstance(field, str) else field, rows)
            try:
                read[name] = read_values(values, nan=aggregate.nan, count_bools=aggregate.kind in ("sum", "mean"))
            except RefusedValueError as error:
                error.aggregate = name
                raise
        return read

    def _refused_value(self, name: str, row: int, reason: str, records: Batch) -> UserFunctionError:
        aggregate = self._aggregates[name]
        field = aggregate.field
        if isinstance(field, str):
            value = to_list(records[field][row : row + 1])[0] if isinstance(records, Columns) else records[row][field]
            what = f"has {value!r} as {field!r}"
        else:
            what = f"gives {name!r} the value that its function made"
        return UserFunctionError(
            f"step {self._step_id!r}, {name}={aggregate.kind}(...): a record {what}, {reason}; record {row} of the "
            f"batch is {shown(records, row)}",
            step_id=self._step_id,
        )

    def _key_columns(self, elements: tuple[Any, ...]) -> dict[str, Any]:
        """Result columns of the key, from one array or list for each of its elements."""
        fields = self._selector.fields
        if len(fields) == 1 and isinstance(self._key_type, tuple):
            # A function's tuple is one column of tuples: numpy would make columns of them.
            keys = list(zip(*map(key_list, elements), strict=True))
            return {fields[0]: np.fromiter(keys, object, len(keys))}
        types = self._key_type if isinstance(self._key_type, tuple) else (self._key_type,)
        return {field: _array(column, kind) for field, column, kind in zip(fields, elements, types, strict=True)}

    def _elements(self, keys: Any) -> tuple[Any, ...]:
        """One array or list for each element of the keys of a batch."""
        return self._split(keys) if isinstance(self._key_type, tuple) else (keys,)


def _hint(error: StateError) -> str:
    """What to do about what a table says of the values of a batch, where it does not say it itself."""
    if isinstance(error, StateOverflowError):
        return ". Leave out type= for sums of any size, or filter such records out"
    if isinstance(error, NotANumberError):
        return ". Leave out type=, give nan='skip', or filter such records out"
    return ""


def _array(values: Any, key_type: KeyType | None) -> Any:
    if key_type in ("i64", "u64"):
        return np.asarray(values, dtype=np.int64 if key_type == "i64" else np.uint64)
    return np.fromiter(key_list(values), object, len(values))


def _slices(rows: Rows) -> Iterator[Rows]:
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        yield rows.slice(start, start + _ROWS_AT_ONCE)


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
        self._update(keys, key_type, records)
        if self._emit == "changes" and self._totals.table is not None:
            found, indices = self._totals.table.get_distinct(keys)
            columns = Columns({**self._key_columns(self._elements(pick(keys, indices))), **self._totals.results(found)})
            out.emit(columns.to_rows() if isinstance(records, list) else columns)

    def end(self, out: Output) -> None:
        if self._emit != "final" or self._totals.table is None:
            return
        for rows in _slices(self._totals.table.scan(sort=True)):
            out.emit(Columns({**self._key_columns(rows.key_columns()), **self._totals.results(rows)}))


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
        if self._totals.table is None:
            return
        # Before the end of time everything closes; its last instant needs a bound that still fits.
        bound = END_OF_TIME if watermark == END_OF_TIME else watermark - self._wait + 1
        for rows in _slices(self._totals.drain_below(bound)):
            starts, *elements = rows.key_columns()
            columns = Columns(
                {
                    **self._key_columns(tuple(elements)),
                    "window_start": starts.astype("M8[us]"),
                    "window_end": (starts + self._window.size_us).astype("M8[us]"),
                    **self._totals.results(rows),
                }
            )
            out.emit(columns, starts + self._window.size_us - 1)
        self._totals.forget_below(bound)

    def snapshot(self, checkpoint: Any) -> bytes | None:
        return self._watermark.to_bytes(8, "little", signed=True)


def _pick(records: Batch, rows: Any) -> Batch:
    return records.take(rows) if isinstance(records, Columns) else pick(records, rows)
