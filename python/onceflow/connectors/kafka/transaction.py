"""A transactional producer that is never asked twice what became of a transaction.

Whatever goes wrong or is not known, the producer is dropped, without an abort: after one, the next transaction of the
same producer may fail, and an abort may itself get stuck. The producer that takes its place first has the broker end
whatever the id has left open, and shuts the old one out, also requests of it that are still under way; then the marker
tells what became of the transaction. Only a commit is repeated as it is.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from onceflow.connectors.kafka.facts import TopicFacts
from onceflow.connectors.kafka.producing import flush, produce, settings_of
from onceflow.connectors.kafka.settings import KafkaSettings, client_library, error_text, kafka_error
from onceflow.connectors.topics.staged import Part
from onceflow.connectors.waiting import Waiting
from onceflow.exceptions import SinkError

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Message, Producer

__all__ = ["TRANSACTION_MS", "TransactionalProducer", "UnsureError"]

#: So long a call of the client waits before it is repeated, so that it can be interrupted.
_STEP_S = 1.0
TRANSACTION_MS = 60_000


class UnsureError(Exception):
    """Nobody knows what became of the transaction, and its producer is of no more use."""


class TransactionalProducer:
    """One for each transactional id of a run; it is made by ``take``.

    Args:
        settings: Of the cluster.
        transactional_id: Of the worker whose output it is.
        timeout_s: How long the broker may be away.
        waiting: Is told that it is.
    """

    def __init__(self, settings: KafkaSettings, transactional_id: str, timeout_s: float, waiting: Waiting) -> None:
        self.id = transactional_id
        self._settings = settings
        self._timeout_s = timeout_s
        self._waiting = waiting
        self._library = client_library()
        self._producer: Producer | None = None
        self._failed: list[KafkaError] = []

    def take(self, facts: TopicFacts) -> None:
        """Shuts out whoever has the id, ends what it has left open, and returns when that is done.

        Args:
            facts: Of the topic to write to.

        Raises:
            SinkError: The broker refuses, or does not answer.
        """
        self.drop()
        merged = settings_of(
            self._settings,
            facts,
            self._delivered,
            {"transactional.id": self.id},
            {"transaction.timeout.ms": TRANSACTION_MS},
        )
        producer = self._producer = self._settings.producer(merged)
        self._failed = []
        until = time.monotonic() + self._timeout_s
        while True:
            try:
                producer.init_transactions(_STEP_S)
                self._waiting.answered()
                return
            except self._library.KafkaException as error:
                known = kafka_error(error)
                if known is not None and known.retriable() and time.monotonic() < until:
                    self._waiting.missed(self._text(error))
                    continue
                self.drop()
                text = self._text(error)
                if known is not None and known.code() == self._library.KafkaError.INVALID_TRANSACTION_TIMEOUT:
                    text += (
                        f". transaction.timeout.ms={self._settings.get('transaction.timeout.ms')} in config must not "
                        "be above the broker's transaction.max.timeout.ms: lower the one or raise the other"
                    )
            raise SinkError(f"the transactional id {self.id!r} could not be taken: {text}")

    def _delivered(self, error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            self._failed.append(error)

    # -- a transaction ---------------------------------------------------------------------------

    def write(self, outputs: Mapping[str, list[Part]], staged_ms: int, marker: tuple[str, int, bytes, bytes]) -> None:
        """Sends records and a marker in a new transaction, and returns when all of them were accepted.

        Args:
            outputs: By topic.
            staged_ms: Timestamp of records that have none.
            marker: Topic, partition, key and value.

        Raises:
            UnsureError: Or they were not.
        """
        until = time.monotonic() + self._timeout_s
        producer = self._taken()
        topic, partition, key, value = marker
        with self._unsure():
            producer.begin_transaction()
            for name, parts in outputs.items():
                for part in parts:
                    produce(producer, name, part, staged_ms, until, self._waiting)
                    self._check()
            producer.produce(topic, value, key, partition)
            if flush(producer, self._check, until, self._waiting):
                raise UnsureError(f"records were not accepted within {self._timeout_s:g} s")

    def commit(self) -> None:
        """Commits the transaction.

        Raises:
            UnsureError: Or not; the marker knows.
        """
        until = time.monotonic() + self._timeout_s
        producer = self._taken()
        with self._unsure():
            while True:
                try:
                    producer.commit_transaction(_STEP_S)
                    self._waiting.answered()
                    return
                except self._library.KafkaException as error:
                    # Repeated, and never aborted: the broker may have begun to commit.
                    known = kafka_error(error)
                    if known is None or not known.retriable() or time.monotonic() > until:
                        raise
                    self._waiting.missed(self._text(error))

    def drop(self) -> None:
        """Lets go of the producer, and of what it has not sent."""
        self._producer = None

    def _taken(self) -> Producer:
        if self._producer is None:
            raise UnsureError("the producer was dropped")
        return self._producer

    def _check(self) -> None:
        if self._failed:
            raise UnsureError(f"a record was not accepted: {self._text(self._failed[0])}")

    @contextmanager
    def _unsure(self) -> Iterator[None]:
        try:
            yield
        except (self._library.KafkaException, SystemError) as error:
            # The client raises a fatal error within whatever calls back, and goes on to call us with it raised.
            text = self._text(error.__cause__ if isinstance(error, SystemError) else error)
        except BufferError:
            text = f"the client's queue was full for {self._timeout_s:g} s"
        else:
            return
        raise UnsureError(text)

    def _text(self, error: object) -> str:
        return self._settings.redacted(error_text(error))
