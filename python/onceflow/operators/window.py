"""Aggregates by key and tumbling window."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from onceflow._native import Rows
from onceflow.aggregates import Aggregate
from onceflow.columns import Columns
from onceflow.exceptions import StateError
from onceflow.graph.partitioning import KeySelector, KeyType
from onceflow.operators.aggregating import Aggregating
from onceflow.operators.base import EventTimes, OperatorContext, Output
from onceflow.operators.calls import shown
from onceflow.operators.keys import decode_key
from onceflow.operators.values import pick_records
from onceflow.types import BEGINNING_OF_TIME, END_OF_TIME, FIRST_MICROS, LAST_MICROS, Batch, Micros
from onceflow.watermarks import Times
from onceflow.windows import Tumbling

__all__ = ["AggregateWindows"]


class AggregateWindows(Aggregating):
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
        # Its own one of a version that kept it here.
        watermark = context.marks.get("watermark", context.watermark)
        by_watermark = BEGINNING_OF_TIME if watermark is None else self._closed_by(watermark)
        # With a longer lateness than before, windows that were closed would be open again.
        self._closed = context.marks.get("closed", by_watermark)

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
            out.emit_side("late", pick_records(records, rows), times[rows])
            rows = np.flatnonzero(~late)
            records, starts = pick_records(records, rows), starts[rows]
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

    def marks(self) -> dict[str, Micros]:
        return {"closed": self._closed}
