"""Checkpoints that take too long, and those that follow one another too closely."""

from __future__ import annotations

import threading

import pytest

from onceflow import Dataflow, run
from onceflow.clock import ManualClock
from onceflow.events import CheckpointCompleted, CheckpointFailed, Restarting
from onceflow.exceptions import CheckpointError, ConfigurationError, UserFunctionError
from onceflow.restart import FixedDelay
from onceflow.sinks import TransactionalSink
from onceflow.sources import SourceBatch
from onceflow.testing import TestingSource, TransactionalTestingSink

pytestmark = pytest.mark.filterwarnings("ignore:job .* has failed and is begun again:UserWarning")


class Watched(TransactionalSink):
    """A sink of the testing kit, with a word at each call of ``seal`` and ``prepare``."""

    def __init__(self, **calls):
        self.inner = TransactionalTestingSink()
        self._calls = calls

    def open(self, context):
        writer = self.inner.open(context)
        for name, call in {"seal": lambda: None, **self._calls}.items():
            method = getattr(writer, name)

            def watched(*arguments, name=name, call=call, method=method):
                self.source.waits |= name == "seal"
                call()
                return method(*arguments)

            setattr(writer, name, watched)
        return writer


class Patient(TestingSource):
    """Gives nothing while a checkpoint is under way."""

    def __init__(self, *partitions, **settings):
        super().__init__(*partitions, **settings)
        self.waits = False

    def open_with_context(self, partition, position, context):
        self.waits = False
        reader = super().open_with_context(partition, position, context)
        read = reader.read
        reader.read = lambda count: self.nothing(context) if self.waits else read(count)
        return reader

    def nothing(self, context):
        context.wake.set()
        return SourceBatch([])

    def on_checkpoint_complete(self, checkpoint_id, positions, context):
        self.waits = False


def flow(sink, items=range(100), function=lambda item: item):
    made, source = Dataflow("bounds"), Patient(items)
    made.source("in", source).map(function).sink("out", sink)
    if isinstance(sink, Watched):
        sink.source = source
    return made


def test_a_sink_that_takes_too_long_is_told_of_at_once(state):
    """A sink that hangs: the checkpoint is over, and nobody hears of it before the sink is back."""
    told, hanging = threading.Event(), [True]
    events = []

    def prepare():
        if hanging:
            hanging.clear()
            # Told while it hangs, else this takes until the test is given up.
            assert told.wait(30)

    def listen(event):
        events.append(event)
        if isinstance(event, CheckpointFailed):
            told.set()

    sink = Watched(prepare=prepare)
    with pytest.raises(CheckpointError, match=r"waited 0\.05 s for sinks \[\"out\"\] to prepare.*checkpoint_timeout_s"):
        run(flow(sink), state, checkpoint_interval_s=1e-6, checkpoint_timeout_s=0.05, on_event=listen)
    (failed,) = [event for event in events if isinstance(event, CheckpointFailed)]
    assert "waited 0.05 s" in failed.reason
    assert failed.checkpoint_id not in [each for each, _ in sink.inner.committed] and not sink.inner.prepared
    assert run(flow(sink), state).finished
    assert sink.inner.records == list(range(100))


def test_what_was_sealed_for_it_comes_with_the_next_attempt(state):
    """Output of a checkpoint that was given up, which is lost, or is there twice."""
    clock, slow, events = ManualClock(), [3, 5], []

    def seal():
        slow[:] = [left - 1 for left in slow]
        if 0 in slow:
            # Within the cut, so that the acknowledgement comes too late.
            clock.advance(700)

    def function(number):
        clock.advance(1.0)
        return number

    sink = Watched(seal=seal)
    result = run(
        flow(sink, function=function),
        state,
        checkpoint_interval_s=1e-6,
        clock=clock,
        restart=FixedDelay(delay_s=0.001),
        on_event=events.append,
    )
    failed = [event.checkpoint_id for event in events if isinstance(event, CheckpointFailed)]
    assert len(failed) == result.restarts == sum(isinstance(event, Restarting) for event in events) == 2
    assert "waited 600 s for acknowledgements" in result.failures[0]
    assert not {each for each, _ in sink.inner.committed} & set(failed)
    assert sink.inner.records == list(range(100))


def test_a_worker_that_declines_fails_its_checkpoint(state):
    """A failed checkpoint that nobody counts, since it was the worker's part that failed."""
    events = []

    def seal():
        raise OSError("the disk is gone")

    with pytest.raises(Exception, match="the disk is gone"):
        run(flow(Watched(seal=seal)), state, on_event=events.append)
    assert [type(event) for event in events].count(CheckpointFailed) == 1


def test_a_function_that_fails_fails_no_checkpoint(state):
    """Checkpoints that are counted as failed although none was under way."""
    events = []
    with pytest.raises(UserFunctionError):
        run(
            flow(TransactionalTestingSink(), function=lambda n: 1 // (n - 50)),
            state,
            checkpoint_interval_s=1000,
            on_event=events.append,
        )
    assert not any(isinstance(event, CheckpointFailed) for event in events)


@pytest.mark.parametrize("pause_s", [None, 20.0])
def test_the_pause_between_checkpoints(state, pause_s):
    """A job that does nothing but checkpoints, since each is due when the one before is over."""
    clock = ManualClock()
    starts, ends = [], []

    def listen(event):
        if isinstance(event, CheckpointCompleted):
            ends.append(clock.monotonic())

    def function(number):
        clock.advance(1.0)
        return number

    sink = Watched(seal=lambda: starts.append(clock.monotonic()))
    # A round is ten seconds.
    run(
        flow(sink, function=function, items=range(200)),
        state,
        checkpoint_interval_s=5,
        checkpoint_min_pause_s=pause_s,
        clock=clock,
        on_event=listen,
    )
    # The last one waits for nothing.
    pauses = [start - end for end, start in zip(ends, starts[1:-1], strict=False)]
    assert set(pauses) == {10.0 if pause_s is None else 20.0}
    assert sink.inner.records == list(range(200))


@pytest.mark.parametrize("name", ["checkpoint_timeout_s", "checkpoint_min_pause_s"])
def test_bounds_that_cannot_be(state, name):
    """A bound of nothing."""
    with pytest.raises(ConfigurationError) as caught:
        run(flow(TransactionalTestingSink()), state, **{name: 0})
    assert caught.value.setting == name
