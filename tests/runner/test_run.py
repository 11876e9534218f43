"""Starting, stopping, resuming, and refusing to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from datetime import timedelta

import numpy as np
import pytest

from onceflow import Dataflow, count, run
from onceflow.embed import StateBackend
from onceflow.events import CheckpointCompleted, Progress, Recovered
from onceflow.exceptions import (
    CheckpointNotFoundError,
    ConfigurationError,
    DataflowChangedError,
    FinishedJobWarning,
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
    with pytest.raises(DataflowChangedError, match=r"was one of \['totals'\] renamed to one of \['sums'\]"):
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
    result = run(flow, state, resume_from="none")
    assert result.resumed_from is None
    assert sink.records == [{"key": "all", "n": 2}]


def test_from_checkpoint_writes_again_what_came_after(state):
    flow, stream, sink = numbers([1, EOF, 2])
    stream.sink("out", sink)
    first = run(flow, state)
    run(flow, state)
    assert run(flow, state, resume_from=first.last_checkpoint).finished
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
    again = run(flow, state, resume_from="before the flood")
    assert again.resumed_from == first.last_checkpoint
    with pytest.raises(
        CheckpointNotFoundError, match=rf"no savepoint 'after'; it has {first.last_checkpoint} \(before"
    ):
        run(flow, state, resume_from="after")


@pytest.mark.parametrize("wanted", [99, "nowhere"])
def test_a_start_from_what_is_not_there_fences_nobody(state, wanted):
    """Kind: a start that is refused, and has stopped the run that it was to replace by then."""
    flow, stream, sink = numbers([1])
    stream.sink("out", sink)
    with StateBackend.open(state, job="numbers") as running:
        running.checkpoint().wait()
        with pytest.raises(CheckpointNotFoundError) as info:
            run(flow, state, resume_from=wanted, take_over=True)
        assert info.value.checkpoint == wanted
        running.check_epoch()
        running.checkpoint().wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_with_a_last_checkpoint(state, number):
    flow, stream, sink = numbers([PAUSE] * 100_000, batch_size=1)
    stream.sink("out", sink)
    # Once it is at work: before that a signal does to the process what it always does.
    timer = threading.Timer(0.1, os.kill, (os.getpid(), number))
    started = []

    def at_work(event):
        if isinstance(event, Progress) and not started:
            started.append(timer.start())

    start = time.monotonic()
    result = run(flow, state, on_event=at_work)
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


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        (
            {"guarantee": "x"},
            "guarantee is 'x'; it is one of at_most_once, at_least_once, exactly_once, effectively",
        ),
        ({"guarantee": None}, "guarantee is None"),
        ({"checkpoint_interval_s": "1"}, "checkpoint_interval_s is '1'; give a number of seconds above 0"),
        ({"checkpoint_interval_s": float("nan")}, "checkpoint_interval_s is nan"),
        ({"checkpoint_interval_s": float("inf")}, "checkpoint_interval_s is inf"),
        ({"checkpoint_interval_s": True}, "checkpoint_interval_s is True"),
        ({"checkpoint_interval_s": None}, "checkpoint_interval_s is None"),
        ({"checkpoint_interval_s": 0}, "checkpoint_interval_s is 0"),
        ({"checkpoint_interval_s": timedelta(seconds=1)}, "checkpoint_interval_s is datetime"),
        ({"batch_size": True}, "batch_size is True"),
        ({"retain": None}, "retain is None"),
        ({"codec": "json"}, "unknown codec 'json': msgpack or pickle"),
        ({"codec": None}, "unknown codec None"),
        ({"savepoint": 7}, "savepoint is 7; give a name"),
        ({"savepoint": ""}, "savepoint is ''"),
        ({"savepoint": "12"}, "savepoint is '12'.*not a number"),
        ({"savepoint": "a\n"}, "savepoint is"),
        ({"resume_from": True}, "resume_from is True; give .newest., .none., the number of a checkpoint"),
        ({"resume_from": 0}, "resume_from is 0"),
        ({"resume_from": -1}, "resume_from is -1"),
        ({"resume_from": 1 << 64}, "resume_from is 18446744073709551616"),
        ({"resume_from": 1.5}, "resume_from is 1.5"),
        ({"fresh": "no"}, "give resume_from instead of them"),
        ({"fresh": True, "from_checkpoint": 1}, "give resume_from instead of them"),
        ({"savepoint": "newest"}, "means something else to resume_from"),
        ({"take_over": 1}, "take_over is 1"),
        ({"on_event": "print"}, "on_event is 'print'; give a function"),
        ({"clock": time}, "clock is <module 'time'"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_settings_that_cannot_be_are_named_before_anything_is_opened(state, settings, wanted):
    """The kind of fault: a setting of a wrong type or value gives an untyped error, or is taken for something else."""
    flow, stream, sink = numbers([1])
    stream.sink("out", sink)
    with pytest.raises(ConfigurationError, match=wanted):
        run(flow, state, **settings)
    assert not state.exists()


@pytest.mark.parametrize("arguments", [(None, "state"), ("flow", "state"), ("flow", None), ("flow", 7), ("flow", "")])
def test_what_is_no_dataflow_and_no_directory_is_named(arguments):
    flow, stream, sink = numbers([1])
    stream.sink("out", sink)
    first, state = arguments
    given = flow if first == "flow" and state != "state" else first
    with pytest.raises(ConfigurationError, match=r"(flow|state) is .*; give the"):
        run(given, state)
    with pytest.raises(ConfigurationError, match="guarantee is 'twice'"):
        flow.explain("twice")


def test_numpy_numbers_are_numbers(state):
    flow, stream, sink = numbers([1, 2])
    stream.sink("out", sink)
    run(flow, state, checkpoint_interval_s=np.float32(0.5), batch_size=np.int64(7), retain=np.uint8(2))
    assert sink.records == [1, 2]


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no words")

    __repr__ = __str__


def test_an_exception_that_cannot_say_what_it_is(state):
    """The kind of fault: ``str()`` of a user's exception, or ``repr()`` of a record, raises while an error is told."""

    def fail(record):
        raise Mute

    class Shy:
        def __repr__(self):
            raise RuntimeError("no looks")

    flow, stream, sink = numbers([Shy()])
    stream.map(fail, dead_letters="failing").sink("out", sink)
    letters = TransactionalTestingSink()
    flow.dead_letters("failing").map(lambda letter: letter["reason"]).sink("letters", letters)
    run(flow, state)
    assert letters.records == ["Mute (its own text cannot be shown: str() of it raises RuntimeError)"]
    flow, stream, sink = numbers([Shy()])
    stream.map(fail).sink("out", sink)
    with pytest.raises(UserFunctionError, match=r"Mute \(its own text.*record 0 of the batch is a Shy \(its repr\(\) "):
        run(flow, state.with_name("other"))


def test_a_signal_that_the_process_ignores_stays_ignored(state):
    """The kind of fault: started with SIGINT ignored (by ``nohup``, or by a shell in the background) a job stops when
    its terminal's Ctrl-C reaches it."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        flow, stream, sink = numbers(list(range(100)), batch_size=10)
        stream.inspect(lambda number: number == 50 and os.kill(os.getpid(), signal.SIGINT)).sink("out", sink)
        assert run(flow, state).finished
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_finished_job_that_is_run_again_says_that_it_does_nothing(state):
    """The kind of fault: after the code was edited or the output removed, the old counts come back without a word."""
    flow, stream, sink = numbers([1, 2])
    stream.sink("out", sink)
    done = run(flow, state)
    sink.committed.clear()
    with pytest.warns(
        FinishedJobWarning, match=rf"'numbers' had finished before, with checkpoint {done.last_checkpoint}"
    ) as told:
        assert run(flow, state).checkpoints == 0
    assert told[0].filename == __file__
    # What it advises.
    assert "move its output away and run it once with resume_from='none'" in str(told[0].message)
    assert run(flow, state, resume_from="none").finished
    assert sink.records == [1, 2]


def test_an_idle_run_that_is_replaced_ends_soon(state):
    """The kind of fault: a run that has nothing to read or write does not notice that another one has taken over."""
    script = textwrap.dedent(
        """
        import sys
        from onceflow import Dataflow, run
        from onceflow.sources import Source, SourceBatch, SourceReader
        from onceflow.testing import TransactionalTestingSink

        class Idle(Source, SourceReader):
            def partitions(self):
                return ["all"]
            def open(self, partition, position):
                return self
            def read(self, max_records):
                return SourceBatch([])
            def position(self):
                return 0

        flow = Dataflow("numbers")
        flow.source("in", Idle()).sink("out", TransactionalTestingSink())
        run(flow, sys.argv[1], on_event=lambda event: print(type(event).__name__, flush=True))
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(state)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout.readline() == b"Recovered\n"
    StateBackend.open(state, job="numbers", take_over=True).close()
    _, told = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b"FencedError" in told
