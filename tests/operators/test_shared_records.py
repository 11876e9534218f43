"""Faults of records that several steps hold: what one changes in place another sees, by the order of declaration."""

from datetime import timedelta
from itertools import permutations

import pytest

from onceflow import Dataflow, last, run
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
