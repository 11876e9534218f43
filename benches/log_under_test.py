"""What a log costs: rates of producing and consuming, and what a transaction adds, for any log, measured alike.

A log takes part by implementing three small protocols. All that is timed is in this module, so that logs that are put
side by side are asked the same thing:

- *produce*: records handed over until all of them are acknowledged, with as much in flight as the log likes;
- *consume*: the same records read from the beginning by a read_committed consumer;
- *transactions*: the rate with a commit every so often, against the rate without, in rounds that take turns;
- *delivery*: time from the call that produces a record at a steady rate to its arrival at a read_committed consumer in
  another process, record by record.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.synchronize
import statistics
import time
from collections.abc import Sequence, Sized
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = [
    "ConsumerUnderTest",
    "Delivery",
    "Follower",
    "LogUnderTest",
    "ProducerUnderTest",
    "TransactionCost",
    "consume_rate",
    "delivery",
    "payloads",
    "produce_rate",
    "transaction_cost",
]

#: Records handed over by one call.
BATCH = 1_000
#: A delivery run hands over what is due this often, as a program does that serves requests.
TICK_S = 0.001
_STAMP_BYTES = 8
WARM_UP_S = 1.0
_STALLED_S = 30.0


class ProducerUnderTest(Protocol):
    """Produces to one topic, each record acknowledged as durably as the log can without losing one."""

    def produce_many(self, batch: Any) -> None:
        """Hands over a batch that ``LogUnderTest.batch`` made; it may wait in a buffer."""

    def flush(self) -> None:
        """Returns when all that was handed over is acknowledged."""

    def begin(self) -> None:
        """Begins a transaction, if the producer is transactional."""

    def commit(self) -> None:
        """Commits it."""

    def close(self) -> None:
        """Gives up what it holds."""


class ConsumerUnderTest(Protocol):
    """Reads one topic from its beginning, read_committed."""

    def poll(self, max_records: int, timeout_s: float) -> Sized:
        """The next records; empty if none came in time. They can be used as Python or numpy use them."""

    def stamps(self, records: Any) -> npt.NDArray[np.int64]:
        """The first eight bytes of each value of a poll, as little-endian integers."""

    def close(self) -> None:
        """Gives up what it holds."""


class LogUnderTest(Protocol):
    """A log that is running; it can be pickled, so that another process can use it too."""

    @property
    def name(self) -> str:
        """In tables."""

    def create_topic(self, topic: str) -> None:
        """With one partition."""

    def delete_topic(self, topic: str) -> None:
        """With its data."""

    def batch(self, values: Sequence[bytes]) -> Any:
        """Values in the form in which the producer takes them. Not timed."""

    def producer(self, topic: str, *, transactional: bool) -> ProducerUnderTest:
        """An idempotent producer, or a transactional one that is ready to begin."""

    def consumer(self, topic: str) -> ConsumerUnderTest:
        """See there."""


def payloads(number: int, size: int, seed: int = 0) -> list[bytes]:
    """Values that do not compress, all different."""
    noise = np.random.default_rng(seed).bytes(number * size)
    return [noise[start : start + size] for start in range(0, number * size, size)]


def produce_rate(log: LogUnderTest, topic: str, records: int, size: int) -> float:
    """Records a second, until the last is acknowledged. Leaves the topic for ``consume_rate``."""
    values = payloads(records, size)
    batches = [log.batch(values[first : first + BATCH]) for first in range(0, records, BATCH)]
    log.create_topic(topic)
    producer = log.producer(topic, transactional=False)
    producer.produce_many(log.batch(values[:1]))
    producer.flush()
    start = time.perf_counter()
    for batch in batches:
        producer.produce_many(batch)
    producer.flush()
    spent = time.perf_counter() - start
    producer.close()
    return records / spent


def consume_rate(log: LogUnderTest, topic: str, records: int) -> float:
    """Records a second, from the first poll that gave some to the last record."""
    consumer = log.consumer(topic)
    read = len(_first(consumer))
    first, start = read, time.perf_counter()
    while read < records:
        got = len(consumer.poll(10 * BATCH, 1.0))
        if not got and time.perf_counter() - start > _STALLED_S:
            raise RuntimeError(f"{log.name} gave {read} of {records} records")
        read += got
    spent = time.perf_counter() - start
    consumer.close()
    return (read - first) / spent


def _first(consumer: ConsumerUnderTest) -> Sized:
    deadline = time.perf_counter() + _STALLED_S
    while time.perf_counter() < deadline:
        if len(records := consumer.poll(1, 1.0)):
            return records
    raise RuntimeError("no record came")


@dataclass(frozen=True, slots=True)
class TransactionCost:
    """What is left of the rate with transactions.

    Attributes:
        interval_s: Between commits.
        idempotent: Records a second without transactions, the median of all rounds.
        transactional: With them.
        kept: The median of the rounds' ratios.
        low: The lowest ratio of a round.
        high: The highest.
    """

    interval_s: float
    idempotent: float
    transactional: float
    kept: float
    low: float
    high: float


def transaction_cost(
    log: LogUnderTest, size: int, interval_s: float, *, rounds: int = 9, duration_s: float = 2.0
) -> TransactionCost:
    """Rates with and without transactions, in rounds that take turns, so that a busy machine is unfair to both.

    Each round begins with a part that is not counted, a tenth as long.
    """
    values = payloads(20 * BATCH, size)
    batches = [log.batch(values[first : first + BATCH]) for first in range(0, len(values), BATCH)]
    plain, transactional = [], []
    for number in range(rounds):
        # The other one first in every other round: what one leaves behind burdens the next.
        for kind in (False, True) if number % 2 else (True, False):
            topic = f"cost-{size}-{interval_s}-{number}-{'t' if kind else 'i'}"
            log.create_topic(topic)
            producer = log.producer(topic, transactional=kind)
            run = _transactions if kind else _plainly
            run(producer, batches, duration_s / 10, interval_s)
            (transactional if kind else plain).append(run(producer, batches, duration_s, interval_s))
            producer.close()
            log.delete_topic(topic)
    ratios = [one / other for one, other in zip(transactional, plain, strict=True)]
    return TransactionCost(
        interval_s,
        statistics.median(plain),
        statistics.median(transactional),
        statistics.median(ratios),
        min(ratios),
        max(ratios),
    )


def _plainly(producer: ProducerUnderTest, batches: list[Any], duration_s: float, interval_s: float) -> float:
    start = time.perf_counter()
    done = 0
    while time.perf_counter() - start < duration_s:
        producer.produce_many(batches[done % len(batches)])
        done += 1
    producer.flush()
    return done * BATCH / (time.perf_counter() - start)


def _transactions(producer: ProducerUnderTest, batches: list[Any], duration_s: float, interval_s: float) -> float:
    start = time.perf_counter()
    done = 0
    while (now := time.perf_counter()) - start < duration_s:
        due = now + interval_s
        producer.begin()
        while time.perf_counter() < due:
            producer.produce_many(batches[done % len(batches)])
            done += 1
        producer.commit()
    return done * BATCH / (time.perf_counter() - start)


@dataclass(frozen=True, slots=True)
class Delivery:
    """How long records took from produce to a read_committed consumer in another process.

    Attributes:
        interval_s: Between commits; None without transactions.
        rate: Records a second that were asked for.
        reached: Records a second that were produced.
        records: Measured.
        p50_ms: Median.
        p99_ms: 99th percentile.
    """

    interval_s: float | None
    rate: int
    reached: float
    records: int
    p50_ms: float
    p99_ms: float


def delivery(
    log: LogUnderTest, size: int, interval_s: float | None, *, rate: int = 20_000, duration_s: float = 5.0
) -> Delivery:
    """Produces at a steady rate, with a commit every so often or without transactions; a warm-up is not counted."""
    topic = f"delivery-{size}-{interval_s}-{rate}"
    log.create_topic(topic)
    follower = Follower(log, topic)
    producer = log.producer(topic, transactional=interval_s is not None)
    # The consumer is ready when it has read something.
    _produce(log, producer, payloads(1, size), interval_s)
    if not follower.ready.wait(_STALLED_S):
        raise RuntimeError(f"the consumer of {log.name} did not start")
    sent, spent = _paced(log, producer, size, interval_s, rate, WARM_UP_S + duration_s)
    _produce(log, producer, [_END + bytes(size - _STAMP_BYTES)], interval_s)
    counted = follower.took_ms(sent)
    producer.close()
    log.delete_topic(topic)
    p50, p99 = np.percentile(counted, [50, 99])
    return Delivery(interval_s, rate, sent / spent, len(counted), float(p50), float(p99))


class Follower:
    """A read_committed consumer in another process, which notes when records come.

    The first record only wakes it. Each of the others begins with the time at which it was produced, and the last one
    with ``END``.

    Attributes:
        ready: Set when it has read something.
    """

    END = 2**63 - 1

    def __init__(self, log: LogUnderTest, topic: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._name = log.name
        self.ready, self._results = context.Event(), context.Queue()
        self._process = context.Process(target=_follow, args=(log, topic, self.ready, self._results), daemon=True)
        self._process.start()

    def took_ms(self, sent: int) -> npt.NDArray[np.float64]:
        """How long each record took from produce to delivery, without those of a warm-up; there must be as many."""
        stamps, took = self._results.get(timeout=_STALLED_S)
        self._process.join()
        if len(stamps) != sent:
            raise RuntimeError(f"{self._name} delivered {len(stamps)} of {sent} records")
        counted: npt.NDArray[np.float64] = took[stamps >= stamps[0] + int(WARM_UP_S * 1e9)] / 1e6
        return counted


#: The stamp of a last record; no clock shows it.
_END = Follower.END.to_bytes(_STAMP_BYTES, "little")


def _produce(log: LogUnderTest, producer: ProducerUnderTest, values: list[bytes], interval_s: float | None) -> None:
    if interval_s is None:
        producer.produce_many(log.batch(values))
        producer.flush()
    else:
        producer.begin()
        producer.produce_many(log.batch(values))
        producer.commit()


def _paced(
    log: LogUnderTest, producer: ProducerUnderTest, size: int, interval_s: float | None, rate: int, duration_s: float
) -> tuple[int, float]:
    """Every tick what is due by then; returns how many records, and in what time."""
    fillings = payloads(BATCH, size - _STAMP_BYTES)
    start = time.perf_counter()
    sent, due = 0, 0.0
    if interval_s is not None:
        producer.begin()
        due = start + interval_s
    while (now := time.perf_counter()) - start < duration_s:
        number = int((now - start) * rate) - sent
        if number:
            stamp = time.monotonic_ns().to_bytes(_STAMP_BYTES, "little")
            producer.produce_many(log.batch([stamp + fillings[each % BATCH] for each in range(sent, sent + number)]))
            sent += number
        if interval_s is not None and now >= due:
            producer.commit()
            producer.begin()
            due = max(due + interval_s, time.perf_counter())
        time.sleep(TICK_S)
    if interval_s is None:
        producer.flush()
    else:
        producer.commit()
    return sent, time.perf_counter() - start


def _follow(
    log: LogUnderTest,
    topic: str,
    ready: multiprocessing.synchronize.Event,
    results: multiprocessing.Queue[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]],
) -> None:
    """The consumer's process: when each record was produced, and how long it took to come."""
    consumer = log.consumer(topic)
    _first(consumer)
    ready.set()
    end = int.from_bytes(_END, "little")
    stamps, took = [], []
    last = False
    while not last:
        records = consumer.poll(10 * BATCH, 1.0)
        if len(records):
            now = time.monotonic_ns()
            batch = consumer.stamps(records)
            last = bool(batch[-1] == end)
            stamps.append(batch[batch != end])
            took.append(now - stamps[-1])
    results.put((np.concatenate(stamps), np.concatenate(took)))
    consumer.close()
