"""``event_time`` as a function: every source can have event time, whatever its records are."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reading import read, read_in_pieces

from onceflow import Dataflow, count, run
from onceflow.connectors.files import ArrowIpcSource, CsvSource, JsonLinesSource, ParquetSource, TextSource
from onceflow.exceptions import ConfigurationError, MalformedRecordError, SourceError
from onceflow.sources import Source, SourceReader
from onceflow.testing import TransactionalTestingSink
from onceflow.windows import Tumbling

SECONDS = [5, 3, 61]


def text(path, **options):
    path.write_text("".join(f"{second} line\n" for second in SECONDS))
    return TextSource(path, event_time=lambda line: int(line.split()[0]), **options)


def text_of_iso(path, **options):
    path.write_text("".join(f"1970-01-01T00:{s // 60:02d}:{s % 60:02d}Z GET\n" for s in SECONDS))
    return TextSource(path, event_time=lambda line: line.split()[0], **options)


def jsonl(path, **options):
    path.write_text("".join(json.dumps({"at": {"s": second}}) + "\n" for second in SECONDS))
    return JsonLinesSource(path, event_time=lambda value: datetime.fromtimestamp(value["at"]["s"], UTC), **options)


def csv(path, **options):
    path.write_text("minute,second\n" + "".join(f"{second // 60},{second % 60}\n" for second in SECONDS))
    return CsvSource(path, event_time=lambda row: row["minute"] * 60 + row["second"], **options)


def micros(columns):
    return (columns["second"].to_numpy() * 1_000_000).astype(np.int64)


def csv_columns(path, **options):
    path.write_text("second\n" + "".join(f"{second}\n" for second in SECONDS))
    return CsvSource(path, event_time=micros, as_columns=True, **options)


def parquet(path, **options):
    pq.write_table(pa.table({"second": SECONDS}), path)
    return ParquetSource(path, event_time=micros, **options)


def ipc(path, **options):
    table = pa.table({"second": SECONDS})
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)
    return ArrowIpcSource(path, event_time=micros, **options)


ALL = [text, text_of_iso, jsonl, csv, csv_columns, parquet, ipc]


@pytest.mark.parametrize("make", ALL)
def test_times_are_those_of_the_function(tmp_path, make):
    """A user's log files had no event time at all, and the advice to give them one could not be followed."""
    source = make(tmp_path / "in")
    assert source.has_event_time
    # A function may give something else when it is called again.
    assert not source.deterministic
    whole = read(source)
    assert whole.times == [second * 1_000_000 for second in SECONDS]
    assert read_in_pieces(source, [1, 2]) == whole


BAD = {
    "text-raises": (text, "later line\n", "has no event time by its event_time: ValueError: invalid literal"),
    "text-empty": (text, "\n", "has no event time by its event_time: IndexError"),
    "text-far": (
        text,
        "1700000000000 line\n",
        "has no event time by its event_time: ValueError: 1700000000000",
    ),
    "iso-nanoseconds": (
        text_of_iso,
        "1970-01-01T00:00:00.123456789Z GET\n",
        "not an ISO 8601 text, or has more than six",
    ),
    "jsonl-member": (jsonl, '{"at": null}\n', "has no event time by its event_time: TypeError"),
    "jsonl-milliseconds": (jsonl, '{"at": {"s": 1e15}}\n', "has no event time by its event_time: "),
    "csv-null": (csv, "NA,1\n", "has no event time by its event_time: TypeError"),
    "columns-far": (csv_columns, "1700000000000\n", "has no event time by event_time: not in the years 1 to 9999"),
}


@pytest.mark.parametrize(("make", "line", "reason"), BAD.values(), ids=BAD)
def test_a_record_without_a_time_by_the_function(tmp_path, make, line, reason):
    """Typed errors: it is malformed, whatever the function raises, under the policy like any other."""
    path = tmp_path / "in"
    make(path)
    data = path.read_text() + line

    def source(**options):
        made = make(path, **options)
        path.write_text(data)
        return made

    with pytest.raises(MalformedRecordError, match=f"in:{data.count(chr(10))}: .*{reason}"):
        read(source())
    dead = read(source(on_malformed="dead_letter"))
    assert dead.times == [second * 1_000_000 for second in SECONDS]
    ((_, why, _),) = dead.rejected
    assert reason in why


@pytest.mark.parametrize("make", [csv_columns, parquet, ipc])
def test_a_function_of_columns_that_gives_no_times(tmp_path, make):
    """Typed errors that say what to give."""
    for function, message in [
        (lambda columns: columns["second"].to_pylist(), "must give an int64 array of 3 times in microseconds"),
        (lambda columns: micros(columns)[1:], "must give an int64 array of 3 times"),
        (lambda columns: columns["gone"], "event_time raised"),
    ]:
        source = make(tmp_path / "in")
        kind = {"as_columns": True} if make is csv_columns else {}
        with pytest.raises(SourceError, match=message):
            read(type(source)(tmp_path / "in", event_time=function, **kind))


@pytest.mark.parametrize("make", [parquet, ipc])
def test_rows_out_of_range_by_a_function_of_columns(tmp_path, make):
    """Wrong results: such times wrapped."""
    source = make(tmp_path / "in")

    def far(columns):
        return np.where(columns["second"].to_numpy() == 3, 1 << 62, micros(columns))

    source = type(source)(tmp_path / "in", event_time=far, on_malformed="dead_letter")
    found = read(source)
    assert found.times == [5_000_000, 61_000_000]
    assert found.rejected[0][1] == "has an event time that is not in the years 1 to 9999"


@pytest.mark.parametrize("kind", [TextSource, CsvSource, JsonLinesSource, ParquetSource, ArrowIpcSource])
def test_an_event_time_that_is_neither(kind):
    """Typed errors that say what to give."""
    with pytest.raises(ConfigurationError, match="event_time=5: give a"):
        kind("in", event_time=5)


def test_the_advice_to_give_event_time_can_be_followed(tmp_path, state):
    """Docs that are not true: it was said of a source that had no such argument."""
    path = tmp_path / "in"
    path.write_text("".join(f"{second} a\n" for second in SECONDS))

    def build(source, sink):
        flow = Dataflow("advice")
        lines = flow.source("lines", source).key_by(lambda line: line.split()[1])
        lines.window("minutes", Tumbling(minutes=1)).aggregate(n=count()).sink("out", sink)
        return flow

    sink = TransactionalTestingSink()
    with pytest.raises(ConfigurationError, match=r"source 'lines' has none; give it event_time="):
        run(build(TextSource(path), sink), state)
    run(build(TextSource(path, event_time=lambda line: int(line.split()[0])), sink), state)
    assert [window["n"] for window in sink.records] == [2, 1]

    class OfMyOwn(Source):
        has_event_time = True

        def partitions(self) -> list[str]:
            return ["all"]

        def open(self, partition, position) -> SourceReader:
            return _OfMyOwn(TextSource(path).open(str(path), position))

    class _OfMyOwn(SourceReader):
        def __init__(self, reader) -> None:
            self.reader = reader

        def read(self, max_records):
            batch = self.reader.read(max_records)
            if batch is not None:
                batch.event_times = np.array([int(line.split()[0]) * 1_000_000 for line in batch.records], np.int64)
            return batch

        def position(self):
            return self.reader.position()

        def close(self) -> None:
            self.reader.close()

    sink = TransactionalTestingSink()
    run(build(OfMyOwn(), sink), tmp_path / "own-state")
    assert [window["n"] for window in sink.records] == [2, 1]
