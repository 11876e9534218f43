"""A state directory as a reader sees it: beside a running job, without knowing the job's name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from onceflow.exceptions import OnceflowError, StoreMissingError
from onceflow.runtime.job_record import JOB_BLOB, JobRecord

if TYPE_CHECKING:
    from onceflow._native import CheckpointInfo, StateBackend

__all__ = ["DIRECTORY_HELP", "job_record", "reader"]

DIRECTORY_HELP = "A state directory. A job may be running in it."


@contextmanager
def reader(directory: Path, resume_from: int | str = "none") -> Iterator[StateBackend]:
    """Opens a directory for reading; ``"none"`` restores no state, which makes looking at records quick."""
    from onceflow._native import StateBackend  # noqa: PLC0415 - loads the extension

    try:
        backend = StateBackend.open(directory, read_only=True, create=False, resume_from=resume_from)
    except StoreMissingError as error:
        error.add_note("onceflow run TARGET --state DIR makes a state directory")
        raise
    with backend:
        yield backend


def job_record(info: CheckpointInfo) -> JobRecord | None:
    """None if a program made the checkpoint that uses the state backend itself."""
    blob = info.blobs.get(JOB_BLOB)
    if blob is None:
        return None
    import msgspec  # noqa: PLC0415 - not needed by every command

    try:
        return JobRecord.decode(blob)
    except (msgspec.MsgspecError, KeyError, TypeError) as error:
        raise OnceflowError(
            f"checkpoint {info.id}: what the job says of itself cannot be read ({error}); was it written by a newer "
            "version?"
        ) from error
