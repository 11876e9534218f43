"""Part files: one for each checkpoint with output, staged before the decision and renamed after it.

``part_directory`` says what lies where, and why a run that was replaced can do no harm. What is renamed is what was
prepared: the decision record keeps length and checksum of each part, and a part that is neither staged nor visible is
an error, unless it is known to have been visible (readers may take part files away).
"""

from __future__ import annotations

import contextlib
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any, ClassVar

from onceflow.checks import CheckContext, Finding
from onceflow.columns import Columns
from onceflow.connectors.files.inspection import look_at_parts
from onceflow.connectors.files.instance_directory import check_others, directory_of, part_directories
from onceflow.connectors.files.leftovers import left_parts
from onceflow.connectors.files.part_directory import PartDirectory
from onceflow.connectors.files.part_file import OpenPart, checksum_of, sync_directory
from onceflow.connectors.files.part_names import Output, PartName, staged_name
from onceflow.crash import crash_point
from onceflow.exceptions import ConfigurationError, FencedError, MissingOutputWarning, SinkError
from onceflow.leftovers import Leftover, LeftoverContext
from onceflow.sinks import Committable, SinkContext, TransactionalSink, TransactionalSinkWriter
from onceflow.types import Batch, Plain

__all__ = ["PartSink", "PartWriter", "read_parts"]

#: Between preparation and commit of one run a part is read again up to this size; a larger one is known by its
#: inode, length and time of change, since reading it would cost more than writing it did.
_SMALL_BYTES = 8 << 20


class PartWriter(ABC):
    """How one format becomes bytes. Used from one thread.

    Attributes:
        splits: Whether records that cannot go into one part together may go into several; then ``fits`` leaves
            everything as it was when it refuses some.
    """

    splits: bool = False

    def restore(self, learnt: Plain) -> None:  # noqa: B027 - optional
        """Called before the first record with what ``snapshot`` returned for the checkpoint that the output goes on
        from, if that is something."""

    def snapshot(self) -> Plain:
        """What was learnt from records and must stay the same over a restart."""
        return None

    def resume(self, newest: Path) -> None:  # noqa: B027 - optional
        """Called before the first record if there are part files of an earlier run, and nothing to ``restore``: the
        newest one of them."""

    def fits(self, records: Batch) -> bool:
        """Asked before each ``encode``: whether records can go into the part that was begun. Else it is finished, and
        they begin another one. Raises ``SinkError`` for records that the format cannot hold."""
        return True

    def begin(self) -> bytes:
        """What a part file starts with; called after the first ``encode``."""
        return b""

    @abstractmethod
    def encode(self, records: Batch) -> bytes:
        """The records' bytes. Raises ``SinkError`` for records that the format cannot hold."""

    def finish(self) -> bytes:
        """What a part file ends with; the next ``encode`` begins another."""
        return b""


class PartSink(TransactionalSink):
    """Base of the file sinks.

    Args:
        directory: Made if missing; belongs to one sink of one job. Where several runs divide a job among them, each has
            a directory in it: ``instance-2of8``.

    Raises:
        ConfigurationError: It is no path.
    """

    suffix: ClassVar[str]

    def __init__(self, directory: str | PathLike[str]) -> None:
        path = fspath(directory) if isinstance(directory, (str, PathLike)) else None
        if not isinstance(path, str):
            raise ConfigurationError(f"{type(self).__name__}: directory={directory!r}: give a path, such as 'out/'")
        self._directory = Path(path)

    @abstractmethod
    def writer(self) -> PartWriter:
        """A new encoder."""

    def open(self, context: SinkContext) -> TransactionalSinkWriter:
        """See ``Sink``."""
        directory = directory_of(self._directory, context.job)
        check_others(self._directory, context.job)
        return _PartSinkWriter(directory, self.suffix, self.writer(), context)

    def check(self, context: CheckContext) -> Iterable[Finding]:
        """See ``Sink``."""
        return look_at_parts(directory_of(self._directory, context.job), context)

    def leftovers(self, context: LeftoverContext) -> Iterable[Leftover]:
        """See ``Sink``."""
        directory = directory_of(self._directory, context.job)
        parts = [(one.checkpoint_id, part) for one in context.decided for part in _parts_of(one, directory)]
        decided = {staged_name(part.name, part.epoch): checkpoint for checkpoint, part in parts}
        return left_parts(directory, decided, context)


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A part as its handle describes it. Older versions kept neither job epoch nor length and checksum."""

    name: PartName
    epoch: int | None
    content: tuple[int, int] | None


class _PartSinkWriter(TransactionalSinkWriter):
    #: What is written lies in a file.
    held = 0
    held_bytes = 0

    def __init__(self, directory: Path, suffix: str, writer: PartWriter, context: SinkContext) -> None:
        self._suffix = suffix
        self._writer = writer
        self._process = os.getpid()
        self._context = context
        #: The part that is being written, and those of the same checkpoint that are full.
        self._open: OpenPart | None = None
        self._full: list[OpenPart] = []
        #: Parts that this run has prepared: what the file system said of them.
        self._stats: dict[PartName, tuple[int, ...]] = {}
        # Of another kind of sink, if the dataflow was changed.
        restored: Any = context.restored_state if isinstance(context.restored_state, dict) else {}
        #: The newest output, and the one before it. Of another worker, if their number has changed since.
        self._sealed, self._before = _output_of(restored.get("newest")), _output_of(restored.get("before"))
        if self._sealed is None:
            # An older version.
            self._sealed = _output_of([restored.get("lineage"), restored.get("sealed")])
        if restored.get("learnt") is not None:
            writer.restore(restored["learnt"])
        self._directory = PartDirectory(directory, context)
        self._directory.check(self._sealed, self._before, is_known=self._sealed is not None or "newest" in restored)

    def applied(self, checkpoint_id: int) -> bool | None:
        return self._directory.applied(checkpoint_id)

    def recover(self, decided: Sequence[Committable]) -> None:
        crash_point("file.pre_fence")
        self._directory.take()
        crash_point("file.post_fence")
        for committable in decided:
            self.commit(committable)
        crash_point("file.pre_clean")
        self._directory.clean()
        self._directory.check_visible()
        parts = [path for _, path in self._directory.parts() if path.name.endswith(self._suffix)]
        if parts and self._context.restored_state is None:
            self._writer.resume(parts[-1])

    # -- a checkpoint ----------------------------------------------------------------------------

    def write(self, records: Batch) -> None:
        if not len(records):
            return
        try:
            fits = self._writer.fits(records)
        except SinkError as error:
            if len(records) == 1 or not self._writer.splits:
                raise
            self._write_halves(records, error)
            return
        if not fits:
            self._finish()
        data = self._writer.encode(records)
        with self._directory.effects():
            if self._open is None:
                self._open = self._directory.open_part(self._suffix)
                data = self._writer.begin() + data
            self._open.write(data)

    def _write_halves(self, records: Batch, error: SinkError) -> None:
        """Records that cannot share a part may be written one after the other, as if a batch had ended between them."""
        middle = len(records) // 2
        try:
            for some in (slice(0, middle), slice(middle, len(records))):
                self.write(records.slice(some.start, some.stop) if isinstance(records, Columns) else records[some])
        except SinkError:
            # It names the record by its number in the batch that was given.
            raise error from error.__cause__

    def _finish(self) -> None:
        part = self._open
        if part is not None:
            data = self._writer.finish()
            with self._directory.effects():
                part.write(data)
            self._full.append(part)
            self._open = None

    def seal(self, checkpoint_id: int) -> Any | None:
        self._finish()
        parts, self._full = self._full, []
        if parts:
            self._before, self._sealed = self._sealed, self._output(checkpoint_id)
        return parts or None

    def snapshot(self) -> Plain:
        return {
            "newest": _plain(self._sealed),
            "before": _plain(self._before),
            "learnt": self._writer.snapshot(),
        }

    def prepare(self, checkpoint_id: int, sealed: Any) -> Plain:
        directory, epoch = self._directory, self._context.job_epoch
        directory.check_run()
        names = self._names(checkpoint_id, len(sealed))
        with directory.effects():
            crash_point("file.pre_sync")
            for name, part in zip(names, sealed, strict=True):
                part.sync()
                staged = directory.staged(name, epoch)
                part.path.rename(staged)
                self._stats[name] = _stat_of(staged)
            crash_point("file.pre_dirsync")
            sync_directory(directory.staging)
        try:
            directory.check_run()
        except FencedError:
            # Replaced meanwhile: the new run has cleaned up already.
            self.abort(checkpoint_id, sealed)
            raise
        crash_point("file.post_prepare")
        parts: list[Plain] = [[str(name), part.length, part.checksum] for name, part in zip(names, sealed, strict=True)]
        return {"epoch": epoch, "parts": parts}

    def _names(self, checkpoint_id: int, count: int) -> list[PartName]:
        endings = [self._suffix, *(f"_{number:04d}{self._suffix}" for number in range(2, count + 1))]
        return [PartName(self._output(checkpoint_id), ending) for ending in endings[:count]]

    def _output(self, checkpoint_id: int) -> Output:
        return Output(self._context.lineage, checkpoint_id, self._context.worker)

    def commit(self, committable: Committable) -> None:
        directory = self._directory
        parts = _parts_of(committable, directory.path)
        staging = directory.check_run()
        with directory.effects():
            for part in parts:
                crash_point("file.pre_rename")
                self._publish(part, staging.newest.get(part.name.output.worker))
                crash_point("file.post_rename")
            # All parts of a handle are of one checkpoint and worker.
            output = parts[-1].name.output
            if output.rank > staging.newest.get(output.worker, (0, 0)):
                directory.mark(output)
                crash_point("file.post_mark")
            sync_directory(directory.path)

    def _publish(self, part: _Prepared, newest: tuple[int, int] | None) -> None:
        """Renames a part that was decided, if that was not done yet."""
        name = part.name
        staged, final = self._directory.staged(name, part.epoch), self._directory.final(name)
        prepared = self._stats.pop(name, None)
        was_visible = newest is not None and name.output.rank <= newest
        try:
            if not os.path.lexists(final):
                self._verify(part, staged, prepared)
                staged.rename(final)
            elif not os.path.lexists(staged):
                if not was_visible:
                    self._verify(part, final, None)
            elif staged.samefile(final):
                # A power cut can leave both names of a renamed file.
                staged.unlink()
            else:
                raise SinkError(
                    f"{final} exists already, from another run: move the part files of that run away, and resume"
                )
        except FileNotFoundError:
            # Renamed before, maybe in this moment by the run that is being replaced; and once it was visible, whoever
            # reads it may have taken it away. What a later lineage made visible says nothing of an earlier one, which
            # was left.
            known = was_visible and newest is not None and newest[0] == name.output.lineage
            if not known and not os.path.lexists(final):
                self._missing(part)

    def _verify(self, part: _Prepared, path: Path, prepared: tuple[int, ...] | None) -> None:
        """That a file is what was prepared."""
        if part.content is None or (
            prepared is not None and part.content[0] > _SMALL_BYTES and prepared == _stat_of(path)
        ):
            return
        found = checksum_of(path)
        if found != part.content:
            raise SinkError(
                f"{path} is not what checkpoint {part.name.output.checkpoint} has prepared: it has {found[0]} bytes "
                f"with checksum {found[1]:08x}, and was {part.content[0]} bytes with checksum {part.content[1]:08x}. "
                f"It was damaged or replaced, and is not published. {self._way_on(part)}"
            )

    def _missing(self, part: _Prepared) -> None:
        name, context = part.name, self._context
        output = name.output
        if output.lineage == context.lineage and context.newest_decided is not None:
            if output.checkpoint < context.newest_decided:
                # The next checkpoint was begun only when this one was committed, by a version that noted it nowhere.
                return
        elif output.lineage < context.lineage:
            warnings.warn(
                MissingOutputWarning(
                    f"{self._directory.final(name)}, the output of checkpoint {output.checkpoint}, which the job goes "
                    "on from, is not there. If nobody has taken it away it is lost: resume from the checkpoint before"
                ),
                stacklevel=2,
            )
            return
        raise SinkError(
            f"the output of checkpoint {output.checkpoint} is lost: {self._directory.path} has neither "
            f"{self._directory.final(name).name} nor what was prepared for it. {self._way_on(part)}"
        )

    def _way_on(self, part: _Prepared) -> str:
        number = part.name.output.checkpoint
        return (
            f"Put the file back if there is a copy; or resume from the checkpoint before {number} with "
            f"resume_from (--resume-from), which writes its output again; or, if {number} was visible and a "
            f"reader has taken it away, from {number}"
        )

    def abort(self, checkpoint_id: int, sealed: Any) -> None:
        if os.getpid() != self._process:
            # A process that user code forked leaves everything to its parent.
            return
        for name, part in zip(self._names(checkpoint_id, len(sealed)), sealed, strict=True):
            part.discard()
            self._stats.pop(name, None)
            with contextlib.suppress(OSError):
                self._directory.staged(name, self._context.job_epoch).unlink(missing_ok=True)

    def close(self) -> None:
        if os.getpid() == self._process:
            for part in (*self._full, *([self._open] if self._open else [])):
                part.discard()
        self._full, self._open = [], None


def _output_of(stored: Any) -> Output | None:
    """Lineage, checkpoint and worker as ``snapshot`` keeps them. Older versions had no worker."""
    if isinstance(stored, list | tuple) and len(stored) in (2, 3) and all(isinstance(number, int) for number in stored):
        return Output(*stored)
    return None


def _plain(output: Output | None) -> Plain:
    return None if output is None else [output.lineage, output.checkpoint, output.worker]


def _stat_of(path: Path) -> tuple[int, ...]:
    found = path.lstat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _parts_of(committable: Committable, directory: Path) -> list[_Prepared]:
    """The parts in a handle."""
    handle = committable.handle
    parts: list[_Prepared | None] = []
    if isinstance(handle, dict) and "part" in handle:
        parts = [_prepared(handle["part"], None, None)]
    elif isinstance(handle, dict):
        with contextlib.suppress(TypeError, ValueError):
            listed: Any = handle.get("parts")
            parts = [_prepared(name, handle["epoch"], (length, checksum)) for name, length, checksum in listed]
    found = [part for part in parts if part is not None]
    if not found or len(found) < len(parts):
        raise SinkError(f"checkpoint {committable.checkpoint_id} has no part file for {directory}: {handle!r}")
    return found


def _prepared(name: object, epoch: Any, content: Any) -> _Prepared | None:
    parsed = PartName.parse(name)
    return None if parsed is None else _Prepared(parsed, epoch, content)


def read_parts(directory: str | PathLike[str]) -> bytes:
    """The content of all part files in order, the header of CSV files once.

    However the checkpoints of two runs fell, the same output gives the same bytes. Instances of a job that share the
    directory come one after the other.
    """
    out: list[bytes] = []
    header: bytes | None = None
    for path in sorted(part for place in part_directories(Path(directory)) for part in place.glob("part-*")):
        data = path.read_bytes()
        if path.suffix == ".csv":
            first, _, rest = data.partition(b"\n")
            if header is None:
                header = first
            elif first == header:
                data = rest
        out.append(data)
    return b"".join(out)
