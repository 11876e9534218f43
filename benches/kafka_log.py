"""Kafka as a log under test: ``python benches/kafka_log.py`` measures it alone.

One broker on this machine, idempotent producers, acks=all, no compression. Kafka answers when the record is in the
page cache of all replicas, here of one: it does not sync to disk.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from log_under_test import consume_rate, delivery, produce_rate, transaction_cost
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from services.kafka import THROUGHPUT, KafkaBroker

__all__ = ["KafkaLog", "kafka_broker"]

_TIMEOUT_S = 30
_QUIET = {"log_level": 0, "error_cb": lambda error: None}
SIZES = (100, 1_000)
INTERVALS_S = (0.01, 0.1, 1.0)


def kafka_broker(directory: str | Path) -> KafkaBroker:
    """A broker for measuring: deleted topics give their space back at once."""
    return KafkaBroker(directory, options=THROUGHPUT, properties={"log.segment.delete.delay.ms": "500"})


@dataclass(frozen=True)
class KafkaLog:
    """See ``LogUnderTest``.

    Attributes:
        bootstrap: Of a running broker.
        reports: The acknowledgement of each record is handed to a function, as to a program that must know which
            records were accepted. Without, only ``flush`` tells, and that is the fastest that this client can do: its
            ``produce_batch`` is no faster, since it takes a dict for each record.
    """

    bootstrap: str
    reports: bool = False

    @property
    def name(self) -> str:
        """In tables."""
        return "Kafka, with delivery reports" if self.reports else "Kafka"

    def create_topic(self, topic: str) -> None:
        """With one partition."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap, **_QUIET})
        admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(_TIMEOUT_S)

    def delete_topic(self, topic: str) -> None:
        """With its data."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap, **_QUIET})
        admin.delete_topics([topic])[topic].result(_TIMEOUT_S)

    def batch(self, values: Sequence[bytes]) -> Sequence[bytes]:
        """As it is."""
        return values

    def producer(self, topic: str, *, transactional: bool) -> KafkaProducer:
        """See ``LogUnderTest``."""
        return KafkaProducer(self, topic, transactional=transactional)

    def consumer(self, topic: str) -> KafkaConsumer:
        """See ``LogUnderTest``."""
        return KafkaConsumer(self, topic)


class KafkaProducer:
    """See ``ProducerUnderTest``."""

    def __init__(self, log: KafkaLog, topic: str, *, transactional: bool) -> None:
        settings: dict[str, Any] = {
            "bootstrap.servers": log.bootstrap,
            "enable.idempotence": True,
            "acks": "all",
            # What follows are librdkafka's own choices, but for a longer queue.
            "linger.ms": 5,
            "batch.size": 1_000_000,
            "batch.num.messages": 10_000,
            "queue.buffering.max.messages": 500_000,
            "queue.buffering.max.kbytes": 1 << 19,
            "delivery.report.only.error": not log.reports,
            **_QUIET,
        }
        if transactional:
            settings["transactional.id"] = f"bench-{uuid.uuid4()}"
        if log.reports:
            settings["on_delivery"] = self._delivered
        self._accepted = 0
        self._topic = topic
        self._producer = Producer(settings)
        if transactional:
            self._producer.init_transactions(_TIMEOUT_S)

    def produce_many(self, batch: Sequence[bytes]) -> None:
        """See ``ProducerUnderTest``."""
        produce, topic = self._producer.produce, self._topic
        for value in batch:
            try:
                produce(topic, value)
            except BufferError:
                # The queue is full: wait until there is room.
                while len(self._producer) > 400_000:
                    self._producer.poll(0.01)
                produce(topic, value)
        self._producer.poll(0)

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            self._accepted += 1

    def flush(self) -> None:
        """See ``ProducerUnderTest``."""
        if left := self._producer.flush(_TIMEOUT_S):
            raise RuntimeError(f"{left} records were not acknowledged in {_TIMEOUT_S} s")

    def begin(self) -> None:
        """See ``ProducerUnderTest``."""
        self._producer.begin_transaction()

    def commit(self) -> None:
        """See ``ProducerUnderTest``."""
        self._producer.commit_transaction(_TIMEOUT_S)

    def close(self) -> None:
        """Kafka's producer ends with its object."""
        del self._producer


class KafkaConsumer:
    """See ``ConsumerUnderTest``."""

    def __init__(self, log: KafkaLog, topic: str) -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": log.bootstrap,
                "group.id": f"bench-{uuid.uuid4()}",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "queued.min.messages": 200_000,
                "fetch.wait.max.ms": 100,
                **_QUIET,
            }
        )
        self._consumer.assign([TopicPartition(topic, 0, 0)])

    def poll(self, max_records: int, timeout_s: float) -> list[bytes]:
        """See ``ConsumerUnderTest``."""
        # consume() waits until it has all it was asked for or the time is over; poll() comes back with the first.
        first: Message | None = self._consumer.poll(timeout_s)
        if first is None:
            return []
        messages = [first, *self._consumer.consume(max_records - 1, 0)] if max_records > 1 else [first]
        for message in messages:
            if message.error() is not None:
                raise RuntimeError(message.error().str())
        return [message.value() for message in messages]

    def stamps(self, records: list[bytes]) -> npt.NDArray[np.int64]:
        """See ``ConsumerUnderTest``."""
        return np.frombuffer(b"".join(value[:8] for value in records), dtype="<i8")

    def close(self) -> None:
        """See ``ConsumerUnderTest``."""
        self._consumer.close()


def main() -> None:
    """Prints what Kafka does on this machine."""
    console = Console()
    with tempfile.TemporaryDirectory() as directory, kafka_broker(directory) as broker:
        log, reporting = KafkaLog(broker.bootstrap), KafkaLog(broker.bootstrap, reports=True)
        rates = Table("record", "produce/s", "with reports", "consume/s", title="Idempotent, acks=all")
        costs = Table("record", "commit every", "share of the rate kept", "records/s", title="What a transaction costs")
        times = Table("record", "commit every", "p50 ms", "p99 ms", "records/s", title="Produce to delivery")
        # The first transaction of a broker creates its log of transactions.
        log.create_topic("warm-up")
        warm = log.producer("warm-up", transactional=True)
        warm.begin()
        warm.commit()
        for size in SIZES:
            records = 150_000_000 // size
            produced, reported, consumed = [], [], []
            for number in range(5):
                for each, found in ((log, produced), (reporting, reported)):
                    topic = f"rate-{size}-{number}-{each.reports}"
                    found.append(produce_rate(each, topic, records, size))
                    consumed.append(consume_rate(each, topic, records))
                    each.delete_topic(topic)
            # The first round warms the broker's compiler up.
            medians = [statistics.median(found) for found in (produced[1:], reported[1:], consumed[2:])]
            rates.add_row(f"{size} B", *(f"{median:,.0f}" for median in medians))
            for interval_s in INTERVALS_S:
                cost = transaction_cost(log, size, interval_s)
                costs.add_row(
                    f"{size} B",
                    f"{interval_s * 1e3:g} ms",
                    f"{cost.kept:.2f} [{cost.low:.2f}–{cost.high:.2f}]",  # noqa: RUF001
                    f"{cost.transactional:,.0f} of {cost.idempotent:,.0f}",
                )
            for interval in (None, *INTERVALS_S):
                took = delivery(log, size, interval)
                label = "never" if interval is None else f"{interval * 1e3:g} ms"
                times.add_row(f"{size} B", label, f"{took.p50_ms:.1f}", f"{took.p99_ms:.1f}", f"{took.reached:,.0f}")
    for table in (rates, costs, times):
        console.print(table)


if __name__ == "__main__":
    main()
