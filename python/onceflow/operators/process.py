"""process: a user's ``Processor`` at work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from onceflow.columns import rows_of
from onceflow.exceptions import DataflowChangedError, OnceflowError
from onceflow.graph.partitioning import KeySelector, KeyType
from onceflow.operators.base import EventTimes, OperatorContext, Output
from onceflow.operators.calls import failed
from onceflow.operators.cells import CellCache
from onceflow.operators.expiry import Sweep
from onceflow.operators.keyed_cache import CachedStep, KeyedCache
from onceflow.operators.own_copies import own_copy
from onceflow.state import Processor
from onceflow.types import BEGINNING_OF_TIME, Batch, Micros, Plain

__all__ = ["Process"]


class Process(CachedStep):
    """A user's ``Processor``."""

    def __init__(self, selector: KeySelector, key_type: KeyType | None, make: Callable[[], Processor]) -> None:
        super().__init__(selector, key_type)
        self._make = make
        self._watermark = BEGINNING_OF_TIME
        self._sweep: Sweep | None = None

    def open(self, context: OperatorContext) -> None:
        super().open(context)
        self._watermark = BEGINNING_OF_TIME if context.watermark is None else context.watermark
        self._processor = self._make()
        self._processor.own_copy = own_copy
        self._check_states(cast("dict[str, str]", context.agreed.get("states") or {}))

    def agreed(self) -> dict[str, Plain]:
        return {**super().agreed(), "states": dict(self._processor.states)}

    def _check_states(self, known: Mapping[str, str]) -> None:
        declared = self._processor.states
        gone = sorted(name for name in known if name not in declared)
        if gone:
            added = sorted(name for name in declared if name not in known)
            renamed = f" (was one renamed to {added}?)" if added else ""
            raise DataflowChangedError(
                f"step {self._step_id!r} has states that its processor no longer declares: {gone}{renamed}. Give them "
                "back their names, or the step another id, or start over with resume_from='none'",
                step_ids=(self._step_id,),
            )
        for name, kind in known.items():
            if declared[name] != kind:
                raise DataflowChangedError(
                    f"step {self._step_id!r}: the state {name!r} was a {kind} and is a {declared[name]}. Give it "
                    "another name beside the old one, or start over with resume_from='none'",
                    step_ids=(self._step_id,),
                )

    def _make_cache(self) -> KeyedCache:
        cache = CellCache(self._context, self._key_type, self._processor)
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
