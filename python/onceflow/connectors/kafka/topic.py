"""What a cluster says of a topic: its identity, its partitions, and where they begin and end.

Ends are never taken from a consumer's watermarks: under read_committed those are the last stable offset, below records
that are there. Where two ends can be meant, the question names the one it asks for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from onceflow.connectors.extras import require
from onceflow.connectors.kafka.facts import is_passing, keeps_out, known_offset, refresh_leaders
from onceflow.connectors.kafka.settings import KafkaSettings, client_library, error_text, kafka_error
from onceflow.exceptions import SourceChangedError, SourceError

if TYPE_CHECKING:
    from confluent_kafka import KafkaError

__all__ = ["Bounds", "Isolation", "Topic", "TopicState", "made_anew", "out_of_range"]

Isolation = Literal["read_committed", "read_uncommitted"]
_T = TypeVar("_T")

#: One request may take so long; more are made until the deadline.
_REQUEST_S = 5.0
_PAUSE_S = 0.25
_GLANCE_S = 0.1


@dataclass(frozen=True, slots=True)
class TopicState:
    """A topic as it is now.

    Attributes:
        id: Differs from that of any other topic, be it of the same name; empty if the broker has none.
        partitions: Their numbers.
    """

    id: str
    partitions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Bounds:
    """Offsets of a partition.

    Attributes:
        start: Of the first record that retention has left.
        stable_end: Behind what no open transaction holds back: so far a read_committed consumer reads now.
        end: Behind the last record that is there, be it committed, aborted or neither yet.
    """

    start: int
    stable_end: int
    end: int


class Topic:
    """Asks a cluster about a topic.

    Args:
        settings: How to reach it.
        name: Of the topic.
        connect_timeout_s: Questions are repeated for so long while no broker answers.

    Raises:
        ConfigurationError: The client refuses the settings.
    """

    def __init__(self, settings: KafkaSettings, name: str, connect_timeout_s: float) -> None:
        self._settings = settings
        self.name = name
        self._timeout_s = connect_timeout_s
        self._request_s = min(_REQUEST_S, connect_timeout_s)
        #: What the client said last of its connections: why nobody answers.
        self._trouble: KafkaError | None = None
        self._admin = settings.admin(settings.merged({}, {}, on_error=self._note))
        self._library = client_library()

    def _note(self, error: KafkaError) -> None:
        self._trouble = error

    def state(self) -> TopicState:
        """What it is now.

        Raises:
            SourceError: There is no such topic, it may not be read, or nobody answers.
        """
        return self._asked("state", lambda: self._describe(self._request_s))

    def state_now(self, timeout_s: float) -> TopicState | str:
        """The same, asked once; or why there is no answer."""
        try:
            return self._describe(timeout_s)
        except Exception as error:
            return self._reason(error)

    def bounds(self, partitions: Iterable[int]) -> dict[int, Bounds]:
        """Where partitions begin and end.

        Raises:
            SourceError: As ``state``.
        """
        spec = self._spec()
        numbers = list(partitions)

        def ask() -> dict[int, Bounds]:
            stable = self._ask_offsets(dict.fromkeys(numbers, spec.latest()), "READ_COMMITTED")
            end = self._ask_offsets(dict.fromkeys(numbers, spec.latest()), "READ_UNCOMMITTED")
            start = self._ask_offsets(dict.fromkeys(numbers, spec.earliest()), "READ_UNCOMMITTED")
            return {number: Bounds(start()[number], stable()[number], end()[number]) for number in numbers}

        return self._asked("offsets", ask)

    def offsets_at(self, partitions: Iterable[int], timestamp_ms: int) -> dict[int, int]:
        """Of the first record of each partition whose timestamp is not below; -1 where there is none.

        Raises:
            SourceError: As ``state``.
        """
        specs = {number: self._spec().for_timestamp(timestamp_ms) for number in partitions}
        return self._asked("offsets", lambda: self._ask_offsets(specs, "READ_UNCOMMITTED", least=-1)())  # noqa: PLW0108 - asked again each time

    def _spec(self) -> Any:
        return require("confluent_kafka.admin", extra="kafka", purpose="Kafka").OffsetSpec

    def _describe(self, timeout_s: float) -> TopicState:
        asked = self._admin.describe_topics(
            self._library.TopicCollection([self.name]), request_timeout=max(timeout_s, 0.001)
        )
        found = self._answer(asked[self.name], timeout_s)
        # Of brokers that know no ids it is all zeros.
        identity = str(found.topic_id or "")
        return TopicState("" if not identity.strip("A=") else identity, tuple(sorted(p.id for p in found.partitions)))

    def _ask_offsets(self, specs: Mapping[int, Any], isolation: str, *, least: int = 0) -> Callable[[], dict[int, int]]:
        """Sends a question; what is returned waits for the answer."""
        asked = self._admin.list_offsets(
            {self._library.TopicPartition(self.name, number): spec for number, spec in specs.items()},
            isolation_level=getattr(self._library.IsolationLevel, isolation),
            request_timeout=self._request_s,
        )
        return lambda: {
            place.partition: known_offset(self._answer(future, self._request_s).offset, least)
            for place, future in asked.items()
        }

    def _answer(self, future: Future[_T], timeout_s: float) -> _T:
        """What a question is answered with; not waited for where nobody will answer us."""
        # The client keeps its own time; ours is for a client that does not.
        deadline = time.monotonic() + timeout_s + 1.0
        while True:
            try:
                return future.result(_GLANCE_S)
            except TimeoutError:
                self._admin.poll(0)
                if time.monotonic() > deadline or (self._trouble is not None and keeps_out(self._trouble)):
                    raise

    def _asked(self, what: str, ask: Callable[[], _T]) -> _T:
        """An answer, asked for until the deadline as long as nobody answers."""
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                return ask()
            except (self._library.KafkaException, TimeoutError) as error:
                reason = self._reason(error)
                if self._is_final(error):
                    raise SourceError(self._final_text(error, reason)) from None
            self._admin.poll(0)
            if self._trouble is not None and keeps_out(self._trouble):
                break
            if time.monotonic() > deadline:
                break
            time.sleep(_PAUSE_S)
            refresh_leaders(self._admin)
        raise SourceError(
            f"no broker at {self._settings.bootstrap!r} gives the {what} of topic {self.name!r}: {self._reason(None)}"
            f"{'' if self._trouble is not None else '; ' + reason}. Check bootstrap=, config= and that the brokers run"
        ) from None

    def _is_final(self, error: Exception) -> bool:
        """Whether a broker has answered, and would answer the same again."""
        found = kafka_error(error)
        # The client's own kinds are below zero: nobody has answered.
        return found is not None and found.code() > 0 and not is_passing(found)

    def _final_text(self, error: Exception, reason: str) -> str:
        found = kafka_error(error)
        if found is not None and found.code() == self._library.KafkaError.UNKNOWN_TOPIC_OR_PART:
            return (
                f"there is no topic {self.name!r} at {self._settings.bootstrap!r}: create it, or give another one "
                f"({reason})"
            )
        return f"topic {self.name!r} cannot be read at {self._settings.bootstrap!r}: {reason}"

    def _reason(self, error: Exception | None) -> str:
        """What a user can do something about: a connection that fails says more than a request that timed out."""
        self._admin.poll(0)
        found = None if error is None else kafka_error(error)
        if (found is None or found.code() < 0) and self._trouble is not None:
            return self._settings.redacted(error_text(self._trouble))
        return self._settings.redacted("no answer" if error is None else error_text(error))


def made_anew(topic: str) -> SourceChangedError:
    """A topic is another one of its name, and what to do."""
    return SourceChangedError(
        f"topic {topic!r} was deleted and made anew while it was read, so offsets mean nothing any more. What was read "
        "since the last checkpoint is not kept; to read the new topic from its beginning, start over with "
        "resume_from='none'"
    )


def out_of_range(topic: str, partition: int, offset: int, start: int, end: int) -> SourceChangedError:
    """An offset at which nothing can be read, and what to do."""
    removed = (
        "retention has removed what is between. Give the topic a longer retention; to go on without these records, "
        "start over with resume_from='none'"
    )
    cut = (
        "the log was cut, by an unclean election or a broker that came back with an older disk, or is older than the "
        "checkpoint. Bring the newest log back; to go on with this one, start over with resume_from='none'"
    )
    return SourceChangedError(
        f"partition {partition} of {topic!r} has offsets {start} to {end} (the next one to be written), and is to be "
        f"read at {offset}: {removed if offset < start else cut}",
        partition=str(partition),
        position=offset,
    )
