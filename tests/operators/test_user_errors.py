"""An exception in a function of the user names the step, the record and where it came from, and keeps its traceback."""

from __future__ import annotations

import traceback
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

from onceflow import Columns, Dataflow, count, first, last, run, sum
from onceflow.exceptions import ConfigurationError, SerializationError, UserFunctionError
from onceflow.state import ListState, Processor, ValueState
from onceflow.testing import EOF, TestingSource, TransactionalTestingSink
from onceflow.windows import Tumbling

ROWS = [{"k": n % 2, "v": n} for n in range(25)]
BAD = 17


def fails(value):
    """Raises for one record."""
    if value["v"] == BAD:
        raise ZeroDivisionError("a bad record")
    return value


class Fails(Processor):
    def process(self, record):
        yield fails(record)


class Keeps(Processor):
    seen = ValueState()

    def process(self, record):
        self.seen.set(True)
        yield record


class FailsLate(Processor):
    """Raises in the middle of what it yields."""

    def process(self, record):
        yield record
        fails(record)


def as_columns(rows):
    return Columns({"k": np.array([row["k"] for row in rows]), "v": pa.array([row["v"] for row in rows])})


def window(stream):
    return stream.window("step", Tumbling(days=1))


PLACES = {
    "map": lambda s: s.map(fails),
    "filter": lambda s: s.filter(fails),
    "flat_map": lambda s: s.flat_map(lambda row: [fails(row)]),
    "inspect": lambda s: s.inspect(fails),
    "key": lambda s: s.key_by(lambda row: fails(row)["k"]).aggregate("step", n=count()),
    "key of duplicates": lambda s: s.drop_duplicates("step", lambda r: fails(r)["k"], horizon=timedelta(1)),
    "field": lambda s: s.key_by("k").aggregate("step", n=sum(lambda row: fails(row)["v"])),
    "field of a window": lambda s: window(s.key_by("k")).aggregate(n=sum(lambda row: fails(row)["v"])),
    "stateful_map": lambda s: s.key_by("k").stateful_map("step", lambda _, row: (1, fails(row))),
    "process": lambda s: s.key_by("k").process("step", Fails),
    "process, later": lambda s: s.key_by("k").process("step", FailsLate),
    "map of columns": lambda s: s.map_batch(as_columns).map(fails),
    "key of columns": lambda s: (
        s.map_batch(as_columns).key_by(lambda row: fails(row)["k"]).aggregate("step", n=count())
    ),
}


def attempt(state, build, rows=ROWS):
    flow, sink = Dataflow("flow"), TransactionalTestingSink()
    build(flow.source("in", TestingSource(rows, event_time=lambda row: row["v"]))).sink("out", sink)
    run(flow, state)
    return sink


@pytest.mark.parametrize("place", PLACES)
def test_an_exception(state, place):
    with pytest.raises(
        UserFunctionError, match=r"ZeroDivisionError: a bad record; record 7 of the batch is .*17"
    ) as caught:
        attempt(state, PLACES[place])
    error = caught.value
    assert f"step {error.step_id!r}" in str(error)
    assert error.position == "0, records 10 to 19"
    assert isinstance(error.__cause__, ZeroDivisionError)
    frames = [frame.name for frame in traceback.extract_tb(error.__cause__.__traceback__)]
    assert frames[-1] == "fails"
    assert "while processing 0, records 10 to 19 of source 'in'" in error.__notes__


@pytest.mark.parametrize("method", ["map_batch", "filter_batch"])
def test_an_exception_in_a_function_of_batches(state, method):
    def function(batch):
        raise KeyError("gone")

    with pytest.raises(UserFunctionError, match=rf"'{method}-1': KeyError: 'gone'; the batch has 10 records") as caught:
        attempt(state, lambda s: getattr(s, method)(function))
    assert isinstance(caught.value.__cause__, KeyError)
    assert caught.value.position == "0, records 0 to 9"


@pytest.mark.parametrize(
    ("method", "result", "match"),
    [
        ("map_batch", None, "must return a list or Columns, not NoneType"),
        ("map_batch", [1], "made 1 records of 10"),
        ("filter_batch", [1] * 10, "must return 10 bools"),
        ("filter_batch", [True], "must return 10 bools"),
        ("filter_batch", None, "must return 10 bools"),
    ],
)
def test_a_function_of_batches_that_returns_something_else(state, method, result, match):
    with pytest.raises(UserFunctionError, match=match):
        attempt(state, lambda s: getattr(s, method)(lambda _: result))


STEPS = {
    "aggregate": lambda s: s.aggregate("step", n=count()),
    "window": lambda s: window(s).aggregate(n=count()),
    "stateful_map": lambda s: s.stateful_map("step", lambda _, row: (1, row)),
    "process": lambda s: s.process("step", Fails),
}
KEYS = {
    "a float": (0, 1.0),
    "a bool": (0, True),
    "too large": (0, 2**71),
    "another type": (0, "text"),
    "a list": ("text", ["list"]),
    "bytes": ("text", b"bytes"),
    "not of a pair": ((1, 2), 3),
    "longer than a pair": ((1, 2), (1, 2, 3)),
    "a string for a pair": (("a", "b"), "ab"),
    "None for a pair": ((1, "a"), None),
    "a float in a pair": ((1, 2), (1, 2.0)),
}


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("step", [*STEPS, "drop_duplicates"])
def test_a_record_whose_key_is_none_of_the_type(state, step, key):
    good, bad = KEYS[key]

    def by(row):
        return bad if row["v"] == 15 else good

    def build(stream):
        if step == "drop_duplicates":
            return stream.drop_duplicates("step", by, horizon=timedelta(1))
        return STEPS[step](stream.key_by(by))

    with pytest.raises(
        UserFunctionError, match=r"step 'step': a record has the key .*record 5 of the batch is .*15"
    ) as caught:
        attempt(state, build)
    assert caught.value.step_id == "step"
    assert caught.value.position == "0, records 10 to 19"


SURROGATE_KEYS = {
    "alone": ("text", "lone \ud800"),
    "two that make no pair": ("text", "\udc00\ud800"),
    "in a pair": ((1, "text"), (1, "\udcff")),
}


@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize("key", SURROGATE_KEYS)
@pytest.mark.parametrize("step", [*STEPS, "drop_duplicates"])
def test_a_key_with_a_lone_surrogate(state, step, key, resumed):
    good, bad = SURROGATE_KEYS[key]
    source = TestingSource([*ROWS[:10], *([EOF] if resumed else []), *ROWS[10:]], event_time=lambda row: row["v"])

    def by(row):
        return bad if row["v"] == 15 else good

    def build(stream):
        if step == "drop_duplicates":
            return stream.drop_duplicates("step", by, horizon=timedelta(1))
        return (STEPS | {"process": lambda s: s.process("step", Keeps)})[step](stream.key_by(by))

    flow = Dataflow("flow")
    build(flow.source("in", source)).sink("out", TransactionalTestingSink())
    if resumed:
        assert not run(flow, state).finished
    with pytest.raises(
        UserFunctionError, match=r"step 'step': a record has the key .*surrogates.*; record 5 of the batch is .*15"
    ) as caught:
        run(flow, state)
    assert caught.value.step_id == "step"
    # The mark has a number too.
    assert caught.value.position == ("0, records 11 to 20" if resumed else "0, records 10 to 19")


def test_keys_of_any_text(state):
    keys = ["", "\0", "ä", "\uffff", "🚀", "e\u0301", "\U0010ffff"]
    rows = [{"k": key, "v": number} for number, key in enumerate(keys * 2)]
    sink = attempt(
        state, lambda s: s.key_by("k").stateful_map("step", lambda n, row: ((n or 0) + 1, (row["k"], n))), rows
    )
    assert sink.records == [(key, None) for key in keys] + [(key, 1) for key in keys]


@pytest.mark.parametrize("first_key", [1.5, ("only one",), [1], {}])
@pytest.mark.parametrize("step", STEPS)
def test_a_first_record_without_a_key(state, step, first_key):
    with pytest.raises(UserFunctionError, match=r"step 'step': a record has the key .*record 0 of the batch"):
        attempt(state, lambda s: STEPS[step](s.key_by(lambda _: first_key)))


@pytest.mark.parametrize(
    ("aggregate", "value", "match"),
    [
        (sum("x"), "text", "has 'text' as 'x', and sum takes numbers.*record 0 of the batch"),
        (sum("x"), float("nan"), "has nan as 'x', which is not a number. Give nan='skip'.*record 0 of the batch"),
        (sum("x", type="i64"), 1.5, "has 1.5 as 'x', and sum was given type='i64'.*Leave the type out"),
        (sum("x", type="i64"), 2**62, "would be .*Leave out type="),
        (first("x", type="i64"), "text", "has 'text' as 'x', and first was given type='i64'"),
    ],
)
def test_a_value_that_an_aggregate_cannot_take(state, aggregate, value, match):
    rows = [{**row, "x": value} for row in ROWS]
    with pytest.raises(UserFunctionError, match=rf"step 'step'.*{match}"):
        attempt(state, lambda s: s.key_by("k").aggregate("step", n=aggregate), rows)


class KeepsAnObject(Processor):
    thing = ValueState()
    things = ListState()

    def process(self, record):
        self.things.append(object() if record["v"] == BAD else 1)


@pytest.mark.parametrize(
    "build",
    [
        lambda s: s.stateful_map("step", lambda _, row: (object() if row["v"] >= BAD else 1, row)),
        lambda s: s.process("step", KeepsAnObject),
        lambda s: s.aggregate("step", x=last(lambda row: object() if row["v"] == BAD else "text")),
    ],
    ids=["stateful_map", "process", "last"],
)
def test_a_state_value_that_cannot_be_kept(state, build):
    with pytest.raises(SerializationError, match=r"step 'step'.*object.*codec='pickle'"):
        attempt(state, lambda s: build(s.key_by("k")))


@pytest.mark.parametrize(
    ("build", "what"),
    [
        (lambda s: window(s.key_by("k").aggregate("before", n=count()).key_by("k")), "the totals of 'before'"),
        (
            lambda s: window(s.key_by("k").aggregate("before", n=count()).map(dict).union(s).key_by("k")),
            "the totals of 'before'",
        ),
    ],
)
def test_a_window_over_what_has_no_event_time(state, build, what):
    with pytest.raises(ConfigurationError, match=f"window 'step' needs event time, and {what} have none"):
        attempt(state, lambda s: build(s).aggregate(n=count()))
    assert not state.exists()
