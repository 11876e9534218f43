"""The job that the kill tests kill: python killed_job.py ROOT GUARANTEE SINK INTERVAL_MS.

Reads ROOT/in.csv, keeps totals and a window, writes to ROOT/out by the sink asked for.
"""

from __future__ import annotations

import os
import sys
import time
from datetime import timedelta
from pathlib import Path

import onceflow as of
from onceflow.connectors.files import CsvSink, CsvSource
from onceflow.sinks import IdempotentSink, PlainSink, SinkWriter
from onceflow.windows import Tumbling


class _Appender(SinkWriter):
    """Appends lines to a file; each write is a system call, so a kill tears nothing."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(self, records):
        rows = records.to_rows() if isinstance(records, of.Columns) else records
        for row in rows:
            os.write(self._file, (",".join(map(str, row.values())) + "\n").encode())

    def flush(self):
        os.fsync(self._file)

    def close(self):
        os.close(self._file)


class AppendSink(PlainSink):
    """Cannot take a line back."""

    def __init__(self, path):
        self._path = path

    def open(self, context):
        return _Appender(self._path)


class UpsertSink(IdempotentSink):
    """The last line of a key counts (see ``read_upserts``), so repeating a sequence of lines changes nothing."""

    def __init__(self, path):
        self._path = path

    def open(self, context):
        return _Appender(self._path)


def build(root: Path, kind: str) -> of.Dataflow:
    def sink(name):
        if kind == "transactional":
            return CsvSink(root / "out" / name)
        path = root / "out"
        path.mkdir(exist_ok=True)
        return (AppendSink if kind == "plain" else UpsertSink)(path / f"{name}.txt")

    flow = of.Dataflow("kill")
    rows = flow.source(
        "rows",
        CsvSource([root / "in-0.csv", root / "in-1.csv"], event_time="at"),
        max_out_of_orderness=timedelta(seconds=5),
    )

    def slowly(batch):
        # So that a few checkpoints fall within a run.
        time.sleep(0.002)
        return batch

    rows = rows.map_batch(slowly)
    if kind == "transactional":
        rows.key_by("user").window("minutes", Tumbling(minutes=1)).aggregate(n=of.count(), total=of.sum("amount")).sink(
            "windows-out", sink("windows")
        )
        rows.key_by("user").stateful_map(
            "seen", lambda state, row: ((state or 0) + 1, {"id": row["id"], "nth": (state or 0) + 1})
        ).sink("seen-out", sink("seen"))
    else:
        rows.map(lambda row: {"id": row["id"], "amount": row["amount"]}).sink("plain-out", sink("plain"))
    return flow


def run_job(root: Path, guarantee: str, kind: str, interval_ms: float) -> bool:
    """One life of the job; whether it has finished."""
    return of.run(
        build(root, kind),
        root / "state",
        guarantee=guarantee,
        checkpoint_interval_s=interval_ms / 1000,
        batch_size=50,
    ).finished


if __name__ == "__main__":
    top, promise, sink_kind, interval = sys.argv[1:]
    sys.exit(0 if run_job(Path(top), promise, sink_kind, float(interval)) else 3)
