"""Where each of several runs that divide a job among them writes its part files: in a directory of its own."""

from __future__ import annotations

import os
import re
from pathlib import Path

from onceflow.connectors.files.part_file import sink_errors
from onceflow.exceptions import SinkError
from onceflow.instances import count_of, job_and_instance, what_it_is

__all__ = ["check_others", "directory_of", "part_directories"]

_NAME = re.compile(r"instance-(\d+)of(\d+)")


def directory_of(path: Path, job: str) -> Path:
    """The directory of a job, in that of its sink."""
    _, instance = job_and_instance(job)
    return path if instance is None else path / f"instance-{instance.index}of{instance.count}"


def part_directories(path: Path) -> list[Path]:
    """Where the part files of a sink are, whoever wrote them: in its directory, and in those of instances."""
    return [path, *(each for each in path.glob("instance-*") if _NAME.fullmatch(each.name))]


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
    others = [name for name in names if (found := _NAME.fullmatch(name)) and int(found[2]) != count_of(instance)]
    if instance is not None and ".onceflow" in names:
        others.append("part files that lie in it directly")
    if others:
        raise SinkError(
            f"{path} has the output of runs that divide the job in another way ({others[0]}), and this run "
            f"{what_it_is(instance)}, so it would be written again: run as many instances as before, or move away what "
            "is there"
        )
