"""What does the embedded log cost, beside a real Kafka on the same machine and what people embed today?

All that is timed is in ``log_under_test``, the same for every log. Kafka runs with one broker, idempotent producers,
acks=all, and its clients in batches of a megabyte; it answers when a record is in the page cache, ours when it is
synced to the disk. Where Java or Maven are missing, Kafka is left out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from embedded_log import EmbeddedLog
from log_under_test import (
    Delivery,
    LogUnderTest,
    TransactionCost,
    consume_rate,
    delivery,
    produce_rate,
    transaction_cost,
)

from harness.figures import Goal, Table
from harness.queues import QUEUES, Queue
from harness.rounds import interleave, median
from harness.scale import Scale

SIZES = {"100 B": 100, "1 KB": 1_000}
#: Between commits.
INTERVALS = {"10 ms": 0.01, "100 ms": 0.1, "1 s": 1.0}
BYTES = 150_000_000
#: persist-queue syncs each record.
_SLOW = {"persist-queue": 1_000}

RATES = Table(
    "log_rates",
    "A log's producer and consumer",
    {
        "record": "text",
        "what": "text",
        "produce": "rate",
        "consume": "rate",
        "produce, of Kafka": "times",
        "consume, of Kafka": "times",
    },
    "Medians of rounds that take turns. A thousand records a call; a record counts when it is acknowledged: synced to "
    "the disk with all but Kafka, which does not sync. Kafka is compared at its fastest, where only a flush tells that "
    "records were accepted; with delivery reports it calls back for each. Columns are a numpy array of bytes in and an "
    "Arrow array out. persist-queue has no call for several records and syncs each. A bare file, without "
    "checksums or an index, shows what the disk allows.",
)
TRANSACTIONS = Table(
    "log_transactions",
    "What a transaction costs in throughput",
    {
        "record": "text",
        "commit every": "text",
        "what": "text",
        "kept": "share",
        "lowest": "share",
        "highest": "share",
        "with transactions": "rate",
        "without": "rate",
    },
    "Rate with transactions of the rate of an idempotent producer, in rounds that take turns: median, lowest, highest.",
)
DELIVERY = Table(
    "log_delivery",
    "From produce to a read_committed consumer in another process",
    {"what": "text", "commit every": "text", "asked": "rate", "reached": "rate", "p50": "seconds", "p99": "seconds"},
    "Records of 100 B at a steady rate, handed over every millisecond. A record of a transaction waits for its commit, "
    "half an interval on average; without transactions it is delivered as soon as it is acknowledged.",
)


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str | None]:
    """The address of a broker that is warm; None where it cannot run."""
    from kafka_log import KafkaLog, kafka_broker  # noqa: PLC0415 - where confluent-kafka is not, nothing is measured
    from services.process import ServerUnavailableError  # noqa: PLC0415

    try:
        broker = kafka_broker(tmp_path_factory.mktemp("kafka"))
    except ServerUnavailableError:
        yield None
        return
    with broker:
        log = KafkaLog(broker.bootstrap)
        log.create_topic("warm-up")
        # The first transaction of a broker creates its log of transactions.
        producer = log.producer("warm-up", transactional=True)
        producer.begin()
        producer.commit()
        for number in range(2):
            produce_rate(log, f"warm-up-{number}", 100_000, 100)
            consume_rate(log, f"warm-up-{number}", 100_000)
        yield broker.bootstrap


def kafka_logs(bootstrap: str | None, *, reports: bool = True) -> list[LogUnderTest]:
    """Kafka, also with delivery reports."""
    if bootstrap is None:
        return []
    from kafka_log import KafkaLog  # noqa: PLC0415 - as above

    return [KafkaLog(bootstrap), *([KafkaLog(bootstrap, reports=True)] if reports else [])]


def ours(directory: Path) -> list[LogUnderTest]:
    """Through lists and through columns."""
    return [EmbeddedLog(str(directory / "log")), EmbeddedLog(str(directory / "log"), columns=True)]


_numbers = itertools.count()


def _rates(log: LogUnderTest, records: int, size: int) -> tuple[float, float]:
    topic = f"rate-{next(_numbers)}"
    produced = produce_rate(log, topic, records, size)
    consumed = consume_rate(log, topic, records)
    log.delete_topic(topic)
    return produced, consumed


def sizes(scale: Scale) -> dict[str, int]:
    """Of records."""
    return SIZES if scale.name == "full" else {"100 B": 100}


def intervals(scale: Scale) -> dict[str, float]:
    """Between commits."""
    return INTERVALS if scale.name == "full" else {"100 ms": 0.1}


def test_rates(benchmark, record, scale, directory, kafka):
    logs = [*ours(directory), *kafka_logs(kafka), *(Queue(kind, str(directory)) for kind in QUEUES)]

    def records(log: LogUnderTest, size: int) -> int:
        return (BYTES // size if scale.name == "full" else 20_000) // _SLOW.get(log.name, 1)

    contenders = {
        (name, log.name): (lambda log=log, size=size: _rates(log, records(log, size), size))
        for name, size in sizes(scale).items()
        for log in logs
    }
    found = interleave(benchmark, contenders, min(scale.rounds, 3))
    rates = {case: [median(list(each)) for each in zip(*rounds, strict=True)] for case, rounds in found.items()}
    for (record_size, name), (produced, consumed) in rates.items():
        values: dict[str, Any] = {"record": record_size, "what": name, "produce": produced, "consume": consumed}
        goals = []
        kafkas = rates.get((record_size, "Kafka"))
        if kafkas is not None and name != "Kafka":
            values["produce, of Kafka"] = produced / kafkas[0]
            values["consume, of Kafka"] = consumed / kafkas[1]
            if name.startswith("onceflow"):
                bound = 20.0 if "columns" in name else 5.0
                goals = [Goal("produce, of Kafka", bound), Goal("consume, of Kafka", bound)]
        record(RATES, values, *goals)


def test_what_a_transaction_costs(benchmark, record, scale, directory, kafka):
    logs = [*ours(directory), *kafka_logs(kafka, reports=False)]
    cases = list(itertools.product(sizes(scale), intervals(scale), logs))

    def measure() -> list[TransactionCost]:
        costs = []
        for record_size, interval, log in cases:
            rounds, seconds = (5, max(1.0, 2 * INTERVALS[interval])) if scale.name == "full" else (1, 0.2)
            size, interval_s = SIZES[record_size], INTERVALS[interval]
            costs.append(transaction_cost(log, size, interval_s, rounds=rounds, duration_s=seconds))
        return costs

    for (record_size, interval, log), cost in zip(cases, benchmark.pedantic(measure, rounds=1), strict=True):
        values = {
            "record": record_size,
            "commit every": interval,
            "what": log.name,
            "kept": cost.kept,
            "lowest": cost.low,
            "highest": cost.high,
            "with transactions": cost.transactional,
            "without": cost.idempotent,
        }
        goal = [Goal("kept", 0.97)] if interval == "100 ms" and log.name.startswith("onceflow") else []
        record(TRANSACTIONS, values, *goal)


def test_delivery(benchmark, record, scale, directory, kafka):
    logs = [*ours(directory), *kafka_logs(kafka, reports=False)]
    loads = {"never": None} | intervals(scale)
    asked = [(name, interval_s, 20_000) for name, interval_s in loads.items()] + [("1 ms", 0.001, 50_000)]
    cases = list(itertools.product(asked, logs))
    seconds = 4.0 if scale.name == "full" else 0.3

    def measure() -> list[Delivery]:
        return [delivery(log, 100, interval_s, rate=rate, duration_s=seconds) for (_, interval_s, rate), log in cases]

    for ((interval, _, rate), log), took in zip(cases, benchmark.pedantic(measure, rounds=1), strict=True):
        values = {
            "what": log.name,
            "commit every": interval,
            "asked": rate,
            "reached": took.reached,
            "p50": took.p50_ms / 1e3,
            "p99": took.p99_ms / 1e3,
        }
        goal = [Goal("p99", 0.005, at_most=True)] if rate == 50_000 and log.name.startswith("onceflow") else []
        record(DELIVERY, values, *goal)
