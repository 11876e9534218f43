"""The reader of one partition of a topic."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from onceflow.connectors.kafka.feed import Feed, Lane, offset_of
from onceflow.connectors.kafka.position import LastRecord, Position, digest_of
from onceflow.connectors.topics.messages import Headers, MessageReading, pyarrow
from onceflow.exceptions import SourceChangedError, SourceWaitingWarning
from onceflow.sources import SourceBatch, SourceReader
from onceflow.types import Plain

if TYPE_CHECKING:
    from confluent_kafka import Message

__all__ = ["KafkaReader"]

#: A transaction has held back the end of a partition for so long: it is said.
_PATIENCE_S = 10.0


class _Fetched:
    """Messages as columns, each made when it is asked for."""

    def __init__(self, messages: list[Message]) -> None:
        self._messages = messages

    @cached_property
    def offsets(self) -> npt.NDArray[np.int64]:
        messages = self._messages
        return np.fromiter((message.offset() for message in messages), np.int64, len(messages))

    @cached_property
    def timestamps(self) -> npt.NDArray[np.int64]:
        messages = self._messages
        return np.fromiter((_timestamp_of(message) for message in messages), np.int64, len(messages))

    @cached_property
    def keys(self) -> list[bytes | None]:
        return [message.key() for message in self._messages]

    @cached_property
    def values(self) -> list[bytes | None]:
        return [message.value() for message in self._messages]

    @cached_property
    def headers(self) -> list[Headers]:
        return [cast("Headers", message.headers()) for message in self._messages]

    def arrow(self) -> tuple[Any, Any]:
        arrow = pyarrow()
        binary = arrow.large_binary()
        return arrow.array(self.keys, binary), arrow.array(self.values, binary)


class KafkaReader(SourceReader):
    """See ``KafkaSource``.

    Args:
        feed: Fetches.
        reading: How messages become records.
        partition: Its number.
        position: Where to go on. The record that was read last, if there is one, is fetched once more and compared.
        start: Offset of the first record that is there.
        end: Offset at which this run ends, by position: not every offset has a record.
        closed: Called when it is closed.
    """

    def __init__(
        self,
        feed: Feed,
        reading: MessageReading,
        partition: int,
        position: Position,
        start: int,
        end: int | None,
        closed: Callable[[], None],
    ) -> None:
        self._feed = feed
        self._reading = reading
        self._partition = partition
        self._topic_id = position.topic_id
        self._offset = position.offset
        self._end = end
        self._kept_end = position.end
        self._last = position.last
        self._partitions = position.partitions
        self._closed = closed
        #: The record that was read last, until it is found that it is still there.
        self._expected = position.last if position.last is not None and position.last.offset >= start else None
        from_offset = position.offset if self._expected is None else self._expected.offset
        self._lane: Lane = feed.join(partition, from_offset)
        #: Where nothing more was there when it was asked last.
        self._reached = -1
        self._held_back_since_s: float | None = None

    def read(self, max_records: int) -> SourceBatch | None:
        answers = self._feed.check()
        end = self._end
        if end is not None:
            self._feed.tell_growth()
            if self._offset >= end:
                return None
        messages, reached = self._lane.take(max_records)
        if messages and self._expected is not None:
            messages = self._checked(messages, self._expected)
            if not messages and reached is None:
                messages, reached = self._lane.take(max_records)
        if end is not None and messages:
            messages, reached = self._up_to(end, messages, reached)
        fetched = _Fetched(messages)
        batch = self._reading.batch(self._partition, fetched)
        batch.first_record = self._offset
        if messages:
            batch.first_record = int(fetched.offsets[0])
            self._note_last(messages[-1])
        if reached is not None:
            self._expected = None
            self._offset = self._reached = max(self._offset, reached)
        if end is not None:
            self._tell_held_back(end, waits=answers and self._reached == self._offset)
        return batch

    def _checked(self, messages: list[Message], expected: LastRecord) -> list[Message]:
        """Without the record that was read before. One that is not there was removed by compaction."""
        first = messages[0]
        self._expected = None
        if first.offset() != expected.offset:
            return messages
        if digest_of(_timestamp_of(first), first.key(), first.value()) != expected.digest:
            raise SourceChangedError(
                f"offset {expected.offset} of partition {self._partition} of {self._reading.topic!r} has another "
                "record than the one that was read before the checkpoint: the log was cut, or put back from an older "
                "copy, and written to since. Bring the newest log back; to go on with this one, start over with "
                "resume_from='none'",
                partition=str(self._partition),
                position=expected.offset,
            )
        return messages[1:]

    def _up_to(self, end: int, messages: list[Message], reached: int | None) -> tuple[list[Message], int | None]:
        """The messages before the end; what lies behind it shows that the end was reached."""
        if offset_of(messages[-1]) < end:
            return messages, reached
        return [message for message in messages if offset_of(message) < end], end

    def _note_last(self, message: Message) -> None:
        offset = offset_of(message)
        self._last = LastRecord(offset, digest_of(_timestamp_of(message), message.key(), message.value()))
        self._offset = offset + 1

    def _tell_held_back(self, end: int, *, waits: bool) -> None:
        """Says that an open transaction lies before the end, which is waited for."""
        if not waits or self._offset >= end:
            self._held_back_since_s = None
            return
        now_s = time.monotonic()
        if self._held_back_since_s is None:
            self._held_back_since_s = now_s
        elif 0 < now_s - self._held_back_since_s >= _PATIENCE_S:
            # Said once.
            self._held_back_since_s = float("inf")
            warnings.warn(
                SourceWaitingWarning(
                    f"partition {self._partition} of {self._reading.topic!r} is read to its end, {end}, and at offset "
                    f"{self._offset} a transaction is open, so nothing from there on can be read yet. The job waits "
                    "for its end. Of a producer that is gone the broker aborts it after its transaction.timeout.ms; "
                    "where it hangs, kafka-transactions.sh finds and aborts it"
                ),
                stacklevel=2,
            )

    def position(self) -> Plain:
        self._feed.verify()
        return Position(self._topic_id, self._offset, self._kept_end, self._last, self._partitions).plain()

    def close(self) -> None:
        self._lane.close()
        self._closed()


def _timestamp_of(message: Message) -> int:
    """Milliseconds since 1970; -1 where a message has no time."""
    found = message.timestamp()
    return -1 if found is None else found[1]
