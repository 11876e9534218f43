"""Arguments that cannot be, of columns, of streams and of the file sinks: typed errors that say what to give. They were
bare TypeErrors, ValueErrors and AttributeErrors from within."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest

from onceflow import Columns, Dataflow
from onceflow.connectors.files import CsvSink, JsonLinesSink, ParquetSink
from onceflow.connectors.log import LogSink, LogSource
from onceflow.exceptions import ConfigurationError, TypeMismatchError, UnknownNameError
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
    with pytest.raises(ConfigurationError, match="no window step"):
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
