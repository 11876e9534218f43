"""Questions to a cluster, which are repeated while nobody answers: what sources and sinks share."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

from onceflow.connectors.kafka.settings import KafkaSettings, client_library, error_text, kafka_error
from onceflow.connectors.waiting import Waiting

if TYPE_CHECKING:
    from confluent_kafka import KafkaError
    from confluent_kafka.admin import AdminClient

__all__ = ["Asking", "UnansweredError", "is_passing", "keeps_out", "known_offset"]

_T = TypeVar("_T")

#: Of one request, between two of them, and of a look whether anybody will answer at all.
_REQUEST_S = 10.0
_PAUSE_S = 0.1
_GLANCE_S = 0.1
_PASSING = (
    "_TIMED_OUT",
    "_TIMED_OUT_QUEUE",
    "_TRANSPORT",
    "_RESOLVE",
    "_ALL_BROKERS_DOWN",
    "_WAIT_COORD",
    # No leader is known of a partition.
    "_NOENT",
    "LEADER_NOT_AVAILABLE",
    "NOT_LEADER_FOR_PARTITION",
    "REPLICA_NOT_AVAILABLE",
    "BROKER_NOT_AVAILABLE",
    "REQUEST_TIMED_OUT",
    "NETWORK_EXCEPTION",
    "NOT_CONTROLLER",
    "COORDINATOR_NOT_AVAILABLE",
    "NOT_COORDINATOR",
    "COORDINATOR_LOAD_IN_PROGRESS",
    "KAFKA_STORAGE_ERROR",
    "FENCED_LEADER_EPOCH",
    "UNKNOWN_LEADER_EPOCH",
    "OFFSET_NOT_AVAILABLE",
)


class UnansweredError(Exception):
    """There is no answer, or none that helps. Its text is for users, without secrets.

    Attributes:
        refused: What a broker has answered, and would answer again; None: nobody has answered.
    """

    def __init__(self, text: str, refused: KafkaError | None) -> None:
        super().__init__(text)
        self.refused = refused


class Asking:
    """An admin client, and what is asked by it.

    Args:
        settings: Of the cluster.
        timeout_s: So long a question is repeated.
        waiting: What tells meanwhile that nobody answers; None: it is not told, since it is soon over.
        new_topic_s: So long a topic that a broker does not know is asked for: it may have been made just now.

    Attributes:
        client: The client, whose calls give futures: see ``answer``.
        request_s: Of one request.
    """

    def __init__(
        self, settings: KafkaSettings, timeout_s: float, waiting: Waiting | None = None, new_topic_s: float = 0.0
    ) -> None:
        self._settings = settings
        self._timeout_s = timeout_s
        self._waiting = waiting
        self._new_topic_s = new_topic_s
        self._library = client_library()
        self.request_s = min(_REQUEST_S, timeout_s)
        #: What the client said last of its connections: why nobody answers.
        self._trouble: KafkaError | None = None
        self.client: AdminClient = settings.admin(settings.merged({}, {}, on_error=self._note))

    def _note(self, error: KafkaError) -> None:
        # The sum of other errors, which say more.
        if self._trouble is None or error.code() != self._library.KafkaError._ALL_BROKERS_DOWN:
            self._trouble = error

    def ask(self, question: Callable[[], _T]) -> _T:
        """What a question is answered with.

        Args:
            question: Asks once, and raises what the client does.

        Raises:
            UnansweredError: Nobody answers for too long, or will; or a broker refuses.
        """
        start = time.monotonic()
        while True:
            try:
                found = question()
            except (self._library.KafkaException, TimeoutError) as error:
                text = self.text(error)
                if not self._passes(error, time.monotonic() - start):
                    known = kafka_error(error)
                    raise UnansweredError(text, known if known is not None and known.code() > 0 else None) from None
            else:
                # What was in the way is not any more.
                self._trouble = None
                if self._waiting is not None:
                    self._waiting.answered()
                return found
            if self._waiting is not None:
                self._waiting.missed(text, start)
            time.sleep(_PAUSE_S)
            # Of a broker that was started again the client keeps an older epoch, which it sends, and which is refused,
            # for minutes.
            with contextlib.suppress(self._library.KafkaException):
                self.client.list_topics(timeout=_PAUSE_S * 10)

    def answer(self, future: Future[_T], timeout_s: float | None = None) -> _T:
        """What one request is answered with; not waited for where nobody will answer us.

        Raises:
            KafkaException: What the client has met.
            TimeoutError: Nothing has come.
        """
        # The client keeps its own time; ours is for a client that does not.
        deadline = time.monotonic() + (self.request_s if timeout_s is None else timeout_s) + 1.0
        while True:
            try:
                return future.result(_GLANCE_S)
            except TimeoutError:
                self.client.poll(0)
                if time.monotonic() > deadline or self._is_kept_out():
                    raise

    def text(self, error: Exception) -> str:
        """What a user can do something about: a connection that fails says more than a question without an answer."""
        self.client.poll(0)
        known = kafka_error(error)
        # The client's own kinds are below zero: nobody has answered.
        said = error if self._trouble is None or (known is not None and known.code() > 0) else self._trouble
        return self._settings.redacted(error_text(said))

    def _is_kept_out(self) -> bool:
        return self._trouble is not None and keeps_out(self._trouble)

    def _passes(self, error: Exception, waited_s: float) -> bool:
        known, names = kafka_error(error), self._library.KafkaError
        if waited_s > self._timeout_s:
            return False
        if (known is None or known.code() < 0) and self._is_kept_out():
            return False
        if known is not None and known.code() == names.UNKNOWN_TOPIC_OR_PART:
            # Not every broker knows at once of a topic that was made just now.
            return waited_s < self._new_topic_s
        # The client does not know yet of a partition that has come.
        return known is None or known.code() == names._UNKNOWN_PARTITION or is_passing(known)


def known_offset(offset: int, least: int = 0) -> int:
    """An offset that a cluster was asked for.

    Raises:
        TimeoutError: It is below ``least``, so there was no answer: where the connection was lost, the client gives one
            of its own without an error.
    """
    if offset < least:
        raise TimeoutError(f"no answer, but offset {offset}")
    return offset


def keeps_out(error: KafkaError) -> bool:
    """Whether it is credentials or certificates that keep us out: no waiting helps."""
    names = client_library().KafkaError
    return error.fatal() or error.code() in (names._AUTHENTICATION, names._SSL, names.SASL_AUTHENTICATION_FAILED)


def is_passing(error: KafkaError) -> bool:
    """Whether it may go better in a while: what a client says that has no connection, and a broker that starts."""
    names = client_library().KafkaError
    return error.retriable() or error.code() in {getattr(names, name) for name in _PASSING}
