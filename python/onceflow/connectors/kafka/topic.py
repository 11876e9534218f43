"""What a cluster says of a topic: its identity, its partitions, and where they begin and end.

Ends are never taken from a consumer's watermarks: under read_committed those are the last stable offset, below records
that are there. Where two ends can be meant, the question names the one it asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from onceflow.connectors.extras import require
from onceflow.connectors.kafka.asking import Asking, UnansweredError, is_passing, known_offset
from onceflow.connectors.kafka.settings import KafkaSettings, client_library
from onceflow.exceptions import SourceChangedError, SourceError

__all__ = ["Bounds", "Isolation", "Topic", "TopicState", "made_anew", "out_of_range"]

Isolation = Literal["read_committed", "read_uncommitted"]
_T = TypeVar("_T")


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
        self._library = client_library()
        self._asking = Asking(settings, connect_timeout_s)

    def state(self) -> TopicState:
        """What it is now.

        Raises:
            SourceError: There is no such topic, it may not be read, or nobody answers.
        """
        return self._asked("state", lambda: self._describe(self._asking.request_s))

    def state_now(self, timeout_s: float) -> TopicState | str:
        """The same, asked once; or why there is no answer."""
        try:
            return self._describe(timeout_s)
        except Exception as error:
            return self._asking.text(error)

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
        asked = self._asking.client.describe_topics(
            self._library.TopicCollection([self.name]), request_timeout=max(timeout_s, 0.001)
        )
        found = self._asking.answer(asked[self.name], timeout_s)
        # Of brokers that know no ids it is all zeros.
        identity = str(found.topic_id or "")
        return TopicState("" if not identity.strip("A=") else identity, tuple(sorted(p.id for p in found.partitions)))

    def _ask_offsets(self, specs: Mapping[int, Any], isolation: str, *, least: int = 0) -> Callable[[], dict[int, int]]:
        """Sends a question; what is returned waits for the answer."""
        asked = self._asking.client.list_offsets(
            {self._library.TopicPartition(self.name, number): spec for number, spec in specs.items()},
            isolation_level=getattr(self._library.IsolationLevel, isolation),
            request_timeout=self._asking.request_s,
        )
        return lambda: {
            place.partition: known_offset(self._asking.answer(future).offset, least) for place, future in asked.items()
        }

    def _asked(self, what: str, ask: Callable[[], _T]) -> _T:
        """An answer, asked for until the deadline as long as nobody answers."""
        where = self._settings.bootstrap
        try:
            return self._asking.ask(ask)
        except UnansweredError as error:
            text = (
                f"no broker at {where!r} gives the {what} of topic {self.name!r}: {error}. Check bootstrap=, config= "
                "and that the brokers run"
            )
            if error.refused is not None and not is_passing(error.refused):
                text = f"topic {self.name!r} cannot be read at {where!r}: {error}"
                if error.refused.code() == self._library.KafkaError.UNKNOWN_TOPIC_OR_PART:
                    text = f"there is no topic {self.name!r} at {where!r}: create it, or give another one ({error})"
        raise SourceError(text)


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
