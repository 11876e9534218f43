"""What does exactly once cost on a real Kafka?

Records of bytes, from memory into a topic of one partition, on one broker on this machine: by a job under each promise,
and by the bare client without a job, with and without transactions. All of them send with the same batches.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from log_under_test import payloads

from harness.figures import Goal, Table
from harness.jobs import rate_of
from harness.rounds import interleave, median
from harness.scale import Scale
from onceflow.sinks import SinkContext

SIZES = {"100 B": 100, "1 KB": 1_000}
#: Between checkpoints, or commits.
INTERVALS = {"10 ms": 0.01, "100 ms": 0.1, "1 s": 1.0}
BATCH = 1_000
#: An idempotent client asks for its identity in the background, once in half a second; not timed.
SETTLED_S = 1.0

TABLE = Table(
    "kafka_guarantees",
    "Into a topic of Kafka, by promise",
    {
        "record": "text",
        "commit every": "text",
        "what": "text",
        "rate": "rate",
        "of at_least_once": "share",
        "lowest": "share",
        "highest": "share",
    },
    "Medians of rounds that take turns; the share is that of each round. A thousand records a batch; all "
    "until the last one is committed. Exactly once writes every record a second time, into the checkpoint's decision "
    "record, which is synced to the disk.",
)

_numbers = itertools.count()


@pytest.fixture(scope="module")
def bootstrap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a broker that is warm."""
    from kafka_log import kafka_broker  # noqa: PLC0415 - of the services' benchmarks alone

    with kafka_broker(tmp_path_factory.mktemp("kafka")) as broker:
        for transactional in (True, False):
            _client_rate(broker.bootstrap, payloads(20_000, 100), 1.0, 0.1, transactional=transactional)
            _job_rate(
                broker.bootstrap,
                payloads(20_000, 100),
                tmp_path_factory.mktemp("warm"),
                1.0,
                0.1,
                exactly=transactional,
            )
        yield broker.bootstrap


def _client_rate(
    bootstrap: str, values: list[bytes], seconds: float, interval_s: float, *, transactional: bool
) -> float:
    from kafka_log import KafkaLog  # noqa: PLC0415 - as above

    log, topic = KafkaLog(bootstrap), f"client-{next(_numbers)}"
    log.create_topic(topic)
    producer = log.producer(topic, transactional=transactional)
    time.sleep(SETTLED_S)
    count, first, start = 0, 0, time.perf_counter()
    due = start + interval_s
    if transactional:
        producer.begin()
    while (now := time.perf_counter()) < start + seconds:
        producer.produce_many(values[first : first + BATCH])
        first = (first + BATCH) % len(values)
        count += BATCH
        if transactional and now >= due:
            producer.commit()
            producer.begin()
            due = now + interval_s
    if transactional:
        producer.commit()
    producer.flush()
    took = time.perf_counter() - start
    producer.close()
    log.delete_topic(topic)
    return count / took


def _job_rate(
    bootstrap: str, values: list[bytes], directory: Path, seconds: float, interval_s: float, *, exactly: bool
) -> float:
    from kafka_log import KafkaLog  # noqa: PLC0415 - as above

    from onceflow.connectors.kafka import KafkaPlainSink, KafkaSink  # noqa: PLC0415 - as above
    from onceflow.connectors.kafka.markers import marker_topic_of  # noqa: PLC0415 - as above

    log, topic = KafkaLog(bootstrap), f"job-{next(_numbers)}"
    log.create_topic(topic)

    class Settled(KafkaSink if exactly else KafkaPlainSink):  # type: ignore[misc]
        def open(self, context: SinkContext) -> Any:
            writer = super().open(context)
            time.sleep(SETTLED_S)
            return writer

    sink = Settled(bootstrap, topic)
    found = rate_of(
        lambda stream: stream.sink("out", sink),
        values,
        directory / "job",
        seconds,
        interval_s=interval_s,
        guarantee="exactly_once" if exactly else "at_least_once",
        batch_size=BATCH,
    )
    log.delete_topic(topic)
    if exactly:
        # The next job of this name begins anew.
        log.delete_topic(marker_topic_of("bench", "out"))
    return found.rate


def sizes(scale: Scale) -> dict[str, int]:
    """Of records."""
    return SIZES if scale.name == "full" else {"100 B": 100}


def intervals(scale: Scale) -> dict[str, float]:
    """Between commits."""
    return INTERVALS if scale.name == "full" else {"100 ms": 0.1}


def test_cost_of_each_promise(benchmark, record, scale, directory, bootstrap):
    def contenders(size: int, interval_s: float) -> dict[str, Callable[[], float]]:
        values = payloads(100_000 if scale.name == "full" else 5_000, size)
        seconds = max(scale.seconds(2.0, least=0.5), 2 * interval_s)
        return {
            "client, idempotent": lambda: _client_rate(bootstrap, values, seconds, interval_s, transactional=False),
            "client, transactions": lambda: _client_rate(bootstrap, values, seconds, interval_s, transactional=True),
            "job, at_least_once": lambda: _job_rate(bootstrap, values, directory, seconds, interval_s, exactly=False),
            "job, exactly_once": lambda: _job_rate(bootstrap, values, directory, seconds, interval_s, exactly=True),
        }

    cases = {
        (size, interval, what): rate
        for size, interval in itertools.product(sizes(scale), intervals(scale))
        for what, rate in contenders(SIZES[size], INTERVALS[interval]).items()
    }
    found = interleave(benchmark, cases, scale.rounds)
    for (size, interval, what), rates in found.items():
        base = found[size, interval, "job, at_least_once"]
        shares = [one / other for one, other in zip(rates, base, strict=True)]
        values = {"record": size, "commit every": interval, "what": what, "rate": median(rates)}
        values |= {"of at_least_once": median(shares), "lowest": min(shares), "highest": max(shares)}
        bound = {"1 s": 0.9, "100 ms": 0.85}.get(interval)
        goals = [Goal("of at_least_once", bound)] if bound and what == "job, exactly_once" else []
        record(TABLE, values, *goals)
