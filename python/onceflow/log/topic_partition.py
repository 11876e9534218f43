"""A partition of a topic, and an offset in it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True, order=True)
class TopicPartition:
    """A partition, with an offset in it or one of the constants ``OFFSET_…``.

    Attributes:
        topic: Name of the topic.
        partition: From 0.
        offset: As a position: the next one to read.
        metadata: A text that is kept with a committed offset.

    Raises:
        ConfigurationError: A topic that is not a str, or numbers that are not ints.
    """

    topic: str
    partition: int
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
