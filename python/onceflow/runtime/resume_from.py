"""Which checkpoint a run is told to resume from, by its number or by the name of a savepoint."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

from onceflow.exceptions import CheckpointNotFoundError

if TYPE_CHECKING:
    from onceflow._native import CheckpointInfo, StateBackend

__all__ = ["RESUME_WORDS", "checkpoint_of", "numbered"]

#: What ``resume_from`` may say besides a checkpoint; no savepoint is called so.
RESUME_WORDS = ("newest", "none")


def checkpoint_of(backend: StateBackend, wanted: int | str) -> CheckpointInfo:
    """The checkpoint of this number, the newest savepoint of this name, or by ``"newest"`` what a run resumes from.

    Raises:
        CheckpointNotFoundError: Names those that exist.
    """
    known = backend.checkpoints()
    if wanted == "newest" and backend.resumes_from is not None:
        wanted = backend.resumes_from
    for info in reversed(known):
        if wanted in (info.id, info.savepoint):
            return info
    what = f"checkpoint {wanted}" if isinstance(wanted, int) else f"savepoint {wanted!r}"
    shown = ", ".join(f"{info.id} ({info.savepoint})" if info.savepoint else str(info.id) for info in known) or "none"
    raise CheckpointNotFoundError(f"{backend.path} has no {what}; it has {shown}", checkpoint=wanted)


def numbered(state: str | PathLike[str], job: str, resume_from: int | str) -> int | str:
    """``resume_from`` with the number of the checkpoint that it names.

    By a look as a reader: a run that asks for what is not there must not have fenced the one that is running.

    Raises:
        CheckpointNotFoundError: There is no such checkpoint.
        StoreError: The directory cannot be read.
    """
    if resume_from in RESUME_WORDS:
        return resume_from
    from onceflow._native import StateBackend  # noqa: PLC0415 - the command line loads the extension late

    with StateBackend.open(state, job=job, read_only=True, create=False, resume_from="none") as backend:
        return checkpoint_of(backend, resume_from).id
