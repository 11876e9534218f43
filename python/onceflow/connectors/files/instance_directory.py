"""Where each of several runs that divide a job among them writes its part files: in a directory of its own."""

from __future__ import annotations

import os
import re
from pathlib import Path

from onceflow.connectors.files.part_file import sink_errors
from onceflow.exceptions import SinkError
from onceflow.instances import Instance, job_and_instance

__all__ = ["check_others", "directory_of"]

_NAME = re.compile(r"instance-(\d+)of(\d+)")


def directory_of(path: Path, job: str) -> Path:
    """The directory of a job, in that of its sink."""
    _, instance = job_and_instance(job)
    return path if instance is None else path / f"instance-{instance.index}of{instance.count}"


def check_others(path: Path, job: str) -> None:
    """That nobody has written there who divides the job in another way. Changes nothing.

    Raises:
        SinkError: Somebody has.
    """
    _, instance = job_and_instance(job)
    with sink_errors(path):
        try:
            names = sorted(entry.name for entry in os.scandir(path))
        except (FileNotFoundError, NotADirectoryError):
            # Made, or refused, by who writes.
            return
    others = [name for name in names if (found := _NAME.fullmatch(name)) and not _is_beside(instance, found)]
    if instance is not None and ".onceflow" in names:
        others.append("part files that lie in it directly")
    if others:
        this = "is all of the job" if instance is None else f"is instance {instance}"
        raise SinkError(
            f"{path} has the output of runs that divide the job in another way ({others[0]}), and this run {this}, so "
            "it would be written again: run as many instances as before, or move away what is there"
        )


def _is_beside(instance: Instance | None, found: re.Match[str]) -> bool:
    return instance is not None and int(found[2]) == instance.count
