"""Keys of any type that has one: bools, dates, datetimes and None beside integers and texts, single and in tuples.

The right groups are worked out with a dict, and None comes first in what is sorted; each step goes through a stop and a
resume, in batches of several sizes, from rows and from columns.
"""

from __future__ import annotations

import builtins
from datetime import UTC, date, datetime, timedelta, timezone

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onceflow import Columns, Dataflow, count, last, run, sum
from onceflow.exceptions import ConfigurationError, DataflowChangedError, UserFunctionError
from onceflow.operators.keys import decode_key, encode_key, key_order
from onceflow.state import Processor, ValueState
from onceflow.testing import EOF, TestingSource, TransactionalTestingSink
from onceflow.windows import Tumbling

KEYS = {
    "bools": [True, False, True, True, False],
    "dates": [date(2024, 2, 29), date(1, 1, 1), date(9999, 12, 31), date(2024, 2, 29), date(2024, 2, 28)],
    "datetimes": [datetime(2024, 1, 1, n % 2, tzinfo=UTC) for n in range(5)],
    "naive datetimes": [datetime(2024, 1, 1, 0, 0, 0, n % 3) for n in range(5)],
    "texts and None": ["b", None, "a", None, "b"],
    "None and texts": [None, None, None, "a", "b"],
    "integers and None": [3, None, -1, 3, None],
    "integers of any size": [1, 2**63, 2**64, 2**63, -(2**65)],
    "bytes and None": [b"\x00", None, b"", b"\x00\xff", b"\x00"],
    "only None": [None] * 5,
}
TUPLES = {
    "text and None": [("a", None), ("a", "b"), (None, "b"), (None, None), ("a", None)],
    "bool and date": [(True, date(2024, 1, 2)), (False, None), (True, date(2024, 1, 1)), (None, None), (False, None)],
    "numbers": [(1, 2), (None, 2), (1, None), (1, 2), (-1, 2)],
}


class Visits(Processor):
    visits = ValueState(default=0)

    def process(self, record):
        self.visits.set(self.visits.get() + 1)
        yield {"key": self.key, "n": self.visits.get()}


def as_columns(rows):
    return Columns({name: pa.array([row[name] for row in rows]) for name in rows[0]})


def job(state, rows, *, by, batch_size, form=None):
    """The records of all steps with state by key."""
    sinks = {}
    flow = Dataflow("flow")
    half = len(rows) // 2
    source = TestingSource([*rows[:half], EOF, *rows[half:]], event_time=lambda _: 0, batch_size=batch_size)
    stream = flow.source("in", source)
    if form is not None:
        stream = stream.map_batch(form)
    keyed = stream.key_by(*by)
    steps = {
        "changes": keyed.aggregate("changes", n=count(), total=sum("v")),
        "final": keyed.aggregate("final", emit="final", n=count(), total=sum("v"), closed=last("v")),
        "windows": keyed.window("windows", Tumbling(days=1)).aggregate(n=count(), total=sum("v")),
        "map": keyed.stateful_map("map", lambda n, row: ((n or 0) + 1, ((n or 0) + 1, row["v"]))),
        "process": keyed.process("process", Visits),
        "distinct": stream.drop_duplicates("distinct", list(by), horizon=timedelta(days=1)),
    }
    for name, step in steps.items():
        sinks[name] = TransactionalTestingSink()
        step.sink(f"{name}-out", sinks[name])
    while not run(flow, state).finished:
        pass
    return {name: sink.records for name, sink in sinks.items()}


def plain(value):
    return value.item() if isinstance(value, np.generic) else value


@pytest.mark.parametrize(
    ("form", "batch_size"), [(None, 1), (None, 100), (as_columns, 3)], ids=["rows-1", "rows-100", "columns-3"]
)
@pytest.mark.parametrize("name", [*KEYS, *(f"({name})" for name in TUPLES)])
def test_every_step(state, name, form, batch_size):
    """A key that was None, a bool or a date ended the run, also where it came late."""
    if form is not None and name == "integers of any size":
        form = None  # no column holds them
    if name in KEYS:
        by, keys = ("k",), [(key,) for key in KEYS[name]]
    else:
        by, keys = ("k", "l"), TUPLES[name.strip("()")]
    rows = [dict(zip(by, key, strict=True)) | {"v": number} for number, key in enumerate(keys * 2)]
    groups: dict = {}
    for row in rows:
        groups.setdefault(tuple(row[n] for n in by), []).append(row["v"])
    ordered = sorted(groups, key=key_order)
    found = job(state, rows, by=by, batch_size=batch_size, form=form)

    def keys_of(records):
        return [tuple(plain(record[n]) for n in by) for record in records]

    assert keys_of(found["final"]) == ordered
    assert [row["total"] for row in found["final"]] == [builtins.sum(groups[key]) for key in ordered]
    assert [row["closed"] for row in found["final"]] == [groups[key][-1] for key in ordered]
    assert {type(part) for key in keys_of(found["final"]) for part in key} == {type(p) for key in groups for p in key}
    assert keys_of(found["windows"]) == ordered
    assert [row["n"] for row in found["windows"]] == [len(groups[key]) for key in ordered]
    newest = {tuple(plain(row[n]) for n in by): row["total"] for row in found["changes"]}
    assert newest == {key: builtins.sum(values) for key, values in groups.items()}
    assert found["map"] == [
        (groups[key].index(v) + 1, v) for key, v in ((tuple(r[n] for n in by), r["v"]) for r in rows)
    ]
    assert [row["n"] for row in found["process"]] == [n for n, _ in found["map"]]
    assert [row["v"] for row in found["distinct"]] == [values[0] for values in groups.values()]


def test_the_order_of_changes(state):
    """As the keys occur in the batch, wherever their totals are kept."""
    flow, sink = Dataflow("flow"), TransactionalTestingSink()
    keys = ["b", None, "a", None, "c"]
    flow.source("in", TestingSource(keys, batch_size=5)).key_by(lambda key: key).aggregate("t", n=count()).sink(
        "o", sink
    )
    run(flow, state)
    assert [(row["key"], row["n"]) for row in sink.records] == [("b", 1), (None, 2), ("a", 1), ("c", 1)]


def test_zones_of_keys(state):
    """One instant is one key, whatever zone it is told in; it comes back in UTC."""
    moments = [datetime(2024, 1, 1, 12, tzinfo=UTC), datetime(2024, 1, 1, 7, tzinfo=timezone(timedelta(hours=-5)))]
    flow, sink = Dataflow("flow"), TransactionalTestingSink()
    source = TestingSource(moments, batch_size=1)
    flow.source("in", source).key_by(lambda key: key).aggregate("t", emit="final", n=count()).sink("o", sink)
    run(flow, state)
    [row] = sink.records
    assert row == {"key": moments[0], "n": 2}
    assert row["key"].tzinfo is UTC


@pytest.mark.parametrize(
    ("keys", "match"),
    [
        ([True, 1], r"has the key 1 and the step has keys of type bool"),
        ([1, True], r"has the key True and the step has keys of type i64"),
        ([None, True, 1], r"has the key 1 and the step has keys of type bool"),
        ([None, "a", 1], r"has the key 1 and the step has keys of type str"),
        ([date(2024, 1, 1), datetime(2024, 1, 1)], r"and the step has keys of type date"),
        ([datetime(2024, 1, 1), datetime(2024, 1, 1, tzinfo=UTC)], r"the step has keys of type naive datetime"),
        ([("a", None), ("a", 1), ("a", "b")], r"has the key \('a', 'b'\) and the step has keys of type \(str, i64\)"),
        ([("a", 1), None], r"has the key None and the step has keys of type \(str, i64\)"),
        ([None, 1.5], r"has the key 1.5"),
        ([1, 2**80], r"has the key 1208925819614629174706176"),
    ],
)
@pytest.mark.parametrize("batch_size", [1, 5])
@pytest.mark.parametrize("step", ["aggregate", "stateful_map"])
def test_keys_of_one_step_are_of_one_type(state, keys, match, batch_size, step):
    """Whatever batch they come in, also after a stop: ``True == 1`` would make one group of two."""
    for stop in (False, True):
        flow, sink = Dataflow("flow"), TransactionalTestingSink()
        items = [*keys[:-1], EOF, keys[-1]] if stop else keys
        stream = flow.source("in", TestingSource(items, batch_size=batch_size)).key_by(lambda key: key)
        if step == "aggregate":
            stream.aggregate("t", n=count()).sink("o", sink)
        else:
            stream.stateful_map("t", lambda n, key: ((n or 0) + 1, key)).sink("o", sink)
        with pytest.raises((UserFunctionError, DataflowChangedError)) as caught:
            for _ in range(2):
                run(flow, state / str(stop))
        if not isinstance(caught.value, DataflowChangedError):
            assert caught.match(match)


@pytest.mark.parametrize("second", [date(2024, 1, 1), 1, "a"])
def test_a_type_is_kept_where_no_key_of_it_is_left(state, second):
    """All windows of bools have closed when the job stops, only that of a None is open: keys of another type are still
    others."""
    items = [(True, 0), (None, 0), (None, 10), EOF, (second, 20)]
    flow, sink = Dataflow("flow"), TransactionalTestingSink()
    stream = flow.source("in", TestingSource(items, event_time=lambda item: item[1], batch_size=1))
    windows = stream.key_by(lambda item: item[0]).window("w", Tumbling(timedelta(microseconds=5)))
    windows.aggregate(n=count()).sink("out", sink)
    assert not run(flow, state).finished
    with pytest.raises(DataflowChangedError, match="has state by keys of type bool, and its keys are now of type"):
        run(flow, state)


def test_declared_types(state):
    """A type that is asked for is kept to, but for None; another one is refused by name."""

    def build(keys, key_type):
        flow, sink = Dataflow("flow"), TransactionalTestingSink()
        source = TestingSource(keys, batch_size=1)
        flow.source("in", source).key_by(lambda key: key, key_type=key_type).aggregate("t", n=count()).sink("o", sink)
        return flow, sink

    flow, sink = build([None, date(2024, 1, 1)], "date")
    run(flow, state / "dates")
    assert [row["key"] for row in sink.records] == [None, date(2024, 1, 1)]
    with pytest.raises(UserFunctionError, match="has the key 9223372036854775808 and the step has keys of type i64"):
        run(build([2**63], "i64")[0], state / "large")
    with pytest.raises(ConfigurationError, match="key_type='float': choose from i64, u64, str, bytes, bool, date"):
        build([1], "float")


@pytest.mark.parametrize(
    "array", [np.array([0.5, 1.5]), np.array(["2024-01-01"] * 2, dtype="M8[D]"), np.array([True, False])], ids=str
)
def test_columns_of_numpy(state, array):
    """Of an array that holds no keys the type is named; days and bools are keys."""
    flow, sink = Dataflow("flow"), TransactionalTestingSink()
    stream = flow.source("in", TestingSource([0, 1])).map_batch(lambda batch: Columns({"k": array[batch]}))
    stream.key_by("k").aggregate("t", emit="final", n=count()).sink("o", sink)
    if array.dtype.kind == "f":
        with pytest.raises(UserFunctionError, match=r"an array of float64 holds no keys; keys are int, str"):
            run(flow, state)
    else:
        run(flow, state)
        assert {row["k"] for row in sink.records} == set(array.tolist())


@pytest.mark.parametrize(
    "array",
    [
        pa.array(["b", "a", "b"]).dictionary_encode(),
        pa.array(["b", None, "b"]).dictionary_encode(),
        pa.array([2, 1, 2]).dictionary_encode(),
        pa.array([b"b", b"a", b"b"], type=pa.binary(1)),
        np.array(["b", "a", "b"]),
        np.array([2, 1, 2], dtype="u1"),
        np.ma.array([2, 0, 2], mask=[False, True, False]),
    ],
    ids=lambda array: str(getattr(array, "type", "") or array.dtype),
)
def test_columns_of_other_kinds(state, array):
    """Dictionaries, strings of one size, strings of numpy and masked arrays hold the keys that their values are."""
    flow, sink = Dataflow("flow"), TransactionalTestingSink()
    stream = flow.source("in", TestingSource([0, 1, 2])).map_batch(lambda batch: Columns({"k": array.take(batch)}))
    stream.key_by("k").aggregate("t", emit="final", n=count()).sink("o", sink)
    run(flow, state)
    wanted = array.tolist()
    assert [(plain(row["k"]), row["n"]) for row in sink.records] == [(wanted[1], 1), (wanted[0], 2)]


ELEMENTS = [
    st.none() | st.booleans(),
    st.none() | st.integers(-(2**70), 2**70),
    st.none() | st.text(st.characters(codec="utf-8"), max_size=4) | st.just("\x00") | st.just("a\x00"),
    st.none() | st.binary(max_size=4),
    st.none() | st.dates(),
    st.none() | st.datetimes(),
    st.none() | st.datetimes(min_value=datetime(2, 1, 1), max_value=datetime(9998, 1, 1), timezones=st.timezones()),
]


@given(st.sampled_from(ELEMENTS).flatmap(lambda e: st.tuples(e, e)), st.data())
def test_bytes_of_keys_come_back_and_have_their_order(pair, data):
    """What is sorted by its bytes is sorted by its keys, and equal keys have equal bytes."""
    one, other = pair
    assert decode_key(encode_key(one)) == one
    assert (encode_key(one) < encode_key(other)) == (key_order(one) < key_order(other))
    assert (encode_key(one) == encode_key(other)) == (one == other)
    more = data.draw(st.sampled_from(ELEMENTS).flatmap(lambda e: st.tuples(e, e)))
    first, second = (one, more[0]), (other, more[1])
    assert decode_key(encode_key(first)) == first
    assert (encode_key(first) < encode_key(second)) == (key_order(first) < key_order(second))
