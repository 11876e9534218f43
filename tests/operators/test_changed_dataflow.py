"""A dataflow that no longer fits its state is refused by a text that says what changed, and nothing is written."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest

from onceflow import Columns, Dataflow, count, max, mean, run, sum
from onceflow.exceptions import DataflowChangedError
from onceflow.state import ListState, Processor, ValueState
from onceflow.testing import EOF, TestingSource, TransactionalTestingSink
from onceflow.windows import Tumbling

ROWS = [{"a": n % 3, "b": str(n % 3), "v": n} for n in range(20)]


def make(build):
    """A dataflow whose step is made by ``build``; stops half-way."""
    flow, sink = Dataflow("flow"), TransactionalTestingSink()
    source = TestingSource([*ROWS[:10], EOF, *ROWS[10:]], event_time=lambda row: row["v"])
    build(flow.source("in", source)).sink("out", sink)
    return flow, sink


class Visits(Processor):
    visits = ValueState()

    def process(self, record):
        self.visits.set(1)


class Renamed(Processor):
    count = ValueState()


class OtherKind(Processor):
    visits = ListState()


class More(Visits):
    other = ValueState()


def totals(stream, **aggregates):
    return stream.aggregate("step", **aggregates)


def window(stream, size=10, offset=0, **aggregates):
    micros = timedelta(microseconds=1)
    return stream.window("step", Tumbling(size * micros, offset=offset * micros)).aggregate(
        **(aggregates or {"n": count()})
    )


CHANGES = {
    "another aggregate under the name": (
        lambda s: totals(s.key_by("a"), n=sum("v")),
        lambda s: totals(s.key_by("a"), n=max("v")),
        r"the result 'n' of aggregate 'step' was a sum and is a max",
    ),
    "what is there instead of all records": (
        lambda s: totals(s.key_by("a"), n=count()),
        lambda s: totals(s.key_by("a"), n=count("v")),
        r"the result 'n' of aggregate 'step' was a count and is a count of a field",
    ),
    "an aggregate more": (
        lambda s: totals(s.key_by("a"), n=count()),
        lambda s: totals(s.key_by("a"), n=count(), avg=mean("v")),
        r"the result 'avg' of aggregate 'step' \(mean\) is new",
    ),
    "an aggregate less": (
        lambda s: totals(s.key_by("a"), n=count(), avg=mean("v")),
        lambda s: totals(s.key_by("a"), n=count()),
        r"the result 'avg' of aggregate 'step' \(mean\) is gone",
    ),
    "another type of an aggregate": (
        lambda s: totals(s.key_by("a"), n=sum("v")),
        lambda s: totals(s.key_by("a"), n=sum("v", type="f64")),
        r"'step' has state of type i64 for sum 'n', which now asks for type f64",
    ),
    "another field of an aggregate": (
        lambda s: totals(s.key_by("a"), n=sum("v")),
        lambda s: totals(s.key_by("a"), n=sum("a")),
        r"the result 'n' of aggregate 'step' had field 'v' and has field 'a'",
    ),
    "a function in place of a field": (
        lambda s: totals(s.key_by("a"), n=sum("v")),
        lambda s: totals(s.key_by("a"), n=sum(lambda row: row["v"])),
        r"had field 'v' and has field a function",
    ),
    "another field of windows": (
        lambda s: window(s.key_by("a"), n=sum("v")),
        lambda s: window(s.key_by("a"), n=sum("a")),
        r"the result 'n' of window 'step' had field 'v' and has field 'a'",
    ),
    "NaN that is passed over and then counted": (
        lambda s: totals(s.key_by("a"), n=count("v", nan="skip")),
        lambda s: totals(s.key_by("a"), n=count("v", nan="keep")),
        r"had nan skip and has nan keep",
    ),
    "NaN that is refused too late": (
        lambda s: totals(s.key_by("a"), n=sum("v", nan="keep")),
        lambda s: totals(s.key_by("a"), n=sum("v")),
        r"had nan keep and has nan refuse",
    ),
    "another field of event time": (
        lambda s: s.assign_timestamps("step", "v"),
        lambda s: s.assign_timestamps("step", "a"),
        r"assign_timestamps 'step' had event_time 'v' and has event_time 'a'",
    ),
    "another column as key": (
        lambda s: totals(s.key_by("a"), n=count()),
        lambda s: totals(s.key_by("b"), n=count()),
        r"was aggregate by a, .* and is aggregate by b",
    ),
    "another type of key by a function": (
        lambda s: totals(s.key_by(lambda row: row["a"]), n=count()),
        lambda s: totals(s.key_by(lambda row: row["b"]), n=count()),
        r"'step' has state by keys of type i64, and its keys are now of type str",
    ),
    "another declared type of key": (
        lambda s: totals(s.key_by("a"), n=count()),
        lambda s: totals(s.key_by("a", key_type="u64"), n=count()),
        r"state by keys of type i64, and its keys are now of type u64",
    ),
    "tuples as keys": (
        lambda s: s.key_by(lambda row: row["a"]).stateful_map("step", lambda _, row: (1, row)),
        lambda s: s.key_by(lambda row: (row["a"], row["b"])).stateful_map("step", lambda _, row: (1, row)),
        r"keys are now of type \(i64, str\)",
    ),
    "another kind of step": (
        lambda s: s.key_by("a").stateful_map("step", lambda _, row: (1, row)),
        lambda s: s.key_by("a").process("step", Visits),
        r"'step' was stateful_map by a and is process by a",
    ),
    "another size of windows": (
        lambda s: window(s.key_by("a")),
        lambda s: window(s.key_by("a"), size=20),
        r"windows of 0:00:00.000010 .* windows of 0:00:00.000020",
    ),
    "another offset of windows": (
        lambda s: window(s.key_by("a")),
        lambda s: window(s.key_by("a"), offset=5),
        r"from 0:00:00.000005",
    ),
    "another key of windows": (
        lambda s: window(s.key_by(lambda row: row["a"])),
        lambda s: window(s.key_by(lambda row: row["b"])),
        r"keys of type i64, and its keys are now of type str",
    ),
    "another key of duplicates": (
        lambda s: s.drop_duplicates("step", lambda row: row["a"], horizon=timedelta(1)),
        lambda s: s.drop_duplicates("step", lambda row: row["b"], horizon=timedelta(1)),
        r"keys are now of type str",
    ),
    "a renamed state": (
        lambda s: s.key_by("a").process("step", Visits),
        lambda s: s.key_by("a").process("step", Renamed),
        r"the state 'visits' of process 'step' \(ValueState\) is gone \(was it renamed to one of \['count'\]",
    ),
    "another kind of state": (
        lambda s: s.key_by("a").process("step", Visits),
        lambda s: s.key_by("a").process("step", OtherKind),
        r"the state 'visits' of process 'step' was a ValueState and is a ListState",
    ),
    "a renamed source": (
        lambda s: totals(s.key_by("a"), n=count()),
        None,
        r"source 'in' is gone; source 'input' is new \(was one of \['in'\] renamed to one of \['input'\]\?",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_refused(state, change):
    before, after, match = CHANGES[change]
    flow, _ = make(before)
    assert not run(flow, state).finished
    if after is None:
        flow, sink = Dataflow("flow"), TransactionalTestingSink()
        before(flow.source("input", TestingSource(ROWS))).sink("out", sink)
    else:
        flow, sink = make(after)
    for _ in range(2):
        with pytest.raises(DataflowChangedError, match=match) as caught:
            run(flow, state)
        assert "start over with resume_from='none'" in str(caught.value)
    assert sink.records == []
    # The state is as it was: the former dataflow goes on.
    flow, _ = make(before)
    assert run(flow, state).finished


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            lambda s: totals(s.key_by("a"), n=count(), t=sum("v")),
            lambda s: totals(s.key_by("a"), t=sum("v"), n=count()),
        ),
        (lambda s: totals(s.key_by("a"), t=sum("v")), lambda s: totals(s.key_by("a"), t=sum("v", type="i64"))),
        # No NaN has come, so this is also what the advice of the error of a NaN leads to.
        (lambda s: totals(s.key_by("a"), t=sum("v")), lambda s: totals(s.key_by("a"), t=sum("v", nan="skip"))),
        (lambda s: totals(s.key_by("a"), t=sum(len)), lambda s: totals(s.key_by("a"), t=sum(lambda row: row["v"]))),
        (lambda s: totals(s.key_by("a"), n=count()), lambda s: totals(s.key_by("a", key_type="i64"), n=count())),
        (lambda s: totals(s.map(dict).key_by("a"), n=count()), lambda s: totals(s.key_by("a"), n=count())),
        (lambda s: s.key_by("a").process("step", Visits), lambda s: s.key_by("a").process("step", More)),
        (lambda s: window(s.key_by("a")), lambda s: window(s.map_batch(lambda batch: batch).key_by("a"))),
        (
            lambda s: s.drop_duplicates("step", "a", horizon=timedelta(1)),
            lambda s: s.drop_duplicates("step", "a", horizon=timedelta(2)),
        ),
    ],
)
def test_changes_that_state_survives(state, before, after):
    run(make(before)[0], state)
    assert run(make(after)[0], state).finished


def test_rows_become_columns(state):
    """The same integers as a list and as an array are the same keys."""

    def columns(rows):
        return Columns({"a": np.array([row["a"] for row in rows], dtype=np.int32)})

    run(make(lambda s: totals(s.key_by("a"), n=count()))[0], state)
    flow, sink = make(lambda s: totals(s.map_batch(columns).key_by("a"), n=count()))
    assert run(flow, state).finished
    assert {row["a"]: row["n"] for row in sink.records} == {0: 7, 1: 7, 2: 6}
