"""Keys by a function, by names, single or tuples, from rows or columns, in every step that has state by them."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

from onceflow import Columns, Dataflow, count, run, sum
from onceflow.exceptions import ConfigurationError
from onceflow.testing import EOF, TestingSource, TransactionalTestingSink
from onceflow.windows import Tumbling

ROWS = [
    {"s": "ab"[n % 2], "i": n % 3 - 1, "u": 2**63 + n % 2, "b": b"xy"[n % 2 : n % 2 + 1], "v": n} for n in range(24)
]


def columns(rows):
    return Columns(
        {
            "s": pa.array([row["s"] for row in rows]),
            "i": np.array([row["i"] for row in rows], dtype="i2"),
            "u": np.array([row["u"] for row in rows], dtype="u8"),
            "b": pa.array([row["b"] for row in rows]),
            "v": np.array([row["v"] for row in rows]),
        }
    )


def rows_of(sink):
    return [
        {name: value.item() if isinstance(value, np.generic) else value for name, value in row.items()}
        for row in sink.records
    ]


def results(state, build, *, as_columns):
    flow, sink = Dataflow("flow"), TransactionalTestingSink()
    source = TestingSource([*ROWS[:12], EOF, *ROWS[12:]], event_time=lambda row: row["v"], batch_size=5)
    stream = flow.source("in", source)
    build(stream.map_batch(columns) if as_columns else stream).sink("out", sink)
    assert not run(flow, state).finished
    assert run(flow, state).finished
    return rows_of(sink)


BY_NAMES = [("s",), ("i",), ("b",), ("s", "i"), ("i", "b", "s")]


@pytest.mark.parametrize("as_columns", [False, True], ids=["rows", "columns"])
@pytest.mark.parametrize("names", BY_NAMES, ids=str)
@pytest.mark.parametrize("way", ["names", "function"])
def test_totals_and_windows(state, tmp_path, names, way, as_columns):
    def keyed(stream):
        if way == "names":
            return stream.key_by(*names)
        return stream.key_by(lambda row: tuple(row[n] for n in names) if len(names) > 1 else row[names[0]])

    expected = {}
    for row in ROWS:
        key = tuple(row[name] for name in names)
        n, total = expected.get(key, (0, 0))
        expected[key] = (n + 1, total + row["v"])

    def key_of(row):
        if way == "names":
            return tuple(row[name] for name in names)
        return tuple(row["key"]) if len(names) > 1 else (row["key"],)

    found = results(
        state, lambda s: keyed(s).aggregate("t", emit="final", n=count(), total=sum("v")), as_columns=as_columns
    )
    assert [(key_of(row), (row["n"], row["total"])) for row in found] == sorted(expected.items())
    found = results(
        tmp_path / "windows",
        lambda s: keyed(s).window("w", Tumbling(timedelta(days=1))).aggregate(n=count(), total=sum("v")),
        as_columns=as_columns,
    )
    assert [(key_of(row), (row["n"], row["total"])) for row in found] == sorted(expected.items())


@pytest.mark.parametrize("as_columns", [False, True], ids=["rows", "columns"])
@pytest.mark.parametrize("names", BY_NAMES, ids=str)
def test_user_state_and_duplicates(state, tmp_path, names, as_columns):
    def number(state, row):
        return (state or 0) + 1, (row["v"], (state or 0) + 1)

    seen, expected = {}, []
    for row in ROWS:
        key = tuple(row[name] for name in names)
        seen[key] = seen.get(key, 0) + 1
        expected.append((row["v"], seen[key]))

    def build(stream):
        return stream.key_by(*names).stateful_map("n", number).map(lambda pair: {"v": pair[0], "n": pair[1]})

    numbered = results(state, build, as_columns=as_columns)
    assert [(row["v"], row["n"]) for row in numbered] == expected
    first = results(
        tmp_path / "distinct",
        lambda s: s.drop_duplicates("d", list(names), horizon=timedelta(days=1)),
        as_columns=as_columns,
    )
    assert [row["v"] for row in first] == [v for v, n in expected if n == 1]


def test_keys_above_the_range_of_i64(state):
    found = results(state, lambda s: s.key_by("u", key_type="u64").aggregate("t", n=count()), as_columns=False)
    assert {row["u"] for row in found} == {2**63, 2**63 + 1}


def test_the_type_of_key_columns_stays_from_batch_to_batch(state):
    """Whatever the keys of a batch happen to be, so that sinks with a schema can rely on it."""
    flow, sink = Dataflow("flow"), TransactionalTestingSink()
    stream = flow.source("in", TestingSource([1, 2, 2**63, 3], batch_size=1))
    types = []
    as_columns = stream.map_batch(lambda batch: Columns({"n": np.array(batch, dtype="u8")}))
    as_columns.key_by("n").aggregate("t", c=count()).map_batch(
        lambda batch: types.append(batch["n"].dtype) or batch
    ).sink("out", sink)
    run(flow, state)
    assert set(types) == {np.dtype("u8")}


@pytest.mark.parametrize("by", [(), (1,), ("a", len), (len, len), (None,)])
def test_what_key_by_does_not_take(by):
    stream = Dataflow("flow").source("in", TestingSource([]))
    with pytest.raises(ConfigurationError, match="names of columns"):
        stream.key_by(*by)
