"""A partition of a topic, and an offset in it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import total_ordering
from typing import TYPE_CHECKING

from onceflow.exceptions import ConfigurationError
from onceflow.log.settings import check_number

if TYPE_CHECKING:
    from onceflow.log.membership import ConsumerGroupMetadata

__all__ = [
    "OFFSET_BEGINNING",
    "OFFSET_END",
    "OFFSET_INVALID",
    "OFFSET_STORED",
    "Place",
    "Positions",
    "TopicPartition",
]

#: Where the partition begins now.
OFFSET_BEGINNING = -2
#: Where the next record of the partition will be.
OFFSET_END = -1
#: What the group has committed, else what ``auto_offset_reset`` says.
OFFSET_STORED = -1000
#: No offset.
OFFSET_INVALID = -1001

#: Topic and partition.
Place = tuple[str, int]


@total_ordering
@dataclass(slots=True, eq=False)
class TopicPartition:
    """A partition, with an offset in it or one of the constants ``OFFSET_…``.

    As in ``confluent_kafka`` two are equal, and hash alike, if they are the same partition, whatever their offsets, and
    are ordered by it; and their attributes can be set, so that ``on_assign`` may change offsets.

    Attributes:
        topic: Name of the topic.
        partition: From 0.
        offset: As a position: the next one to read.
        metadata: A text that is kept with a committed offset.

    Raises:
        ConfigurationError: A topic that is not a str, or numbers that are not ints.
    """

    topic: str
    partition: int = -1
    offset: int = OFFSET_INVALID
    metadata: str = ""

    def __post_init__(self) -> None:
        for name, text in (("topic", self.topic), ("metadata", self.metadata)):
            if not isinstance(text, str):
                raise ConfigurationError(f"TopicPartition: {name} is {text!r}; give a str", setting=name)
        check_number("TopicPartition: partition", self.partition)
        check_number("TopicPartition: offset", self.offset)

    @property
    def place(self) -> Place:
        """Topic and partition, without the offset."""
        return (self.topic, self.partition)

    @property
    def error(self) -> None:
        """Never any: errors are raised by the call that they concern."""

    @property
    def leader_epoch(self) -> None:
        """There are no leaders."""

    def __eq__(self, other: object) -> bool:
        return self.place == other.place if isinstance(other, TopicPartition) else NotImplemented

    def __lt__(self, other: TopicPartition) -> bool:
        return self.place < other.place if isinstance(other, TopicPartition) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.place)


class Positions(list[TopicPartition]):
    """Where a consumer is, and as which member of its group it came there.

    Given to a transaction, the log checks at the commit that the partitions still belong to that member; a plain list
    of offsets could not tell a consumer that was declared dead in between.

    Attributes:
        group_metadata: None if the consumer is not a member of a group.
    """

    __slots__ = ("group_metadata",)

    def __init__(
        self, positions: Iterable[TopicPartition] = (), group_metadata: ConsumerGroupMetadata | None = None
    ) -> None:
        super().__init__(positions)
        self.group_metadata = group_metadata
