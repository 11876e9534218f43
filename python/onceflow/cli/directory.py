"""A state directory as a reader sees it: beside a running job, without knowing the job's name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onceflow.exceptions import CheckpointNotFoundError, OnceflowError

if TYPE_CHECKING:
    from onceflow._native import CheckpointInfo, StateBackend

__all__ = ["DIRECTORY_HELP", "JobRecord", "checkpoint_of", "job_record", "reader"]

DIRECTORY_HELP = "A state directory. A job may be running in it."


@contextmanager
def reader(directory: Path, checkpoint: int | str | None = "none") -> Iterator[StateBackend]:
    """Opens a directory for reading; ``"none"`` restores no state, which makes looking at records quick."""
    from onceflow._native import StateBackend  # noqa: PLC0415 - loads the extension

    with StateBackend.open(directory, read_only=True, create=False, checkpoint=checkpoint) as backend:
        yield backend


def checkpoint_of(backend: StateBackend, number: int) -> CheckpointInfo:
    """The checkpoint of this number.

    Raises:
        CheckpointNotFoundError: Names those that exist.
    """
    known = backend.checkpoints()
    for info in known:
        if info.id == number:
            return info
    numbers = ", ".join(str(info.id) for info in known) or "none"
    raise CheckpointNotFoundError(f"{backend.path} has no checkpoint {number}; it has {numbers}")


@dataclass(frozen=True, slots=True)
class JobRecord:
    """What a dataflow's run keeps in a checkpoint about itself."""

    guarantee: str
    codec: str
    batch_size: int
    finished: bool
    steps: dict[str, str]
    counts: dict[str, int]


def job_record(info: CheckpointInfo) -> JobRecord | None:
    """None if a program made the checkpoint that uses the state backend itself."""
    blob = info.blobs.get("job")
    if blob is None:
        return None
    import msgspec  # noqa: PLC0415 - not needed by every command

    try:
        job: dict[str, Any] = msgspec.msgpack.decode(blob)
        return JobRecord(**{name: job[name] for name in JobRecord.__slots__})
    except (msgspec.MsgspecError, KeyError, TypeError) as error:
        raise OnceflowError(
            f"checkpoint {info.id}: what the job says of itself cannot be read ({error}); was it written by a newer "
            "version?"
        ) from error
