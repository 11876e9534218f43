"""A job that has finished is over, whatever comes to its files; one that was stopped reads on, also in them."""

from __future__ import annotations

import json
import os
import signal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from onceflow import Dataflow, count, run
from onceflow.connectors.files import CsvSource, JsonLinesSource, ParquetSource, TextSource
from onceflow.exceptions import SourceChangedError
from onceflow.testing import TransactionalTestingSink
from onceflow.windows import Tumbling


def lines_of(kind, numbers):
    if kind == "jsonl":
        return "".join(f"{json.dumps({'n': n, 'at': n})}\n" for n in numbers)
    return "".join(f"{n},{n}\n" if kind == "csv" else f"{n}\n" for n in numbers)


def write(path, kind, numbers):
    if kind == "parquet":
        pq.write_table(pa.table({"n": numbers, "at": numbers}), path)
    else:
        path.write_text(("n,at\n" if kind == "csv" else "") + lines_of(kind, numbers))


def grow(path, kind, numbers):
    """Appends; a Parquet file can only be written anew."""
    if kind == "parquet":
        write(path, kind, [*pq.read_table(path)["n"].to_pylist(), *numbers])
    else:
        with path.open("a") as file:
            file.write(lines_of(kind, numbers))


SOURCES = {
    "csv": lambda paths: CsvSource(paths, event_time="at"),
    "jsonl": lambda paths: JsonLinesSource(paths, event_time="at"),
    "text": TextSource,
    "parquet": lambda paths: ParquetSource(paths, event_time="at"),
}


class Job:
    """Each number, and counts of them, of two files."""

    def __init__(self, directory, kind):
        self.kind = kind
        self.paths = [directory / "a", directory / "b"]
        for path, numbers in zip(self.paths, ([0, 1], [10, 11, 12, 13, 14, 15]), strict=True):
            write(path, kind, numbers)
        self.interrupt_at = None
        self.numbers, self.totals, self.windows = (TransactionalTestingSink() for _ in range(3))
        self.flow = Dataflow("grown")
        rows = self.flow.source("in", SOURCES[kind](self.paths))
        numbers = rows.map(self.number)
        numbers.sink("numbers", self.numbers)
        numbers.key_by(lambda n: n % 2).aggregate("totals", emit="final", n=count()).sink("totals-out", self.totals)
        if kind != "text":
            windows = numbers.key_by(lambda n: n % 2).window("tens", Tumbling(seconds=10))
            windows.aggregate(n=count()).sink("windows", self.windows)

    def number(self, row):
        number = int(row) if self.kind == "text" else row["n"]
        if number == self.interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)
        return number

    def run(self, state):
        return run(self.flow, state, batch_size=2)

    @property
    def output(self):
        return self.numbers.records, self.totals.records, self.windows.records


@pytest.mark.parametrize("kind", SOURCES)
def test_a_finished_job_reads_nothing_more(state, tmp_path, kind):
    job = Job(tmp_path, kind)
    first = job.run(state)
    assert first.finished
    assert sorted(job.output[0]) == [0, 1, 10, 11, 12, 13, 14, 15]
    assert [total["n"] for total in job.output[1]] == [4, 4]
    output = job.output
    for path in job.paths:
        grow(path, kind, [20, 21])
    again = job.run(state)
    assert (again.finished, again.checkpoints) == (True, 0)
    assert again.last_checkpoint == again.resumed_from == first.last_checkpoint
    assert (again.records_in, again.records_out) == (first.records_in, first.records_out)
    assert job.output == output


@pytest.mark.parametrize("kind", ["csv", "jsonl", "text"])
def test_a_stopped_job_reads_on_also_in_a_file_that_it_had_read_to_its_end(state, tmp_path, kind):
    job = Job(tmp_path, kind)
    job.interrupt_at = 13
    assert not job.run(state).finished
    assert job.numbers.records == [0, 1, 10, 11, 12, 13]
    for path, numbers in zip(job.paths, ([20, 21], [22, 23]), strict=True):
        grow(path, kind, numbers)
    assert job.run(state).finished
    assert sorted(job.numbers.records) == [0, 1, 10, 11, 12, 13, 14, 15, 20, 21, 22, 23]
    assert [total["n"] for total in job.totals.records] == [6, 6]
    if kind != "text":
        assert sum(window["n"] for window in job.windows.records) == len(job.numbers.records)


def test_a_stopped_job_refuses_a_file_that_was_written_anew(state, tmp_path):
    job = Job(tmp_path, "parquet")
    job.interrupt_at = 13
    assert not job.run(state).finished
    grow(job.paths[0], "parquet", [20, 21])
    with pytest.raises(SourceChangedError, match="another file"):
        job.run(state)
    assert job.numbers.records == [0, 1, 10, 11, 12, 13]
