"""Running aggregates by key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from onceflow.aggregates import Aggregate
from onceflow.columns import Columns
from onceflow.graph.partitioning import KeySelector, KeyType
from onceflow.operators.aggregating import Aggregating, Part
from onceflow.operators.base import EventTimes, OperatorContext, Output
from onceflow.operators.values import pick
from onceflow.types import Batch

__all__ = ["EMITTED", "AggregateKeys"]

#: The mark of a step that has begun to hand out its totals.
EMITTED = "emitted"


class AggregateKeys(Aggregating):
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
        #: Rows that have been handed out since the input has ended.
        self._emitted = 0

    def open(self, context: OperatorContext) -> None:
        super().open(context)
        self._emitted = context.marks.get(EMITTED, 0)

    def process(self, records: Batch, times: EventTimes, out: Output) -> None:
        parts = self._update(self._keys(records), records)
        if self._emit == "changes":
            columns = self._changed(parts)
            out.emit(columns.to_rows() if isinstance(records, list) else columns)

    def _changed(self, parts: list[Part]) -> Columns:
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

    def end(self, out: Output) -> Iterator[None]:
        if self._emit != "final":
            return
        native, others = (
            None if totals.table is None else totals.table.scan(sort=True) for totals in (self._native, self._others)
        )
        # No record follows, so the tables stay as they are, and their order with them.
        done = 0
        for columns in self._sorted(native, others):
            skipped = max(self._emitted - done, 0)
            done += len(columns)
            if skipped < len(columns):
                out.emit(columns.slice(skipped, len(columns)) if skipped else columns)
                self._emitted = done
                yield

    def marks(self) -> dict[str, int]:
        return {EMITTED: self._emitted} if self._emitted else {}
