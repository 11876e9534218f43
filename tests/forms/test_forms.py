"""One flow, one result: whichever form records come in, whatever size their batches have, whatever lies in between.

A flow is run over generated values of each type, as rows, as columns of Arrow and numpy, with a function that changes
nothing in between (which turns columns into rows), in batches of one, three and all, into each kind of sink. All of
these must write the same bytes, or be refused by an error of one class that names the same field.
"""

from __future__ import annotations

import re
import tempfile
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from log.reading_log import values

from onceflow import Columns, Dataflow, count, first, last, max, mean, min, run, sum
from onceflow.connectors.files import (
    ArrowIpcSource,
    CsvSink,
    CsvSource,
    JsonLinesSink,
    JsonLinesSource,
    ParquetSink,
    ParquetSource,
    read_parts,
)
from onceflow.connectors.log import LogSink
from onceflow.exceptions import OnceflowError
from onceflow.log import Log
from onceflow.testing import EOF, TestingSource, TransactionalTestingSink
from onceflow.windows import Tumbling

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=6)
MOMENTS = st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30))

#: Name → type of an Arrow column, and values.
TYPES = {
    "int": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "small int": (pa.int8(), st.integers(-128, 127)),
    "unsigned": (pa.uint32(), st.integers(0, 2**32 - 1)),
    "float": (pa.float64(), st.floats(allow_nan=False, allow_infinity=False)),
    "bool": (pa.bool_(), st.booleans()),
    "text": (pa.string(), TEXT),
    "bytes": (pa.binary(), st.binary(max_size=5)),
    "date": (pa.date32(), st.dates()),
    "aware": (pa.timestamp("us", "UTC"), MOMENTS.map(lambda moment: moment.replace(tzinfo=UTC))),
    "naive": (pa.timestamp("us"), MOMENTS),
    "duration": (pa.duration("us"), st.timedeltas(timedelta(days=-9999), timedelta(days=9999))),
    "decimal": (pa.decimal128(20, 2), st.decimals(-(10**9), 10**9, places=2)),
}
FORMS = ["rows", "arrow", "arrow, then rows", "numpy", "numpy, then rows"]
SINKS = ["csv", "jsonl", "parquet", "log", "records"]
SIZES = [1, 3, 100]


@st.composite
def columns_of_values(draw):
    """A type, and values of it of which some may be missing."""
    name = draw(st.sampled_from(sorted(TYPES)))
    arrow, values = TYPES[name]
    missing = draw(st.booleans())
    drawn = draw(st.lists(st.none() | values if missing else values, min_size=1, max_size=7))
    return name, pa.array(drawn, type=arrow)


def table(array, places):
    rows = pa.array(places)
    return Columns({"i": np.array(places), "k": np.array(places) % 2, "v": array.take(rows)})


def numpy_table(array, places):
    """The numpy array of the same values where there is one: none has strings, zones or Decimals of its own."""
    columns = table(array, places)
    return columns.with_columns(v=columns.numpy("v")) if pa.types.is_primitive(array.type) else columns


def in_form(stream, array, form):
    """The stream of the places as a stream of records."""
    make = numpy_table if form.startswith("numpy") and not pa.types.is_timestamp(array.type) else table
    if form == "rows":
        values = array.to_pylist()
        return stream.map(lambda place: {"i": place, "k": place % 2, "v": values[place]})
    columns = stream.map_batch(lambda places: make(array, places))
    return columns.map(lambda record: record) if form.endswith("rows") else columns


def sink_of(kind, directory, form):
    if kind == "log":
        return LogSink(directory / "log", form, partitions=1)
    made = {"csv": CsvSink, "jsonl": JsonLinesSink, "parquet": ParquetSink}
    return made[kind](directory / form) if kind in made else TransactionalTestingSink()


def written(kind, sink, directory, form):
    """What a sink has, in a form that equality is strict on."""
    if kind in ("csv", "jsonl"):
        return read_parts(directory / form)
    if kind == "parquet":
        parts = [pq.read_table(path) for path in sorted((directory / form).glob("part-*"))]
        return [shown(row) for part in parts for row in part.to_pylist()]
    if kind == "log":
        with Log.open(directory / "log") as log:
            return values(log, form)
    return [shown(row) for row in sink.records]


def shown(value):
    """With its type, also within dicts; numbers of numpy are Python's, zones are what they mean."""
    if isinstance(value, dict):
        return {name: shown(item) for name, item in value.items()}
    value = value.item() if isinstance(value, np.generic) else value
    text = value.isoformat() if isinstance(value, datetime) else repr(value)
    return type(value).__name__, str(value.normalize()) if isinstance(value, Decimal) else text


def outcomes(array, kind, forms, batch_size, between):
    """By form what a flow writes; or the class of the error and the field that it names."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        flow, sinks = Dataflow("flow"), {}
        places = list(range(len(array)))
        half = len(places) // 2
        for number, form in enumerate(forms):
            source = TestingSource([*places[:half], EOF, *places[half:]], event_time=lambda n: n, batch_size=batch_size)
            stream = between(in_form(flow.source(f"in-{number}", source), array, form), number)
            sinks[form] = sink_of(kind, directory, f"form-{number}")
            stream.sink(f"out-{number}", sinks[form])
        try:
            while not run(flow, directory / "state").finished:
                pass
        except OnceflowError as error:
            if len(forms) > 1:
                return {form: outcomes(array, kind, [form], batch_size, between)[form] for form in forms}
            return {forms[0]: (type(error).__name__, sorted(set(re.findall(r"\bv\b|\bhigh\b", str(error)))))}
        return {form: written(kind, sinks[form], directory, f"form-{number}") for number, form in enumerate(forms)}


def check_one_result(array, kind, between=lambda stream, _: stream, sizes=(1, 3, 100)):
    found = {(form, size): one for size in sizes for form, one in outcomes(array, kind, FORMS, size, between).items()}
    assert len(set(map(repr, found.values()))) == 1, found


@settings(max_examples=12, deadline=None)
@given(columns_of_values(), st.sampled_from(SINKS))
def test_a_flow_without_steps(drawn, kind):
    """Times of columns and rows differed by a Z in JSON Lines and the log; bytes in columns came out as ``b'k'`` in CSV
    where those in rows were refused; what a Parquet file got depended on where batches end."""
    check_one_result(drawn[1], kind)


def aggregated(name):
    every = {
        "n": count(),
        "there": count("v"),
        "low": min("v"),
        "high": max("v"),
        "opened": first("v"),
        "closed": last("v"),
    }
    if name in ("int", "small int", "unsigned", "float", "bool", "duration", "decimal"):
        every |= {"total": sum("v"), "avg": mean("v")}

    def between(stream, number):
        keyed = stream.key_by("k")
        if name in ("bool", "int", "text", "date"):
            windows = keyed.window(f"windows-{number}", Tumbling(days=1)).aggregate(**every)
            return windows.map(lambda window: window) if number % 2 else windows
        return keyed.aggregate(f"totals-{number}", emit="final", **every)

    return between


@settings(max_examples=12, deadline=None)
@given(columns_of_values(), st.sampled_from(SINKS))
def test_aggregates(drawn, kind):
    """Totals of rows and columns, of small and large batches, through a stop and a resume."""
    name, array = drawn
    check_one_result(array, kind, aggregated(name))


@settings(max_examples=8, deadline=None)
@given(columns_of_values().filter(lambda values: values[0] not in ("float", "duration", "decimal")))
def test_keys(drawn):
    """Groups of values of each type as keys, a missing one being one of them; and the first record of each."""

    def between(stream, number):
        distinct = stream.drop_duplicates(f"distinct-{number}", ["v"], horizon=timedelta(days=1))
        return distinct.key_by("v").aggregate(f"groups-{number}", emit="final", n=count(), where=first("i"))

    check_one_result(drawn[1], "records", between)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize("name", TYPES)
def test_what_a_sink_refuses_it_refuses_in_every_form(name, kind):
    """Fixed values of each type, so that each pair of type and sink is tried in every run of the tests."""
    examples = {
        "int": [1, None, -(2**63)],
        "small int": [1, None, -3],
        "unsigned": [2**32 - 1, None, 0],
        "float": [0.1, None, 1e300],
        "bool": [True, None, False],
        "text": ['a,\n"', None, ""],
        "bytes": [b"k", None, b"\xff\x00"],
        "date": [date(2024, 2, 29), None, date(1, 1, 1)],
        "aware": [datetime(2024, 1, 2, tzinfo=UTC), None, datetime(2024, 1, 1, 0, 0, 0, 7, tzinfo=UTC)],
        "naive": [datetime(2024, 1, 2), None, datetime(2024, 1, 1, 0, 0, 0, 7)],
        "duration": [timedelta(seconds=1), None, timedelta(days=-1, microseconds=7)],
        "decimal": [Decimal("1.50"), None, Decimal("-0.25")],
    }
    check_one_result(pa.array(examples[name], type=TYPES[name][0]), kind, sizes=(1, 100))


@pytest.mark.parametrize("kind", SINKS)
def test_windows_and_a_function_that_changes_nothing(kind):
    """The bounds of windows lost their Z, and their zone, where a function of one record came behind the window."""
    check_one_result(pa.array([1, 2, 3]), kind, aggregated("int"), sizes=(1, 100))


#: What all formats of files can hold, as CSV writes it.
ROWS = [{"n": number, "x": number / 4, "t": "abc"[number % 3]} for number in range(10)]


def sources(directory):
    """The same records from each kind of source."""
    columns = pa.Table.from_pylist(ROWS)
    pq.write_table(columns, directory / "in.parquet", row_group_size=4)
    with pa.OSFile(str(directory / "in.arrow"), "wb") as file, pa.ipc.new_file(file, columns.schema) as writer:
        writer.write_table(columns, max_chunksize=3)
    lines = "".join(f'{{"n":{row["n"]},"x":{row["x"]},"t":"{row["t"]}"}}\n' for row in ROWS)
    (directory / "in.jsonl").write_text(lines)
    text = "n,x,t\n" + "".join(f"{row['n']},{row['x']},{row['t']}\n" for row in ROWS)
    (directory / "in.csv").write_text(text)
    return {
        "csv": CsvSource(directory / "in.csv"),
        "csv columns": CsvSource(directory / "in.csv", as_columns=True),
        "jsonl": JsonLinesSource(directory / "in.jsonl"),
        "parquet": ParquetSource(directory / "in.parquet"),
        "arrow": ArrowIpcSource(directory / "in.arrow"),
        "rows": TestingSource(ROWS),
    }


@pytest.mark.parametrize("kind", SINKS)
@pytest.mark.parametrize("batch_size", [1, 8192])
def test_from_every_source_to_every_sink(tmp_path, kind, batch_size):
    """The same records give the same output wherever they come from."""
    flow, sinks = Dataflow("flow"), {}
    for number, (name, source) in enumerate(sources(tmp_path).items()):
        stream = flow.source(f"in-{number}", source)
        filtered = stream.filter(lambda row: row["n"] != 3) if number % 2 else stream.filter_batch(_not_three)
        totals = filtered.key_by("t").aggregate(
            f"t-{number}", emit="final", n=count(), x=sum("x"), m=max("n"), l=last("t")
        )
        sinks[name] = sink_of(kind, tmp_path, f"form-{number}")
        totals.sink(f"out-{number}", sinks[name])
    run(flow, tmp_path / "state", batch_size=batch_size)
    found = {name: repr(written(kind, sinks[name], tmp_path, f"form-{n}")) for n, name in enumerate(sinks)}
    assert len(set(found.values())) == 1, found


def _not_three(batch):
    return batch.numpy("n") != 3 if isinstance(batch, Columns) else [row["n"] != 3 for row in batch]
