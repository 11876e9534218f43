"""A working thread that updates a table and takes checkpoints at an interval, watched from outside."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.workload import Batch, updates
from onceflow.embed import StateBackend, Table

__all__ = ["Call", "Slice", "drive", "pauses_without"]


@dataclass(frozen=True, slots=True)
class Call:
    """A call of the working thread.

    Attributes:
        took_s: Its length.
        waited_s: How much of that the thread could have run and had no CPU, because others had them all.
    """

    took_s: float
    waited_s: float

    @property
    def held_s(self) -> float:
        """What the call itself took: work, and waiting for locks and the disk."""
        return self.took_s - self.waited_s


@dataclass(slots=True)
class Slice:
    """What one stretch of work showed.

    Attributes:
        records: Updated.
        seconds: Taken, until the last checkpoint of the stretch was durable: work went on as long.
        cpu_s: CPU time of the working thread.
        checkpoints: Statistics of each.
        starts: The call that started each checkpoint.
        under_way: The update calls while each checkpoint was under way.
        undisturbed: All other update calls.
    """

    records: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0
    checkpoints: list[Any] = field(default_factory=list)
    starts: list[Call] = field(default_factory=list)
    under_way: list[list[Call]] = field(default_factory=list)
    undisturbed: list[Call] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Records a second."""
        return self.records / self.seconds

    @property
    def rate_of_cpu(self) -> float:
        """Records in a second of the working thread's CPU time."""
        return self.records / self.cpu_s

    def pauses(self, usual_s: float, *, waits: bool) -> list[float]:
        """For each checkpoint, the longest time that it held the working thread at once, in seconds.

        That is the call that starts it, or what the longest update call took beyond its usual time.

        Args:
            usual_s: Usual time of an update call.
            waits: Whether waiting for a CPU counts.
        """
        found: list[float] = []
        for start, calls in zip(self.starts, self.under_way, strict=True):
            first = start.took_s if waits else start.held_s
            longest = max((call.took_s if waits else call.held_s for call in calls), default=0.0)
            found.append(max(first, longest - usual_s, 0.0))
        return found


class _Watch:
    """Times calls of this thread, and how long it waited for a CPU as the kernel counts it."""

    def __init__(self) -> None:
        self._file = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
        self._waited_ns = self._read()

    def _read(self) -> int:
        return int(os.pread(self._file, 64, 0).split()[1])

    def call(self, took_s: float) -> Call:
        """The call that just ended, which began after the one before had been reported."""
        before, self._waited_ns = self._waited_ns, self._read()
        return Call(took_s, min((self._waited_ns - before) * 1e-9, took_s))

    def close(self) -> None:
        os.close(self._file)


def drive(
    backend: StateBackend, table: Table, work: Iterator[Batch], seconds: float, interval_s: float | None
) -> Slice:
    """Updates for so long, with a checkpoint every ``interval_s`` (None: never) unless one is still under way."""
    found = Slice()
    clock = time.perf_counter
    pending = None
    calls = found.undisturbed
    watch = _Watch()
    cpu = time.thread_time()
    begun = due = now = clock()
    end = begun + seconds
    while now < end or pending is not None:
        if interval_s is not None and pending is None and due <= now < end:
            before = clock()
            pending = backend.checkpoint({"input": found.records})
            found.starts.append(watch.call(clock() - before))
            due = max(due + interval_s, now)
            calls = []
        some, values = next(work)
        before = clock()
        table.update(some, updates(values))
        now = clock()
        calls.append(watch.call(now - before))
        found.records += len(some)
        if pending is not None and pending.done:
            found.checkpoints.append(pending.wait(0))
            found.under_way.append(calls)
            pending, calls = None, found.undisturbed
    found.seconds = now - begun
    found.cpu_s = time.thread_time() - cpu
    watch.close()
    return found


def pauses_without(slices: list[Slice], stretch_s: float, usual_s: float) -> list[float]:
    """The statistic of ``pauses`` where there was no checkpoint, over stretches of a checkpoint's length.

    What the machine itself (interrupts, its hypervisor, cold caches) does to the longest call: no pause can be told
    below it.
    """
    found: list[float] = []
    for one in slices:
        held = np.array([call.held_s for call in one.undisturbed])
        edges = np.flatnonzero(np.diff(np.cumsum(held) // max(stretch_s, usual_s))) + 1
        found.extend(max(float(part.max()) - usual_s, 0.0) for part in np.split(held, edges))
    return found
