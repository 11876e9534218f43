"""What does exactly once cost on a real Kafka?

Records of bytes, from memory into a topic of one partition, on one broker on this machine: by a job under each promise,
and by the bare client without a job, with and without transactions. All of them send with the same batches. What is
appended cannot be effectively once: a topic knows no record again.
"""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from log_under_test import WARM_UP_S, Follower, delivery, payloads

import onceflow as of
from harness.connectors import PacedSource
from harness.figures import Goal, Table
from harness.jobs import rate_of
from harness.rounds import Rate, interleave, median
from harness.scale import Scale
from onceflow.sinks import Sink, SinkContext

SIZES = {"100 B": 100, "1 KB": 1_000}
#: Between checkpoints, or commits.
INTERVALS = {"10 ms": 0.01, "100 ms": 0.1, "1 s": 1.0}
BATCH = 1_000
#: Before a job is measured: its state file grows until checkpoints that are gone leave enough room.
WARM_S = 3.0
#: A second, where latency is measured.
PACED = 20_000
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
        "CPU, of at_least_once": "times",
    },
    "Medians of rounds that take turns; the share is that of each round. A thousand records a batch; all "
    "until the last one is committed. Exactly once writes every record a second time, into the checkpoint's decision "
    "record, which is synced to the disk. Jobs run for three seconds before they are measured, while its file grows. "
    "CPU is that of the job's process for a record, with the client's threads and without the broker.",
)
LATENCY = Table(
    "kafka_latency",
    "From a source into a topic of Kafka, to a read_committed consumer in another process",
    {
        "commit every": "text",
        "what": "text",
        "asked": "rate",
        "reached": "rate",
        "p50": "seconds",
        "p99": "seconds",
    },
    "Records of 100 B at a steady rate, handed over every millisecond. A record waits for the end of its transaction, "
    "or for the checkpoint of a job that is exactly once: half an interval on average.",
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
                warm_s=0.0,
                exactly=transactional,
            )
        yield broker.bootstrap


def _client_rate(
    bootstrap: str, values: list[bytes], seconds: float, interval_s: float, *, transactional: bool
) -> Rate:
    from kafka_log import KafkaLog  # noqa: PLC0415 - as above

    log, topic = KafkaLog(bootstrap), f"client-{next(_numbers)}"
    log.create_topic(topic)
    producer = log.producer(topic, transactional=transactional)
    time.sleep(SETTLED_S)
    count, first, start, start_cpu = 0, 0, time.perf_counter(), time.process_time()
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
    took, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    producer.close()
    log.delete_topic(topic)
    return Rate(count / took, count / cpu)


def _sink(bootstrap: str, topic: str, *, exactly: bool) -> Sink:
    from onceflow.connectors.kafka import KafkaPlainSink, KafkaSink  # noqa: PLC0415 - as above

    class Settled(KafkaSink if exactly else KafkaPlainSink):  # type: ignore[misc]
        def open(self, context: SinkContext) -> Any:
            writer = super().open(context)
            time.sleep(SETTLED_S)
            return writer

    return Settled(bootstrap, topic)


def _job_rate(
    bootstrap: str,
    values: list[bytes],
    directory: Path,
    seconds: float,
    interval_s: float,
    warm_s: float,
    *,
    exactly: bool,
) -> Rate:
    from kafka_log import KafkaLog  # noqa: PLC0415 - as above

    from onceflow.connectors.kafka.markers import marker_topic_of  # noqa: PLC0415 - as above

    log, topic = KafkaLog(bootstrap), f"job-{next(_numbers)}"
    log.create_topic(topic)
    found = rate_of(
        lambda stream: stream.sink("out", _sink(bootstrap, topic, exactly=exactly)),
        values,
        directory / "job",
        seconds,
        interval_s=interval_s,
        guarantee="exactly_once" if exactly else "at_least_once",
        batch_size=BATCH,
        warm_s=warm_s,
    )
    log.delete_topic(topic)
    if exactly:
        # The next job of this name begins anew.
        log.delete_topic(marker_topic_of("bench", "out"))
    return found


class Took(NamedTuple):
    """How long records took, in seconds, and how many a second there were."""

    reached: float
    p50: float
    p99: float


def _client_latency(bootstrap: str, seconds: float, interval_s: float | None) -> Took:
    from kafka_log import KafkaLog  # noqa: PLC0415 - as above

    found = delivery(KafkaLog(bootstrap), 100, interval_s, rate=PACED, duration_s=seconds)
    return Took(found.reached, found.p50_ms / 1e3, found.p99_ms / 1e3)


def _job_latency(bootstrap: str, directory: Path, seconds: float, interval_s: float, *, exactly: bool) -> Took:
    from kafka_log import KafkaLog  # noqa: PLC0415 - as above

    log, topic = KafkaLog(bootstrap), f"latency-{next(_numbers)}"
    log.create_topic(topic)
    follower = Follower(log, topic)
    source = PacedSource(payloads(BATCH, 92), PACED, WARM_UP_S + seconds, follower.ready.is_set, Follower.END)
    flow = of.Dataflow(topic)
    flow.source("in", source).sink("out", _sink(bootstrap, topic, exactly=exactly))
    shutil.rmtree(directory / "job", ignore_errors=True)
    guarantee = "exactly_once" if exactly else "at_least_once"
    of.run(flow, directory / "job", checkpoint_interval_s=interval_s, guarantee=guarantee)
    p50, p99 = np.percentile(follower.took_ms(source.sent), [50, 99]) / 1e3
    log.delete_topic(topic)
    return Took(source.sent / source.spent, float(p50), float(p99))


def sizes(scale: Scale) -> dict[str, int]:
    """Of records."""
    return SIZES if scale.name == "full" else {"100 B": 100}


def intervals(scale: Scale) -> dict[str, float]:
    """Between commits."""
    return INTERVALS if scale.name == "full" else {"100 ms": 0.1}


def test_cost_of_each_promise(benchmark, record, scale, directory, bootstrap):
    warm_s = scale.seconds(WARM_S)

    def job(values: list[bytes], seconds: float, interval_s: float, *, exactly: bool) -> Rate:
        return _job_rate(bootstrap, values, directory, seconds, interval_s, warm_s, exactly=exactly)

    def contenders(size: int, interval_s: float) -> dict[str, Callable[[], Rate]]:
        values = payloads(100_000 if scale.name == "full" else 5_000, size)
        seconds = max(scale.seconds(2.0, least=0.5), 2 * interval_s)
        return {
            "client, idempotent": lambda: _client_rate(bootstrap, values, seconds, interval_s, transactional=False),
            "client, transactions": lambda: _client_rate(bootstrap, values, seconds, interval_s, transactional=True),
            "job, at_least_once": lambda: job(values, seconds, interval_s, exactly=False),
            "job, exactly_once": lambda: job(values, seconds, interval_s, exactly=True),
        }

    cases = {
        (size, interval, what): rate
        for size, interval in itertools.product(sizes(scale), intervals(scale))
        for what, rate in contenders(SIZES[size], INTERVALS[interval]).items()
    }
    found = interleave(benchmark, cases, scale.rounds)
    for (size, interval, what), rates in found.items():
        base = found[size, interval, "job, at_least_once"]
        shares = [one.rate / other.rate for one, other in zip(rates, base, strict=True)]
        cpu = [other.of_cpu / one.of_cpu for one, other in zip(rates, base, strict=True)]
        values = {"record": size, "commit every": interval, "what": what, "rate": median([one.rate for one in rates])}
        values |= {"of at_least_once": median(shares), "lowest": min(shares), "highest": max(shares)}
        values |= {"CPU, of at_least_once": median(cpu)}
        bound = {"1 s": 0.9, "100 ms": 0.85}.get(interval)
        goals = [Goal("of at_least_once", bound)] if bound and what == "job, exactly_once" else []
        record(TABLE, values, *goals)


def test_latency_of_each_promise(benchmark, record, scale, directory, bootstrap):
    seconds = scale.seconds(3.0, least=0.5)

    def contenders(interval_s: float) -> dict[str, Callable[[], Took]]:
        return {
            "client, transactions": lambda: _client_latency(bootstrap, seconds, interval_s),
            "job, at_least_once": lambda: _job_latency(bootstrap, directory, seconds, interval_s, exactly=False),
            "job, exactly_once": lambda: _job_latency(bootstrap, directory, seconds, interval_s, exactly=True),
        }

    cases = {
        (interval, what): took
        for interval in intervals(scale)
        for what, took in contenders(INTERVALS[interval]).items()
    }
    cases["never", "client, idempotent"] = lambda: _client_latency(bootstrap, seconds, None)
    for (interval, what), found in interleave(benchmark, cases, min(scale.rounds, 3)).items():
        values = {"commit every": interval, "what": what, "asked": PACED}
        values |= {name: median([getattr(one, name) for one in found]) for name in Took._fields}
        record(LATENCY, values)
