"""Event times of records on their way, and how far event time has come.

A watermark W says: no record below W is expected any more. Each partition has its own, the newest time that it has seen
less the disorder that its source is allowed. A source's is the lowest of its partitions, a step's the lowest of its
inputs; neither ever falls, also over a resume.

A record is judged by the watermark of its own partition right before it, which is never below that of any step that the
record comes to. So which records are late follows from the order within each partition alone: not from where batches
end, nor from which partition was read first. Only records below that watermark need to carry it along.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onceflow.types import BEGINNING_OF_TIME, END_OF_TIME, FIRST_MICROS, LAST_MICROS, Micros

__all__ = ["CaughtUp", "PartitionWatermark", "Times", "combined", "combined_partitions"]

_BLOCK = 256


@dataclass(frozen=True, slots=True)
class Times:
    """The event times of a batch.

    Attributes:
        values: int64 microseconds since 1970 UTC, one a record.
        watermarks: For each record the watermark of its partition before it; None if no record is below it.
    """

    values: npt.NDArray[np.int64]
    watermarks: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: Any) -> Times:
        """Those of some records: indices, a mask, or a slice."""
        return Times(self.values[rows], None if self.watermarks is None else self.watermarks[rows])

    def repeat(self, counts: Any) -> Times:
        """Those of ``counts`` records made of each record."""
        marks = self.watermarks
        return Times(np.repeat(self.values, counts), None if marks is None else np.repeat(marks, counts))

    def reached(self, watermark: Micros) -> npt.NDArray[np.int64]:
        """How far event time has come with each record: its time, or a watermark where that is later."""
        times = np.maximum(self.values, watermark)
        return times if self.watermarks is None else np.maximum(times, self.watermarks)


def combined(inputs: Iterable[tuple[Micros | None, bool]]) -> tuple[Micros | None, bool]:
    """How far event time has come in several inputs together, and whether they are idle together.

    The lowest watermark of those that are not idle, None before each of them has one. Where all are idle that have not
    ended, the highest: as if they had fallen idle one by one, in whatever order.

    Args:
        inputs: Of each its watermark, None if it has none yet, and whether it is idle. One that has ended stands at the
            end of time.
    """
    lowest, highest = END_OF_TIME, None
    live = active = False
    for watermark, idle in inputs:
        if watermark == END_OF_TIME:
            continue
        live = True
        if not idle:
            if watermark is None:
                return None, False
            active = True
            lowest = min(lowest, watermark)
        elif watermark is not None:
            highest = watermark if highest is None else max(highest, watermark)
    if not live or active:
        return lowest, False
    return highest, True


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """A partition that was read to what is its end for now, in a run until caught up; more of it may come tomorrow.

    No clock says how long nothing has come from it, so what passes is event time: that of the others.

    Attributes:
        grows: More of it may come. Of what does not, such as a Parquet file, no record is waited for.
        idle_after_us: How much further event time comes elsewhere before it holds no watermark back; None: it always
            does.
    """

    grows: bool
    idle_after_us: int | None

    def is_passed(self, watermark: Micros | None, reached: Micros | None) -> bool:
        """Whether event time, which elsewhere has come to ``reached``, has left it behind."""
        if self.idle_after_us is None:
            return False
        return watermark is None or (reached is not None and reached - watermark >= self.idle_after_us)


def combined_partitions(
    partitions: Iterable[tuple[Micros | None, bool, CaughtUp | None]], reached: Micros | None
) -> tuple[Micros | None, bool]:
    """``combined`` for the partitions of one source, some of which may be caught up.

    A source all of whose partitions are at their ends for now is not idle: tomorrow's are about as old.

    Args:
        partitions: Of each its watermark, whether it is idle, and what it is caught up by, if it is.
        reached: How far event time has come in the partition that is furthest.
    """
    inputs = []
    all_passed = True
    for watermark, idle, caught_up in partitions:
        if watermark == END_OF_TIME:
            continue
        passed = idle if caught_up is None else caught_up.is_passed(watermark, reached)
        all_passed &= passed
        inputs.append((watermark, passed or (caught_up is not None and not caught_up.grows)))
    watermark, idle = combined(inputs)
    return watermark, idle and all_passed


class PartitionWatermark:
    """How far event time has come in one partition.

    Args:
        delay_us: How far a record may lie behind the newest one, in microseconds.
        newest: The newest time so far; None before the first record.
    """

    __slots__ = ("_delay", "newest")

    def __init__(self, delay_us: int, newest: Micros | None = None) -> None:
        self._delay = delay_us
        self.newest = newest

    @property
    def value(self) -> Micros | None:
        """The watermark; None before the first record."""
        return None if self.newest is None else self.newest - self._delay

    def take(self, times: npt.NDArray[np.int64]) -> Times:
        """The times of the next records, with the watermark before each where it matters.

        Raises:
            ValueError: One is not in the years 1 to 9999.
        """
        if len(times) == 0:
            return Times(times)
        first, last = int(times.min()), int(times.max())
        if first < FIRST_MICROS or last > LAST_MICROS:
            row = int(np.flatnonzero((times < FIRST_MICROS) | (times > LAST_MICROS))[0])
            raise ValueError(
                f"record {row} of a batch has the event time {times[row]}, which as microseconds since 1970 is not in "
                "the years 1 to 9999"
            )
        before = BEGINNING_OF_TIME if self.newest is None else self.newest - self._delay
        self.newest = last if self.newest is None else max(self.newest, last)
        if first >= self.newest - self._delay or self._is_in_order(times, before):
            return Times(times)
        marks = np.empty_like(times)
        marks[0] = before
        running = marks[1:]
        np.maximum.accumulate(times[:-1], out=running)
        np.subtract(running, self._delay, out=running)
        np.maximum(running, before, out=running)
        return Times(times, marks if bool((times < marks).any()) else None)

    def _is_in_order(self, times: npt.NDArray[np.int64], before: Micros) -> bool:
        """Whether it is seen at a glance that no record is below the watermark before it: block by block, which is some
        times as fast as record by record."""
        begins = np.arange(0, len(times), _BLOCK)
        newest = np.maximum.accumulate(np.maximum.reduceat(times, begins))
        return bool((np.minimum.reduceat(times, begins) >= np.maximum(newest - self._delay, before)).all()) or (
            int(times[0]) >= before and bool((times[1:] >= times[:-1]).all())
        )
