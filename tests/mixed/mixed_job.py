"""A job with several kinds of sinks at once: it draws a random value for each record that it reads from a log.

Producers write to the log while the job reads: each has a partition of its own and writes ``PRODUCER.NUMBER``, in
transactions, and finds out where it was when it was killed. So each input has a name, and each sink must show it once,
with the value that the other sinks show: the function was called for it more often than that.
"""

from __future__ import annotations

import csv
import io
import random
import time
import warnings
from collections import defaultdict
from pathlib import Path

import msgspec
import pyarrow.parquet as pq
from outbox_table import rows_sink, shown_rows
from upserts import UpsertSink, upserted

import onceflow as of
from onceflow._native import Log, LogProducer
from onceflow.connectors.files import CsvSink, ParquetSink, read_parts
from onceflow.connectors.log import LogSink, LogSource
from onceflow.exceptions import FinishedJobWarning
from onceflow.runtime.run import run as run_flow

__all__ = ["PRODUCERS", "check", "create", "produce", "run"]

PRODUCERS = 2
COLUMNS = ("id", "user", "value", "nth")
USERS = 7
_TRANSACTION = 20


def create(root: Path) -> None:
    """The log with its topics."""
    root.mkdir()
    with Log.open(root / "log") as log:
        log.create_topic("in", partitions=PRODUCERS)
        log.create_topic("out", partitions=2)


def produce(root: Path, number: int, stop: Path) -> None:
    """One life of a producer."""
    now_ms = int(time.time() * 1000)
    with Log.open(root / "log") as log:
        producer = LogProducer(log, now_ms=now_ms, transactional_id=f"producer-{number}")
        # Nobody else writes to this partition from here on.
        producer.init_transactions(now_ms=now_ms)
        written = log.partition("in", number).end
        while not stop.exists():
            names = [f"{number}.{each}".encode() for each in range(written, written + _TRANSACTION)]
            producer.begin_transaction(now_ms=now_ms)
            producer.produce("in", names, partition=number, now_ms=now_ms)
            producer.commit_transaction(now_ms=now_ms)
            written += len(names)
            time.sleep(0.004)


def run(root: Path, *, follow: bool) -> of.JobResult:
    """One life of the job, which takes over from whatever other run there is."""
    # The life before may have been killed after its last checkpoint.
    warnings.simplefilter("ignore", FinishedJobWarning)
    chance = random.SystemRandom()

    def draw(name: bytes) -> dict[str, object]:
        number = int(name.partition(b".")[2])
        return {"id": name.decode(), "user": f"u{number * 7919 % USERS}", "value": chance.getrandbits(48)}

    flow = of.Dataflow("mixed")
    names = flow.source("in", LogSource(root / "log", "in", decode="value", stop_at_end=not follow))
    counted = (
        names.map(draw)
        .key_by("user")
        .stateful_map("counts", lambda n, row: ((n or 0) + 1, {**row, "nth": (n or 0) + 1}))
    )
    counted.sink("csv", CsvSink(root / "csv"))
    counted.sink("parquet", ParquetSink(root / "parquet"))
    counted.sink("log", LogSink(root / "log", "out", key="user"))
    counted.sink("outbox", rows_sink(root / "outbox", COLUMNS))
    counted.sink("sqlite", UpsertSink(root / "sqlite", COLUMNS))
    return run_flow(flow, root / "state", checkpoint_interval_s=0.004, batch_size=50, take_over=True)


def check(root: Path) -> tuple[str, int]:
    """What is wrong with the output of a job that has come to its end, if anything is; and how many inputs it had."""
    with Log.open(root / "log", create=False) as log:
        ends = [log.partition("in", number).end for number in range(PRODUCERS)]
        inputs = {f"{number}.{each}" for number, end in enumerate(ends) for each in range(end)}
        fetched = [log.fetch("out", partition, 0) for partition in range(2)]
        in_log = [msgspec.json.decode(value) for records in fetched for value in records.values]
    text = read_parts(root / "csv").decode()
    in_csv = [{**row, "value": int(row["value"]), "nth": int(row["nth"])} for row in csv.DictReader(io.StringIO(text))]
    in_parquet = [row for path in sorted((root / "parquet").glob("part-*")) for row in pq.read_table(path).to_pylist()]
    in_outbox = [dict(zip(COLUMNS, row, strict=True)) for row in shown_rows(root / "outbox")]
    in_sqlite = [dict(zip(COLUMNS, row, strict=True)) for row in upserted(root / "sqlite")]
    shown = {}
    kinds = {"csv": in_csv, "parquet": in_parquet, "log": in_log, "outbox": in_outbox, "sqlite": in_sqlite}
    for kind, rows in kinds.items():
        shown[kind] = {row["id"]: tuple(row[column] for column in COLUMNS) for row in rows}
        if len(shown[kind]) != len(rows) or shown[kind].keys() != inputs:
            lost = sorted(inputs - shown[kind].keys())[:5]
            return f"{kind} shows {len(rows)} rows of {len(inputs)} inputs; missing: {lost}", len(inputs)
    for kind, rows in shown.items():
        other = [name for name in inputs if rows[name] != shown["csv"][name]]
        if other:
            said = [(rows[name], shown["csv"][name]) for name in other[:5]]
            return f"{kind} contradicts csv at {len(other)} inputs: {said}", len(inputs)
    again = defaultdict(set)
    for row in upserted(root / "sqlite", "written"):
        again[row[0]].add(row)
    if any(len(rows) > 1 for rows in again.values()):
        return "sqlite was given two values for one input", len(inputs)
    counts = defaultdict(list)
    for _, user, _, nth in shown["csv"].values():
        counts[user].append(nth)
    if any(sorted(nths) != list(range(1, len(nths) + 1)) for nths in counts.values()):
        return "the counts have gaps", len(inputs)
    return "", len(inputs)
