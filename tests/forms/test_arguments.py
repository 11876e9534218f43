"""Arguments that cannot be, of columns, of streams and of the file sinks: typed errors that say what to give. They were
bare TypeErrors, ValueErrors and AttributeErrors from within."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

from onceflow import Columns, Dataflow
from onceflow.connectors.files import CsvSink, JsonLinesSink, ParquetSink
from onceflow.connectors.log import LogSink, LogSource
from onceflow.exceptions import ConfigurationError, LengthMismatchError, TypeMismatchError, UnknownNameError
from onceflow.testing import TestingSource

OBJECT = object()


@pytest.fixture
def stream():
    """Of a source."""
    return Dataflow("arguments").source("source", TestingSource([{"a": 1}]))


@pytest.mark.parametrize("given", [None, 5, 1.5, "a", b"a", ["a"], [("a", [1])], OBJECT])
def test_columns_of_what_is_no_mapping(given):
    with pytest.raises(TypeMismatchError, match="Columns takes a dict"):
        Columns(given)


@pytest.mark.parametrize("given", [None, 5, "b", b"a", [], ["a"], {}])
def test_columns_by_what_is_no_name(given):
    columns = Columns({"a": np.arange(3)})
    for method in (columns.numpy, columns.select, columns.__getitem__):
        with pytest.raises(UnknownNameError, match="it has 'a'"):
            method(given)


BATCHES = [Columns({"a": np.arange(3)}), Columns({"a": pa.array([0, 1, 2])}), Columns({"a": pa.array(["x", None, ""])})]


@pytest.mark.parametrize("columns", BATCHES)
def test_rows_of_columns_by_what_is_no_number(columns):
    """Kind: an error from within numpy or Arrow, or none, and other rows than were meant."""
    for given in ["a", 1.5, OBJECT, [0]]:
        with pytest.raises(TypeMismatchError, match="slice takes two whole numbers"):
            columns.slice(given, 2)
        with pytest.raises(TypeMismatchError, match="slice takes two whole numbers"):
            columns.slice(0, given)
    for given in [None, 1, "a", [0.0], ["a"], [True, False, True], np.array([[0]]), pa.array(["a"]), OBJECT]:
        with pytest.raises(TypeMismatchError, match="take takes the numbers of rows"):
            columns.take(given)
    for given in [[3], [-1], [0, 7], np.array([2**63], np.uint64), pa.array([3])]:
        with pytest.raises(LengthMismatchError, match="a batch of 3 rows has them from 0 to 2"):
            columns.take(given)
    for given in [[2, 0], np.array([2, 0]), np.array([2, 0], "u1"), pa.array([2, 0])]:
        rows = columns.to_rows()
        assert columns.take(given).to_rows() == [rows[2], rows[0]]
    assert len(columns.take([])) == 0
    assert len(columns.slice(1, 10)) == 2


@pytest.mark.parametrize("given", [None, 5, [], (), "a", [5], [BATCHES[0], None], OBJECT])
def test_joining_what_are_no_batches(given):
    """Kind: an error from within, where there is nothing to join."""
    with pytest.raises(TypeMismatchError, match="concat takes a list of one Columns at least"):
        Columns.concat(given)


def test_joining_batches_of_other_columns():
    """Kind: columns that only some batches have are dropped without a word."""
    more = BATCHES[0].with_columns(b=np.arange(3))
    for parts in ([BATCHES[0], more], [more, BATCHES[0]]):
        with pytest.raises(UnknownNameError, match=r"concat takes batches of the same columns, and one has"):
            Columns.concat(parts)
    with pytest.raises(TypeMismatchError, match=r"'a' is of \['int64', 'string'\]"):
        Columns.concat(BATCHES[1:])
    assert Columns.concat([more, more.select("b", "a")]).to_rows() == [*more.to_rows(), *more.to_rows()]


@pytest.mark.parametrize("given", [None, 5, "source", [], OBJECT])
def test_a_union_with_what_is_no_stream(stream, given):
    with pytest.raises(ConfigurationError, match="union takes streams"):
        stream.union(given)


@pytest.mark.parametrize("given", [None, 5, [], {}, [5], b"a", OBJECT])
def test_duplicates_by_what_is_no_key(stream, given):
    with pytest.raises(ConfigurationError, match="a key is a function, or names of columns"):
        stream.drop_duplicates("once", given, horizon=timedelta(days=1))


@pytest.mark.parametrize("given", [None, 5, [], {}, "other", OBJECT])
def test_sides_of_what_is_no_step(given):
    with pytest.raises(ConfigurationError, match="not a window step"):
        Dataflow("arguments").late(given)
    with pytest.raises(ConfigurationError, match="no dead letters"):
        Dataflow("arguments").dead_letters(given)


@pytest.mark.parametrize("given", [None, 5, True, [], {}, b"out", OBJECT])
@pytest.mark.parametrize("sink", [CsvSink, JsonLinesSink, ParquetSink])
def test_file_sinks_in_what_is_no_path(sink, given):
    with pytest.raises(ConfigurationError, match=f"{sink.__name__}: directory=.*give a path"):
        sink(given)


@pytest.mark.parametrize("given", [None, 5, b",", "", ",,", "\n", [], OBJECT])
def test_delimiters_that_cannot_be(tmp_path, given):
    with pytest.raises(ConfigurationError, match="delimiter="):
        CsvSink(tmp_path, delimiter=given)


@pytest.mark.parametrize("given", [5, "ab", b"ab", ["a", "a"], [1, "1"], [None], [1.5], [[]], OBJECT])
def test_columns_of_a_csv_sink_that_cannot_be(tmp_path, given):
    with pytest.raises(ConfigurationError, match=r"columns=.*give a list of names"):
        CsvSink(tmp_path, columns=given)


@pytest.mark.parametrize("given", [5, 0, "ab", b"ab", [], ["a"], {"a": "int64"}, {5: None}, OBJECT])
def test_types_of_a_parquet_sink_that_cannot_be(tmp_path, given):
    pytest.importorskip("pyarrow")
    with pytest.raises(ConfigurationError, match=r"types=.*give names of fields"):
        ParquetSink(tmp_path, types=given)


@pytest.mark.parametrize("given", [None, 5, b"log", [], OBJECT])
@pytest.mark.parametrize("connector", [LogSink, LogSource])
def test_connectors_of_what_is_no_log(connector, given):
    with pytest.raises(ConfigurationError, match="give the directory of a log"):
        connector(given, "topic")
