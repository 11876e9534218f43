"""Columns stay columns from file to file: no dict is made for a row."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from onceflow import Columns, Dataflow, count, mean, run
from onceflow import sum as total
from onceflow.connectors.files import ArrowIpcSource, CsvSink, CsvSource, ParquetSink, ParquetSource, read_parts
from onceflow.windows import Tumbling

ROWS = 5000


@pytest.fixture
def table():
    return pa.table(
        {
            "carrier": [f"c{number % 7}" for number in range(ROWS)],
            "delay": pa.array([float(number % 100) for number in range(ROWS)]),
            "at": pa.array(range(ROWS), pa.timestamp("s")),
        }
    )


def source_of(kind, table, path):
    if kind is ParquetSource:
        pq.write_table(table, path, row_group_size=700)
    elif kind is ArrowIpcSource:
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=700)
    else:
        rows = "".join(f"{row['carrier']},{row['delay']},{row['at'].isoformat()}\n" for row in table.to_pylist())
        path.write_text("carrier,delay,at\n" + rows)
        return CsvSource(path, event_time="at", as_columns=True)
    return kind(path, event_time="at")


@pytest.mark.parametrize("kind", [ParquetSource, ArrowIpcSource, CsvSource])
def test_no_row_becomes_a_dict(tmp_path, state, monkeypatch, table, kind):
    def refuse(self):
        raise AssertionError("a batch of columns was taken apart into rows")

    monkeypatch.setattr(Columns, "to_rows", refuse)
    flow = Dataflow("columns")
    rows = flow.source("rows", source_of(kind, table, tmp_path / "in"))
    kept = rows.filter_batch(lambda batch: batch["delay"].to_numpy() >= 10).map_batch(
        lambda batch: batch.with_columns(hours=batch["delay"].to_numpy() / 60)
    )
    totals = kept.key_by("carrier").aggregate("totals", n=count(), delay=total("delay"))
    totals.sink("totals-csv", CsvSink(tmp_path / "totals-csv"))
    totals.sink("totals-parquet", ParquetSink(tmp_path / "totals-parquet"))
    windows = kept.key_by("carrier").window("minutes", Tumbling(minutes=10)).aggregate(n=count(), hours=mean("hours"))
    windows.sink("windows-csv", CsvSink(tmp_path / "windows-csv"))
    windows.sink("windows-parquet", ParquetSink(tmp_path / "windows-parquet"))
    rows.sink("copy", ParquetSink(tmp_path / "copy"))
    result = run(flow, state, batch_size=512)
    monkeypatch.undo()
    assert result.records_in == ROWS
    expected = Counter(row["carrier"] for row in table.to_pylist() if row["delay"] >= 10)
    newest = {row["carrier"]: row["n"] for row in rows_of(tmp_path / "totals-parquet")}
    assert newest == expected
    lines = [line.split(",") for line in read_parts(tmp_path / "totals-csv").decode().splitlines()[1:]]
    assert {carrier: int(n) for carrier, n, _ in lines} == expected
    assert sum(row["n"] for row in rows_of(tmp_path / "windows-parquet")) == sum(expected.values())
    assert len(read_parts(tmp_path / "windows-csv").splitlines()) == len(rows_of(tmp_path / "windows-parquet")) + 1
    assert [row["delay"] for row in rows_of(tmp_path / "copy")] == table["delay"].to_pylist()


def rows_of(directory):
    return [row for path in sorted(directory.glob("part-*")) for row in pq.read_table(path).to_pylist()]
