"""A transactional producer that is never asked twice what became of a transaction.

Whatever goes wrong or is not known, the producer is dropped, without an abort: after one, the next transaction of the
same producer may fail, and an abort may itself get stuck. The producer that takes its place first has the broker end
whatever the id has left open, and shuts the old one out, also requests of it that are still under way; then the marker
tells what became of the transaction. Only a commit is repeated as it is.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from onceflow.connectors.kafka.facts import TopicFacts
from onceflow.connectors.kafka.producing import flush, produce, settings_of
from onceflow.connectors.kafka.quota import Quota
from onceflow.connectors.kafka.settings import KafkaSettings, client_library, error_text, kafka_error
from onceflow.connectors.topics.staged import Part, Rows
from onceflow.connectors.waiting import Waiting
from onceflow.exceptions import SinkError, SinkWaitingWarning

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Message, Producer

__all__ = ["TRANSACTION_MS", "TransactionalProducer", "UnsureError"]

#: So long a call of the client waits before it is repeated, so that it can be interrupted.
_STEP_S = 1.0
TRANSACTION_MS = 60_000
#: For what is only polite.
_ABANDON_S = 3.0


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
        #: After so long the broker ends a transaction.
        self.timeout_ms = TRANSACTION_MS
        # What is not a number the client refuses.
        with contextlib.suppress(TypeError, ValueError):
            self.timeout_ms = int(settings.get("transaction.timeout.ms"))
        self._settings = settings
        self._timeout_s = timeout_s
        self._waiting = waiting
        self._library = client_library()
        self._producer: Producer | None = None
        self._failed: list[KafkaError] = []
        self._quota = Quota(waiting.who, "producer_byte_rate", SinkWaitingWarning)

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
            self._quota,
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

    @property
    def is_taken(self) -> bool:
        """Whether it has the id, as far as it knows."""
        return self._producer is not None

    def begin(self) -> None:
        """Begins a transaction.

        Raises:
            UnsureError: It cannot.
        """
        with self._unsure():
            self._taken().begin_transaction()

    def send(self, topic: str, part: Part, written_ms: int, until: float, first: int) -> int:
        """Sends records in the open transaction; see ``produce``.

        Raises:
            UnsureError: One of the transaction was not accepted.
        """
        with self._unsure():
            sent = produce(self._taken(), topic, part, written_ms, until, self._waiting, first)
            self._check()
        return sent

    def finish(self, marker: tuple[str, int, bytes, bytes], until: float) -> None:
        """Sends a marker, and returns when all of the transaction was accepted.

        Args:
            marker: Topic, partition, key and value.
            until: By the monotonic clock.

        Raises:
            UnsureError: Or it was not.
        """
        producer = self._taken()
        topic, partition, key, value = marker
        with self._unsure():
            part = Part(Rows([value]), Rows([key]), partitions=partition)
            # The broker does not look at its time.
            sent = produce(producer, topic, part, 0, until, self._waiting)
            if not sent or flush(producer, self._check, until, self._waiting, self._quota):
                raise UnsureError(f"records were not accepted within {self._timeout_s:g} s{self._quota.hint()}")

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

    def abandon(self) -> None:
        """Has the broker end the open transaction, which nobody has begun to commit, if it answers soon."""
        if self._producer is not None:
            with contextlib.suppress(UnsureError), self._unsure():
                self._producer.abort_transaction(_ABANDON_S)
        self.drop()

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
        else:
            return
        raise UnsureError(text)

    def _text(self, error: object) -> str:
        return self._settings.redacted(error_text(error))
