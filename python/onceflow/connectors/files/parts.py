"""Part files: one for each checkpoint with output, staged before the decision and renamed after it.

::

    out/part-0001-000000000042.csv     lineage 1, checkpoint 42: visible, complete, never changed again
    out/.onceflow/                     private to the owner
        owner                          job and sink that the directory belongs to
        epoch                          newest job epoch that has written here: older ones are refused
        staged-0001-000000000043.csv   synced, not decided yet (or decided, and about to be renamed)
"""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from onceflow.crash import crash_point
from onceflow.exceptions import FencedError, SinkError
from onceflow.sinks import Committable, SinkContext, TransactionalSink, TransactionalSinkWriter
from onceflow.types import Batch, Plain

__all__ = ["PartSink", "PartWriter", "read_parts"]

_BUFFER_BYTES = 1 << 20


class PartWriter(ABC):
    """How one format becomes bytes. Used from one thread."""

    def begin(self) -> bytes:
        """What a part file starts with."""
        return b""

    @abstractmethod
    def encode(self, records: Batch) -> bytes:
        """The records' bytes. Raises ``SinkError`` for records that the format cannot hold."""

    def resume(self, newest: Path) -> None:  # noqa: B027 - optional
        """Called before the first record if there are part files of an earlier run: the newest one of them."""

    def finish(self) -> bytes:
        """What a part file ends with; the next ``encode`` begins another."""
        return b""


class PartSink(TransactionalSink):
    """Base of the file sinks.

    Args:
        directory: Made if missing; belongs to one sink of one job.
    """

    suffix: ClassVar[str]

    def __init__(self, directory: str | PathLike[str]) -> None:
        self._directory = Path(fspath(directory))

    @abstractmethod
    def writer(self) -> PartWriter:
        """A new encoder."""

    def open(self, context: SinkContext) -> TransactionalSinkWriter:
        """See ``Sink``."""
        return _PartSinkWriter(self._directory, self.suffix, self.writer(), context)

    def describe(self) -> dict[str, Any]:
        """See ``Sink``."""
        return {"type": type(self).__name__, "directory": str(self._directory)}


class _PartSinkWriter(TransactionalSinkWriter):
    def __init__(self, directory: Path, suffix: str, writer: PartWriter, context: SinkContext) -> None:
        self._directory = directory
        self._staging = directory / ".onceflow"
        self._suffix = suffix
        self._writer = writer
        self._process = os.getpid()
        self._context = context
        self._file: BinaryIO | None = None
        self._files = 0
        with _sink_errors(directory):
            _make_directory(directory)
            _make_directory(self._staging, mode=0o700)
        self._check_owner()

    def _check_owner(self) -> None:
        owner = f"{self._context.job}\n{self._context.sink}\n"
        path = self._staging / "owner"
        with _sink_errors(self._directory):
            if not path.exists():
                _replace(path, owner.encode())
            job, _, sink = path.read_text().rstrip("\n").partition("\n")
        if (job, sink) != (self._context.job, self._context.sink):
            raise SinkError(
                f"{self._directory} holds the output of sink {sink!r} of job {job!r}; give each sink its own directory"
            )

    def recover(self, decided: Sequence[Committable]) -> None:
        self._check_epoch()
        with _sink_errors(self._directory):
            _replace(self._staging / "epoch", str(self._context.job_epoch).encode())
            for committable in decided:
                self.commit(committable)
            for path in self._staging.iterdir():
                if path.name not in ("owner", "epoch"):
                    # A run that is being replaced may still remove or rename files of its own.
                    path.unlink(missing_ok=True)
            self._resume(sorted(self._directory.glob(f"part-*{self._suffix}")))

    def _resume(self, parts: list[Path]) -> None:
        """Looks at the part files that are there already."""
        restored = self._context.restored_checkpoint
        if restored is None and parts:
            raise SinkError(
                f"{self._directory} holds output of an earlier run, and this job starts from nothing: move the part "
                "files away, or choose another directory"
            )
        left = [path.name for path in parts if self._is_written_again(path.name)]
        if left:
            raise SinkError(
                f"{self._directory} holds output that came after checkpoint {restored} and will be written again: move "
                f"the part files from {left[0]} to {left[-1]} away"
            )
        if parts:
            self._writer.resume(parts[-1])

    def _is_written_again(self, name: str) -> bool:
        lineage, _, checkpoint = name.removeprefix("part-").removesuffix(self._suffix).partition("-")
        if not (lineage.isdecimal() and checkpoint.isdecimal()):
            return False
        return int(lineage) < self._context.lineage and int(checkpoint) > (self._context.restored_checkpoint or 0)

    def _check_epoch(self) -> None:
        path = self._staging / "epoch"
        with _sink_errors(self._directory):
            text = path.read_text() if path.exists() else "0"
        try:
            newest = int(text)
        except ValueError:
            raise SinkError(f"{path} is damaged: {text!r} is no epoch. Delete it if no other process writes") from None
        if newest > self._context.job_epoch:
            anew = f". If the job's state was deleted, move the part files away and delete {self._staging} too"
            raise FencedError(
                f"epoch {newest} of job {self._context.job!r} writes to {self._directory}; this process has epoch "
                f"{self._context.job_epoch} and must stop{anew if self._context.restored_checkpoint is None else ''}"
            )

    def write(self, records: Batch) -> None:
        data = self._writer.encode(records)
        with _sink_errors(self._directory):
            if self._file is None:
                self._files += 1
                path = self._staging / f"open-{self._context.job_epoch}-{self._files}{self._suffix}"
                self._file = path.open("xb", buffering=_BUFFER_BYTES)
                self._file.write(self._writer.begin())
            self._file.write(data)
            # Nothing stays behind in a buffer: a process that user code forks would write it a second time.
            self._file.flush()

    def seal(self, checkpoint_id: int) -> Any | None:
        file = self._file
        if file is not None:
            with _sink_errors(self._directory):
                file.write(self._writer.finish())
                file.flush()
            self._file = None
        return file

    def prepare(self, checkpoint_id: int, sealed: Any) -> Plain:
        self._check_epoch()
        name = f"{self._context.lineage:04d}-{checkpoint_id:012d}{self._suffix}"
        staged = self._staging / f"staged-{name}"
        with _sink_errors(self._directory):
            crash_point("file.pre_sync")
            os.fsync(sealed.fileno())
            sealed.close()
            Path(sealed.name).rename(staged)
            crash_point("file.pre_dirsync")
            _sync_directory(self._staging)
        crash_point("file.post_prepare")
        return {"part": name}

    def commit(self, committable: Committable) -> None:
        handle = committable.handle
        if not isinstance(handle, dict) or not isinstance(handle.get("part"), str):
            raise SinkError(
                f"checkpoint {committable.checkpoint_id} has no part file for {self._directory}: {handle!r}"
            )
        name = Path(str(handle["part"])).name
        staged, final = self._staging / f"staged-{name}", self._directory / f"part-{name}"
        self._check_epoch()
        with _sink_errors(self._directory):
            crash_point("file.pre_rename")
            if staged.exists():
                if not final.exists():
                    _rename_once(staged, final)
                elif staged.samefile(final):
                    # A power cut can leave both names of a renamed file.
                    staged.unlink()
                else:
                    raise SinkError(
                        f"{final} exists already, from another run: move the part files of that run away, and resume"
                    )
                crash_point("file.post_rename")
            # Without a staged file it was renamed before, maybe right before a crash.
            _sync_directory(self._directory)

    def abort(self, checkpoint_id: int, sealed: Any) -> None:
        self._discard(sealed)
        name = f"staged-{self._context.lineage:04d}-{checkpoint_id:012d}{self._suffix}"
        with contextlib.suppress(OSError):
            (self._staging / name).unlink(missing_ok=True)

    def close(self) -> None:
        # A process that user code forked and that ends in an exit of its own must leave the file to its parent.
        if self._file is not None and os.getpid() == self._process:
            self._discard(self._file)
        self._file = None

    @staticmethod
    def _discard(file: BinaryIO) -> None:
        """What fails here (on a full disk closing writes what was buffered) is made good by the next ``recover``."""
        with contextlib.suppress(OSError):
            file.close()
        with contextlib.suppress(OSError):
            Path(file.name).unlink(missing_ok=True)


def _rename_once(staged: Path, final: Path) -> None:
    """Renames, unless the run that is being replaced does so in the same moment: to the same name, as was decided."""
    try:
        staged.rename(final)
    except FileNotFoundError:
        if not final.exists():
            raise


@contextlib.contextmanager
def _sink_errors(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SinkError(f"{directory} cannot be written: {error}; check permissions and free space") from error


def _make_directory(path: Path, mode: int = 0o777) -> None:
    """A directory that is still there after a power cut, with the files that are synced into it."""
    if not path.parent.exists():
        _make_directory(path.parent)
    path.mkdir(mode=mode, exist_ok=True)
    _sync_directory(path.parent)


def _replace(path: Path, data: bytes) -> None:
    """Writes a small file so that a crash leaves the old one or the new one."""
    temporary = path.with_name(path.name + ".new")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_parts(directory: str | PathLike[str]) -> bytes:
    """The content of all part files in order, the header of CSV files once.

    However the checkpoints of two runs fell, the same output gives the same bytes.
    """
    out: list[bytes] = []
    header: bytes | None = None
    for path in sorted(Path(directory).glob("part-*")):
        data = path.read_bytes()
        if path.suffix == ".csv":
            first, _, rest = data.partition(b"\n")
            if header is None:
                header = first
            elif first == header:
                data = rest
        out.append(data)
    return b"".join(out)
