"""Running aggregates by key, and aggregates of tumbling windows."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from onceflow._native import Batch as Rows
from onceflow.aggregates import Aggregate
from onceflow.columns import Columns, to_list
from onceflow.exceptions import (
    NotANumberError,
    SerializationError,
    StateError,
    StateOverflowError,
    TypeMismatchError,
    UserFunctionError,
)
from onceflow.operators.base import EventTimes, OperatorContext, Output
from onceflow.operators.calls import each, shown
from onceflow.operators.keyed import KeyedOperator
from onceflow.operators.keys import KeySelector, KeyType, decode_key, key_list, key_order, other_keys, plain_key
from onceflow.operators.totals import Totals
from onceflow.operators.values import RefusedValueError, Values, pick, read_values
from onceflow.types import BEGINNING_OF_TIME, END_OF_TIME, FIRST_MICROS, LAST_MICROS, Batch, Micros
from onceflow.watermarks import Times
from onceflow.windows import Tumbling

__all__ = ["AggregateKeys", "AggregateWindows"]

#: Most rows that are handed out at once at the end of the input or of a window: Python objects exist for these only.
_ROWS_AT_ONCE = 1 << 16
#: What a window step kept before it kept what is closed: its watermark, as so many bytes.
_WATERMARK_BYTES = 8


@dataclass(frozen=True, slots=True)
class _Part:
    """Where some records of a batch have their totals.

    Attributes:
        totals: The table's.
        keys: Of the records, as the table has them.
        rows: The records; None: all of the batch.
    """

    totals: Totals
    keys: Any
    rows: npt.NDArray[np.int64] | None


class _Aggregating(KeyedOperator):
    """Base: totals by key; those of keys that no native type holds in a table of their own."""

    def __init__(self, selector: KeySelector, key_type: KeyType | None, aggregates: Mapping[str, Aggregate]) -> None:
        super().__init__(selector, key_type)
        self._aggregates = aggregates

    def open(self, context: OperatorContext) -> None:
        self._step_id = context.step_id
        self._native, self._others = (
            Totals(context.step_id, context.backend, context.codec, name, self._aggregates)
            for name in (context.step_id, other_keys(context.step_id))
        )
        if self._native.table is not None:
            self._resume(self._user_key(self._native.table.schema.key))
        self._resume_others(context.backend)

    def _user_key(self, key: KeyType) -> KeyType:
        """The type of the step's keys, from that of its table's."""
        return key

    def _table_keys(self, key_type: KeyType, keys: Any, rows: Any) -> tuple[KeyType, Any]:
        """Type and values of the table's keys, from those of the step's at these rows of the batch (None: all)."""
        return key_type, keys

    def _update(self, keys: Any, records: Batch) -> list[_Part]:
        """Takes a batch in; where each row's key has its totals."""
        try:
            values = self._read(records)
            if self._is_native:
                try:
                    return [self._update_part(self._native, keys, None, values)]
                except TypeMismatchError:
                    # Nothing was taken in. Some keys may lie elsewhere, or one may be none.
                    listed = list(map(plain_key, key_list(keys)))
                    native = self._native_rows(listed, records)
                    if native.all():
                        raise
            else:
                listed = list(map(plain_key, key_list(keys)))
                native = self._native_rows(listed, records)
            parts = []
            for totals, rows in ((self._native, np.flatnonzero(native)), (self._others, np.flatnonzero(~native))):
                if len(rows):
                    taken = {name: read.take(rows) for name, read in values.items()}
                    parts.append(self._update_part(totals, pick(listed, rows), rows, taken))
            return parts
        except RefusedValueError as error:
            raise self._refused_value(error.aggregate, error.row, error.reason, records) from error
        except SerializationError as error:
            raise SerializationError(f"step {self._step_id!r}: {error}") from error
        except StateError as error:
            raise self._refused(error, keys, records, _hint(error)) from error

    def _update_part(self, totals: Totals, keys: Any, rows: Any, values: Mapping[str, Values]) -> _Part:
        key_type: Any = self._key_type
        if totals is self._others:
            key_type, keys = "bytes", self._encoded(keys)
        table_type, table_keys = self._table_keys(key_type, keys, rows)
        try:
            totals.update(table_keys, table_type, values)
        except RefusedValueError as error:
            error.row = error.row if rows is None else int(rows[error.row])
            raise
        return _Part(totals, keys, rows)

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

    def _key_columns(self, elements: tuple[Any, ...], *, native: bool) -> dict[str, Any]:
        """Result columns of the key, from one array or list for each of its elements, or from the bytes of any keys."""
        fields = self._selector.fields
        if not native:
            keys = list(map(decode_key, elements[0]))
            if len(fields) == 1:
                return {fields[0]: np.fromiter(keys, object, len(keys))}
            return {
                field: np.fromiter(map(itemgetter(index), keys), object, len(keys))
                for index, field in enumerate(fields)
            }
        if len(fields) == 1 and isinstance(self._key_type, tuple):
            # A function's tuple is one column of tuples: numpy would make columns of them.
            keys = list(zip(*map(key_list, elements), strict=True))
            return {fields[0]: np.fromiter(keys, object, len(keys))}
        types = self._key_type if isinstance(self._key_type, tuple) else (self._key_type,)
        return {field: _array(column, kind) for field, column, kind in zip(fields, elements, types, strict=True)}

    def _columns(self, rows: Rows, *, native: bool) -> Columns:
        """Rows of a table as records."""
        totals = self._native if native else self._others
        return Columns({**self._key_columns(rows.key_columns(), native=native), **totals.results(rows)})

    def _sorted(self, native: Rows | None, others: Rows | None) -> Iterator[Columns]:
        """Rows of both tables, each sorted, as records sorted by key; None comes first."""
        if native is None or others is None or not len(native) or not len(others):
            for part, is_native in ((native, True), (others, False)):
                for rows in () if part is None else _slices(part):
                    yield self._columns(rows, native=is_native)
            return
        done = 0
        places = [key_order(self._order_key(key)) for key in key_list(others.keys)]
        for rows in _slices(native):
            orders = [key_order(key) for key in key_list(rows.keys)]
            upto = bisect_left(places, orders[-1], done)
            if upto == done:
                yield self._columns(rows, native=True)
                continue
            between = [bisect_left(orders, place) for place in places[done:upto]]
            both = [self._columns(rows, native=True), self._columns(others.slice(done, upto), native=False)]
            order = np.insert(np.arange(len(rows)), between, len(rows) + np.arange(upto - done))
            yield Columns.concat(both).take(order)
            done = upto
        for rows in _slices(others.slice(done, len(others))):
            yield self._columns(rows, native=False)

    def _order_key(self, key: Any) -> Any:
        """The key of a row of the table of any keys, to be compared with the native ones."""
        return decode_key(key)


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
        parts = self._update(self._keys(records), records)
        if self._emit == "changes":
            columns = self._changed(parts)
            out.emit(columns.to_rows() if isinstance(records, list) else columns)

    def _changed(self, parts: list[_Part]) -> Columns:
        """The totals of the keys of a batch, in the order in which they occur in it."""
        changed: list[Columns] = []
        places: list[npt.NDArray[np.int64]] = []
        for part in parts:
            assert part.totals.table is not None
            native = part.totals is self._native
            found, indices = part.totals.table.get_distinct(part.keys)
            keys = pick(part.keys, indices)
            elements = self._split(keys) if native and isinstance(self._key_type, tuple) else (keys,)
            changed.append(Columns({**self._key_columns(elements, native=native), **part.totals.results(found)}))
            places.append(indices if part.rows is None else part.rows[indices])
        if len(changed) == 1:
            return changed[0]
        return Columns.concat(changed).take(np.argsort(np.concatenate(places)))

    def end(self, out: Output) -> None:
        if self._emit != "final":
            return
        native, others = (
            None if totals.table is None else totals.table.scan(sort=True) for totals in (self._native, self._others)
        )
        for columns in self._sorted(native, others):
            out.emit(columns)


class AggregateWindows(_Aggregating):
    """Aggregates by key and tumbling window; a window is handed out once, when it closes.

    A window closes when the watermark has passed its end and the allowed lateness, for ever. A record is late, and goes
    to the side output ``late``, if its window was to be closed by the watermark of its own partition before it; that is
    never below the step's, so no record that is taken finds its window closed. Windows come out by start, then by key.

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
        self.behind_us = allowed_lateness_us
        #: Windows that begin before it are closed for ever.
        self._closed: Micros = BEGINNING_OF_TIME

    def open(self, context: OperatorContext) -> None:
        super().open(context)
        restored = context.restored
        if restored is None:
            self._closed = BEGINNING_OF_TIME if context.watermark is None else self._closed_by(context.watermark)
        elif len(restored) == _WATERMARK_BYTES:
            self._closed = self._closed_by(int.from_bytes(restored, "little", signed=True))
        else:
            self._closed = msgspec.msgpack.decode(restored)["closed"]

    def _closed_by(self, watermark: Micros) -> Micros:
        """The first start of a window that is still open at a watermark."""
        # Before the end of time everything closes.
        return END_OF_TIME if watermark == END_OF_TIME else max(watermark - self._wait + 1, BEGINNING_OF_TIME)

    def _user_key(self, key: KeyType) -> KeyType:
        elements = tuple(key)[1:]
        return elements[0] if len(elements) == 1 else elements

    def _table_keys(self, key_type: KeyType, keys: Any, rows: Any) -> tuple[KeyType, Any]:
        starts = self._starts if rows is None else self._starts[rows]
        if isinstance(key_type, tuple):
            return ("i64", *key_type), (starts, *self._split(keys))
        return ("i64", key_type), (starts, keys)

    def _order_key(self, key: Any) -> Any:
        start, data = key
        user = decode_key(data)
        return (start, *user) if isinstance(user, tuple) else (start, user)

    def _columns(self, rows: Rows, *, native: bool) -> Columns:
        starts, *elements = rows.key_columns()
        return Columns(
            {
                **self._key_columns(tuple(elements), native=native),
                "window_start": starts.astype("M8[us]"),
                "window_end": (starts + self._window.size_us).astype("M8[us]"),
                **(self._native if native else self._others).results(rows),
            }
        )

    def process(self, records: Batch, times: EventTimes, out: Output) -> None:
        if times is None:
            raise StateError(f"step {self._step_id!r}: records without event time reached a window")
        starts = self._window.starts(times.values)
        late = starts < self._closed
        if times.watermarks is not None:
            late |= starts + self._wait <= times.watermarks
        if late.any():
            rows = np.flatnonzero(late)
            out.emit_side("late", _pick(records, rows), times[rows])
            rows = np.flatnonzero(~late)
            records, starts = _pick(records, rows), starts[rows]
            if len(records) == 0:
                return
        self._check_bounds(starts, records)
        self._starts = starts
        self._update(self._keys(records), records)

    def _check_bounds(self, starts: npt.NDArray[np.int64], records: Batch) -> None:
        first, last = FIRST_MICROS, LAST_MICROS - self._window.size_us
        if int(starts.min()) < first or int(starts.max()) > last:
            row = int(np.flatnonzero((starts < first) | (starts > last))[0])
            raise StateError(
                f"step {self._step_id!r}: the window of a record begins before the year 1 or ends after the year 9999, "
                "which no datetime can show. Filter such records out before the window; record "
                f"{row} of the batch is {shown(records, row)}"
            )

    def on_watermark(self, watermark: Micros, out: Output) -> None:
        bound = self._closed_by(watermark)
        # A longer lateness than before the last resume opens nothing again.
        if bound <= self._closed:
            return
        self._closed = bound
        native, others = self._native.drain_below(bound), self._others.drain_below(bound)
        for columns in self._sorted(native, others):
            out.emit(columns, Times(columns["window_end"].astype(np.int64) - 1))
        self._native.forget_below(bound)
        self._others.forget_below(bound)

    def snapshot(self, checkpoint: Any) -> bytes | None:
        return msgspec.msgpack.encode({"closed": self._closed})


def _pick(records: Batch, rows: Any) -> Batch:
    return records.take(rows) if isinstance(records, Columns) else pick(records, rows)
