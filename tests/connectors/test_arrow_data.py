"""Frames, tables and results of other libraries as a source, in columns."""

from __future__ import annotations

import datetime

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pytest

import onceflow as of
from onceflow.connectors.arrow import ArrowSource
from onceflow.exceptions import ConfigurationError, MalformedRecordError, SourceChangedError, SourceError
from onceflow.testing import SourceContract, TransactionalTestingSink

START = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
TIMES = [None if number == 11 else START + datetime.timedelta(seconds=number) for number in range(30)]
FRAME = pl.DataFrame({"n": range(30), "name": [f"name {number % 4}" for number in range(30)], "at": TIMES})


class Capsule:
    """A struct with ``__arrow_c_array__`` alone."""

    def __init__(self, batch):
        self._batch = batch

    def __arrow_c_array__(self, requested_schema=None):
        return self._batch.__arrow_c_array__(requested_schema)


class TestFrame(SourceContract):
    def make_source(self, directory):
        return ArrowSource(FRAME, event_time="at", columns=["name", "n"], on_malformed="dead_letter")


def rows(source, position=None, size=7):
    reader, found = source.open("0", position), []
    while (batch := reader.read(size)) is not None:
        assert isinstance(batch.records, of.Columns)
        found += batch.records.to_rows()
    return found


def position_after(data, count):
    reader = ArrowSource(data).open("0", None)
    reader.read(count)
    return reader.position()


GIVEN = {
    "polars": lambda: FRAME,
    "pyarrow": FRAME.to_arrow,
    "reader": lambda: FRAME.to_arrow().to_reader(max_chunksize=4),
    "duckdb": lambda: duckdb.from_arrow(FRAME.to_arrow()).order("n"),
    "struct": lambda: Capsule(FRAME.to_arrow().combine_chunks().to_batches()[0]),
}


@pytest.mark.parametrize("kind", GIVEN)
def test_what_has_the_interface_is_read_in_columns(kind):
    """Kind: a library whose data comes otherwise than as it is."""
    assert rows(ArrowSource(GIVEN[kind]())) == FRAME.to_dicts()


def test_types_that_few_functions_know_come_as_plain_ones():
    """Kind: views and dictionaries, which steps cannot read."""
    data = {"word": ["a", None, "b" * 20], "in": [["a"], [], None], "of": [{"x": "q"}, None, {"x": None}]}
    frame = pl.DataFrame({**data, "kind": pl.Series(["u", "v", None], dtype=pl.Categorical)})
    source = ArrowSource(frame)
    assert rows(source) == [{**row} for row in frame.to_dicts()]
    columns = source.open("0", None).read(10).records
    assert [str(columns[name].type) for name in ("word", "kind")] == ["large_string", "large_string"]


@pytest.mark.parametrize(
    "other",
    [
        FRAME.with_columns(n=pl.col("n") + 1),
        FRAME.head(29),
        pl.concat([FRAME, FRAME.head(1)]),
        FRAME.reverse(),
        FRAME.select("name", "n", "at"),
        FRAME.with_columns(pl.col("n").cast(pl.Int32)),
        FRAME.with_columns(pl.when(pl.col("n") == 29).then(None).otherwise(pl.col("n")).alias("n")),
    ],
    ids=["values", "shorter", "longer", "order", "columns", "type", "missing"],
)
def test_a_frame_that_has_changed_is_refused(other):
    """Kind: a resumed run that reads other rows than the first one."""
    with pytest.raises(SourceChangedError, match=r"the data \(polars.DataFrame\) is not what it was"):
        ArrowSource(other).open("0", position_after(FRAME, 5))


def test_the_same_rows_are_the_same_however_they_lie_in_memory():
    """Kind: a resume that is refused because of chunks, offsets, or what lies where a value is missing."""
    table = pa.table({"a": pa.array([1, None, 3]), "s": ["x", None, "z"]})
    held = pa.Array.from_buffers(pa.int64(), 3, [pa.py_buffer(bytes([0b11111101])), pa.py_buffer(np.array([1, 99, 3]))])
    others = [
        pa.concat_tables([table.slice(0, 1), table.slice(1)]),
        pa.concat_tables([table, table]).slice(3),
        table.set_column(0, "a", held),
    ]
    for other in others:
        assert rows(ArrowSource(other), position_after(table, 1)) == table.slice(1).to_pylist()


@pytest.mark.parametrize("by", ["at", lambda columns: columns["at"].fill_null(1 << 61).cast(pa.int64()).to_numpy()])
def test_rows_without_a_time(by):
    """Kind: rows without a time that vanish, or stop a job that was told to go on."""
    source = ArrowSource(FRAME, event_time=by, columns=["n"], on_malformed="skip")
    if callable(by):
        source = ArrowSource(FRAME, event_time=by, on_malformed="skip")
    assert [row["n"] for row in rows(source)] == [number for number in range(30) if number != 11]
    batch = ArrowSource(FRAME, event_time=by, on_malformed="dead_letter").open("0", None).read(20)
    assert [(one.position, '"n":11' in one.text) for one in batch.rejected] == [("0:record 11", True)]
    assert len(batch.event_times) == 19
    with pytest.raises(MalformedRecordError, match="0:record 11: "):
        rows(ArrowSource(FRAME, event_time=by))


def test_a_job_in_columns(state):
    """Kind: columns that become rows on their way."""
    seen, sink = [], TransactionalTestingSink()
    flow = of.Dataflow("job")
    (
        flow.source("in", ArrowSource(FRAME, columns=["n", "name"]))
        .map_batch(lambda batch: seen.append(type(batch)) or batch)
        .key_by("name")
        .aggregate("totals", n=of.count())
        .sink("out", sink)
    )
    of.run(flow, state, batch_size=8)
    assert set(seen) == {of.Columns}
    newest = {row["name"]: row["n"] for row in sink.records}
    assert newest == {"name 0": 8, "name 1": 8, "name 2": 7, "name 3": 7}


def test_wrong_settings_are_refused_by_name():
    """Kind: what is wrong is found when the job has run for an hour, or never."""
    for data in ([1], {"a": [1]}, None):
        with pytest.raises(ConfigurationError, match="ArrowSource: data is a"):
            ArrowSource(data)
    with pytest.raises(ConfigurationError, match="not a single column"):
        ArrowSource(pl.Series([1, 2]))
    for wrong in ({"columns": ["m"]}, {"event_time": "when"}):
        with pytest.raises(ConfigurationError, match="the data has no column"):
            ArrowSource(FRAME, **wrong)
    with pytest.raises(ConfigurationError, match="named twice"):
        ArrowSource(pa.table([[1], [2]], names=["a", "a"]))
    with pytest.raises(ConfigurationError, match="on_malformed"):
        ArrowSource(FRAME, on_malformed="ignore")
    with pytest.raises(SourceError, match="not a position in a table"):
        ArrowSource(FRAME).open("0", 5)
    with pytest.raises(SourceError, match="holds the event time and is large_string; make it a timestamp"):
        rows(ArrowSource(FRAME, event_time="name"))
    with pytest.raises(SourceError, match="event_time must give an int64 array of 7 times"):
        rows(ArrowSource(FRAME, event_time=len))
