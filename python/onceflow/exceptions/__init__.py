"""Every error that onceflow raises, as one tree.

::

    OnceflowError
    ├── ConfigurationError                 what was asked for cannot be
    │   ├── DeliveryGuaranteeError         a path cannot keep the claimed guarantee
    │   └── MissingExtraError              a library is not installed
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
    │   │   │   └── MaxPollExceededError
    │   │   └── IllegalGenerationError
    │   ├── BufferFullError                records are produced faster than they become durable
    │   ├── RecordPurgedError              the delivery report of a record that was purged
    │   ├── TransactionAbortedError        the delivery report of a record that was aborted
    │   └── LogTimeoutError                no answer in time; the outcome is not known
    ├── FencedError                        a newer epoch of the job has taken over
    ├── WorkerLostError                    the process of a worker has ended
    ├── CheckpointError
    │   ├── CheckpointNotFoundError
    │   └── CheckpointStateError
    ├── SourceError                        input that cannot be read
    │   ├── SourceChangedError
    │   └── MalformedRecordError
    ├── SinkError                          output that cannot be written
    ├── UserFunctionError                  an exception in a function of the dataflow
    └── DataflowChangedError               state and dataflow do not fit

What a program may want to know is in attributes beside the text, such as ``OffsetOutOfRangeError.low``; one that is not
known is None. Errors can be pickled and copied.

Each class has a stable ``kind``, under which the Rust core and logs know it. Warnings are for what a user must hear of
while the job goes on: ``DamagedCheckpointWarning``, ``FinishedJobWarning``, ``GroupOffsetsWarning``,
``LateRecordsWarning``, ``MissingOutputWarning``, ``NewPartitionsWarning``, ``RefusedRecordsWarning``,
``RepeatedOutputWarning``, ``RestartWarning``, ``SinkWaitingWarning``, ``SourceWaitingWarning``,
``UnknownTopicWarning``; all of them are an ``OnceflowWarning``.
"""

from __future__ import annotations

from collections.abc import Iterator

from onceflow.exceptions.base import (
    ConfigurationError,
    DataflowChangedError,
    DeliveryGuaranteeError,
    MissingExtraError,
    OnceflowError,
    UserFunctionError,
)
from onceflow.exceptions.connectors import (
    MalformedRecordError,
    SinkError,
    SourceChangedError,
    SourceError,
)
from onceflow.exceptions.log import (
    BufferFullError,
    GroupFencedError,
    IllegalGenerationError,
    InvalidTransactionStateError,
    LogError,
    LogTimeoutError,
    MaxPollExceededError,
    OffsetOutOfRangeError,
    OutOfOrderSequenceError,
    ProducerFencedError,
    RecordPurgedError,
    RecordTooLargeError,
    TopicExistsError,
    TransactionAbortedError,
    TransactionTimedOutError,
    UnknownMemberError,
    UnknownTopicOrPartitionError,
)
from onceflow.exceptions.state import (
    CapacityExceededError,
    LengthMismatchError,
    NotANumberError,
    SchemaMismatchError,
    SerializationError,
    StateError,
    StateOverflowError,
    TypeMismatchError,
    UnknownNameError,
)
from onceflow.exceptions.store import (
    BackendClosedError,
    CheckpointError,
    CheckpointNotFoundError,
    CheckpointStateError,
    FencedError,
    StoreCorruptError,
    StoreError,
    StoreForkedError,
    StoreFormatError,
    StoreFullError,
    StoreIOError,
    StoreLockedError,
    StoreMismatchError,
    StoreMissingError,
    StoreNetworkFilesystemError,
    StorePoisonedError,
    StoreReadOnlyError,
    WorkerLostError,
)
from onceflow.exceptions.warnings import (
    DamagedCheckpointWarning,
    FinishedJobWarning,
    GroupOffsetsWarning,
    LateRecordsWarning,
    MissingOutputWarning,
    NewPartitionsWarning,
    OnceflowWarning,
    RefusedRecordsWarning,
    RepeatedOutputWarning,
    RestartWarning,
    SinkWaitingWarning,
    SourceWaitingWarning,
    UnknownTopicWarning,
)

__all__ = [
    "ERRORS_BY_KIND",
    "BackendClosedError",
    "BufferFullError",
    "CapacityExceededError",
    "CheckpointError",
    "CheckpointNotFoundError",
    "CheckpointStateError",
    "ConfigurationError",
    "DamagedCheckpointWarning",
    "DataflowChangedError",
    "DeliveryGuaranteeError",
    "FencedError",
    "FinishedJobWarning",
    "GroupFencedError",
    "GroupOffsetsWarning",
    "IllegalGenerationError",
    "InvalidTransactionStateError",
    "LateRecordsWarning",
    "LengthMismatchError",
    "LogError",
    "LogTimeoutError",
    "MalformedRecordError",
    "MaxPollExceededError",
    "MissingExtraError",
    "MissingOutputWarning",
    "NewPartitionsWarning",
    "NotANumberError",
    "OffsetOutOfRangeError",
    "OnceflowError",
    "OnceflowWarning",
    "OutOfOrderSequenceError",
    "ProducerFencedError",
    "RecordPurgedError",
    "RecordTooLargeError",
    "RefusedRecordsWarning",
    "RepeatedOutputWarning",
    "RestartWarning",
    "SchemaMismatchError",
    "SerializationError",
    "SinkError",
    "SinkWaitingWarning",
    "SourceChangedError",
    "SourceError",
    "SourceWaitingWarning",
    "StateError",
    "StateOverflowError",
    "StoreCorruptError",
    "StoreError",
    "StoreForkedError",
    "StoreFormatError",
    "StoreFullError",
    "StoreIOError",
    "StoreLockedError",
    "StoreMismatchError",
    "StoreMissingError",
    "StoreNetworkFilesystemError",
    "StorePoisonedError",
    "StoreReadOnlyError",
    "TopicExistsError",
    "TransactionAbortedError",
    "TransactionTimedOutError",
    "TypeMismatchError",
    "UnknownMemberError",
    "UnknownNameError",
    "UnknownTopicOrPartitionError",
    "UnknownTopicWarning",
    "UserFunctionError",
    "WorkerLostError",
    "described",
]


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

for _class in map(globals().__getitem__, __all__):
    if isinstance(_class, type):
        # Users import them from here, and see them so.
        _class.__module__ = __name__
