"""The embedded log as source and sink keeps the contracts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest

from onceflow._native import Log, LogProducer
from onceflow.connectors.log import LogSink, LogSource
from onceflow.testing import SourceContract, TransactionalSinkContract

NOW_MS = 1_700_000_000_000


def make_log(directory: Path) -> Path:
    """Two partitions of 30 records of JSON in all, written by calls of different sizes."""
    path = directory / "log"
    if path.exists():
        return path
    with Log.open(path) as log:
        log.create_topic("in", partitions=2)
        producer = LogProducer(log, now_ms=NOW_MS)
        for first, last in ((0, 7), (7, 8), (8, 30)):
            numbers = range(first, last)
            producer.produce(
                "in",
                [f'{{"n": {n}}}' for n in numbers],
                keys=[str(n) for n in numbers],
                timestamps=[NOW_MS + n for n in numbers],
                partition=[n % 2 for n in numbers],
                now_ms=NOW_MS,
            )
    return path


class TestSource(SourceContract):
    def make_source(self, directory):
        return LogSource(make_log(directory), "in", event_time="timestamp")


class TestSourceOfJson(SourceContract):
    def make_source(self, directory):
        return LogSource(
            make_log(directory), "in", decode="json", event_time=lambda record: 1_700_000_000 + record["n"]
        )


class TestSourceOfColumns(SourceContract):
    def make_source(self, directory):
        return LogSource(make_log(directory), "in", as_columns=True, event_time="timestamp")


class TestSourceWithDeadLetters(SourceContract):
    def make_source(self, directory):
        def decode(message):
            record = json.loads(message["value"])
            if record["n"] % 5 == 3:
                raise ValueError("a three")
            return record

        return LogSource(
            make_log(directory),
            "in",
            decode=decode,
            event_time=lambda record: record["n"] if record["n"] != 12 else "no time",
            on_malformed="dead_letter",
        )


class TestSourceWhereRecordsWereCompactedAway(SourceContract):
    def make_source(self, directory):
        path = directory / "log"
        if not path.exists():
            with Log.open(path) as log:
                log.create_topic("in", cleanup_policy="compact")
                producer = LogProducer(log, now_ms=NOW_MS)
                for n in range(60):
                    producer.produce("in", [str(n)], keys=[str(n % 40)], now_ms=NOW_MS)
                while log.maintain(now_ms=NOW_MS).more:
                    pass
        return LogSource(path, "in")


class _Sink(TransactionalSinkContract):
    options: ClassVar[dict[str, Any]] = {}

    def make_sink(self, directory):
        return LogSink(directory / "log", "out", partitions=3, **self.options)

    def visible(self, directory):
        if not (directory / "log").exists():
            return []
        with Log.open(directory / "log", create=False) as log:
            records = []
            for partition in range(log.topic("out").partitions):
                records += self.read(log.fetch("out", partition, 0))
            return sorted(records, key=lambda record: record["id"])

    def read(self, found):
        return [json.loads(value) for value in found.values]


class TestSink(_Sink):
    options: ClassVar = {"key": lambda record: str(record["id"])}


class TestSinkOfOnePartition(_Sink):
    options: ClassVar = {"partition": 1}


class TestSinkOfFields(_Sink):
    options: ClassVar = {
        "key": "id",
        "value": "text",
        "partition": lambda record: record["id"] % 3,
        "headers": lambda _: {"a": b"1"},
    }

    def read(self, found):
        assert all(headers == [("a", b"1")] for headers in found.headers)
        pairs = zip(found.keys, found.values, strict=True)
        return [{"id": int(key), "text": value.decode()} for key, value in pairs]


# The contract's base is no test of its own.
del _Sink


@pytest.fixture(autouse=True)
def no_leftovers(tmp_path):
    """Whatever a check did: nothing is left in the log but what shows."""
    yield
    if (tmp_path / "log").exists():
        with Log.open(tmp_path / "log", create=False) as log:
            assert all(producer.staged_bytes == 0 for producer in log.producers())
