"""Checkpoints are written by one thread of the job.

The kind of fault: each checkpoint starts a thread of the operating system, which takes time and fails where there are
no more of them.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

from onceflow import Dataflow, run
from onceflow.events import CheckpointCompleted
from onceflow.sources import Source, SourceBatch, SourceReader
from onceflow.testing import TransactionalTestingSink

CHECKPOINTS = 50


class Numbers(Source):
    def partitions(self):
        return ["all"]

    def open(self, partition, position):
        return NumbersReader(position or 0)


class NumbersReader(SourceReader):
    def __init__(self, position):
        self.at = position

    def read(self, max_records):
        self.at += max_records
        return SourceBatch([{"n": n} for n in range(self.at - max_records, self.at)])

    def position(self):
        return self.at


class Sampler:
    """The ids of all threads of this process that were seen alive."""

    def __init__(self):
        self.seen = set()
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.look)

    def look(self):
        while not self.over.is_set():
            self.seen.update(Path("/proc/self/task").iterdir())

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.over.set()
        self.thread.join()


class Enough(Exception):
    pass


def test_no_thread_is_started_for_a_checkpoint(state):
    completed = 0
    alive = set()

    def on_event(event):
        nonlocal completed
        if not isinstance(event, CheckpointCompleted):
            return
        completed += 1
        if completed == 1:
            # All that a run needs is there.
            alive.update(Path("/proc/self/task").iterdir())
            sampler.seen.clear()
        if completed > CHECKPOINTS:
            raise Enough

    flow = Dataflow("threads")
    keyed = flow.source("in", Numbers()).key_by("n")
    keyed.stateful_map("nth", lambda nth, row: ((nth or 0) + 1, row)).sink("out", TransactionalTestingSink())
    with Sampler() as sampler, suppress(Enough):
        run(flow, state, batch_size=200, checkpoint_interval_s=1e-9, on_event=on_event)
    assert completed > CHECKPOINTS
    assert sampler.seen
    assert sampler.seen <= alive
