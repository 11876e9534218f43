"""One record, as a consumer reads it and a delivery report tells of it."""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING, Final

import msgspec

from onceflow.exceptions import OnceflowError
from onceflow.log.topic_partition import OFFSET_INVALID

if TYPE_CHECKING:
    from onceflow._native import LogRecords

__all__ = ["TIMESTAMP_CREATE_TIME", "Headers", "Message", "messages", "placed"]

#: The kind of all timestamps here: the producer set them.
TIMESTAMP_CREATE_TIME: Final = 1

Headers = list[tuple[str, bytes | None]]


class Message(msgspec.Struct, frozen=True, gc=False):
    """A record with its place in the log. As in ``confluent_kafka``, what it holds is asked for by calls."""

    _topic: str
    _partition: int
    _offset: int
    _timestamp_ms: int
    _key: bytes | None
    _value: bytes | None
    _headers: Headers | None = None
    _error: OnceflowError | None = None

    def topic(self) -> str:
        """Name of the topic."""
        return self._topic

    def partition(self) -> int:
        """Number of the partition; -1 in the report of a record that was never placed."""
        return self._partition

    def offset(self) -> int | None:
        """Offset in the partition; None in a report if it is not known."""
        return None if self._offset == OFFSET_INVALID else self._offset

    def key(self) -> bytes | None:
        """The key."""
        return self._key

    def value(self) -> bytes | None:
        """The value."""
        return self._value

    def headers(self) -> Headers | None:
        """Names and values in the order in which they were given; None if there are none."""
        return self._headers

    def timestamp(self) -> tuple[int, int]:
        """``(TIMESTAMP_CREATE_TIME, milliseconds since 1970)``."""
        return (TIMESTAMP_CREATE_TIME, self._timestamp_ms)

    def error(self) -> OnceflowError | None:
        """Why a record was not delivered; of a record that was read it is None: consumers raise their errors."""
        return self._error

    def leader_epoch(self) -> None:
        """There are no leaders."""

    def latency(self) -> None:
        """Not measured."""

    def __len__(self) -> int:
        """Bytes of the value."""
        return 0 if self._value is None else len(self._value)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"Message({self._topic}/{self._partition}@{self._offset}, key={self._key!r}, value={self._value!r})"


def placed(message: Message, offset: int, error: OnceflowError | None) -> Message:
    """The same record, with what became of it."""
    return Message(
        message._topic,
        message._partition,
        offset,
        message._timestamp_ms,
        message._key,
        message._value,
        message._headers,
        error,
    )


def messages(topic: str, partition: int, records: LogRecords) -> list[Message]:
    """All records of a fetch."""
    return list(
        map(
            Message,
            repeat(topic),
            repeat(partition),
            records.offsets.tolist(),
            records.timestamps.tolist(),
            records.keys,
            records.values,
            records.headers,
        )
    )
