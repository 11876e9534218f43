"""The job whose functions fork: python fork_job.py ROOT PLACE.

The place (a function, the source, an event, a call of a sink) forks children, and each leaves in another way. Children
write how to ROOT/children; the parent does not wait for them.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import onceflow as of
from onceflow.connectors.files import CsvSink, CsvSource, JsonLinesSink, ParquetSink
from onceflow.connectors.log import LogSink
from onceflow.connectors.stdout import StdoutSink
from onceflow.sinks import IdempotentSink, SinkWriter

ROWS = 3000
WAYS = ("exception", "exit", "_exit", "exec", "return", "outlive")

root, place = Path(sys.argv[1]), sys.argv[2]
home = os.getpid()
ways = list(WAYS)


class ChildError(Exception):
    """What a child's code may raise."""


def note(way):
    with (root / "children").open("a") as file:
        file.write(f"{way}\n")


def fork(here):
    """In the place that is asked for, once: a child for each way of leaving."""
    if here != place or os.getpid() != home:
        return
    while ways:
        way = ways.pop()
        if os.fork() == 0:
            leave(way)
            return


def leave(way):
    note(way)
    if way == "exception":
        raise ChildError("in the child")
    if way == "exit":
        sys.exit(5)
    if way == "_exit":
        os._exit(6)
    if way == "exec":
        os.execv(sys.executable, [sys.executable, "-S", "-c", "pass"])
    if way == "outlive":
        # Its parent has ended, and another run may have the directory by now.
        while os.getppid() == home:
            time.sleep(0.01)
        sys.exit(7)


class Writer(SinkWriter):
    """An idempotent sink that appends; ``ids`` of its lines are each there once, since nothing crashes."""

    def __init__(self, path):
        self._file = path.open("a")

    def write(self, records):
        self._file.write("".join(f"{record['id']}\n" for record in records))
        self._file.flush()
        fork("write")

    def flush(self):
        fork("flush")

    def close(self):
        if os.getpid() != home:
            note("closed in a child")
        self._file.close()


class AppendSink(IdempotentSink):
    def __init__(self, path):
        self._path = path

    def open(self, context):
        return Writer(self._path)


class Csv(CsvSource):
    def open(self, partition, position):
        reader = super().open(partition, position)
        read = reader.read

        def read_and_fork(max_records):
            batch = read(max_records)
            fork("read")
            return batch

        reader.read = read_and_fork
        return reader


def build():
    flow = of.Dataflow("fork")
    rows = flow.source("rows", Csv(root / "in.csv")).map(lambda row: (fork("map"), {"id": row["id"], "n": 1})[1])
    counted = rows.key_by(lambda row: row["id"] % 7).stateful_map(
        "counted", lambda state, row: (fork("state"), ((state or 0) + 1, {"id": row["id"], "nth": (state or 0) + 1}))[1]
    )
    counted.sink("csv", CsvSink(root / "csv"))
    counted.sink("jsonl", JsonLinesSink(root / "jsonl"))
    rows.sink("parquet", ParquetSink(root / "parquet"))
    rows.sink("append", AppendSink(root / "append.txt"))
    rows.map(lambda row: str(row["id"])).sink("log", LogSink(root / "log", "ids", partitions=1))
    return flow


if __name__ == "__main__":
    if place == "stdout":
        flow = of.Dataflow("print")
        rows = flow.source("rows", CsvSource(root / "in.csv")).map(lambda row: (fork("stdout"), str(row["id"]))[1])
        rows.sink("out", StdoutSink())
        sys.exit(0 if of.run(flow, root / "state", batch_size=50, guarantee="at_least_once").finished else 1)
    result = of.run(
        build(), root / "state", batch_size=50, checkpoint_interval_s=0.005, on_event=lambda event: fork("event")
    )
    # Children come here by an exception only if run() raised in them.
    sys.exit(0 if result.finished and os.getpid() == home else 1)
