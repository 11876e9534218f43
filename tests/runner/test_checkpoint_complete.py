"""Sources are told of checkpoints that are complete, and of no others.

The kind of fault: offsets that are committed for records whose effect is lost, and offsets that are never committed.
"""

from __future__ import annotations

import threading

import pytest

from onceflow import Dataflow, run
from onceflow.exceptions import FinishedJobWarning, SinkError, SourceError
from onceflow.sources import Source
from onceflow.testing import ABORT, EOF, AbortedError, TestingSource, TransactionalTestingSink


class Told(TestingSource):
    """Notes what it is told, and raises what it is given to raise."""

    def __init__(self, *partitions, raises=None, **settings):
        super().__init__(*partitions, **settings)
        self.told, self.raises = [], raises

    def on_checkpoint_complete(self, checkpoint_id, positions, context):
        self.told.append((checkpoint_id, dict(positions)))
        assert (context.job, context.step_id, context.worker) == ("flow", "in", 0)
        if self.raises is not None:
            raise self.raises


def job(source, sink=None):
    flow = Dataflow("flow")
    flow.source("in", source).sink("out", sink or TransactionalTestingSink())
    return flow


def test_each_complete_checkpoint_is_told_with_its_positions(state):
    source = Told([1, 2, EOF, 3], [4], batch_size=1)
    flow = job(source)
    first = run(flow, state)
    assert source.told == [(first.last_checkpoint, {"0": 3, "1": 1})]
    second = run(flow, state)
    # What is resumed from is told once more: a run that was killed after the decision has not told it.
    assert source.told[1:] == [(first.last_checkpoint, {"0": 3, "1": 1}), (second.last_checkpoint, {"0": 4, "1": 1})]


def test_positions_that_are_told_are_those_of_the_checkpoint(state):
    """Kind: what was read while a checkpoint was under way is told as done, and nobody keeps it any more."""
    ended = threading.Event()

    class Whole(Told):
        def open(self, partition, position):
            reader = super().open(partition, position)
            read = reader.read

            def noted(max_records):
                batch = read(max_records)
                if batch is None:
                    ended.set()
                return batch

            reader.read = noted
            return reader

    class Slow(TransactionalTestingSink):
        def open(self, context):
            writer = super().open(context)
            commit = writer.commit

            def once_ended(committable):
                assert ended.wait(60)
                commit(committable)

            writer.commit = once_ended
            return writer

    source = Whole([1, 2, 3, 4, 5], batch_size=1)
    run(job(source, Slow()), state, checkpoint_interval_s=1e-9)
    (first, of_first), *_, (_, of_last) = source.told
    assert (first, of_first, of_last) == (1, {"0": 1}, {"0": 5})


def test_of_a_finished_job_the_last_one_is_told_again(state):
    source = Told([1, 2])
    flow = job(source)
    result = run(flow, state)
    with pytest.warns(FinishedJobWarning):
        run(flow, state)
    assert source.told == [(result.last_checkpoint, {"0": 2})] * 2


def test_what_is_not_decided_is_not_told(state):
    """A run that ends as if it had crashed, and one whose sink cannot prepare."""
    source = Told([1, 2, ABORT, 3])
    with pytest.raises(AbortedError):
        run(job(source), state)
    assert source.told == []

    class Broken(TransactionalTestingSink):
        def open(self, context):
            writer = super().open(context)

            def refuse(*_):
                raise OSError("no space")

            writer.prepare = refuse
            return writer

    with pytest.raises(SinkError):
        run(job(source, Broken()), state)
    assert source.told == []


@pytest.mark.parametrize("raised", [OSError("broker is gone"), SourceError("refused")])
def test_what_it_raises_ends_the_run_with_the_source_named_and_nothing_is_lost(state, raised):
    sink = TransactionalTestingSink()
    source = Told([1, 2, EOF, 3], raises=raised)
    flow = job(source, sink)
    with pytest.raises(SourceError, match=r"broker is gone|refused") as failure:
        run(flow, state)
    assert "'in'" in str(failure.value) + "".join(
        failure.value.__notes__ if hasattr(failure.value, "__notes__") else ()
    )
    source.raises = None
    while not run(flow, state).finished:
        pass
    assert sorted(sink.records) == [1, 2, 3]


def test_a_source_that_knows_nothing_of_it_is_run_as_before(state):
    """The contract before: no context, nothing told."""

    class Plain(Source):
        def __init__(self):
            self.inner = TestingSource([1, 2, 3])

        def partitions(self):
            return self.inner.partitions()

        def open(self, partition, position):
            return self.inner.open(partition, position)

    sink = TransactionalTestingSink()
    assert run(job(Plain(), sink), state).finished
    assert sink.records == [1, 2, 3]
