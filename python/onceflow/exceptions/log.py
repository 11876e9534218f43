"""What the embedded log refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onceflow.exceptions.base import OnceflowError

if TYPE_CHECKING:
    from onceflow.log.producer.state import ProducerState

__all__ = [
    "BufferFullError",
    "GroupFencedError",
    "IllegalGenerationError",
    "InvalidTransactionStateError",
    "LogError",
    "LogTimeoutError",
    "MaxPollExceededError",
    "OffsetOutOfRangeError",
    "OutOfOrderSequenceError",
    "ProducerFencedError",
    "RecordPurgedError",
    "RecordTooLargeError",
    "TopicExistsError",
    "TransactionAbortedError",
    "TransactionTimedOutError",
    "UnknownMemberError",
    "UnknownTopicOrPartitionError",
]


class LogError(OnceflowError):
    """Base of what the embedded log refuses. Damage and a full disk are StoreErrors."""

    kind = "log"


class TopicExistsError(LogError):
    """A topic of this name exists.

    Attributes:
        topic: Its name.
    """

    kind = "topic_exists"
    kafka_code = 36

    def __init__(self, message: str = "", *, topic: str | None = None) -> None:
        super().__init__(message)
        self.topic = topic


class UnknownTopicOrPartitionError(LogError):
    """No such topic, or it has fewer partitions.

    Attributes:
        topic: Its name.
        partition: Of the partition that it does not have; None: there is no such topic.
    """

    kind = "unknown_topic_or_partition"
    kafka_code = 3

    def __init__(self, message: str = "", *, topic: str | None = None, partition: int | None = None) -> None:
        super().__init__(message)
        self.topic = topic
        self.partition = partition

    def code(self) -> int:
        """Kafka has one code for a topic, and one for a partition."""
        return self.kafka_code if self.partition is None else -190


class OffsetOutOfRangeError(LogError):
    """Retention has removed this offset, or it was never written; the text names the range.

    Attributes:
        topic: Its name.
        partition: Its number.
        offset: Where it was to be read; None: nobody has said where to begin.
        low: The first offset that is there.
        high: The one that the next record gets.
    """

    kind = "offset_out_of_range"
    kafka_code = 1

    def __init__(
        self,
        message: str = "",
        *,
        topic: str | None = None,
        partition: int | None = None,
        offset: int | None = None,
        low: int | None = None,
        high: int | None = None,
    ) -> None:
        super().__init__(message)
        self.topic = topic
        self.partition = partition
        self.offset = offset
        self.low = low
        self.high = high


class RecordTooLargeError(LogError):
    """One record is larger than its topic takes. Nothing of the call was written.

    Attributes:
        topic: Its name.
        size: Bytes of the record.
        limit: What the topic takes.
    """

    kind = "record_too_large"
    kafka_code = 10

    def __init__(
        self, message: str = "", *, topic: str | None = None, size: int | None = None, limit: int | None = None
    ) -> None:
        super().__init__(message)
        self.topic = topic
        self.size = size
        self.limit = limit


class OutOfOrderSequenceError(LogError):
    """A batch does not follow the producer's batches before it, or is too old to be recognised.

    Attributes:
        expected: The sequence that would have followed; None where that is not what is wrong.
        got: The one of the batch.
    """

    kind = "out_of_order_sequence"
    kafka_code = 45
    is_fatal = True

    def __init__(self, message: str = "", *, expected: int | None = None, got: int | None = None) -> None:
        super().__init__(message)
        self.expected = expected
        self.got = got


class InvalidTransactionStateError(LogError):
    """The producer is not in a state that allows this call; the text says which call is.

    Attributes:
        state: Of the producer.
    """

    kind = "invalid_transaction_state"
    kafka_code = -172

    def __init__(self, message: str = "", *, state: ProducerState | None = None) -> None:
        super().__init__(message)
        self.state = state


class ProducerFencedError(LogError):
    """A newer producer with the same transactional id has taken over; close this one.

    Attributes:
        epoch: Of this producer.
        newer_epoch: Of the one that has taken over.
    """

    kind = "producer_fenced"
    kafka_code = -144
    is_fatal = True

    def __init__(self, message: str = "", *, epoch: int | None = None, newer_epoch: int | None = None) -> None:
        super().__init__(message)
        self.epoch = epoch
        self.newer_epoch = newer_epoch


class TransactionTimedOutError(ProducerFencedError):
    """The transaction was open for too long: it was aborted, and its producer fenced."""

    kind = "transaction_timed_out"


class GroupFencedError(LogError):
    """Base of what a consumer is told that its group goes on without.

    Attributes:
        group: Its name.
        member: Id of the member.
    """

    kind = "group_fenced"

    def __init__(self, message: str = "", *, group: str | None = None, member: str | None = None) -> None:
        super().__init__(message)
        self.group = group
        self.member = member


class UnknownMemberError(GroupFencedError):
    """The consumer is not a member of the group: it left, or was declared dead. Join again."""

    kind = "unknown_member"
    kafka_code = 25


class MaxPollExceededError(UnknownMemberError):
    """The consumer has not polled for ``max_poll_interval_ms``, and has left its group. The next poll joins again."""

    kind = "max_poll_exceeded"
    kafka_code = -147


class IllegalGenerationError(GroupFencedError):
    """The call is of an older generation, or for a partition that is another member's now.

    Attributes:
        group: Its name.
        member: Id of the member.
        generation: Of the call.
        current_generation: The one that the member has taken up; the same where only the partition is wrong.
    """

    kind = "illegal_generation"
    kafka_code = 22

    def __init__(
        self,
        message: str = "",
        *,
        group: str | None = None,
        member: str | None = None,
        generation: int | None = None,
        current_generation: int | None = None,
    ) -> None:
        super().__init__(message, group=group, member=member)
        self.generation = generation
        self.current_generation = current_generation


class BufferFullError(LogError, BufferError):
    """The producer holds as many records as it may; the text says what makes room. The record was not taken."""

    kind = "buffer_full"
    kafka_code = -184
    is_retriable = True


class RecordPurgedError(LogError):
    """The record was in the buffer of a producer that was told to forget it, so the record is nowhere."""

    kind = "record_purged"
    kafka_code = -152


class TransactionAbortedError(LogError):
    """The record's transaction was aborted, so the record is nowhere."""

    kind = "transaction_aborted"
    kafka_code = -152


class LogTimeoutError(LogError, TimeoutError):
    """Another process held up the commit for too long; whether the call was applied is not known.

    Repeat it: the retry of a producer is recognised. The text names the process.

    Attributes:
        pid: Of the process that holds the log, if it says so.
    """

    kind = "log_timeout"
    kafka_code = -185
    is_retriable = True

    def __init__(self, message: str = "", *, pid: int | None = None) -> None:
        super().__init__(message)
        self.pid = pid
