"""Every error that onceflow raises, as one tree.

::

    OnceflowError
    ├── ConfigurationError                 what was asked for cannot be
    │   └── DeliveryGuaranteeError         a path cannot keep the claimed guarantee
    ├── StateError                         a batch that a table refused
    │   ├── TypeMismatchError
    │   ├── LengthMismatchError
    │   ├── StateOverflowError
    │   ├── NotANumberError
    │   ├── UnknownNameError
    │   ├── SchemaMismatchError
    │   ├── CapacityExceededError
    │   └── SerializationError
    ├── StoreError                         the state directory
    │   ├── StoreCorruptError
    │   ├── StoreLockedError
    │   ├── StoreFormatError
    │   ├── StoreMismatchError
    │   ├── StoreMissingError
    │   ├── StoreFullError
    │   ├── StoreReadOnlyError
    │   ├── StorePoisonedError
    │   ├── StoreNetworkFilesystemError
    │   ├── StoreForkedError
    │   ├── StoreIOError
    │   └── BackendClosedError
    ├── LogError                           the embedded log refused a call
    │   ├── TopicExistsError
    │   ├── UnknownTopicOrPartitionError
    │   ├── OffsetOutOfRangeError
    │   ├── RecordTooLargeError
    │   ├── OutOfOrderSequenceError
    │   ├── InvalidTransactionStateError
    │   ├── ProducerFencedError            a newer producer has taken over
    │   │   └── TransactionTimedOutError
    │   ├── GroupFencedError               the consumer is not a member any more
    │   │   ├── UnknownMemberError
    │   │   └── IllegalGenerationError
    │   ├── BufferFullError                records are produced faster than they become durable
    │   ├── TransactionAbortedError        the delivery report of a record that was aborted
    │   └── LogTimeoutError                no answer in time; the outcome is not known
    ├── FencedError                        a newer epoch of the job has taken over
    ├── CheckpointError
    │   ├── CheckpointNotFoundError
    │   └── CheckpointStateError
    ├── SourceError                        input that cannot be read
    │   ├── SourceChangedError
    │   └── MalformedRecordError
    ├── SinkError                          output that cannot be written
    ├── UserFunctionError                  an exception in a function of the dataflow
    └── DataflowChangedError               state and dataflow do not fit

Each class has a stable ``kind``, under which the Rust core and logs know it. Warnings are for what a user must hear of
while the job goes on: ``DamagedCheckpointWarning``, ``FinishedJobWarning``, ``LateRecordsWarning``,
``MissingOutputWarning``, ``RepeatedOutputWarning``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar


class OnceflowError(Exception):
    """Base of all errors of this package."""

    kind: ClassVar[str] = "onceflow"


class ConfigurationError(OnceflowError, ValueError):
    """An argument or a combination of settings that cannot be; the text says what can."""

    kind = "invalid_argument"


class DeliveryGuaranteeError(ConfigurationError):
    """A path of the dataflow cannot keep the guarantee that was asked for.

    Raised before the first record; the text names the step and the missing leg.
    """

    kind = "delivery_guarantee"


class StateError(OnceflowError):
    """A batch that a state table refused. The table is untouched."""

    kind = "state"


class TypeMismatchError(StateError, TypeError):
    """Keys or values of another type than the table's key or column."""

    kind = "type_mismatch"


class LengthMismatchError(StateError, ValueError):
    """Arrays of one batch differ in length."""

    kind = "length_mismatch"


class StateOverflowError(StateError, OverflowError):
    """A sum would leave the range of its column."""

    kind = "overflow"


class NotANumberError(StateError, ValueError):
    """A NaN was offered to a float column, or an infinity to a sum."""

    kind = "not_a_number"


class UnknownNameError(StateError, KeyError):
    """A table, column or other name that does not exist; the text lists those that do."""

    kind = "unknown_name"

    def __str__(self) -> str:
        # KeyError shows the repr of its argument; people want the sentence.
        return str(self.args[0]) if self.args else ""


class SchemaMismatchError(StateError):
    """A table exists under this name with another key or other columns."""

    kind = "schema_mismatch"


class CapacityExceededError(StateError):
    """A bound in bytes or entries would be passed; the text names the setting."""

    kind = "capacity_exceeded"


class SerializationError(StateError):
    """A state value that the codec cannot write or read."""

    kind = "serialization"


class StoreError(OnceflowError):
    """Base of the errors of a state directory."""

    kind = "store"


class StoreCorruptError(StoreError):
    """Stored bytes are damaged: wrong checksum, torn, swapped or stale."""

    kind = "store_corrupt"


class StoreLockedError(StoreError):
    """A running process owns the directory."""

    kind = "store_locked"


class StoreFormatError(StoreError):
    """The directory was written by a newer or unknown format."""

    kind = "store_format"


class StoreMismatchError(StoreError):
    """The directory belongs to another job or has other settings."""

    kind = "store_mismatch"


class StoreMissingError(StoreError):
    """The directory holds no store."""

    kind = "store_missing"


class StoreFullError(StoreError):
    """The disk or the reserved address space is full."""

    kind = "store_full"


class StoreReadOnlyError(StoreError):
    """The directory or its file system is read-only."""

    kind = "store_read_only"


class StorePoisonedError(StoreError):
    """A sync failed before; nothing is written until the store is opened again."""

    kind = "store_poisoned"


class StoreNetworkFilesystemError(StoreError):
    """The directory is on a network file system, where locks and syncs do not hold."""

    kind = "store_network_filesystem"


class StoreForkedError(StoreError):
    """The store was inherited through fork; open it in the child instead."""

    kind = "store_forked"


class StoreIOError(StoreError, OSError):
    """The operating system refused."""

    kind = "io"


class BackendClosedError(StoreError):
    """The backend was closed."""

    kind = "closed"


class LogError(OnceflowError):
    """Base of what the embedded log refuses. Damage and a full disk are StoreErrors."""

    kind = "log"


class TopicExistsError(LogError):
    """A topic of this name exists."""

    kind = "topic_exists"


class UnknownTopicOrPartitionError(LogError):
    """No such topic, or it has fewer partitions."""

    kind = "unknown_topic_or_partition"


class OffsetOutOfRangeError(LogError):
    """Retention has removed this offset, or it was never written; the text names the range."""

    kind = "offset_out_of_range"


class RecordTooLargeError(LogError):
    """One record is larger than its topic takes. Nothing of the call was written."""

    kind = "record_too_large"


class OutOfOrderSequenceError(LogError):
    """A batch does not follow the producer's batches before it, or is too old to be recognised."""

    kind = "out_of_order_sequence"


class InvalidTransactionStateError(LogError):
    """The producer is not in a state that allows this call; the text says which call is."""

    kind = "invalid_transaction_state"


class ProducerFencedError(LogError):
    """A newer producer with the same transactional id has taken over; close this one."""

    kind = "producer_fenced"


class TransactionTimedOutError(ProducerFencedError):
    """The transaction was open for too long: it was aborted, and its producer fenced."""

    kind = "transaction_timed_out"


class GroupFencedError(LogError):
    """Base of what a consumer is told that its group goes on without."""

    kind = "group_fenced"


class UnknownMemberError(GroupFencedError):
    """The consumer is no member of the group: it left, or was declared dead. Join again."""

    kind = "unknown_member"


class IllegalGenerationError(GroupFencedError):
    """The call is of an older generation, or for a partition that is another member's now."""

    kind = "illegal_generation"


class BufferFullError(LogError, BufferError):
    """The producer holds as many records as it may; the text says what makes room. The record was not taken."""

    kind = "buffer_full"


class TransactionAbortedError(LogError):
    """The record's transaction was aborted, so the record is nowhere."""

    kind = "transaction_aborted"


class LogTimeoutError(LogError, TimeoutError):
    """Another process held up the commit for too long; whether the call was applied is not known.

    Repeat it: the retry of a producer is recognised. The text names the process.
    """

    kind = "log_timeout"


class FencedError(OnceflowError):
    """A newer epoch of the same job has taken over; this process must stop."""

    kind = "fenced"


class CheckpointError(OnceflowError):
    """Base of the errors of checkpoints."""

    kind = "checkpoint"


class CheckpointNotFoundError(CheckpointError):
    """No complete checkpoint of that number exists."""

    kind = "checkpoint_not_found"


class CheckpointStateError(CheckpointError):
    """The checkpoint was aborted or is not in a state that allows this step."""

    kind = "checkpoint_state"


class SourceError(OnceflowError):
    """Input that cannot be read; the text names the file and what to do."""

    kind = "source"


class SourceChangedError(SourceError):
    """The input shrank or changed since the checkpoint: resuming would not be exact."""

    kind = "source_changed"


class MalformedRecordError(SourceError):
    """A record that does not parse, with its source, position and text."""

    kind = "malformed_record"


class SinkError(OnceflowError):
    """Output that cannot be written."""

    kind = "sink"


class UserFunctionError(OnceflowError):
    """An exception in a function of the dataflow; ``__cause__`` is the original.

    Attributes:
        step_id: The step whose function raised.
        position: Where the record came from, if known.
    """

    kind = "user_function"

    def __init__(self, message: str, *, step_id: str = "", position: str | None = None) -> None:
        super().__init__(message)
        self.step_id = step_id
        self.position = position


class DataflowChangedError(OnceflowError):
    """The dataflow does not fit the state it resumes from: a step with state is gone, new or changed.

    Attributes:
        on_change: What to give as ``run(..., on_change=...)`` if the change is meant; empty where nothing helps.
    """

    kind = "dataflow_changed"

    def __init__(self, message: str, *, on_change: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.on_change: Mapping[str, str] = on_change or {}


class UnknownTopicWarning(UserWarning):
    """A consumer has subscribed to a topic that does not exist, and reads nothing of it until somebody creates it."""


class LateRecordsWarning(UserWarning):
    """Records come too late for their windows and are left out, since nothing takes ``flow.late(step_id)``.

    Warned of once a run and step; ``JobResult.late`` counts them.
    """


class DamagedCheckpointWarning(UserWarning):
    """A recovery found damaged checkpoints and worked around them; the output is exact, the disk may not be."""


class MissingOutputWarning(UserWarning):
    """The output of the checkpoint that a job goes on from, on purpose, is not where it was written."""


class RepeatedOutputWarning(UserWarning):
    """A job goes back on purpose, and what a sink holds from after that point stays there and is written again.

    Raised before any sink is touched: as an error it stops the run with nothing changed.
    """


class FinishedJobWarning(UserWarning):
    """A job that had finished was run again: nothing was read or written, whatever may have changed since."""


def described(error: BaseException) -> str:
    """``ValueError: what it says``, also of an exception of a user's that cannot say it."""
    name = type(error).__name__
    try:
        return f"{name}: {error}"
    except Exception as failure:
        return f"{name} (its own text cannot be shown: str() of it raises {type(failure).__name__})"


def _tree(root: type[OnceflowError]) -> Iterator[type[OnceflowError]]:
    yield root
    for child in root.__subclasses__():
        yield from _tree(child)


#: The class of each kind; the extension module raises by it.
ERRORS_BY_KIND: dict[str, type[OnceflowError]] = {error.kind: error for error in _tree(OnceflowError)}
