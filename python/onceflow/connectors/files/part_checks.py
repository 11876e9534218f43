"""What is visible in the directory of a file sink, beside what the job's state says of it."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from onceflow.connectors.files.part_file import sink_errors
from onceflow.connectors.files.part_names import Output, PartName, Staging
from onceflow.exceptions import MissingOutputWarning, SinkError
from onceflow.sinks import SinkContext

__all__ = ["VisibleParts"]


class VisibleParts:
    """Changes nothing.

    Args:
        path: The directory.
        staging: Its private part.
        context: Who wants to write.
    """

    def __init__(self, path: Path, staging: Path, context: SinkContext) -> None:
        self._path = path
        self._staging = staging
        self._context = context

    def parts(self) -> list[tuple[PartName, Path]]:
        """All visible parts, in order."""
        with sink_errors(self._path):
            try:
                entries = os.scandir(self._path)
            except FileNotFoundError:
                return []
            with entries:
                names = [entry.name for entry in entries if entry.name.startswith("part-")]
        found = [(PartName.parse(name.removeprefix("part-")), self._path / name) for name in names]
        return sorted(((name, path) for name, path in found if name), key=lambda part: (part[0].output.rank, part[1]))

    def check(self, staging: Staging, known: Output | None = None) -> None:
        """That nothing is there which this run would write again, or which its state does not know.

        Args:
            staging: What is under way.
            known: The newest output of what the run goes on from, if that is known.
        """
        context = self._context
        parts = self.parts()
        restored = context.restored_checkpoint
        decided = max(context.newest_decided or 0, restored or 0)
        if restored is None and parts:
            raise SinkError(
                f"{self._path} holds output of an earlier run, and this job starts from nothing: move the part "
                "files away, or choose another directory"
            )
        left = [
            path.name
            for name, path in parts
            if name.output.lineage < context.lineage
            and (
                name.output.checkpoint > (restored or 0)
                # Of a lineage that another copy of the state has begun.
                or (known is not None and known.lineage < name.output.lineage and known.worker == name.output.worker)
            )
        ]
        if left:
            raise SinkError(
                f"{self._path} holds output that came after checkpoint {restored} and will be written again: move "
                f"the part files from {left[0]} to {left[-1]} away"
            )
        newest = max((name.output.rank for name, _ in parts), default=(0, 0))
        newest = max(newest, staging.newest_of_all)
        if newest > (context.lineage, decided):
            lineage = "" if newest[0] == context.lineage else f" of lineage {newest[0]}"
            raise SinkError(
                f"{self._path} holds the output of checkpoint {newest[1]}{lineage} of job {context.job!r}, and the "
                f"newest one of this run's state is {decided or 'none'}: {self.older_state()}"
            )

    def check_complete(self, staging: Staging, newest: Output | None, before: Output | None) -> None:
        """That what was written is there, or was; of an output that the recovery commits it finds out itself."""
        context = self._context
        parts = [name.output for name, _ in self.parts()]

        def newest_of(worker: int) -> tuple[int, int]:
            visible = max((part.rank for part in parts if part.worker == worker), default=(0, 0))
            return max(visible, staging.newest.get(worker, (0, 0)))

        def known(output: Output) -> bool:
            there = newest_of(output.worker)
            return output in parts or (output.rank <= there and output.lineage == there[0])

        if newest is None or known(newest):
            return
        end = context.newest_decided or (context.restored_checkpoint if context.newest_left is None else None)
        lost = newest
        if end is not None and newest.checkpoint >= end:
            if before is None or known(before):
                return
            lost = before
        there = newest_of(lost.worker)
        if context.newest_decided is not None:
            # Where this lineage goes on from was looked at when it began.
            if lost.lineage == context.lineage:
                raise SinkError(self._incomplete(lost, there, context.newest_decided))
        elif context.newest_left is not None and staging.runs and there < lost.rank:
            raise SinkError(self._incomplete(lost, there, context.newest_left))
        else:
            # Made anew, or left by another lineage; or the end of a lineage, from where a person goes on all the same.
            warnings.warn(
                MissingOutputWarning(
                    f"{self._lost(lost, there)}, and this run goes on after checkpoint {context.restored_checkpoint}. "
                    "If nobody has taken it away on purpose it is missing: put it back, or resume from a checkpoint "
                    "that the directory has in full"
                ),
                stacklevel=2,
            )

    def _lost(self, lost: Output, there: tuple[int, int]) -> str:
        lineage = "" if there[0] in (0, lost.lineage) else f" of lineage {there[0]}"
        whose = f" of worker {lost.worker}" if lost.worker else ""
        holds = f"it has the output up to checkpoint {there[1]}{lineage}" if there[1] else "it has no output"
        return f"the output of checkpoint {lost.checkpoint}{whose} is lost: {self._path} does not know it; {holds}"

    def _incomplete(self, lost: Output, there: tuple[int, int], newest: int) -> str:
        again = "move part files that are left away, and run it once with resume_from='none' (--resume-from none)"
        if there[1]:
            again = (
                f"resume with resume_from from {there[1]}, the newest checkpoint that the directory has in full, "
                f"or from one before it; or, if the state has none of them any more, {again}"
            )
        return (
            f"{self._lost(lost, there)}. It was emptied, or put back from an older copy. Put the newest one back; or "
            f"write what is missing again: {again}; or, to go on without what is missing, run it once with "
            f"resume_from={newest} (--resume-from {newest})"
        )

    def older_state(self) -> str:
        """How to go on with a state that is older than the output."""
        return (
            "the state is older than its output, as when a backup was put back, and would write it again. Run the job "
            f"with its newest state; or, to go on from this one on purpose, {self.way_on()}"
        )

    def way_on(self) -> str:
        """How to go on with a state that does not know all of the output."""
        context = self._context
        number = context.newest_decided or context.restored_checkpoint
        if number is None:
            return f"move the part files away, delete {self._staging}, and run it again"
        return (
            f"move the part files that came after checkpoint {number} away, and run it once with "
            f"resume_from={number} (--resume-from {number})"
        )
