"""What a dataflow can keep is found out in time and text that grow with its steps, not with the paths through them."""

from __future__ import annotations

from itertools import product

import pytest

from onceflow import Dataflow, count, run
from onceflow.exceptions import ConfigurationError, DeliveryGuaranteeError
from onceflow.testing import PlainTestingSink, TestingSource, TransactionalTestingSink
from onceflow.windows import Tumbling

#: Through 60 diamonds lead 2 to the power of 60 paths: what enumerates them does not come to an end.
MANY = 60


def diamonds(stream, stacked):
    """Branches and merges: each record takes one of the two branches."""
    for number in range(stacked):
        low = stream.filter(lambda record, bit=number: not record >> bit & 1)
        high = stream.filter(lambda record, bit=number: record >> bit & 1)
        stream = low.union(high)
    return stream


def stacked(diamond_count, sink=None, **settings):
    flow = Dataflow("diamonds")
    diamonds(flow.source("in", TestingSource([0, 1, 2], **settings)), diamond_count).sink(
        "out", sink or TransactionalTestingSink()
    )
    return flow


def shown(flow):
    """The lines that name a path."""
    return [line for line in flow.explain().splitlines() if "→" in line]


def test_of_few_paths_each_is_shown():
    # filter-1 and filter-2 are merged in union-3, and so on.
    ways = product(
        *((f"filter-{3 * n + 1} → union-{3 * n + 3}", f"filter-{3 * n + 2} → union-{3 * n + 3}") for n in range(6))
    )
    assert shown(stacked(6)) == [f"in → {' → '.join(way)} → out: exactly_once" for way in ways]


def test_of_many_paths_one_is_shown_for_each_pair_of_ends():
    flow = Dataflow("many")
    left, right = (flow.source(name, TestingSource([1])) for name in ("left", "right"))
    right.sink("alone", PlainTestingSink())
    merged = diamonds(left.union(right), 6)
    merged.sink("out", TransactionalTestingSink())
    merged.map(str, dead_letters="text").sink("texts", TransactionalTestingSink())
    flow.dead_letters("text").sink("bad", TransactionalTestingSink())
    paths = shown(flow)
    assert [(path.split(" → ")[0], path.split(" → ")[-1]) for path in paths] == [
        ("left", "out: exactly_once"),
        ("left", "texts: exactly_once"),
        ("left", "bad: exactly_once"),
        ("right", "alone: NOT exactly_once"),
        ("right", "out: exactly_once"),
        ("right", "texts: exactly_once"),
        ("right", "bad: exactly_once"),
    ]
    assert "→ text → (dead_letters) → bad" in paths[2]
    notes = [line for line in flow.explain().splitlines() if line.startswith("  note")]
    assert notes == ["  note     more paths with these ends, which stand on the same: 63"] * 6


@pytest.mark.timeout(60)
def test_explained():
    text = stacked(MANY).explain()
    assert text.count("exactly_once\n") == 2
    assert f"which stand on the same: {2**MANY - 1:,}" in text


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("settings", "sink", "match"),
    [
        ({"replayable": False}, TransactionalTestingSink(), r"path in → filter-.* → out: step 'in' .*read again"),
        ({}, PlainTestingSink(), r"path in → filter-.* → out: step 'out' .*neither transactional"),
    ],
)
def test_refused(state, settings, sink, match):
    with pytest.raises(DeliveryGuaranteeError, match=match):
        run(stacked(MANY, sink, **settings), state)
    assert not state.exists()


@pytest.mark.timeout(60)
def test_a_window_looks_for_event_time(state):
    flow = Dataflow("windows")
    source = flow.source("in", TestingSource([1]))
    windows = diamonds(source, MANY).key_by(lambda record: record).window("window", Tumbling(seconds=1))
    windows.aggregate(n=count()).sink("out", TransactionalTestingSink())
    with pytest.raises(ConfigurationError, match="source 'in' has none"):
        run(flow, state)


@pytest.mark.timeout(60)
def test_run(state):
    sink = TransactionalTestingSink()
    assert run(stacked(MANY, sink), state).finished
    assert sorted(sink.records) == [0, 1, 2]
