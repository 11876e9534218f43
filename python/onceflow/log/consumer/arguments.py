"""What a consumer's calls take, checked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import get_args

from onceflow.exceptions import ConfigurationError
from onceflow.log.settings import check_items
from onceflow.log.topic_partition import TopicPartition

__all__ = ["check_choice", "check_partition", "checked_partitions"]


def checked_partitions(method: str, given: Iterable[TopicPartition], name: str = "partitions") -> list[TopicPartition]:
    """Partitions as a list of the consumer's own: their attributes can be set, also to what they cannot be."""
    chosen = check_items(f"{method}: {name}", given, TopicPartition, "[TopicPartition('payments', 0)]")
    return [TopicPartition(*each.place, each.offset, each.metadata) for each in chosen]


def check_partition(method: str, given: TopicPartition) -> None:
    """Refuses what is not a partition."""
    if not isinstance(given, TopicPartition):
        raise ConfigurationError(f"{method}: partition is {given!r}; give one such as TopicPartition('payments', 0)")
    TopicPartition(*given.place, given.offset)


def check_choice(name: str, given: str, choices: object) -> None:
    """Refuses what is not among the words of a ``Literal``."""
    if given not in get_args(choices):
        raise ConfigurationError(
            f"{name} is {given!r}; it can be {', '.join(map(repr, get_args(choices)))}", setting=name
        )
