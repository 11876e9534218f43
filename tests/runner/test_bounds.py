"""A sink that is slow, or does not come back, holds up the source: what is held in memory has a bound, for every kind.

The kind of fault: while a checkpoint is pending the job reads on, and outputs that nobody counts fill the memory, or
make a checkpoint that the store never takes.
"""

from __future__ import annotations

import threading
import time
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest

from onceflow import Columns, Dataflow, run
from onceflow.events import CheckpointCompleted, Progress
from onceflow.exceptions import CapacityExceededError
from onceflow.runtime.channel import BatchEvent, Channel, EndEvent
from onceflow.runtime.held import holds_much
from onceflow.runtime.sizes import estimated_bytes
from onceflow.sinks import IdempotentSink, PlainSink, SinkWriter, TransactionalSink, TransactionalSinkWriter
from onceflow.sources import Source, SourceBatch, SourceReader
from onceflow.testing import TestingSource, TransactionalTestingSink

RECORD_BYTES = 2000
BATCH = 10
BOUND = 100 * RECORD_BYTES


class Fast(Source):
    def __init__(self, count):
        self.count = count

    def partitions(self):
        return ["all"]

    def open(self, partition, position):
        return FastReader(self.count, position or 0)


class FastReader(SourceReader):
    def __init__(self, count, position):
        self.count, self.at = count, position

    def read(self, max_records):
        if self.at == self.count:
            return None
        first, self.at = self.at, min(self.count, self.at + max_records)
        return SourceBatch([{"n": n, "x": f"{n:0{RECORD_BYTES}}"} for n in range(first, self.at)])

    def position(self):
        return self.at


class Gate:
    """Lets calls through once it is open."""

    def __init__(self):
        self.open = threading.Event()
        self.numbers = []

    def take(self, records):
        assert self.open.wait(60)
        self.numbers += [record["n"] for record in records]


class Turnstile:
    """Lets records through one after the other, slowly, and keeps none."""

    def __init__(self, seconds):
        self.seconds, self.taken = seconds, 0

    def take(self, records):
        for record in records or ():
            assert record["n"] == self.taken
            self.taken += 1
            time.sleep(self.seconds)


class Writer(SinkWriter):
    def __init__(self, gate):
        self.gate = gate

    def write(self, records):
        self.gate.take(records)

    def flush(self):
        pass


class Idempotent(IdempotentSink):
    def __init__(self, gate):
        self.gate = gate

    def open(self, context):
        return Writer(self.gate)


class AtMostOnce(PlainSink):
    def __init__(self, gate):
        self.gate = gate

    def open(self, context):
        return Writer(self.gate)


class Transactional(TransactionalSink):
    """Keeps all in memory and counts nothing."""

    def __init__(self, gate):
        self.gate = gate

    def open(self, context):
        return Uncounted(self.gate)


class Uncounted(TransactionalSinkWriter):
    def __init__(self, gate):
        self.gate, self.records = gate, []

    def recover(self, decided):
        pass

    def write(self, records):
        self.records += records

    def seal(self, checkpoint_id):
        records, self.records = self.records, []
        return records or None

    def prepare(self, checkpoint_id, sealed):
        self.gate.take(sealed)
        return

    def commit(self, committable):
        pass

    def abort(self, checkpoint_id, sealed):
        pass


KINDS = {
    "exactly_once": Idempotent,
    "at_most_once": AtMostOnce,
    "at_least_once": Transactional,
}


@pytest.fixture(autouse=True)
def _bound(monkeypatch):
    monkeypatch.setattr("onceflow.runtime.held.MAX_HELD_BYTES", BOUND)


@pytest.mark.parametrize("of", ["bytes", "records"])
@pytest.mark.parametrize("guarantee", KINDS)
def test_a_sink_that_does_not_come_back_stops_the_reading(state, guarantee, of, monkeypatch):
    """Counted in bytes, or, where records are small, by number: what is under way, and what is written meanwhile."""
    if of == "records":
        monkeypatch.setattr("onceflow.runtime.held.MAX_HELD_BYTES", 1 << 40)
        monkeypatch.setattr("onceflow.runtime.held.MAX_HELD_RECORDS", BOUND // RECORD_BYTES)
    gate = Gate()
    flow = Dataflow("bounds")
    flow.source("in", Fast(2000)).sink("out", KINDS[guarantee](gate))
    seen, waiting = [], []

    def on_event(event):
        if isinstance(event, Progress) and not gate.open.is_set():
            seen.append(event.records_in)
            # As long as it takes to see that nothing is read any more.
            if seen[-5:].count(seen[-1]) == 5:
                waiting.append(event.records_in)
                gate.open.set()

    # The first checkpoint begins at once, and little is under way; or at the bound, and all of it is.
    interval_s = 1e-9 if of == "bytes" else 1e9
    result = run(
        flow, state, guarantee=guarantee, batch_size=BATCH, on_event=on_event, checkpoint_interval_s=interval_s
    )
    assert result.finished
    assert gate.numbers == list(range(2000))
    # What was under way and what was held for the next one, and the last round's output.
    assert len(waiting) == 1
    assert 0 < waiting[0] * RECORD_BYTES <= BOUND + 2 * BATCH * RECORD_BYTES


#: Encoded, decoded again, and staged: what is held may be in memory in so many forms at once.
FORMS = 6


class Memory:
    """How much the objects of Python have grown since it was made, at most."""

    def __enter__(self):
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        self.growth = -before
        return self

    def __exit__(self, *error):
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        self.growth += most


def bounded(gate, guarantee, count):
    flow = Dataflow("bounds")
    flow.source("in", Fast(count)).sink("out", KINDS[guarantee](gate))
    return flow


def warm_up(state, guarantee):
    """What is loaded and kept at the first run is not what grows."""
    gate = Gate()
    gate.open.set()
    run(bounded(gate, guarantee, 100), state.with_name("warm"), guarantee=guarantee, batch_size=BATCH)


@pytest.mark.parametrize("interval_s", [1e-9, 1e9])
@pytest.mark.parametrize("guarantee", KINDS)
def test_with_a_sink_that_never_commits_memory_is_flat(state, guarantee, interval_s):
    """The kind of fault: a target that hangs, and a job that goes on reading until its process is killed.

    What hangs is next to nothing, or already as much as may be held.
    """
    warm_up(state, guarantee)
    gate = Gate()
    read = []

    class LookedLongEnough(Exception):
        pass

    def on_event(event):
        if isinstance(event, Progress):
            read.append(event.records_in)
            if read[-10:].count(read[-1]) == 10 or read[-1] * RECORD_BYTES > 10 * BOUND:
                # The sink's call must return for the run to end.
                gate.open.set()
                raise LookedLongEnough

    with Memory() as memory, pytest.raises(LookedLongEnough):
        run(
            bounded(gate, guarantee, 1 << 40),
            state,
            guarantee=guarantee,
            batch_size=BATCH,
            on_event=on_event,
            checkpoint_interval_s=interval_s,
        )
    assert read[-1] * RECORD_BYTES <= BOUND + 2 * BATCH * RECORD_BYTES
    assert memory.growth < FORMS * BOUND


@pytest.mark.parametrize("guarantee", KINDS)
def test_with_a_sink_a_hundred_times_slower_than_the_source_memory_is_flat(state, guarantee):
    """The kind of fault: outputs pile up between a fast source and a slow target, in whatever form they wait."""
    warm_up(state, guarantee)
    count, seconds = 1500, 0.002
    reader = Fast(count).open("all", None)
    began = time.perf_counter()
    while reader.read(BATCH) is not None:
        pass
    assert time.perf_counter() - began < count * seconds / 100
    turnstile = Turnstile(seconds)
    with Memory() as memory:
        result = run(
            bounded(turnstile, guarantee, count),
            state,
            guarantee=guarantee,
            batch_size=BATCH,
            checkpoint_interval_s=1e-9,
        )
    assert result.finished
    assert turnstile.taken == count
    assert memory.growth < FORMS * BOUND < count * RECORD_BYTES / 2


def test_a_channel_takes_a_batch_and_what_comes_after_it():
    """The kind of fault: a task that is asked again and again before what it has read is taken fills its channel."""
    channel = Channel()
    channel.put(BatchEvent(SourceBatch([1]), None, None))
    channel.put(EndEvent())
    with pytest.raises(CapacityExceededError):
        channel.put(EndEvent())
    assert isinstance(channel.pop(), BatchEvent)
    assert isinstance(channel.pop(), EndEvent)


@pytest.mark.parametrize("guarantee", KINDS)
def test_checkpoints_begin_before_one_gets_too_large(state, guarantee, monkeypatch):
    gate = Gate()
    gate.open.set()
    flow = Dataflow("bounds")
    flow.source("in", Fast(2000)).sink("out", KINDS[guarantee](gate))
    most = []

    def noted(deliveries):
        most.append(sum(delivery.held_bytes + delivery.sealed_bytes for delivery in deliveries.values()))
        return holds_much(deliveries)

    monkeypatch.setattr("onceflow.runtime.job.holds_much", noted)
    completed = []
    result = run(
        flow,
        state,
        guarantee=guarantee,
        batch_size=BATCH,
        checkpoint_interval_s=1e9,
        on_event=lambda event: completed.append(event) if isinstance(event, CheckpointCompleted) else None,
    )
    assert result.finished
    assert gate.numbers == list(range(2000))
    assert len(completed) > 2000 * RECORD_BYTES // (BOUND + 2 * BATCH * RECORD_BYTES)
    assert max(most) < BOUND + 4 * BATCH * RECORD_BYTES
    if guarantee == "exactly_once":
        assert max(event.stats.bytes_written for event in completed) < BOUND + 4 * BATCH * RECORD_BYTES


def numbered(state, partitions, on_event=None):
    """What a job puts out that numbers the records of a key, in the order of their coming."""
    gate = Gate()
    gate.open.set()
    source = Fast(700)
    source.partitions = lambda: [str(number) for number in range(partitions)]
    flow = Dataflow("bounds")
    keyed = flow.source("in", source).key_by("n")
    keyed.stateful_map("nth", lambda nth, row: ((nth or 0) + 1, row)).sink("out", Idempotent(gate))
    assert run(flow, state, batch_size=300, checkpoint_interval_s=1e9, on_event=on_event).finished
    return gate.numbers


@pytest.mark.parametrize("partitions", [1, 3])
def test_a_batch_whose_output_is_larger_than_the_bound_is_left_for_a_checkpoint(state, partitions, monkeypatch):
    """The kind of fault: the output of one batch, or of a round over many partitions, is more than a checkpoint takes,
    in each run again."""
    sizes = []

    def on_event(event):
        if isinstance(event, CheckpointCompleted):
            sizes.append(event.stats.bytes_written)

    numbers = numbered(state, partitions, on_event)
    # A piece of a batch has 64 records at first, and 300 here at most.
    assert max(sizes) < BOUND + 400 * RECORD_BYTES
    assert len(sizes) >= 2 * partitions
    monkeypatch.setattr("onceflow.runtime.held.MAX_HELD_BYTES", 1 << 40)
    assert numbers == numbered(state.with_name("calm"), partitions)
    assert len(numbers) == 700 * partitions


def test_all_sinks_count_together(state):
    """Ten sinks that each hold less than the bound hold more than it."""
    gates = [Gate() for _ in range(10)]
    flow = Dataflow("bounds")
    rows = flow.source("in", Fast(500))
    completed = []
    for number, gate in enumerate(gates):
        gate.open.set()
        rows.sink(f"out-{number}", Idempotent(gate))
    run(
        flow,
        state,
        batch_size=BATCH,
        checkpoint_interval_s=1e9,
        on_event=lambda event: completed.append(event) if isinstance(event, CheckpointCompleted) else None,
    )
    assert all(gate.numbers == list(range(500)) for gate in gates)
    assert len(completed) >= 500 * 10 * RECORD_BYTES // (BOUND + 20 * BATCH * RECORD_BYTES)


def test_a_sink_that_keeps_nothing_in_memory_begins_no_checkpoint(state):
    class OnDisk(Uncounted):
        held = 0
        held_bytes = 0

    class Sink(Transactional):
        def open(self, context):
            return OnDisk(self.gate)

    gate = Gate()
    gate.open.set()
    flow = Dataflow("bounds")
    flow.source("in", Fast(500)).sink("out", Sink(gate))
    assert run(flow, state, batch_size=BATCH, checkpoint_interval_s=1e9).checkpoints == 1


@pytest.mark.parametrize(
    ("records", "least", "most"),
    [
        ([], 0, 0),
        ([1] * 1000, 20_000, 40_000),
        (["x" * 1000] * 100, 100_000, 120_000),
        ([{"a": "x" * 500, "b": ["y" * 250] * 2}] * 100, 100_000, 150_000),
        ([("x" * 100, n) for n in range(50)], 7_500, 15_000),
        ([{"nested": {"deep": {"x": "z" * 1000}}}] * 10, 10_000, 20_000),
        ([np.zeros(1000)] * 4, 32_000, 40_000),
        (Columns({"a": np.zeros(1000), "s": pa.array(["x" * 10] * 1000)}), 18_000, 25_000),
        (Columns({"o": np.array(["x" * 100] * 1000, dtype=object)}), 100_000, 170_000),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, int) else str(value),
)
def test_estimates_are_about_right(records, least, most):
    assert least <= estimated_bytes(records) <= most


def test_what_refers_to_itself_is_estimated_too():
    record = {"x": "y" * 100}
    record["self"] = record
    assert 100 < estimated_bytes([record]) < 5000
    assert estimated_bytes([TransactionalTestingSink()]) > 0


class Whole(TransactionalSink):
    """All of its output becomes part of the decision record."""

    def __init__(self, size):
        self.size = size
        self.committed = []

    def open(self, context):
        return WholeWriter(self)


class WholeWriter(TransactionalSinkWriter):
    held_bytes = 0

    def __init__(self, sink):
        self.sink = sink

    def recover(self, decided):
        for committable in decided:
            self.commit(committable)

    def write(self, records):
        pass

    def seal(self, checkpoint_id):
        return True

    def prepare(self, checkpoint_id, sealed):
        return bytes(self.sink.size)

    def commit(self, committable):
        if committable.checkpoint_id not in self.sink.committed:
            self.sink.committed.append(committable.checkpoint_id)

    def abort(self, checkpoint_id, sealed):
        pass

    def close(self):
        pass


def test_output_that_no_checkpoint_takes_names_its_sink(state):
    """Kind: more output comes at once than a decision record holds, and the error says neither whose nor what to do."""
    sink = Whole((1 << 30) + 1)
    flow = Dataflow("whole")
    flow.source("in", Fast(BATCH)).sink("out", sink)
    with pytest.raises(CapacityExceededError, match=r"are output of sink 'out'.*a smaller batch_size; or give a trans"):
        run(flow, state)
    assert sink.committed == []
    sink.size = 5
    assert run(flow, state).records_in == BATCH
    assert len(sink.committed) == 1


class Roomy(Idempotent):
    """Has room for so many records that wait, as a target that is slow by the record."""

    def open(self, context):
        writer = super().open(context)
        writer.max_waiting = 40
        return writer


class Small(Transactional):
    """Takes so many bytes in one checkpoint, and says how many it holds."""

    def open(self, context):
        return Counted(self.gate)


class Counted(Uncounted):
    max_held_bytes = 400

    @property
    def held_bytes(self):
        return 10 * len(self.records)


@pytest.mark.parametrize("kind", [Roomy, Small], ids=["records", "bytes"])
def test_a_sink_with_little_room_begins_checkpoints_of_its_own(state, kind):
    """Kind: a sink's own bound is not asked for, and only that of the whole job holds, which is far away."""
    gate = Gate()
    gate.open.set()
    flow = Dataflow("roomy")
    flow.source("in", TestingSource([{"n": n} for n in range(400)], batch_size=10)).sink("out", kind(gate))
    result = run(flow, state, checkpoint_interval_s=1e9, batch_size=10)
    assert result.finished
    assert 400 // 50 - 1 <= result.checkpoints <= 400 // 40 + 1
