"""Starting, stopping, resuming, and refusing to."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from onceflow import Dataflow, StateBackend, count, run
from onceflow.events import CheckpointCompleted, Recovered
from onceflow.exceptions import (
    CheckpointNotFoundError,
    ConfigurationError,
    DataflowChangedError,
    SerializationError,
    StoreLockedError,
    StoreMismatchError,
    UserFunctionError,
)
from onceflow.sinks import Sink
from onceflow.testing import EOF, PAUSE, TestingSource, TransactionalTestingSink


def numbers(*partitions, name="numbers", sink=None, **settings):
    sink = sink or TransactionalTestingSink()
    flow = Dataflow(name)
    stream = flow.source("in", TestingSource(*partitions, **settings))
    return flow, stream, sink


def test_eof_ends_a_run_and_the_next_one_goes_on(state):
    flow, stream, sink = numbers([1, 2, EOF, 3, PAUSE, 4])
    stream.sink("out", sink)
    first = run(flow, state)
    assert not first.finished
    assert sink.records == [1, 2]
    second = run(flow, state)
    assert second.finished
    assert second.resumed_from == first.last_checkpoint
    assert sink.records == [1, 2, 3, 4]
    third = run(flow, state)
    assert (third.finished, third.checkpoints) == (True, 0)
    assert sink.records == [1, 2, 3, 4]
    assert third.records_in == 4


def test_partitions_are_read_in_turn(state):
    flow, stream, sink = numbers([*"abcde"], [*"vwxyz"], batch_size=2)
    stream.sink("out", sink)
    run(flow, state, checkpoint_interval_s=1e-6)
    assert "".join(sink.records) == "abvwcdxyez"


def test_counts_and_events(state):
    events = []
    flow, stream, sink = numbers(list(range(50)))
    stream.filter(lambda number: number % 2).sink("out", sink)
    result = run(flow, state, on_event=events.append)
    assert (result.records_in, result.records_out) == (50, 25)
    assert isinstance(events[0], Recovered)
    assert any(isinstance(event, CheckpointCompleted) for event in events)


def test_an_exception_names_step_and_record(state):
    flow, stream, sink = numbers([1, 2, 0, 4])
    stream.map(lambda number: 1 / number).sink("out", sink)
    with pytest.raises(UserFunctionError, match=r"'map-1'.*ZeroDivisionError.*record 2 of the batch is 0") as caught:
        run(flow, state)
    assert caught.value.step_id == "map-1"
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert "records 0 to 3" in caught.value.position
    assert sink.records == []


def test_state_that_the_codec_does_not_know(state):
    flow, stream, sink = numbers([1])
    stream.key_by(lambda number: number).stateful_map("odd", lambda _, number: (object(), number)).sink("out", sink)
    with pytest.raises(SerializationError, match=r"'odd', key 1: .*object"):
        run(flow, state)
    assert sink.records == []


def test_a_stateful_step_that_is_gone_is_named(state):
    flow, stream, sink = numbers([1, EOF, 2])
    stream.key_by(lambda number: number).aggregate("totals", n=count()).sink("out", sink)
    run(flow, state)
    flow, stream, sink = numbers([1, EOF, 2])
    stream.key_by(lambda number: number).aggregate("sums", n=count()).sink("out", sink)
    with pytest.raises(DataflowChangedError, match=r"\['totals'\] \(was one renamed to \['sums'\]"):
        run(flow, state)


def test_settings_that_must_stay(state):
    flow, stream, sink = numbers([1, EOF, 2])
    stream.sink("out", sink)
    run(flow, state)
    with pytest.raises(ConfigurationError, match="batch_size=8192"):
        run(flow, state, batch_size=5)
    with pytest.raises(ConfigurationError, match="guarantee='exactly_once'"):
        run(flow, state, guarantee="at_least_once")
    with pytest.raises(ConfigurationError, match="codec='msgpack'"):
        run(flow, state, codec="pickle")


def test_the_directory_of_another_job(state):
    flow, stream, sink = numbers([1])
    stream.sink("out", sink)
    run(flow, state)
    flow, stream, sink = numbers([1], name="other")
    stream.sink("out", sink)
    with pytest.raises(StoreMismatchError):
        run(flow, state)


def test_a_directory_that_a_running_process_owns(state):
    flow, stream, sink = numbers([1])
    stream.sink("out", sink)
    with StateBackend.open(state, job="numbers"), pytest.raises(StoreLockedError):
        run(flow, state)


def test_fresh_starts_over_in_a_new_lineage(state):
    flow, stream, sink = numbers([1, 2])
    stream.key_by(lambda _: "all").aggregate("totals", n=count()).sink("out", sink)
    run(flow, state)
    sink.committed.clear()
    result = run(flow, state, fresh=True)
    assert result.resumed_from is None
    assert sink.records == [{"key": "all", "n": 2}]


def test_from_checkpoint_writes_again_what_came_after(state):
    flow, stream, sink = numbers([1, EOF, 2])
    stream.sink("out", sink)
    first = run(flow, state)
    run(flow, state)
    assert run(flow, state, from_checkpoint=first.last_checkpoint).finished
    assert sink.records == [1, 2, 2]


def test_a_savepoint_is_kept_and_found_by_its_name(state):
    flow, stream, sink = numbers([1, EOF, *range(2, 500)])
    stream.sink("out", sink)
    first = run(flow, state, savepoint="before the flood")
    run(flow, state, checkpoint_interval_s=1e-6)
    with StateBackend.open(state, job="numbers", read_only=True) as backend:
        kept = {info.id: info.savepoint for info in backend.checkpoints()}
    assert kept.pop(first.last_checkpoint) == "before the flood"
    assert set(kept.values()) == {None}
    assert len(kept) == 2
    again = run(flow, state, from_checkpoint="before the flood")
    assert again.resumed_from == first.last_checkpoint
    with pytest.raises(CheckpointNotFoundError, match=r"no savepoint 'after'; there are \['before the flood'\]"):
        run(flow, state, from_checkpoint="after")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_with_a_last_checkpoint(state, number):
    flow, stream, sink = numbers([PAUSE] * 100_000, batch_size=1)
    stream.sink("out", sink)
    timer = threading.Timer(0.2, os.kill, (os.getpid(), number))
    timer.start()
    start = time.monotonic()
    result = run(flow, state)
    assert not result.finished
    assert time.monotonic() - start < 30
    assert result.last_checkpoint is not None
    timer.join()


def test_dead_state_is_not_resumed_from_by_chance(state):
    """A backend that somebody uses without a dataflow is no job."""
    with StateBackend.open(state, job="numbers") as backend:
        backend.checkpoint().wait()
    flow, stream, sink = numbers([1])
    stream.sink("out", sink)
    with pytest.raises(ConfigurationError, match="uses the state backend itself"):
        run(flow, state)


@pytest.mark.parametrize(
    "settings", [{"batch_size": 1.5}, {"batch_size": 0}, {"batch_size": "10"}, {"retain": 0}, {"retain": 1 << 40}]
)
def test_settings_that_are_no_whole_numbers(state, settings):
    flow, stream, sink = numbers([1])
    stream.sink("out", sink)
    (name,) = settings
    with pytest.raises(ConfigurationError, match=f"{name} is .*; give a whole number from 1 on"):
        run(flow, state, **settings)
    assert not state.exists()


def test_a_sink_of_no_kind_is_refused_while_the_dataflow_is_built():
    class Odd(Sink):
        delivery = "transactional"

    _, stream, _ = numbers([1])
    with pytest.raises(ConfigurationError, match="'out' is a Odd; derive it from PlainSink, IdempotentSink or"):
        stream.sink("out", Odd())
