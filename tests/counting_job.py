"""A small job for lives that are stopped, forked, put back: reads CSV, counts by user, writes to one kind of sink."""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
from outbox_table import rows_sink, shown_rows, sql_sink
from upserts import UpsertSink, upserted

import onceflow as of
from onceflow._native import Log
from onceflow.connectors.files import CsvSink, CsvSource, JsonLinesSink, ParquetSink, read_parts
from onceflow.connectors.log import LogSink
from onceflow.exceptions import FinishedJobWarning, RepeatedOutputWarning
from onceflow.runtime.run import run as run_flow
from onceflow.sinks import Sink

__all__ = ["KINDS", "ROWS", "run", "shown", "write_input"]

ROWS = 160
BATCH = 20
USERS = 7


def _shown_in_log(root: Path) -> object:
    with Log.open(root / "out", create=False) as log:
        assert [producer.staged_bytes for producer in log.producers()] == [0]
        fetched = [log.fetch("out", partition, 0) for partition in range(log.topic("out").partitions)]
        return [(records.keys, records.values) for records in fetched]


def _shown_in_parquet(root: Path) -> object:
    return [row for path in sorted((root / "out").glob("part-*")) for row in pq.read_table(path).to_pylist()]


#: Kind of sink → how it is made, and what it shows.
KINDS: dict[str, tuple[Callable[[Path], Sink], Callable[[Path], object]]] = {
    "csv": (lambda root: CsvSink(root / "out"), lambda root: read_parts(root / "out")),
    "jsonl": (lambda root: JsonLinesSink(root / "out"), lambda root: read_parts(root / "out")),
    "parquet": (lambda root: ParquetSink(root / "out"), _shown_in_parquet),
    "log": (lambda root: LogSink(root / "out", "out", key="user", partitions=2), _shown_in_log),
    "outbox": (lambda root: rows_sink(root / "out", ("user", "id", "nth")), lambda root: shown_rows(root / "out")),
    "sql": (lambda root: sql_sink(root / "out", ("user", "id", "nth")), lambda root: shown_rows(root / "out")),
    "sqlite": (lambda root: UpsertSink(root / "out", ("user", "id", "nth")), lambda root: upserted(root / "out")),
}


def write_input(top: Path) -> None:
    """Rows of some users, for all jobs whose directories lie under ``top``."""
    lines = "".join(f"{number},u{number * 7919 % USERS}\n" for number in range(ROWS))
    (top / "in.csv").write_text(f"id,user\n{lines}")


def run(
    root: Path,
    kind: str,
    *,
    take_over: bool = False,
    resume_from: int | str = "newest",
    pace_s: float = 0.002,
    on_batch: Callable[[int], None] | None = None,
) -> of.JobResult:
    """One life of the job, in this process.

    Args:
        root: Where state and output lie; the input lies beside it.
        kind: Of sink.
        take_over: See ``run``.
        resume_from: See ``run``.
        pace_s: What each batch takes at least, so that a few checkpoints fall within a run.
        on_batch: Called with the number of each batch of this life, from 1 on, where users' functions are called.
    """
    numbers = itertools.count(1)

    def slowly(batch):
        time.sleep(pace_s)
        if on_batch is not None and len(batch):
            on_batch(next(numbers))
        return batch

    flow = of.Dataflow("counting")
    rows = flow.source("rows", CsvSource(root.parent / "in.csv")).map_batch(slowly)
    rows.key_by("user").stateful_map(
        "counts", lambda nth, row: ((nth or 0) + 1, {"user": row["user"], "id": row["id"], "nth": (nth or 0) + 1})
    ).sink("out", KINDS[kind][0](root))
    with warnings.catch_warnings():
        # Many a life finds that the job was at its end.
        warnings.simplefilter("ignore", FinishedJobWarning)
        warnings.simplefilter("ignore", RepeatedOutputWarning)
        return run_flow(
            flow,
            root / "state",
            checkpoint_interval_s=1e-6,
            batch_size=BATCH,
            take_over=take_over,
            resume_from=resume_from,
        )


def shown(root: Path, kind: str) -> object:
    """What the sink shows."""
    return KINDS[kind][1](root)
