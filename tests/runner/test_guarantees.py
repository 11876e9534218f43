"""Each guarantee for what it is: killed at the worst moments, and what the output then holds."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter

import pytest
from support import ROWS, ids, life, write_input

from onceflow import Dataflow, run
from onceflow.exceptions import DeliveryGuaranteeError, FencedError, SinkError
from onceflow.runtime import job
from onceflow.sinks import IdempotentSink, PlainSink, SinkWriter
from onceflow.testing import (
    ABORT,
    EOF,
    AbortedError,
    IdempotentTestingSink,
    PlainTestingSink,
    TestingSource,
    TransactionalTestingSink,
)

KILLS = ["sink.pre_commit:2", "decide.post_wait:2", "task.post_snapshot:3", "decide.pre:2", "barrier.mid_inject:3"]

pytestmark = pytest.mark.usefixtures("crash_points")


def killed_and_resumed(root, guarantee, kind, points):
    write_input(root)
    for point in points:
        assert life(root, guarantee, kind, crash_at=point) == -signal.SIGKILL, point
    assert life(root, guarantee, kind) == 0
    return ids(root)


@pytest.mark.parametrize("point", [*KILLS, "sink.mid_write:2"])
def test_at_most_once_never_repeats(tmp_path, point):
    found = killed_and_resumed(tmp_path, "at_most_once", "plain", [point])
    assert max(Counter(found).values()) == 1
    assert set(found) <= set(range(ROWS))


def test_at_most_once_may_lose(tmp_path):
    # Decided and not written yet: the positions are durable, so the records are gone.
    found = killed_and_resumed(tmp_path, "at_most_once", "plain", ["decide.post_wait:2"])
    assert len(found) < ROWS


@pytest.mark.parametrize("point", KILLS)
def test_at_least_once_never_loses(tmp_path, point):
    found = killed_and_resumed(tmp_path, "at_least_once", "plain", [point])
    assert set(found) == set(range(ROWS))


def test_at_least_once_may_repeat(tmp_path):
    found = killed_and_resumed(tmp_path, "at_least_once", "plain", ["decide.pre:2"])
    assert len(found) > ROWS


@pytest.mark.parametrize("point", KILLS)
def test_effectively_once_repeats_only_what_replaces_itself(tmp_path, point):
    found = killed_and_resumed(tmp_path, "effectively_once", "idempotent", [point])
    assert set(found) == set(range(ROWS))


@pytest.mark.parametrize("point", [*KILLS, "sink.mid_write:2"])
def test_exactly_once_into_an_idempotent_sink(tmp_path, point):
    found = killed_and_resumed(tmp_path, "exactly_once", "idempotent", [point])
    # Only the output of the checkpoint that was decided and not known to be written is written again.
    assert set(found) == set(range(ROWS))
    assert max(Counter(found).values()) <= 2


def test_an_abort_mark_rewinds_to_the_last_checkpoint(state):
    source = TestingSource([*range(30), ABORT, *range(30, 60)])
    sink = TransactionalTestingSink()
    flow = Dataflow("abort")
    flow.source("in", source).map(lambda number: number * 2).sink("out", sink)
    with pytest.raises(AbortedError):
        run(flow, state, checkpoint_interval_s=1e-6)
    assert len(sink.records) <= 30
    assert run(flow, state).finished
    assert sink.records == [number * 2 for number in range(60)]


@pytest.mark.parametrize("guarantee", ["exactly_once", "effectively_once"])
def test_a_plain_sink_cannot_keep_the_claim(state, guarantee):
    flow = Dataflow("claim")
    flow.source("in", TestingSource([1])).sink("out", PlainTestingSink())
    with pytest.raises(DeliveryGuaranteeError, match=r"'out'.*neither transactional nor idempotent"):
        run(flow, state, guarantee=guarantee)
    assert not state.exists()


def test_a_source_that_cannot_be_replayed_cannot_keep_the_claim(state):
    flow = Dataflow("claim")
    flow.source("in", TestingSource([1], replayable=False)).sink("out", TransactionalTestingSink())
    with pytest.raises(DeliveryGuaranteeError, match=r"'in'.*cannot be read again"):
        run(flow, state, guarantee="at_least_once")


def test_at_most_once_of_a_source_that_cannot_be_replayed(state):
    source = TestingSource([1, 2, 3, ABORT, 4], replayable=False, batch_size=1)
    sink = PlainTestingSink()
    flow = Dataflow("live")
    flow.source("in", source).sink("out", sink)
    assert "must not hand out a record again" in flow.explain("at_most_once")
    with pytest.raises(AbortedError):
        run(flow, state, guarantee="at_most_once", checkpoint_interval_s=1e-9)
    assert run(flow, state, guarantee="at_most_once").finished
    assert sink.records[-1] == 4
    assert max(Counter(sink.records).values()) == 1


@pytest.mark.parametrize("call", ["write", "seal", "prepare", "commit"])
@pytest.mark.parametrize("nth", [1, 2])
def test_a_sink_that_fails_loses_and_repeats_nothing(state, call, nth):
    source = TestingSource(list(range(100)))
    sink = TransactionalTestingSink(fail={call: nth})
    flow = Dataflow("fails")
    flow.source("in", source).sink("out", sink)
    with pytest.raises(SinkError):
        run(flow, state, checkpoint_interval_s=1e-6)
    assert run(flow, state, checkpoint_interval_s=1e-6).finished
    assert sink.records == list(range(100))


def replace(state):
    """Another process takes the job over."""
    script = (
        "import sys; from onceflow.embed import StateBackend; "
        "StateBackend.open(sys.argv[1], job='replaced', take_over=True).close()"
    )
    subprocess.run([sys.executable, "-c", script, str(state)], check=True)


class Replaced(IdempotentSink, SinkWriter):
    """Is replaced once it has been written to."""

    def __init__(self, state):
        self.state, self.written = state, []

    def open(self, context):
        return self

    def write(self, records):
        self.written.append(list(records))
        replace(self.state)

    def flush(self):
        pass

    def close(self):
        pass


def test_a_run_that_was_replaced_writes_nothing_more_of_a_decided_checkpoint(state, monkeypatch):
    """Kind: a process that was paused within a commit wakes up, and writes over what its successor has written."""
    monkeypatch.setattr(job, "_EPOCH_EVERY_S", 1e9)
    flow, sink = Dataflow("replaced"), Replaced(state)
    flow.source("in", TestingSource([1, 2, 3], batch_size=1)).sink("out", sink)
    with pytest.raises(FencedError):
        run(flow, state, checkpoint_interval_s=1e9)
    assert sink.written == [[1]]


class AtOnce(PlainSink, SinkWriter):
    """Shows records once they are flushed; ``after`` is called with the number of those that were written."""

    def __init__(self, after=lambda count: None):
        self.written, self.shown, self.after = [], [], after

    def open(self, context):
        self.written = list(self.shown)
        return self

    def write(self, records):
        self.written += records
        self.after(len(self.written))

    def flush(self):
        self.shown = list(self.written)

    def close(self):
        pass


def test_what_is_written_at_once_is_flushed_before_the_decision(state):
    """Kind: the positions of a checkpoint are after records that their sink still holds in memory."""
    flow, sink = Dataflow("flushed"), AtOnce()
    flow.source("in", TestingSource([1, 2, EOF, 3])).sink("out", sink)
    run(flow, state, guarantee="at_least_once")
    assert sink.shown == [1, 2]
    assert run(flow, state, guarantee="at_least_once").finished
    assert sink.shown == [1, 2, 3]


def test_a_run_that_was_replaced_writes_nothing_more_at_once(state, monkeypatch):
    """Kind: a process that was paused and replaced wakes up, and writes beside its successor."""
    # What notices it otherwise comes once a second.
    monkeypatch.setattr(job, "_EPOCH_EVERY_S", 1e9)
    flow, sink = Dataflow("replaced"), AtOnce(lambda count: replace(state) if count == 1 else None)
    flow.source("in", TestingSource([1, 2, 3], batch_size=1)).sink("out", sink)
    with pytest.raises(FencedError):
        run(flow, state, guarantee="at_least_once", checkpoint_interval_s=1e9)
    assert sink.written == [1]


def test_an_idempotent_sink_that_fails_is_written_again(state):
    sink = IdempotentTestingSink(key=lambda number: number, fail={"flush": 2})
    flow = Dataflow("fails")
    flow.source("in", TestingSource(list(range(100)))).sink("out", sink)
    with pytest.raises(SinkError):
        run(flow, state, checkpoint_interval_s=1e-6)
    assert run(flow, state).finished
    assert sorted(sink.records) == list(range(100))
