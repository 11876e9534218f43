"""Columns as a user of numpy or polars expects them: what they are made of, compared and computed with, masked by."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from onceflow import Columns, Dataflow, run
from onceflow.connectors.files import ParquetSource
from onceflow.exceptions import LengthMismatchError, TypeMismatchError, UserFunctionError
from onceflow.testing import TestingSource, TransactionalTestingSink

VALUES = [1, None, 3, 4, None, 6]
COLUMNS = {
    "arrow": pa.array(VALUES),
    "chunked": pa.chunked_array([VALUES[:2], VALUES[2:]], type=pa.int64()),
    "polars": pl.Series(VALUES),
    "masked": np.ma.array([1, 0, 3, 4, 0, 6], mask=[False, True, False, False, True, False]),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_comparing_and_computing(kind):
    """``columns["v"] > 2`` was a TypeError when the source was Parquet; what is missing stays missing."""
    columns = Columns({"i": np.arange(6), "v": COLUMNS[kind]})
    values = columns.numpy("v")
    assert (values * 2 + columns.numpy("i")).tolist() == [2, None, 8, 11, None, 17]
    assert columns.filter(values > 2).to_rows() == [{"i": 2, "v": 3}, {"i": 3, "v": 4}, {"i": 5, "v": 6}]
    more = columns.with_columns(w=values * 10)
    assert [row["w"] for row in more.to_rows()] == [10, None, 30, 40, None, 60]


@pytest.mark.parametrize(
    ("array", "kind", "condition", "kept"),
    [
        (pa.array([0.5, None, 1.5]), "f8", lambda v: v > 1, [1.5]),
        (pa.array([2**53 + 1, None, 1]), "i8", lambda v: v > 2**53, [2**53 + 1]),
        (pa.array(["b", None, "a"]), "O", lambda v: v >= "b", ["b"]),
        (pa.array([b"b", None, b"a"]), "O", lambda v: v == b"a", [b"a"]),
        (pa.array([True, None, False]), "?", lambda v: ~v, [False]),
        (pa.array(["b", "a", "b"]).dictionary_encode(), "O", lambda v: v == "b", ["b", "b"]),
        (
            pa.array([datetime(2024, 1, 1, tzinfo=UTC), None, datetime(2025, 1, 1, tzinfo=UTC)]),
            "M8[us]",
            lambda v: v > np.datetime64("2024-06-01"),
            [datetime(2025, 1, 1, tzinfo=UTC)],
        ),
        (pa.array([timedelta(1), None, timedelta(2)]), "m8[us]", lambda v: v > np.timedelta64(1, "D"), [timedelta(2)]),
    ],
    ids=["double", "int", "text", "bytes", "bool", "dictionary", "time", "duration"],
)
def test_numpy_of_each_type(array, kind, condition, kept):
    columns = Columns({"v": array})
    values = columns.numpy("v")
    assert values.dtype == np.dtype(kind)
    assert [row["v"] for row in columns.filter(condition(values)).to_rows()] == kept


MASKS = {
    "list": [True, None, False, True],
    "objects": np.array([True, None, False, np.True_], dtype=object),
    "masked": np.ma.array([True, True, False, True], mask=[False, True, False, False]),
    "arrow": pa.array([True, None, False, True]),
    "chunked": pa.chunked_array([[True, None], [False, True]]),
    "polars": pl.Series([True, None, False, True]),
    "compute": pc.greater(pa.array([2, None, 0, 5]), 1),
}


@pytest.mark.parametrize("form", ["rows", "columns"])
@pytest.mark.parametrize("kind", MASKS)
def test_masks_with_nulls(state, kind, form):
    """As in SQL, a row whose condition is missing is left out; the run ended on such a mask."""
    flow, sink = Dataflow("flow"), TransactionalTestingSink()
    stream = flow.source("in", TestingSource([10, 11, 12, 13]))
    if form == "columns":
        stream = stream.map_batch(lambda batch: Columns({"v": np.array(batch)}))
    stream.filter_batch(lambda _: MASKS[kind]).map(lambda r: r["v"] if form == "columns" else r).sink("out", sink)
    run(flow, state)
    assert sink.records == [10, 13]
    assert Columns({"v": np.arange(4)}).filter(MASKS[kind]).numpy("v").tolist() == [0, 3]


@pytest.mark.parametrize(
    ("mask", "match"),
    [
        ([True], "4 bools, one a record: the mask has 1 entries, the batch 4 rows"),
        ([1, 0, 1, 0], "the mask holds int64, not bools"),
        (pa.array([1, 0, 1, 0]), "the mask holds int64, not bools"),
        (["yes", None, None, None], "the mask holds object, not bools"),
        (np.ones((4, 1), bool), r"the mask has the shape \(4, 1\)"),
        (None, "the mask is a NoneType, not bools"),
    ],
)
def test_what_is_no_mask(state, mask, match):
    flow, sink = Dataflow("flow"), TransactionalTestingSink()
    flow.source("in", TestingSource([1, 2, 3, 4])).filter_batch(lambda _: mask).sink("out", sink)
    with pytest.raises(UserFunctionError, match=match):
        run(flow, state)


def test_the_way_to_numpy_is_named_and_works(state, tmp_path):
    """An operator on a column of Parquet says what to write instead, and that is right."""
    pq.write_table(pa.table({"v": [1, None, 5]}), tmp_path / "in.parquet")

    def attempt(condition, place):
        flow, sink = Dataflow("flow"), TransactionalTestingSink()
        flow.source("in", ParquetSource(tmp_path / "in.parquet")).filter_batch(condition).sink("out", sink)
        run(flow, tmp_path / place)
        return sink.records

    with pytest.raises(UserFunctionError, match=r"take batch.numpy\(name\) instead of batch\[name\]"):
        attempt(lambda batch: batch["v"] > 2, "first")
    assert attempt(lambda batch: batch.numpy("v") > 2, "second") == [{"v": 5}]


@pytest.mark.parametrize(
    ("array", "error", "match"),
    [
        ([1, 2], TypeMismatchError, "column 'v' is a list; give a numpy array or an Arrow array"),
        (5, TypeMismatchError, "column 'v' is a int"),
        (np.zeros((2, 2)), TypeMismatchError, "column 'v' has 2 dimensions"),
        (np.zeros(3), LengthMismatchError, "must have one length"),
    ],
)
def test_what_is_no_column(array, error, match):
    """A list was taken, and failed in the step behind."""
    with pytest.raises(error, match=match):
        Columns({"i": np.arange(2), "v": array})


@pytest.mark.parametrize(
    ("array", "match"),
    [
        (np.array([1], dtype="M8[ns]"), "parts below a microsecond"),
        (np.array([1], dtype="m8[ns]"), "parts below a microsecond"),
        (pa.array([1], type=pa.timestamp("ns")), "parts below a microsecond"),
        (pa.array([1], type=pa.duration("ns")), "parts below a microsecond"),
        (np.array([2**62], dtype="M8[us]"), "outside of the years 1 to 9999"),
        (pa.array([2**62], type=pa.timestamp("us")), "outside of the years 1 to 9999"),
        (pa.array([10**15], type=pa.timestamp("s")), "outside of the years 1 to 9999"),
    ],
    ids=str,
)
def test_times_that_python_does_not_have(array, match):
    """They were cut, or came out as integers, when columns became rows."""
    with pytest.raises(TypeMismatchError, match=rf"column 'at': .*{match}"):
        Columns({"at": array}).to_rows()


def test_times_below_a_microsecond_that_are_whole():
    """Nanoseconds that Python can tell in microseconds are the same instant."""
    for array in (np.array([1000, "NaT"], dtype="M8[ns]"), pa.array([1000, None], type=pa.timestamp("ns", "UTC"))):
        moment, missing = (row["at"] for row in Columns({"at": array}).to_rows())
        assert moment.replace(tzinfo=UTC) == datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=UTC)
        assert missing is None


def test_joining_changes_no_number():
    """As one type of numpy, 2**53 + 1 beside a float would be another number."""
    parts = [Columns({"v": np.array([2**53 + 1])}), Columns({"v": np.array([0.5])}), Columns({"v": COLUMNS["masked"]})]
    assert [row["v"] for row in Columns.concat(parts).to_rows()] == [2**53 + 1, 0.5, *VALUES]
    masked = Columns.concat([Columns({"v": COLUMNS["masked"]})] * 2)
    assert [row["v"] for row in masked.to_rows()] == VALUES * 2
