"""drop_duplicates: the first record of each key."""

from __future__ import annotations

from typing import Any

import numpy as np

from onceflow.exceptions import StateError
from onceflow.graph.partitioning import KeySelector, KeyType
from onceflow.operators.base import EventTimes, OperatorContext, Output
from onceflow.operators.expiry import Sweep
from onceflow.operators.key_table import KeyTable
from onceflow.operators.keyed import KeyedStep
from onceflow.operators.values import pick_records
from onceflow.types import BEGINNING_OF_TIME, Batch, Micros

__all__ = ["DropDuplicates"]


class DropDuplicates(KeyedStep):
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
        self._watermark = BEGINNING_OF_TIME

    def open(self, context: OperatorContext) -> None:
        super().open(context)
        self._watermark = BEGINNING_OF_TIME if context.watermark is None else context.watermark

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
        out.emit(pick_records(records, rows), None if times is None else times[rows])

    def on_watermark(self, watermark: Micros, out: Output) -> None:
        self._watermark = watermark
