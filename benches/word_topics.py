"""Topics of words and of their counts, as every contender of the keyed count reads and writes them."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

__all__ = ["Answers", "WordWriter", "check_counts", "create_topics", "fill"]

_TIMEOUT_S = 30
PARTITIONS = 2


def create_topics(bootstrap: str, *names: str) -> None:
    """With two partitions each."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for each in admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in names]).values():
        each.result(_TIMEOUT_S)


def fill(bootstrap: str, topic: str, messages: int, keys: int) -> Counter[str]:
    """Writes words, each as the key of a message; returns how often each."""
    chance, producer, written = random.Random(1), Producer({"bootstrap.servers": bootstrap}), Counter[str]()
    for number in range(messages):
        word = f"word-{chance.randrange(keys)}"
        written[word] += 1
        producer.produce(topic, b"1", word)
        if number % 10_000 == 0:
            producer.flush(_TIMEOUT_S)
    producer.flush(_TIMEOUT_S)
    return written


def _reader(bootstrap: str, isolation: str = "read_committed") -> Consumer:
    settings = {"bootstrap.servers": bootstrap, "group.id": "bench", "isolation.level": isolation}
    return Consumer(settings | {"enable.auto.commit": False, "fetch.wait.max.ms": 10})


def _count(message: Any) -> tuple[str, int]:
    if message.error() is not None:
        raise RuntimeError(message.error().str())
    return message.key().decode(), int(message.value())


def _committed(bootstrap: str, topic: str) -> Iterator[tuple[str, int]]:
    """Word and count of each message that a committed reader finds, in their order by word."""
    consumer, looking = _reader(bootstrap), _reader(bootstrap, "read_uncommitted")
    for number in range(PARTITIONS):
        place = TopicPartition(topic, number, 0)
        consumer.assign([place])
        # The end with what is not committed yet: a commit returns before the broker has marked it in each partition.
        end = looking.get_watermark_offsets(place, timeout=_TIMEOUT_S)[1]
        give_up = time.monotonic() + _TIMEOUT_S
        # A consumer that has read nothing has no position.
        while end and consumer.position([place])[0].offset < end:
            if time.monotonic() > give_up:
                raise AssertionError(f"a transaction of {topic!r} was left open")
            # An empty answer comes with control records.
            yield from map(_count, consumer.consume(10_000, 0.1))
    consumer.close()
    looking.close()


def check_counts(bootstrap: str, topic: str, written: Counter[str], *, each: bool) -> int:
    """What came out is what went in, counted once.

    Args:
        bootstrap: Of the broker.
        topic: Of counts.
        written: How often each word was.
        each: Whether there must be one message for each word that was written, or one for some of them: the newest.

    Returns:
        How many messages came out.

    Raises:
        AssertionError: It is not.
    """
    newest, messages = Counter[str](), 0
    for word, count in _committed(bootstrap, topic):
        assert count == newest[word] + 1 if each else count > newest[word], f"{word}: {count} after {newest[word]}"
        newest[word] = count
        messages += 1
    assert newest == written, f"{sum(newest.values())} words were counted of {sum(written.values())}"
    return messages


class WordWriter:
    """Writes words at a steady rate until it is stopped, in a thread; a context manager."""

    def __init__(self, bootstrap: str, topic: str, *, rate: int, keys: int) -> None:
        self._topic, self._rate, self._keys = topic, rate, keys
        self._producer = Producer({"bootstrap.servers": bootstrap})
        self._lock, self._stop = threading.Lock(), threading.Event()
        #: How often each word was written.
        self.written = Counter[str]()
        self._thread = threading.Thread(target=self._run)

    def write(self, word: str) -> None:
        """One word, at once."""
        with self._lock:
            self.written[word] += 1
            self._producer.produce(self._topic, b"1", word)

    def _run(self) -> None:
        chance, tick_s = random.Random(1), 0.01
        while not self._stop.wait(tick_s):
            for _ in range(int(self._rate * tick_s)):
                self.write(f"word-{chance.randrange(self._keys)}")
            self._producer.poll(0)

    def __enter__(self) -> WordWriter:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """All is written."""
        self._stop.set()
        self._thread.join()
        if left := self._producer.flush(_TIMEOUT_S):
            raise RuntimeError(f"{left} words were not written")


class Answers:
    """Follows a topic of counts as a committed reader does, from its beginning."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._topic = topic
        self._consumer = _reader(bootstrap)
        self._consumer.assign([TopicPartition(topic, number, 0) for number in range(PARTITIONS)])
        #: The newest count of each word.
        self.newest = Counter[str]()

    def wait(self, expected: Mapping[str, int], timeout_s: float) -> None:
        """Until words have been counted so often, and that is committed.

        Raises:
            TimeoutError: They have not.
        """
        left = {word for word, count in expected.items() if self.newest[word] < count}
        give_up = time.monotonic() + timeout_s
        while left:
            if time.monotonic() > give_up:
                raise TimeoutError(f"{len(left)} words were not counted in {self._topic!r} for {timeout_s:g} s")
            message = self._consumer.poll(0.1)
            if message is not None:
                word, count = _count(message)
                self.newest[word] = count
                if count >= expected.get(word, count + 1):
                    left.discard(word)

    def close(self) -> None:
        """Ends the reader."""
        self._consumer.close()
