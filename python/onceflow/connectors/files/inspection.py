"""A look at the files of a source and at the directory of a sink, before a start. Changes nothing."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from onceflow.checks import CheckContext, Finding
from onceflow.connectors.file_system import look_at_directory, size_text
from onceflow.connectors.files.part_names import PartName, read_names

__all__ = ["look_at_files", "look_at_parts"]


def look_at_files(files: Sequence[str]) -> Iterator[Finding]:
    """Those that a source reads, all of which can be opened."""
    sizes = {path: os.stat(path).st_size for path in files}  # noqa: PTH116 - a path may be more than Path takes
    what = f"file {files[0]}" if len(files) == 1 else f"{len(files):,} files"
    yield Finding("ok", what, f"can be read, {size_text(sum(sizes.values()))}")
    empty = [path for path, size in sizes.items() if not size]
    if empty:
        others = f", and so are {len(empty) - 1:,} others" if len(empty) > 1 else ""
        yield Finding("warning", f"file {empty[0]}", f"is empty{others}", "see whether somebody is still to write it")


def look_at_parts(path: Path, context: CheckContext) -> Iterator[Finding]:
    """The directory of part files."""
    findings = list(look_at_directory(path))
    yield from findings
    if not os.path.lexists(path) or any(finding.level == "error" for finding in findings):
        # What is there cannot be seen, or is no directory.
        return
    parts = [each for each in path.iterdir() if PartName.parse(each.name.removeprefix("part-"))]
    staging = path / ".onceflow"
    subject = f"directory {staging}"
    try:
        found = staging.lstat()
    except FileNotFoundError:
        if parts:
            yield Finding(
                "warning",
                f"directory {path}",
                f"has {len(parts):,} part files, and nothing that says whose they are",
                "a job that starts from nothing is refused: move them away, or give another directory",
            )
        return
    if not stat.S_ISDIR(found.st_mode):
        yield Finding("error", subject, "is a link or a file", "delete it, or give another directory")
    elif found.st_dev != path.stat().st_dev:
        text = f"lies on another file system than {path}, so what is staged there cannot be renamed"
        yield Finding("error", subject, text, "unmount it")
    elif not os.access(staging, os.R_OK | os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        yield Finding("error", subject, "cannot be written by this user", "run the job as the user that it belongs to")
    else:
        yield from _look_at_owner(staging, len(parts), context)


def _look_at_owner(staging: Path, parts: int, context: CheckContext) -> Iterator[Finding]:
    subject = f"directory {staging.parent}"
    try:
        job, sink, *_ = [*(staging / "owner").read_text(errors="replace").split("\n"), "", ""]
    except FileNotFoundError:
        return
    if (job, sink) != (context.job, context.step_id):
        text = f"holds the output of sink {sink!r} of job {job!r}"
        yield Finding("error", subject, text, "give each sink its own directory")
        return
    lineage, checkpoint = read_names(each.name for each in staging.iterdir()).newest_of_all
    if checkpoint:
        text = f"holds output up to checkpoint {checkpoint} of lineage {lineage}, {parts:,} part files"
        yield Finding("ok", subject, f"{text}: it goes on from there with the state directory that made it")
