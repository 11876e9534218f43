"""A list or dict of user state costs what changes of it, at the call and at the barrier, and comes back as it was."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onceflow import Dataflow, run
from onceflow.clock import ManualClock
from onceflow.codec import MsgpackCodec, PickleCodec
from onceflow.embed import StateBackend
from onceflow.entries import CHUNK_ENTRIES, ListEntries, MapEntries
from onceflow.exceptions import StoreCorruptError
from onceflow.graph.partitioning import KeySelector
from onceflow.operators.base import OperatorContext
from onceflow.operators.passed_time import PassedTime
from onceflow.operators.process import Process
from onceflow.state import ListState, MapState, Processor
from onceflow.testing import ABORT, EOF, AbortedError, TestingSource, TransactionalTestingSink


class Counting(MsgpackCodec):
    """Counts what it writes."""

    written = 0

    def encode_all(self, values):
        data = super().encode_all(values)
        self.written += sum(map(len, data))
        return data


class Collect(Processor):
    items = ListState()
    sums = MapState()

    def process(self, record):
        action, value = record[1:]
        if action == "append":
            self.items.append(value)
        elif action == "replace":
            self.items.replace(range(value))
        elif action == "put":
            self.sums.put(value, [value])
        elif action == "remove":
            self.sums.remove(value)
        elif action == "clear":
            (self.items if value % 2 else self.sums).clear()
        else:
            yield self.key, self.items.get(), list(self.sums.items().items())


class Step:
    """A ``Process`` over a real backend, with barriers where a test wants them."""

    def __init__(self, backend, codec=None, make=Collect):
        self.backend, self.codec, self.out = backend, codec or MsgpackCodec(), []
        self.step = Process(KeySelector(lambda record: record[0]), None, make)
        clock = ManualClock()
        self.step.open(OperatorContext("step", backend, self.codec, clock, PassedTime(clock)))

    def emit(self, records, times=None):
        self.out.extend(records)

    def feed(self, *records):
        self.step.process(list(records), None, self)

    def barrier(self):
        self.step.snapshot()

    def seen(self, key):
        self.feed((key, "get", None))
        return self.out.pop()


@pytest.mark.parametrize("action", ["append", "put"])
def test_cost_is_that_of_the_change(state, action):
    """Each append copied the whole list, and each barrier wrote all of it: the cost grew with the square."""
    costs = []
    with StateBackend.open(state) as backend:
        step = Step(backend, Counting())
        for size in (2_000, 18_000):
            step.codec.written = 0
            for n in range(size):
                step.feed(("key", action, 100_000 + n + size))
                if n % 10 == 9:
                    step.barrier()
            costs.append(step.codec.written / size)
        assert len(step.seen("key")[1 if action == "append" else 2]) == 20_000
    # Bytes written for each entry, with a barrier after ten: the head is written again, and nothing else.
    assert costs[1] < 1.5 * costs[0]
    # Old entries of a dict cost their chunk.
    if action == "put":
        with StateBackend.open(state.with_name("2")) as backend:
            step = Step(backend, Counting())
            step.feed(*(("key", "put", n) for n in range(10_000)))
            step.barrier()
            step.codec.written = 0
            step.feed(("key", "put", 17))
            step.barrier()
            assert 0 < step.codec.written < 64 * CHUNK_ENTRIES


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from("ab"), st.just("append"), st.integers(0, 9)),
        st.tuples(st.sampled_from("ab"), st.just("replace"), st.sampled_from([0, 1, 63, 64, 65, 200])),
        st.tuples(st.sampled_from("ab"), st.just("put"), st.integers(0, 300)),
        st.tuples(st.sampled_from("ab"), st.just("remove"), st.integers(0, 300)),
        st.tuples(st.sampled_from("ab"), st.just("clear"), st.integers(0, 1)),
        st.tuples(st.sampled_from("ab"), st.sampled_from(["fill", "drain"]), st.integers(100, 200)),
        st.tuples(st.just("-"), st.sampled_from(["barrier", "restart"]), st.just(0)),
    ),
    max_size=30,
)


@settings(max_examples=60, deadline=None)
@given(ACTIONS, st.sampled_from([MsgpackCodec, PickleCodec]))
def test_against_a_list_and_a_dict(tmp_path_factory, actions, codec):
    lists, dicts = {"a": [], "b": []}, {"a": {}, "b": {}}
    with StateBackend.open(tmp_path_factory.mktemp("entries") / "state") as backend:
        step = Step(backend, codec())
        for key, action, value in actions:
            if action == "barrier":
                step.barrier()
                continue
            if action == "restart":
                step.barrier()
                step = Step(backend, codec())
                for name in "ab":
                    assert step.seen(name) == (name, lists[name], list(dicts[name].items()))
                continue
            if action == "append":
                lists[key].append(value)
            elif action == "replace":
                lists[key] = list(range(value))
            elif action == "put":
                dicts[key][value] = [value]
            elif action == "remove":
                dicts[key].pop(value, None)
            elif action == "clear":
                (lists if value % 2 else dicts)[key].clear()
            elif action == "fill":
                dicts[key].update((n, [n]) for n in range(value))
                step.feed(*((key, "put", n) for n in range(value)))
                continue
            else:
                for n in range(value):
                    dicts[key].pop(n, None)
                step.feed(*((key, "remove", n) for n in range(value)))
                continue
            step.feed((key, action, value))
        for name in "ab":
            assert step.seen(name) == (name, lists[name], list(dicts[name].items()))
        step.barrier()
        # No row is left behind.
        needed = sum(len(cell[0].chunks) for cells in step.step._cache.values.values() for cell in cells.values())
        tables = backend.tables()
        if "step/entries" in tables:
            table = backend.table("step/entries", key="bytes", columns={"value": "bytes"})
            assert len(table) == needed
        else:
            assert needed == 0


@pytest.mark.parametrize("size", [0, 1, CHUNK_ENTRIES - 1, CHUNK_ENTRIES, CHUNK_ENTRIES + 1, 1000])
def test_what_was_kept_in_one_piece_is_read_and_goes_on(state, size):
    """State of the version before: a list or dict as a value among the others of its key."""
    with StateBackend.open(state) as backend:
        table = backend.table("step", key="str", columns={"value": "bytes", "expires": "i64"})
        cells = {"items": [list(range(size)), 5], "sums": [{n: [n] for n in range(size)}, 5]}
        table.put(["old"], value=[msgspec.msgpack.encode(cells)], expires=[2**62])
        for _ in range(2):
            step = Step(backend)
            assert step.seen("old") == ("old", list(range(size)), [(n, [n]) for n in range(size)])
            step.barrier()
        step.feed(("old", "append", -1), ("old", "put", -1), ("old", "remove", 0))
        step.barrier()
        again = Step(backend)
        assert again.seen("old") == ("old", [*range(size), -1], [(n, [n]) for n in [*range(1, size), -1]])


@pytest.mark.parametrize("key", [1, "text", b"bytes", (1, "a"), -(2**63), None, True, date(2024, 1, 1), (None, 2**70)])
def test_keys_of_all_types(state, key):
    with StateBackend.open(state) as backend:
        step = Step(backend)
        step.feed(*((key, "append", n) for n in range(200)))
        step.barrier()
        assert Step(backend).seen(key)[1] == list(range(200))


@pytest.mark.parametrize("codec", [MsgpackCodec, PickleCodec])
def test_names_that_are_times_of_the_hour_that_comes_twice(state, codec):
    """What equals what as a name is Python's to say, and a restart must not change it: zones and folds come back."""
    berlin = ZoneInfo("Europe/Berlin")
    known = {}
    with StateBackend.open(state) as backend:
        for turn in range(3):
            step = Step(backend, codec())
            assert repr(step.seen("key")[2]) == repr(list(known.items()))
            for minute in range(turn * 20, 60 + turn * 20):
                clock = datetime(2023, 10, 29, 2) + timedelta(minutes=minute)
                first, second = (clock.replace(fold=fold, tzinfo=berlin) for fold in (0, 1))
                names = (first, second, first.astimezone(UTC), second.astimezone(UTC), clock, (clock.date(), second))
                for name in (*names, clock.replace(tzinfo=timezone(timedelta(hours=2)))):
                    known[name] = [name]
                    step.feed(("key", "put", name))
                if minute % 7 == 0:
                    known.pop(second)
                    step.feed(("key", "remove", second))
                if minute % 25 == 0:
                    step.barrier()
            step.barrier()
        assert repr(Step(backend, codec()).seen("key")[2]) == repr(list(known.items()))
        assert len(known) > 3 * CHUNK_ENTRIES


def test_a_chunk_that_is_missing_is_told(state):
    with StateBackend.open(state) as backend:
        step = Step(backend)
        step.feed(*(("key", "append", n) for n in range(200)))
        step.barrier()
        table = backend.table("step/entries", key="bytes", columns={"value": "bytes"})
        table.delete(table.scan().keys[:1])
        with pytest.raises(StoreCorruptError, match="state 'items' of key 'key' is missing"):
            Step(backend).seen("key")


class Expiring(Collect):
    items = ListState(ttl=timedelta(microseconds=100))
    sums = MapState(ttl=timedelta(microseconds=100))


def test_chunks_of_what_has_expired_go_with_it(state):
    """Of keys that never come again, and of a key that begins anew."""
    flow, sink = Dataflow("flow"), TransactionalTestingSink()
    records = []
    for key in range(20):
        records += [(key, "append", n, key * 1000) for n in range(150)]
        records += [(key, "put", n, key * 1000) for n in range(150)]
        records += [("again", "append", n, key * 1000) for n in range(100)]
        records.append(("again", "get", 0, key * 1000))
    records.insert(3000, ABORT)
    source = TestingSource([*records, EOF], event_time=lambda record: record[3], batch_size=50)
    keyed = flow.source("in", source).key_by(lambda record: str(record[0]))

    class Triple(Expiring):
        def process(self, record):
            return super().process(record[:3])

    keyed.process("step", Triple).sink("out", sink)
    with pytest.raises(AbortedError):
        run(flow, state, checkpoint_interval_s=1e-9)
    run(flow, state, checkpoint_interval_s=1e-9)
    assert [items for _, items, _ in sink.records] == [list(range(100))] * 20
    with StateBackend.open(state, job="flow", read_only=True) as backend:
        heads = backend.table("step", key="str", columns={"value": "bytes", "expires": "i64"}).scan()
        rows = len(backend.table("step/entries", key="bytes", columns={"value": "bytes"}))
    assert len(heads) < 10
    assert 0 < rows <= 4 * len(heads) + 4


def test_entries_in_memory():
    entries = ListEntries.of(range(1000))
    assert (entries.all(), len(entries.chunks)) == (list(range(1000)), 1000 // CHUNK_ENTRIES)
    entries = MapEntries.of((n, n) for n in range(1000))
    for n in range(990):
        entries.remove(n)
    # Packed on the way, so that few entries are in few chunks.
    assert entries.all() == {n: n for n in range(990, 1000)}
    assert len(entries.chunks) <= 2
