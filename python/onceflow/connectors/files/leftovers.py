"""What a dead job left in the directory of a file sink, see ``part_directory``."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

from onceflow.connectors.files.part_names import read_names
from onceflow.leftovers import Leftover, LeftoverContext

__all__ = ["left_parts"]


def left_parts(path: Path, decided: dict[str, int], context: LeftoverContext) -> Iterator[Leftover]:
    """Files that are being written or staged, which nobody writes any more.

    Args:
        path: The directory.
        decided: Names of staged files → the checkpoint that was decided with them.
        context: Who looks.
    """
    staging = path / ".onceflow"
    try:
        names = sorted(each.name for each in staging.iterdir())
        job, sink, state, *_ = [*(staging / "owner").read_text(errors="replace").split("\n"), "", "", ""]
    except (FileNotFoundError, NotADirectoryError):
        return
    if (job, sink) != (context.job, context.sink) or state not in ("", context.state_id):
        yield Leftover("kept", f"directory {staging}", f"belongs to sink {sink!r} of job {job!r} with another state")
        return
    for name, (_, epoch) in read_names(names).left.items():
        file = staging / name
        subject = f"file {file}"
        if name in decided:
            text = f"output of checkpoint {decided[name]}, which was decided: the next run makes it visible"
            yield Leftover("decided", subject, text)
        elif epoch > context.job_epoch:
            text = f"of a run with job epoch {epoch}, which is newer than this state: use the job's newest state"
            yield Leftover("kept", subject, text)
        elif not context.complete:
            yield Leftover("kept", subject, "may be output that was decided, by a checkpoint that cannot be read")
        else:
            what = "written" if name.startswith("open-") else "staged"
            text = f"{what} by a run with job epoch {epoch} for a checkpoint that was not decided; no reader sees it"
            yield Leftover("removable", subject, text, functools.partial(file.unlink, missing_ok=True))
