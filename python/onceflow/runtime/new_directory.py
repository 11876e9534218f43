"""The state directory of a run that made it, and was refused before it had touched anything else."""

from __future__ import annotations

import contextlib
import os
import shutil
from os import PathLike, fspath
from pathlib import Path

from onceflow._native import StateBackend
from onceflow.exceptions import OnceflowError

__all__ = ["NewDirectory"]


class NewDirectory:
    """Made before the directory is.

    Args:
        state: Where the directory is, or will be.
    """

    def __init__(self, state: str | PathLike[str]) -> None:
        self._path = Path(fspath(state))
        #: What is not there yet: the directory, and those that it lies in.
        self._missing = [each for each in (self._path, *self._path.parents) if not os.path.lexists(each)]
        self._process = os.getpid()
        self._job_epoch: int | None = None

    def refuse(self, backend: StateBackend) -> None:
        """The run has touched nothing, and ends."""
        self._job_epoch = backend.job_epoch

    def clean(self) -> None:
        """When the directory is closed: removes it if the refused run has made it and nobody has used it since."""
        if self._job_epoch is None or self._path not in self._missing or os.getpid() != self._process:
            return
        aside = self._path.with_name(f".{self._path.name}.refused-{self._process}")
        with contextlib.suppress(OSError, OnceflowError):
            # From here on nobody finds it any more.
            self._path.rename(aside)
            if not self._is_as_it_was(aside):
                aside.rename(self._path)
                return
            shutil.rmtree(aside)
            for parent in self._missing[1:]:
                parent.rmdir()

    def _is_as_it_was(self, where: Path) -> bool:
        with StateBackend.open(where, read_only=True, create=False, resume_from="none") as backend:
            return backend.newest_job_epoch() == self._job_epoch and not backend.checkpoints()
