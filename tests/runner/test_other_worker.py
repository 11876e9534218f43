"""What one worker has staged, and a decision has fixed, another one commits at the next start: exactly once."""

from __future__ import annotations

import csv
from dataclasses import replace

import pytest
from outbox_table import rows_sink, shown_rows

import onceflow as of
from onceflow.connectors.files import CsvSink
from onceflow.connectors.log import LogSink
from onceflow.exceptions import SinkError
from onceflow.log import Consumer, Log, TopicPartition
from onceflow.sinks import TransactionalSink
from onceflow.testing import TestingSource

RECORDS = [{"n": str(number)} for number in range(400)]


class OfWorker(TransactionalSink):
    """Another sink as a worker of some number opens it; all commits of a run fail, or none."""

    def __init__(self, sink, worker, *, fails):
        self._sink, self._worker, self._fails = sink, worker, fails

    def open(self, context):
        writer = self._sink.open(replace(context, worker=self._worker))
        if self._fails:
            writer.commit = self._fail
        return writer

    def _fail(self, committable):
        raise OSError("the target is gone")


def files(tmp_path):
    def shown():
        parts = sorted((tmp_path / "out").glob("part-*.csv"))
        return [row["n"] for part in parts for row in csv.DictReader(part.read_text().splitlines())]

    return CsvSink(tmp_path / "out"), shown


def topic(tmp_path):
    def shown():
        with Log.open(tmp_path / "log") as log, Consumer(log) as consumer:
            consumer.assign([TopicPartition("out", 0, 0)])
            records = []
            while (message := consumer.poll(0.0)) is not None:
                records.append(message.value().decode())
            return records

    return LogSink(tmp_path / "log", "out", partitions=1, value=lambda record: record["n"].encode()), shown


def outbox(tmp_path):
    return rows_sink(tmp_path / "out.db", ("n",)), lambda: [n for (n,) in shown_rows(tmp_path / "out.db")]


@pytest.mark.parametrize("kind", [files, topic, outbox])
@pytest.mark.parametrize("workers", [(1, 0), (0, 2), (3, 1, 0)], ids=str)
def test_any_worker_commits_what_a_decision_record_holds(state, tmp_path, kind, workers):
    """Kind: a runtime that takes whoever recovers for whoever staged: output of a worker that is gone is lost, or it
    is written once by each."""
    sink, shown = kind(tmp_path)
    for worker in workers:
        is_last = worker == workers[-1]
        flow = of.Dataflow("workers")
        flow.source("in", TestingSource(RECORDS)).sink("out", OfWorker(sink, worker, fails=not is_last))
        if is_last:
            assert of.run(flow, state, batch_size=4, checkpoint_interval_s=1e-6).finished
        else:
            with pytest.raises(SinkError, match="the target is gone"):
                of.run(flow, state, batch_size=4, checkpoint_interval_s=1e-6)
    assert sorted(map(int, shown())) == list(range(len(RECORDS)))
