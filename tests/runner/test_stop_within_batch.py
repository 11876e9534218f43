"""Ctrl-C is told and heeded while a batch of slow records is under way, and the output is that of a run without it.

The kind of fault: a signal waits for the end of a batch, which takes 41 seconds at 5 ms a record.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

from onceflow import Dataflow, count, run
from onceflow.connectors.files import CsvSource
from onceflow.embed import StateBackend
from onceflow.events import Stopping
from onceflow.exceptions import DamagedCheckpointWarning, UserFunctionError
from onceflow.testing import TestingSource, TransactionalTestingSink
from onceflow.windows import Tumbling

sys.path.insert(0, str(Path(__file__).parents[1] / "state"))
import disk

ROWS = 240
BATCH = 100


def rows_of(part):
    return [{"n": n, "k": n % 5, "t": n * 1000} for n in range(part, 3 * ROWS, 3)]


class Job:
    """Three partitions; the function is slow, and sends Ctrl-C at some records, each once."""

    def __init__(self, *interrupts, slow_s=0.001, changes=False, crash_at=None):
        self.interrupts = set(interrupts)
        self.crash_at = crash_at
        self.slow_s = slow_s
        self.events = []
        self.seen_after = []
        self.sinks = {name: TransactionalTestingSink() for name in ("nth", "windows", "changes")}
        self.flow = Dataflow("stop", deterministic=True)
        source = TestingSource(*map(rows_of, range(3)), event_time=lambda row: row["t"], batch_size=BATCH)
        rows = self.flow.source("in", source).map(self.slow)
        keyed = rows.key_by("k")
        numbered = keyed.stateful_map("nth", lambda nth, row: ((nth or 0) + 1, (row["n"], (nth or 0) + 1)))
        numbered.sink("nth-out", self.sinks["nth"])
        windows = keyed.window("windows", Tumbling(timedelta(milliseconds=50))).aggregate(rows=count())
        windows.sink("windows-out", self.sinks["windows"])
        if changes:
            keyed.aggregate("totals", rows=count()).sink("totals-out", self.sinks["changes"])

    def slow(self, row):
        if self.slow_s:
            time.sleep(self.slow_s)
        if self.events and isinstance(self.events[-1], Stopping):
            self.seen_after.append(row["n"])
        if row["n"] == self.crash_at:
            self.crash_at = None
            raise RuntimeError("crashed")
        if row["n"] in self.interrupts and not self.interrupted:
            self.interrupts.remove(row["n"])
            self.interrupted = True
            os.kill(os.getpid(), signal.SIGINT)
        return row

    def run(self, state, **settings):
        self.interrupted = False
        settings = {"batch_size": BATCH, "checkpoint_interval_s": 1e9, "on_event": self.events.append, **settings}
        return run(self.flow, state, **settings)

    @property
    def output(self):
        return {name: sink.records for name, sink in self.sinks.items()}


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    job = Job(slow_s=0)
    assert job.run(tmp_path_factory.mktemp("calm") / "state").finished
    assert len(job.output["nth"]) == 3 * ROWS
    assert len(job.output["windows"]) > 20
    return job.output


@pytest.mark.parametrize(
    "interrupts",
    [(3,), (150,), (200,), (280,), (4, 301, 302), tuple(range(0, 700, 61))],
    ids=lambda numbers: "-".join(map(str, numbers))[:20],
)
def test_stopped_within_batches_the_output_is_that_of_a_run_without_stops(state, calm, interrupts):
    job = Job(*interrupts)
    runs = 0
    while not (result := job.run(state)).finished:
        runs += 1
        assert result.checkpoints == 1
        assert runs <= len(interrupts)
    assert runs > 0
    assert job.output == calm


def test_it_is_told_at_once_and_heeded_soon(state):
    """At 1 ms a record a piece is about 100 records, and at most 64 at first, of which these partitions have 240."""
    job = Job(30, slow_s=0.005)
    result = job.run(state)
    assert not result.finished
    # Already for the next record the event had been told.
    assert job.seen_after[0] == 33
    assert job.events.count(Stopping()) == 1
    assert result.records_in <= 64
    assert 0 < len(job.seen_after) < 64


def test_a_batch_that_must_not_be_cut_is_told_with_its_size(state):
    """What is emitted after each batch depends on where batches are cut: the batch is finished, and no more."""
    job = Job(30, changes=True)
    result = job.run(state)
    assert (result.finished, result.records_in) == (False, BATCH)
    assert [event.finishing for event in job.events if isinstance(event, Stopping)] == [BATCH]
    calm = Job(slow_s=0, changes=True)
    calm.run(state.with_name("calm"))
    assert job.run(state).finished
    assert job.output == calm.output


def test_a_source_that_cannot_be_read_again_is_not_left_within_a_batch(state):
    items = [row["n"] for row in rows_of(0)]
    job = Job()
    seen = []

    def slow(n):
        seen.append(n)
        if n == 30:
            os.kill(os.getpid(), signal.SIGINT)
        return n

    job.flow = Dataflow("stop")
    sink = TransactionalTestingSink()
    source = TestingSource(items, batch_size=BATCH, replayable=False)
    job.flow.source("in", source).map(slow).sink("out", sink)
    assert job.run(state, guarantee="at_most_once").records_in == BATCH
    assert job.run(state, guarantee="at_most_once").finished
    assert seen == sink.records == items


def test_a_crash_after_such_a_stop(state, calm):
    job = Job(150, crash_at=400)
    assert not job.run(state).finished
    with pytest.raises(UserFunctionError, match="crashed"):
        job.run(state)
    assert job.run(state).finished
    assert job.output == calm


def test_the_checkpoint_of_such_a_stop_is_damaged(state, calm):
    job = Job(150, 500)
    assert not job.run(state).finished
    result = job.run(state)
    assert not result.finished
    disk.damage(state, "chunks", result.last_checkpoint)
    with pytest.warns(DamagedCheckpointWarning):
        assert job.run(state).finished
    assert job.output == calm


def test_files_are_left_and_entered_within_batches(state, tmp_path):
    """With refused rows in some batches, which are taken as a whole."""
    lines = [str(n) if n % 97 else "bad,row,here" for n in range(600)]
    path = tmp_path / "in.csv"
    path.write_text("n\n" + "\n".join(lines) + "\n")
    interrupts = {20, 250, 500}
    seen = []

    def slow(row):
        time.sleep(0.001)
        seen.append(int(row["n"]))
        if seen[-1] in interrupts:
            interrupts.remove(seen[-1])
            os.kill(os.getpid(), signal.SIGINT)
        return row["n"]

    sink, refused = TransactionalTestingSink(), TransactionalTestingSink()
    flow = Dataflow("files")
    flow.source("in", CsvSource(path, on_malformed="dead_letter")).map(slow).sink("out", sink)
    flow.dead_letters("in").map(lambda letter: letter["position"]).sink("refused", refused)
    for _ in range(3):
        assert not run(flow, state, batch_size=90, checkpoint_interval_s=0.02).finished
    assert run(flow, state, batch_size=90).finished
    assert [int(n) for n in sink.records] == [n for n in range(600) if n % 97]
    assert seen == [int(n) for n in sink.records]
    assert len(refused.records) == len(set(refused.records)) == 7
    with StateBackend.open(state, job="files", read_only=True) as backend:
        assert backend.recovery.restored is not None
