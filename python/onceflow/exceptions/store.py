"""What the state directory, and its checkpoints, refuse."""

from __future__ import annotations

from onceflow.exceptions.base import OnceflowError

__all__ = [
    "BackendClosedError",
    "CheckpointError",
    "CheckpointNotFoundError",
    "CheckpointStateError",
    "FencedError",
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
    "WorkerLostError",
]


class StoreError(OnceflowError):
    """Base of the errors of a state directory."""

    kind = "store"
    kafka_code = 56


class StoreCorruptError(StoreError):
    """Stored bytes are damaged: wrong checksum, torn, swapped or stale."""

    kind = "store_corrupt"
    is_fatal = True


class StoreLockedError(StoreError):
    """A running process owns the directory.

    Attributes:
        pid: Of the process that has it.
    """

    kind = "store_locked"

    def __init__(self, message: str = "", *, pid: int | None = None) -> None:
        super().__init__(message)
        self.pid = pid


class StoreFormatError(StoreError):
    """The directory was written by a newer or unknown format.

    Attributes:
        version: Of the format that was found.
        newest: The newest version that can be read.
    """

    kind = "store_format"

    def __init__(self, message: str = "", *, version: int | None = None, newest: int | None = None) -> None:
        super().__init__(message)
        self.version = version
        self.newest = newest


class StoreMismatchError(StoreError):
    """The directory belongs to another job or has other settings.

    Attributes:
        setting: Which one: ``job``, ``key_groups``, ``order`` of a deduplicator, or ``kind`` of the directory.
        stored: Its value, as a text.
        given: What the directory was opened with instead, as a text.
    """

    kind = "store_mismatch"

    def __init__(
        self, message: str = "", *, setting: str | None = None, stored: str | None = None, given: str | None = None
    ) -> None:
        super().__init__(message)
        self.setting = setting
        self.stored = stored
        self.given = given


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
    is_fatal = True


class StoreNetworkFilesystemError(StoreError):
    """The directory is on a network file system, where locks and syncs do not hold."""

    kind = "store_network_filesystem"


class StoreForkedError(StoreError):
    """The store was inherited through fork; open it in the child instead.

    Attributes:
        pid: Of the process that opened it.
    """

    kind = "store_forked"
    is_fatal = True

    def __init__(self, message: str = "", *, pid: int | None = None) -> None:
        super().__init__(message)
        self.pid = pid


class StoreIOError(StoreError, OSError):
    """The operating system refused."""

    kind = "io"
    kafka_code = -189
    is_retriable = True


class BackendClosedError(StoreError, RuntimeError):
    """It was closed: a backend, a log, or one of its clients."""

    kind = "closed"
    kafka_code = -197
    is_fatal = True


class FencedError(OnceflowError):
    """A newer epoch of the same job has taken over; this process must stop.

    Attributes:
        epoch: Of this process.
        newer_epoch: Of the one that has taken over.
        newer_lineage: Its lineage, where that is a newer one and a sink says so when it is opened: a run that goes back
            on purpose then takes a number above it.
    """

    kind = "fenced"

    def __init__(
        self,
        message: str = "",
        *,
        epoch: int | None = None,
        newer_epoch: int | None = None,
        newer_lineage: int | None = None,
    ) -> None:
        super().__init__(message)
        self.epoch = epoch
        self.newer_epoch = newer_epoch
        self.newer_lineage = newer_lineage


class WorkerLostError(OnceflowError):
    """The process of a worker has ended, and has not said why.

    Attributes:
        worker: Its number.
    """

    kind = "worker_lost"

    def __init__(self, message: str = "", *, worker: int | None = None) -> None:
        super().__init__(message)
        self.worker = worker


class CheckpointError(OnceflowError):
    """Base of the errors of checkpoints."""

    kind = "checkpoint"


class CheckpointNotFoundError(CheckpointError):
    """No complete checkpoint of that number exists.

    Attributes:
        checkpoint: The number, or the name of a savepoint, that was asked for.
    """

    kind = "checkpoint_not_found"

    def __init__(self, message: str = "", *, checkpoint: int | str | None = None) -> None:
        super().__init__(message)
        self.checkpoint = checkpoint


class CheckpointStateError(CheckpointError):
    """The checkpoint was aborted or is not in a state that allows this step.

    Attributes:
        checkpoint: Its number.
    """

    kind = "checkpoint_state"

    def __init__(self, message: str = "", *, checkpoint: int | None = None) -> None:
        super().__init__(message)
        self.checkpoint = checkpoint
