"""The Kafka sink keeps the contract of transactional sinks, on the real broker."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import topics

from onceflow.connectors.kafka import KafkaPlainSink, KafkaSink
from onceflow.testing import PlainSinkContract, TransactionalSinkContract


class _Sink(TransactionalSinkContract):
    options: ClassVar[dict[str, Any]] = {}

    @pytest.fixture(autouse=True)
    def target(self, kafka):
        """Its directory is no target here: a topic and a job that no other test has are."""
        self.bootstrap, self.topic = kafka.bootstrap, topics.name("contract")

    def _context(self, *args: Any, **options: Any) -> Any:
        return replace(super()._context(*args, **options), job=self.topic)

    def make_sink(self, directory):
        return KafkaSink(self.bootstrap, self.topic, partitions=3, **self.options)

    def visible(self, directory):
        return sorted(map(self.record, topics.read(self.bootstrap, self.topic)), key=lambda record: record["id"])

    def record(self, message):
        return json.loads(message.value())


class TestSink(_Sink):
    options: ClassVar = {"partition": 1}


class TestSinkOfFields(_Sink):
    options: ClassVar = {
        "key": "id",
        "value": "text",
        "partition": lambda record: record["id"] % 3,
        "headers": lambda _: {"a": b"1"},
    }

    def record(self, message):
        assert message.headers() == [("a", b"1")]
        return {"id": int(message.key()), "text": message.value().decode()}


class TestPlainSink(PlainSinkContract):
    @pytest.fixture(autouse=True)
    def target(self, kafka):
        """See above."""
        self.bootstrap, self.topic = kafka.bootstrap, topics.name("contract")

    def make_sink(self, directory):
        return KafkaPlainSink(self.bootstrap, self.topic, partitions=2, partition=1)

    def visible(self, directory):
        return [json.loads(message.value()) for message in topics.read(self.bootstrap, self.topic)]


# The contract's base is no test of its own.
del _Sink
