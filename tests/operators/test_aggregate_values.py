"""Aggregates over what real data holds: gaps, NaN, mixed numbers, huge ones, times, strings, Decimals, bools.

The right values are worked out record by record in the plainest way; every case runs in rows and columns, in batches of
several sizes, and through a stop and a resume in its middle, and must give the same values of the same types.
"""

from __future__ import annotations

import builtins
import math
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from onceflow import Columns, Dataflow, count, first, last, max, mean, min, run, sum
from onceflow.connectors.files import CsvSource
from onceflow.embed import StateBackend
from onceflow.exceptions import ConfigurationError, DataflowChangedError, UserFunctionError
from onceflow.testing import EOF, TestingSource, TransactionalTestingSink
from onceflow.windows import Tumbling

NAN, INF = math.nan, math.inf

KINDS = {
    "n": count("v"),
    "total": sum("v"),
    "low": min("v"),
    "high": max("v"),
    "avg": mean("v"),
    "opened": first("v"),
    "closed": last("v"),
}


def right(name, values):
    """A result of one key, by hand; None stands for what is missing."""
    there = [value for value in values if value is not None]
    if name == "n":
        return len(there)
    if not there:
        return None
    pick = {"low": builtins.min, "high": builtins.max, "opened": lambda v: v[0], "closed": lambda v: v[-1]}
    if name in pick:
        return pick[name](there)
    if name == "avg" and not any(isinstance(value, Decimal) for value in there):
        there = [float(value) if isinstance(value, int) else value for value in there]
    total = int(there[0]) if isinstance(there[0], bool) else there[0]
    for value in there[1:]:
        total += value
    return total if name == "total" else total / len(there)


NUMBERS = {
    "whole numbers": [1, -5, 3, 7, 0, 12, -2, 9],
    "floats": [0.1, 0.2, -0.3, 1e300, 5.5, 0.1, -0.0, 2.5],
    "gaps in whole numbers": [None, 4, None, None, 7, 1, None, -3],
    "gaps in floats": [0.5, None, None, 1.25, None, 0.1, 0.2, None],
    "bools": [True, False, True, True, False, True, False, True],
    "timedeltas": [timedelta(seconds=n) for n in (3, -1, 86400, 5, 2, 9, 1, 7)],
    "Decimals": [Decimal(text) for text in ("0.10", "2.5", "-1", "0.2", "1E+3", "7", "0.30", "12345678901234567890.5")],
    "beyond 64 bits": [2**63 - 1, 2**63 - 1, 2**62, -(2**63), 2**63 - 1, 2**63 - 1, 5, 2**62],
}
#: Columns have one type, so these are rows only.
MIXED = {
    "a float after whole numbers": [1, 2, 3, 4, 2.5, 5, 6, 7],
    "whole numbers after floats": [0.5, 0.25, 0.5, 1.5, 2, 3, 4, 5],
    "above 2**53 beside floats": [2**53 + 1, 0.5, 2**53 + 1, 2**53, 0.25, 2**53 + 3, 1, 2],
    "numbers of any size": [2**70, 1, -(2**70), 3, 2**64, 4, 5, 6],
    "Decimals and whole numbers": [Decimal("0.1"), 2, 3, Decimal("0.5"), 1, 4, Decimal(7), 2**70],
    "only gaps": [None] * 8,
    "gaps before floats": [None, None, None, None, None, 0.5, 1, None],
    "numpy scalars": [np.int64(3), np.float32(0.5), np.bool_(True), np.uint8(200), np.float64(0.1), 2, None, 1],
}
ORDERED = {
    "strings": ["b", "a", None, "ab", "é", "zz", "", "a"],
    "bytes": [b"b", b"", b"\x00", b"\xff", None, b"a", b"ab", b"b"],
    "dates": [date(2024, 1, day) for day in (3, 1, 2, 9, 5, 7, 6, 4)],
    "aware datetimes": [datetime(2024, 1, day, 12, 30, tzinfo=UTC) for day in (3, 1, 2, 9, 5, 7, 6, 4)],
    "naive datetimes": [datetime(2024, 1, day, 0, 0, 0, 7) for day in (3, 1, 2, 9, 5, 7, 6, 4)],
    "tuples": [(1, "b"), (1, "a"), (0, "z"), None, (2,), (1,), (0,), (3, "c")],
}
ORDER_ONLY = {name: KINDS[name] for name in ("n", "low", "high", "opened", "closed")}


def records(values):
    """Two keys that take turns by threes, so that both have several values in and across batches."""
    return [{"k": "ab"[number // 3 % 2], "v": value} for number, value in enumerate(values)]


def as_columns(rows):
    return Columns({"k": pa.array([row["k"] for row in rows]), "v": pa.array([row["v"] for row in rows])})


def as_numpy(rows):
    values = [row["v"] for row in rows]
    keys = np.array([row["k"] for row in rows])
    if None not in values:
        return Columns({"k": keys, "v": np.array(values)})
    filler = next((value for value in values if value is not None), 0.0)
    hidden = [filler if value is None else value for value in values]
    return Columns({"k": keys, "v": np.ma.array(hidden, mask=[value is None for value in values])})


def job(state, cases, *, form=None, batch_size=3, windowed=False, stop=True):
    """One job with a step for each case: its records and aggregates, by name. What each key's last result is."""
    flow, sinks = Dataflow("flow"), {}
    for name, (rows, aggregates) in cases.items():
        items = [*rows[: len(rows) // 2], EOF, *rows[len(rows) // 2 :]] if stop else rows
        slug = name.replace(" ", "-").replace("*", "")
        stream = flow.source(f"in-{slug}", TestingSource(items, event_time=lambda _: 0, batch_size=batch_size))
        keyed = (stream if form is None else stream.map_batch(form)).key_by("k")
        if windowed:
            totals = keyed.window(slug, Tumbling(days=1)).aggregate(**aggregates)
        else:
            totals = keyed.aggregate(slug, emit="final", **aggregates)
        sinks[name] = TransactionalTestingSink()
        totals.sink(f"out-{slug}", sinks[name])
    while not run(flow, state).finished:
        pass
    return {
        name: {row["k"]: {key: plain(row[key]) for key in row.keys() - WINDOW} for row in sink.records}
        for name, sink in sinks.items()
    }


WINDOW = {"k", "window_start", "window_end"}


def results(state, rows, aggregates, **settings):
    """Of one case."""
    return job(state, {"case": (rows, aggregates)}, **settings)["case"]


def plain(value):
    return value.item() if isinstance(value, np.generic) else value


def exactly(found):
    """With the types of the values, and down to the last bit; columns may add zeros to Decimals, and name UTC."""
    return {key: {name: (type(value), shown(value)) for name, value in row.items()} for key, row in found.items()}


def shown(value):
    if isinstance(value, Decimal):
        return value.normalize()
    return value.isoformat() if isinstance(value, datetime) else repr(value)


def expected(rows, names):
    by_key = {}
    for row in rows:
        by_key.setdefault(row["k"], []).append(plain(row["v"]))
    return {key: {name: right(name, values) for name in names} for key, values in by_key.items()}


def check(found, cases):
    assert {name: exactly(rows) for name, rows in found.items()} == {
        name: exactly(expected(rows, aggregates)) for name, (rows, aggregates) in cases.items()
    }


@pytest.mark.parametrize("batch_size", [1, 3, 100])
@pytest.mark.parametrize("form", [None, as_columns, as_numpy], ids=["rows", "arrow", "numpy"])
def test_numbers(state, form, batch_size):
    """Gaps ended the run, sums of bools were refused, sums beyond 64 bits were an error."""
    cases = {name: (records(values), KINDS) for name, values in NUMBERS.items()}
    check(job(state, cases, form=form, batch_size=batch_size), cases)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
@pytest.mark.parametrize("windowed", [False, True], ids=["totals", "windows"])
def test_mixed_numbers(state, windowed, batch_size):
    """What a batch held first decided whether a later float was taken, refused or rounded; ``max`` over 2**53 + 1
    depended on its neighbours."""
    cases = {name: (records(values), KINDS) for name, values in MIXED.items()}
    check(job(state, cases, batch_size=batch_size, windowed=windowed), cases)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
@pytest.mark.parametrize("form", [None, as_columns], ids=["rows", "columns"])
def test_whatever_has_an_order(state, form, batch_size):
    """``min`` and ``max`` took numbers only."""
    cases = {
        name: (records(values), ORDER_ONLY)
        for name, values in ORDERED.items()
        if form is None or name != "tuples"  # columns have none
    }
    check(job(state, cases, form=form, batch_size=batch_size), cases)


def test_changes_of_each_batch(state):
    """The totals after each batch hold the same values as those at the end."""
    flow, sink = Dataflow("flow"), TransactionalTestingSink()
    stream = flow.source("in", TestingSource(records([1, None, 2.5, None, None, 4, 5, 6]), batch_size=2))
    stream.key_by("k").aggregate("totals", n=count("v"), total=sum("v"), low=min("v")).sink("out", sink)
    run(flow, state)
    assert [(row["k"], row["n"], row["total"], row["low"]) for row in sink.records] == [
        ("a", 1, 1, 1),
        ("a", 2, 3.5, 1),
        ("b", 0, None, None),
        ("b", 1, 4, 4),
        ("a", 4, 14.5, 1),
    ]


@pytest.mark.parametrize("form", [None, as_columns, as_numpy], ids=["rows", "arrow", "numpy"])
@pytest.mark.parametrize("batch_size", [1, 100])
def test_nan_by_a_setting(state, tmp_path, form, batch_size):
    """NaN ended the run whatever was asked for, with advice that led nowhere."""
    rows = records([1.5, NAN, 2.5, NAN, NAN, NAN, 0.5, 4.0])

    def found(place, **aggregates):
        return exactly(results(tmp_path / place, rows, aggregates, form=form, batch_size=batch_size))

    skipped = {name: fresh("v", nan="skip") for name, fresh in zip("abcd", (sum, min, max, mean), strict=True)}
    assert found("skip", **skipped, n=count("v", nan="skip"), there=count("v"), f=last("v", nan="skip")) == exactly(
        {
            "a": {"a": 8.5, "b": 0.5, "c": 4.0, "d": 2.125, "n": 4, "there": 5, "f": 4.0},
            "b": {"a": None, "b": None, "c": None, "d": None, "n": 0, "there": 3, "f": None},
        }
    )
    kept = {name: fresh("v", nan="keep") for name, fresh in zip("abcd", (sum, min, max, mean), strict=True)}
    assert found("keep", **kept, f=last("v"), o=first("v")) == exactly(
        {
            "a": {"a": NAN, "b": 0.5, "c": NAN, "d": NAN, "f": 4.0, "o": 1.5},
            "b": {"a": NAN, "b": NAN, "c": NAN, "d": NAN, "f": NAN, "o": NAN},
        }
    )
    with pytest.raises(UserFunctionError, match=r"has nan as 'v', which is not a number\. Give nan='skip'"):
        results(state, rows, {"a": sum("v")}, form=form, batch_size=batch_size)


def test_infinities(state):
    """IEEE: an infinity is a value; what would become one, or NaN, from finite values is an error."""
    assert results(state, records([1.0, INF, 2.0]), KINDS)["a"]["total"] == INF
    for number, values in enumerate([[1e308, 1e308, 1e308], [INF, -INF, 1.0], [1e308, 1e308, 1]]):
        with pytest.raises(UserFunctionError, match=r"which sum cannot take, with .* before it"):
            results(state.with_name(f"s{number}"), records(values), {"total": sum("v")})


def test_nan_within_other_values(state):
    """A NaN among mixed numbers and Decimals is one, too."""
    rows = records([1, NAN, 2.5])
    assert results(state, rows, {"t": sum("v", nan="skip")})["a"]["t"] == 3.5
    rows = records([Decimal("NaN"), Decimal(2), Decimal(3)])
    assert results(state.with_name("d"), rows, {"t": sum("v", nan="skip")})["a"]["t"] == Decimal(5)


@pytest.mark.parametrize(
    ("aggregate", "values", "match"),
    [
        (sum("v"), [1, "x", 2], r"step 'case', x=sum\(\.\.\.\): a record has 'x' as 'v', and sum takes numbers"),
        (min("v"), ["a", 3, "b"], r"has 3 as 'v', which min cannot take, with 'a' before it: '<' not supported"),
        (max("v"), [{"a": 1}, {"b": 2}, None], r"has \{'a': 1\} as 'v', and max takes what has an order"),
        (min("v"), [{1}, {2}, {3}], r"has \{1\} as 'v', and min takes what has an order"),
        (sum("v"), [Decimal(1), 0.5, 1], r"has 0.5 as 'v', which sum cannot take, with Decimal\('1'\) before it"),
        (min("v"), [datetime(2024, 1, 1), datetime(2024, 1, 1, tzinfo=UTC), None], "offset-naive and offset-aware"),
        (mean("v"), ["1", "2", "3"], r"has '1' as 'v', and mean takes numbers"),
        (sum("v"), [Decimal("1e2000"), Decimal(1), None], "more than 1000 digits"),
        (sum("v", type="f64"), [2**53 + 1, 0.5, 1], r"has 9007199254740993 as 'v', and sum was given type='f64'"),
        (sum("v", type="i64"), [1, 2.5, 1], r"has 2.5 as 'v', and sum was given type='i64'"),
    ],
)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_what_an_aggregate_does_not_take_is_named(state, aggregate, values, match, batch_size):
    """Hints that mislead: "give type='f64'" was the advice for None, NaN, strings and keys alike."""
    with pytest.raises(UserFunctionError, match=match) as caught:
        results(state, records(values), {"x": aggregate}, batch_size=batch_size, stop=False)
    assert "of the batch is {" in str(caught.value)


def test_one_type_for_all_keys(state):
    """``type=`` converts what is exact, so that results have one type for sinks with a schema."""
    found = results(state, records([1, 2, 2.5, 1, 2, 3]), {"t": sum("v", type="f64"), "l": last("v", type="f64")})
    assert exactly(found) == exactly({"a": {"t": 5.5, "l": 2.5}, "b": {"t": 6.0, "l": 3.0}})


def test_mixed_state_and_a_type_that_is_new(state):
    """State that has seen mixed values is no state of one type."""
    rows = records([1, 2.5, 3])
    flow, sink = Dataflow("flow"), TransactionalTestingSink()

    def build(aggregate):
        flow, sink = Dataflow("flow"), TransactionalTestingSink()
        flow.source("in", TestingSource([*rows, EOF, *rows], batch_size=1)).key_by("k").aggregate(
            "totals", t=aggregate
        ).sink("out", sink)
        return flow, sink

    assert not run(build(sum("v"))[0], state).finished
    with pytest.raises(DataflowChangedError, match="state of type mixed for sum 't', which now asks for type f64"):
        run(build(sum("v", type="f64"))[0], state)
    flow, sink = build(sum("v"))
    assert run(flow, state).finished
    assert [row["t"] for row in sink.records] == [7.5, 10.0, 13.0]


def test_windows_forget_what_lies_beside_their_cells(state):
    """The values that no column holds go with the window that they are of."""
    rows = [{"k": "a", "v": value, "t": day * 86_400_000_000} for day in range(4) for value in (1, 2.5)]
    flow, sink = Dataflow("flow"), TransactionalTestingSink()
    source = TestingSource([*rows, EOF], event_time=lambda row: row["t"], batch_size=1)
    flow.source("in", source).key_by("k").window("w", Tumbling(days=1)).aggregate(t=sum("v"), h=max("v")).sink(
        "out", sink
    )
    assert not run(flow, state).finished
    assert [(row["t"], row["h"]) for row in sink.records] == [(3.5, 2.5)] * 3
    with StateBackend.open(state, job="flow") as backend:
        tables = {name: backend.table(name, key=t.key, columns=t.columns) for name, t in backend.tables().items()}
        assert {name: len(table) for name, table in tables.items()} == {"w": 1, "w/h": 1, "w/t": 1}


def test_polars_and_chunked_columns(state):
    """Columns of other libraries are Arrow arrays; a chunked one is one column."""

    def form(rows):
        frame = pl.DataFrame(rows)
        return Columns({"k": frame["k"], "v": pa.chunked_array([frame["v"].to_arrow()])})

    rows = records([1, None, 3, 4, 5, 6])
    assert exactly(results(state, rows, KINDS, form=form)) == exactly(expected(rows, KINDS))


@pytest.mark.parametrize("make", [lambda: sum("v", nan="ignore"), lambda: count(3), lambda: min("v", type="bytes")])
def test_settings_that_cannot_be(make):
    with pytest.raises(ConfigurationError, match=r"choose from|needs a column's name"):
        make()


def test_a_column_of_texts_is_told_what_to_do(tmp_path, state):
    """A CSV column with nan and 1e3 is text; the advice was to filter one record out. The advice is followed."""
    path = tmp_path / "in.csv"
    path.write_text("k,v\na,1\na,nan\na,1e3\n")

    def build(**settings):
        flow, sink = Dataflow("flow"), TransactionalTestingSink()
        keyed = flow.source("in", CsvSource(path, **settings)).key_by("k")
        keyed.aggregate("t", emit="final", m=mean("v", nan="skip")).sink("o", sink)
        return flow, sink

    with pytest.raises(UserFunctionError, match=r"say its type at the source \(types=\{\.\.\.\}\)"):
        run(build()[0], state)
    flow, sink = build(types={"v": "float"})
    run(flow, state.with_name("typed"))
    assert sink.records == [{"k": "a", "m": 500.5}]
