"""A job from topic to topic: counts numbers by key, and keeps their partition, so that their order can be checked."""

from __future__ import annotations

import json
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recording import Promises, RecordingConsumer, RecordingProducer

import onceflow as of
from onceflow.connectors.kafka import KafkaSink, KafkaSource
from onceflow.exceptions import FinishedJobWarning, SinkWaitingWarning, SourceWaitingWarning
from onceflow.testing.histories import History, Recorder, check

__all__ = ["PARTITIONS", "CopyingJob", "Numbers", "number_of"]

PARTITIONS = 4
_KEYS = 12


def number_of(value: bytes) -> str:
    """What of a record stands in the history."""
    return str(json.loads(value)["n"])


class Numbers:
    """Numbers from 0 on in a topic, and what is promised of them.

    Args:
        bootstrap: Of the cluster.
        history: Its directory.
        topic: Where they are written.
        promised: Topics that are to have each of them in the end.
    """

    def __init__(self, bootstrap: str, history: Path, topic: str, *promised: str) -> None:
        self._bootstrap = bootstrap
        self._history = history
        self._topic = topic
        self._promises = [Promises(history, name, PARTITIONS) for name in promised]
        self._producer = RecordingProducer(bootstrap, history, f"source-of-{topic}")
        self.count = 0

    def write(self, more: int) -> None:
        """So many more, and returns when all of them are there."""
        for number in range(self.count, self.count + more):
            for each in self._promises:
                each.made(number % PARTITIONS, str(number))
            self._producer.send(self._topic, str(number), number % PARTITIONS)
        self._producer.flush()
        self.count += more

    def due(self) -> int:
        """All of them have to be in all topics, which were read to their ends; AssertionError if anything is wrong.

        How many operations the history has.
        """
        for each in self._promises:
            each.due()
        with Recorder(self._history, f"last-of-{self._topic}") as recorder:
            places = [(self._topic, partition) for partition in range(PARTITIONS)]
            consumer = RecordingConsumer(self._bootstrap, recorder, places)
            consumer.read_to_the_end()
            consumer.close()
        report = check(History.load(self._history), atomic_commits=False)
        report.raise_anomalies()
        assert report.unseen == 0, str(report)
        return report.operations


@dataclass(frozen=True)
class CopyingJob:
    """A job with a state directory of its own.

    Attributes:
        bootstrap: Of the cluster.
        name: Of the job.
        state: Its directory.
        source: The topic that is read.
        target: The topic that is written.
        pace_s: What it waits at each batch.
        batch: Records of one.
        config: Of the sink's clients.
    """

    bootstrap: str
    name: str
    state: Path
    source: str
    target: str
    pace_s: float = 0.0
    batch: int = 100
    config: dict[str, Any] | None = None

    def run(self, *, follow: bool = False, interval_s: float = 0.05, take_over: bool = False) -> None:
        """One life of it; with ``follow`` it does not end."""

        def slowly(batch):
            time.sleep(self.pace_s)
            return batch

        def count(nth, number):
            nth = (nth or 0) + 1
            return nth, {"n": number, "partition": number % PARTITIONS, "nth": nth}

        flow = of.Dataflow(self.name)
        source = KafkaSource(self.bootstrap, self.source, decode="json", stop_at_end=not follow)
        sink = KafkaSink(self.bootstrap, self.target, partition="partition", config=self.config)
        # What another such job has written is a record.
        numbers = (
            flow.source("numbers", source).map_batch(slowly).map(lambda it: it["n"] if isinstance(it, dict) else it)
        )
        numbers.key_by(lambda number: number % _KEYS).stateful_map("counts", count).sink("copies", sink)
        with warnings.catch_warnings():
            # For a broker that was killed both wait, longer where the machine is busy.
            for category in (FinishedJobWarning, SourceWaitingWarning, SinkWaitingWarning):
                warnings.simplefilter("ignore", category)
            of.run(flow, self.state, checkpoint_interval_s=interval_s, batch_size=self.batch, take_over=take_over)

    def wrong(self, values: list[bytes], count: int) -> str:
        """What is wrong with the records of its topic, if anything is: lost, doubled, out of order, counted twice."""
        records = [json.loads(value) for value in values]
        numbers = [record["n"] for record in records]
        lost, doubled = len(set(range(count)) - set(numbers)), len(numbers) - len(set(numbers))
        if lost or doubled:
            return f"{lost} lost, {doubled} doubled of {count}"
        miscounted = [record for record in records if record["nth"] != record["n"] // _KEYS + 1]
        if miscounted:
            return f"{len(miscounted)} miscounted, such as {miscounted[0]}"
        return ""
