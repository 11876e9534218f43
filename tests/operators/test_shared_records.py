"""Faults of records that several steps hold: what one changes in place another sees, by the order of declaration."""

from datetime import timedelta
from itertools import permutations

import pytest

from onceflow import Dataflow, last, run
from onceflow import sum as sum_of
from onceflow.state import ListState, Processor
from onceflow.testing import TestingSource, TransactionalTestingSink
from onceflow.windows import Tumbling


def rows():
    return [{"k": 1, "v": [n], "t": n} for n in range(4)]


def changed(row):
    row["v"].append("changed")
    row["more"] = True
    return row


class Keeps(Processor):
    kept = ListState()

    def process(self, record):
        self.kept.append(record)
        changed(record)
        yield self.kept.get()


def in_batch(batch):
    for row in batch:
        changed(row)
    return batch


#: Each takes the stream further and changes its records in place.
BRANCHES = {
    "map": lambda s: s.map(changed),
    "inspect": lambda s: s.inspect(changed),
    "filter": lambda s: s.filter(changed),
    "flat_map": lambda s: s.flat_map(lambda row: [changed(row)]),
    "map_batch": lambda s: s.map_batch(in_batch),
    "filter_batch": lambda s: s.filter_batch(lambda batch: [bool(changed(row)) for row in batch]),
    "stateful_map": lambda s: s.key_by("k").stateful_map("kept", lambda _, row: (1, changed(row))),
    "key": lambda s: s.key_by(lambda row: changed(row)["k"]).stateful_map("kept", lambda _, row: (1, row)),
    "aggregate": lambda s: s.key_by("k").aggregate("total", last=last(lambda row: changed(row)["v"])),
    "process": lambda s: s.key_by("k").process("step", Keeps),
    "union": lambda s: s.union(s.filter(lambda row: True)).map(changed),
    "a stream with itself": lambda s: s.union(s).map(changed),
    "duplicates": lambda s: s.drop_duplicates("once", ["t"], horizon=timedelta(1)).map(changed),
    "times": lambda s: s.assign_timestamps("times", "t").map(changed),
    "two steps": lambda s: s.map(changed).map(changed),
}


def written(build_all):
    flow = Dataflow("flow")
    stream = flow.source("in", TestingSource(rows(), event_time=lambda row: row["t"], batch_size=3))
    sinks = {}
    for name, build in build_all:
        sinks[name] = TransactionalTestingSink()
        build(stream).sink(f"out-{name.replace(' ', '-')}", sinks[name])
    return flow, sinks


@pytest.mark.parametrize("branch", BRANCHES)
def test_a_branch_that_changes_its_records_is_not_seen_by_another(tmp_path, branch):
    """A raw sink that gets what a function made of its records, if it is declared behind it or keeps them."""
    results = []
    for number, order in enumerate(permutations(("raw", "changing", "other"))):
        builds = {"raw": lambda s: s, "changing": BRANCHES[branch], "other": lambda s: s.map(changed).map(dict)}
        flow, sinks = written([(name, builds[name]) for name in order])
        run(flow, tmp_path / str(number))
        assert sinks["raw"].records == rows()
        assert sinks["other"].records == [changed(row) for row in rows()]
        results.append(sinks["changing"].records)
    assert results == results[:1] * 6


def test_records_of_a_union_with_itself_are_two(tmp_path):
    """One record that comes twice and is changed twice."""
    flow, sinks = written([("twice", BRANCHES["a stream with itself"])])
    run(flow, tmp_path)
    assert sorted(row["t"] for row in sinks["twice"].records) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert all(row["v"] == [row["t"], "changed"] for row in sinks["twice"].records)


def test_side_outputs_share_nothing_either(tmp_path):
    """Late records that are changed on their way to one of two sinks."""
    flow = Dataflow("flow")
    late = [{"k": 1, "v": [], "t": t} for t in (50, 1, 2)]
    keyed = flow.source("in", TestingSource(late, event_time=lambda row: row["t"])).key_by("k")
    tumbling = Tumbling(timedelta(microseconds=10))
    keyed.window("w", tumbling).aggregate(v=last("t")).sink("out", TransactionalTestingSink())
    raw, other = TransactionalTestingSink(), TransactionalTestingSink()
    flow.late("w").map(changed).sink("other", other)
    flow.late("w").sink("raw", raw)
    run(flow, tmp_path)
    assert raw.records == [{"k": 1, "v": [], "t": 1}, {"k": 1, "v": [], "t": 2}]
    assert [row["v"] for row in other.records] == [["changed"], ["changed"]]


def test_a_stream_with_one_user_is_not_copied(tmp_path):
    """Copies that nobody needs."""
    seen = []
    flow = Dataflow("flow")
    given = rows()
    stream = flow.source("in", TestingSource(given)).inspect(seen.append).map(lambda row: seen.append(row) or row)
    stream.sink("out", TransactionalTestingSink())
    run(flow, tmp_path)
    assert {id(row) for row in seen} == {id(row) for row in given}


#: Each takes values out of its records and keeps none of them.
READERS = {
    "aggregate": lambda s: s.key_by("k").aggregate("read", n=sum_of("n"), last=last("v")),
    "window": lambda s: s.key_by("k").window("read", Tumbling(timedelta(microseconds=2))).aggregate(v=last("v")),
    "duplicates": lambda s: (
        s.drop_duplicates("once", ["t"], horizon=timedelta(1)).key_by("k").aggregate("read", v=last("v"))
    ),
    "times": lambda s: s.assign_timestamps("times", "t").key_by("k").aggregate("read", v=last("v"), n=sum_of("n")),
}


def counted():
    return [{"k": 1, "v": [n], "t": n, "n": n} for n in range(4)]


def counted_up(row):
    changed(row)["n"] += 100
    return row


@pytest.mark.parametrize("reader", READERS)
def test_a_step_that_only_reads_sees_no_change_and_costs_no_copy(tmp_path, reader):
    """A total of what another branch has made of the records; copies where there is nothing to be kept from."""
    results = []
    for number, order in enumerate([("reading",), ("reading", "changing"), ("changing", "reading")]):
        seen = []

        def keeps_and_changes(row, seen=seen):
            seen.append(row)
            return counted_up(row)

        given = counted()
        flow = Dataflow("flow")
        stream = flow.source("in", TestingSource(given, event_time=lambda row: row["t"], batch_size=3))
        sinks = {name: TransactionalTestingSink() for name in order}
        for name in order:
            (READERS[reader](stream) if name == "reading" else stream.map(keeps_and_changes)).sink(name, sinks[name])
        run(flow, tmp_path / str(number))
        results.append(sinks["reading"].records)
        if "changing" in order:
            assert [id(row) for row in seen] == [id(row) for row in given]
            assert sinks["changing"].records == list(map(counted_up, counted()))
    assert results[0]
    assert results == results[:1] * 3


def test_of_several_that_change_records_beside_one_that_reads_the_last_gets_the_records_themselves(tmp_path):
    """A step that is handed what another one changes, where a third one reads first."""
    seen = {"first": [], "last": []}
    flow = Dataflow("flow")
    given = counted()
    stream = flow.source("in", TestingSource(given))
    totals = TransactionalTestingSink()
    for name, ids in seen.items():
        stream.map(lambda row, ids=ids: ids.append(id(row)) or counted_up(row)).sink(name, TransactionalTestingSink())
        if name == "first":
            stream.key_by("k").aggregate("total", emit="final", n=sum_of("n")).sink("totals", totals)
    run(flow, tmp_path)
    assert seen["last"] == [id(row) for row in given]
    assert not {*seen["first"]} & {*seen["last"]}
    assert totals.records == [{"k": 1, "n": 6}]


def test_branches_that_meet_again_keep_their_order(tmp_path):
    """Records of a union in another order, since a step took what it only reads before its time."""
    out = TransactionalTestingSink()
    flow = Dataflow("flow")
    stream = flow.source("in", TestingSource(counted(), batch_size=2))
    changing = stream.map(counted_up).map(lambda row: ("changed", row["n"]))
    total = stream.key_by("k").aggregate("total", n=sum_of("n")).map(lambda row: ("total", row["n"]))
    changing.union(total).sink("out", out)
    run(flow, tmp_path, batch_size=2)
    assert out.records == [
        *[("changed", 100), ("changed", 101), ("total", 1)],
        *[("changed", 102), ("changed", 103), ("total", 6)],
    ]


def test_late_records_that_a_sink_keeps_are_copied_from(tmp_path):
    """A window that only reads, but for late records: another branch changes them in the sink that keeps them."""
    late = [{"k": 1, "v": [], "t": t, "n": t} for t in (50, 1, 2)]
    for number, order in enumerate(permutations(("window", "changing"))):
        flow = Dataflow("flow")
        stream = flow.source("in", TestingSource([dict(row, v=[]) for row in late], event_time=lambda row: row["t"]))
        kept = TransactionalTestingSink()
        for name in order:
            if name == "window":
                windows = stream.key_by("k").window("w", Tumbling(timedelta(microseconds=10)))
                windows.aggregate(v=last("t")).sink("out", TransactionalTestingSink())
                flow.late("w").sink("late", kept)
            else:
                stream.map(counted_up).sink("changed", TransactionalTestingSink())
        run(flow, tmp_path / str(number))
        assert kept.records == late[1:]
