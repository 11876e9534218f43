"""State that has expired goes, also where its key never comes again; what lives is never touched."""

from __future__ import annotations

from datetime import timedelta

import pytest

from onceflow import Dataflow, run
from onceflow.clock import ManualClock
from onceflow.embed import StateBackend
from onceflow.state import ListState, MapState, Processor, ValueState
from onceflow.testing import ABORT, EOF, AbortedError, TestingSource, TransactionalTestingSink

RECORDS = 20_000
LIVE = 500


class Seen(Processor):
    times = ValueState(default=0, ttl=timedelta(microseconds=LIVE))

    def process(self, record):
        self.times.set(self.times.get() + 1)
        yield record, self.times.get()


class SeenForEver(Seen):
    first = ValueState()

    def process(self, record):
        if record % 10 == 0:
            self.first.set(record)
        yield from super().process(record)


def rows_left(state, name="flow", table="step"):
    with StateBackend.open(state, job=name, read_only=True) as backend:
        schema = backend.tables()[table]
        return backend.table(table, key=schema.key, columns=schema.columns).scan()


def job(step, records, *, timed=True, batch_size=50, on_batch=None):
    """Each record is a key of its own."""
    event_time = (lambda record: record) if timed else None
    flow, sink = Dataflow("flow"), TransactionalTestingSink()
    stream = flow.source("in", TestingSource(records, event_time=event_time, batch_size=batch_size))
    if on_batch is not None:
        stream = stream.map_batch(on_batch)
    if step is None:
        stream = stream.drop_duplicates("step", lambda record: record, horizon=timedelta(microseconds=LIVE))
    else:
        stream = stream.key_by(lambda record: record).process("step", step)
    stream.sink("out", sink)
    return flow, sink


@pytest.mark.parametrize("step", [Seen, None], ids=["process", "drop_duplicates"])
@pytest.mark.parametrize("batch_size", [7, 50, 2_000])
def test_state_of_keys_that_never_come_again_is_bounded(state, step, batch_size):
    flow, sink = job(step, [*range(RECORDS), EOF], batch_size=batch_size)
    run(flow, state, checkpoint_interval_s=0.01)
    assert len(sink.records) == RECORDS
    keys = set(rows_left(state).keys.tolist())
    # All that live, and not many times more.
    assert keys >= set(range(RECORDS - LIVE + 1, RECORDS))
    assert len(keys) < 4 * (LIVE + batch_size)


def test_state_stays_small_over_restarts(state):
    records = list(range(RECORDS))
    for place in range(1_000, RECORDS, 2_500):
        records.insert(place, ABORT)
    flow, sink = job(Seen, [*records, EOF])
    while True:
        try:
            run(flow, state, checkpoint_interval_s=0.005)
            break
        except AbortedError:
            assert len(rows_left(state)) < 4 * (LIVE + 50)
    assert len(rows_left(state)) < 4 * (LIVE + 50)
    assert sink.records == [(record, 1) for record in range(RECORDS)]


@pytest.mark.parametrize("step", [Seen, None], ids=["process", "drop_duplicates"])
def test_without_event_time_the_clock_counts(state, step):
    """Each batch of 50 comes 50 microseconds after the one before."""
    clock = ManualClock(1_700_000_000)

    def tick(batch):
        clock.advance(50e-6)
        return batch

    flow, sink = job(step, [*range(RECORDS), EOF], timed=False, on_batch=tick)
    run(flow, state, checkpoint_interval_s=1e-9, clock=clock)
    assert len(sink.records) == RECORDS
    assert LIVE - 100 <= len(rows_left(state)) < 4 * (LIVE + 50)


def test_a_state_without_time_to_live_keeps_its_key(state):
    flow, _ = job(SeenForEver, [*range(5_000), EOF])
    run(flow, state, checkpoint_interval_s=0.01)
    keys = rows_left(state).keys.tolist()
    assert set(range(0, 5_000, 10)) <= set(keys)
    assert len(keys) < 500 + 4 * (LIVE + 50)


def test_a_write_begins_the_time_anew(state):
    """One key is written now and then, the others push the time on: it must never be swept."""
    flow, sink = Dataflow("flow"), TransactionalTestingSink()
    records = [(0 if number % 400 == 0 else number, number) for number in range(10_000)]
    stream = flow.source("in", TestingSource(records, event_time=lambda record: record[1], batch_size=20))
    stream.key_by(lambda record: record[0]).process("step", Seen).sink("out", sink)
    run(flow, state, checkpoint_interval_s=1e-9)
    counts = [count for (key, _), count in sink.records if key == 0]
    assert counts == list(range(1, 26))


class Cart(Processor):
    """Declared in a class that has its own ``__init__`` and does not call ours."""

    items = ListState(ttl=timedelta(microseconds=10))
    prices = MapState(ttl=timedelta(microseconds=10))
    note = ValueState(default="none")

    def __init__(self):
        self.made = True

    def process(self, record):
        before = (self.items.get(), self.prices.items(), self.note.get())
        kind = record["do"]
        if kind == "add":
            self.items.append(record["t"])
            self.prices.put(record["t"], record["t"] * 2)
            self.note.set("added")
        elif kind == "replace":
            self.items.replace([])
            self.prices.remove(0)
        elif kind == "clear":
            self.items.clear()
            self.prices.clear()
            self.note.clear()
        return [before]


def test_lists_and_maps_expire_as_a_whole(state):
    steps = [
        (0, "add"),
        (5, "add"),
        (14, "look"),
        (15, "look"),
        (16, "add"),
        (20, "replace"),
        (29, "look"),
        (30, "look"),
    ]
    steps += [(31, "add"), (32, "clear"), (33, "look")]
    flow, sink = Dataflow("flow"), TransactionalTestingSink()
    rows = [{"t": t, "do": do} for t, do in steps]
    source = TestingSource(rows, event_time=lambda row: row["t"], batch_size=1)
    flow.source("in", source).key_by(lambda _: "k").process("step", Cart).sink("out", sink)
    run(flow, state)
    added = [([], {}), ([0], {0: 0}), ([0, 5], {0: 0, 5: 10}), ([], {}), ([], {}), ([16], {16: 32}), ([], {16: 32})]
    added += [([], {}), ([], {}), ([31], {31: 62}), ([], {})]
    notes = ["none", *["added"] * 9, "none"]
    assert sink.records == [(*pair, note) for pair, note in zip(added, notes, strict=True)]
