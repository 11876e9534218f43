"""The directory of a file sink: who may write to it, what is visible, and what is under way.

::

    out/part-0001-000000000042.csv    lineage 1, checkpoint 42: visible, complete, never changed again
    out/.onceflow/                    private to the owner
        owner                                        job, sink and state directory that it belongs to
        epoch-0001-000000000007-5d3c9a0b5f1e2d44     who may write: lineage 1, job epoch 7, and which run that is
        newest-0001-000000000042                     the newest checkpoint that was made visible
        open-0001-000000000007-3.csv                 being written by that run
        staged-0001-000000000007-000000000043.csv    synced, and not decided yet, or decided and about to be renamed

Several workers
---------------
The workers of a run write side by side. What worker 0 writes bears no number, so that a job of one worker has the names
that it always had; what another one writes bears its own: ``part-0001-000000000042_w0003.csv``,
``staged-...-000000000043_w0003.csv``, ``newest-0001-000000000042_w0003``. ``part-*`` finds them all, those of one
checkpoint in the order of the workers. ``epoch-*`` is the run's, so they share it. A part belongs to who wrote it, in
name and mark, whoever makes it visible.

A run that was replaced
-----------------------
A process may be paused at any line, be replaced, and go on. A lock would not help: the paused process would keep it,
and nobody could take over. So every effect is one that may come late:

- What a run writes bears its lineage and job epoch in its name. No two runs, and no two workers of one, write, rename
  or remove the same name, but for a part that was decided: all rename that to the same place, and whoever comes second
  finds it there.
- Who may write is told by the highest of the names ``epoch-*``. A run adds its own, so it can never be lowered, and
  looks at them before and after each effect.
- A recovery removes what older runs have left, never what a newer one has.
- What is visible is told by the highest of the names ``newest-*`` of each worker, which only rises.

Names instead of contents, because a name is there as a whole or not at all, whenever the power fails.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

from onceflow._native import _crc32
from onceflow.exceptions import FencedError, MissingOutputWarning, SinkError
from onceflow.sinks import SinkContext

__all__ = ["OpenPart", "Output", "PartDirectory", "PartName", "checksum_of", "sink_errors", "sync_directory"]

_CHUNK_BYTES = 1 << 20
_OWNER_BYTES = 1 << 16

_FENCE = re.compile(r"epoch-(\d+)-(\d+)-([0-9a-f]+)")
_NEWEST = re.compile(r"newest-(\d+)-(\d+)(?:_w(\d+))?")
#: Older versions left out the lineage of an open file, and the job epoch of a staged one.
_OPEN = re.compile(r"open-(?:(\d+)-)?(\d+)-\d+(?:_w\d+)?(?:\..*)?")
_STAGED = re.compile(r"staged-(\d+)-(?:(\d+)-)?\d+(?:_w\d+)?(?:_\d+)?(?:\..*)?")
_NAME = re.compile(r"(\d+)-(\d+)(?:_w(\d+))?((?:_\d+)?(?:\.[^/]*)?)")


@dataclass(frozen=True, slots=True, order=True)
class _Run:
    """Who may write: of two runs the higher one."""

    lineage: int
    epoch: int
    token: str


@dataclass(slots=True)
class _Staging:
    """What is in ``.onceflow``."""

    runs: list[_Run] = field(default_factory=list)
    #: Worker → (lineage, checkpoint) of the newest output of it that was made visible.
    newest: dict[int, tuple[int, int]] = field(default_factory=dict)
    #: Name → (lineage, job epoch) of the run that made it; 0 where an older version did not say.
    left: dict[str, tuple[int, int]] = field(default_factory=dict)
    #: Names that only say something by being the highest of their kind: of runs, and of each worker's output.
    fences: dict[str, tuple[int, int]] = field(default_factory=dict)
    marks: dict[str, tuple[int, tuple[int, int]]] = field(default_factory=dict)

    @property
    def newest_of_all(self) -> tuple[int, int]:
        """Of the newest output of any worker."""
        return max(self.newest.values(), default=(0, 0))


class OpenPart:
    """A part file that is being written, with its length and checksum.

    Nothing stays behind in a buffer: a process that user code forks would write it a second time.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.length = 0
        self.checksum = 0
        self._file = FileIO(path, "x")

    def write(self, data: bytes) -> None:
        """Appends; raises ``OSError``."""
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) or 0 :]
        self.length += len(data)
        self.checksum = _crc32(data, self.checksum)

    def sync(self) -> None:
        """Makes it durable, and ends it."""
        os.fsync(self._file.fileno())
        self._file.close()

    def discard(self) -> None:
        """What fails here is made good by the next recovery."""
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Output:
    """What a worker has written for a checkpoint."""

    lineage: int
    checkpoint: int
    worker: int = 0

    @property
    def rank(self) -> tuple[int, int]:
        """Of two outputs of a worker the later one has the higher."""
        return self.lineage, self.checkpoint


@dataclass(frozen=True, slots=True)
class PartName:
    """The name of a part file without what tells staged from visible: ``0001-000000000042.csv``."""

    output: Output
    ending: str

    def __str__(self) -> str:
        return f"{self.output.lineage:04d}-{self._rest()}"

    def of_run(self, epoch: int) -> str:
        """The same with the job epoch of who wrote it."""
        return f"{self.output.lineage:04d}-{epoch:012d}-{self._rest()}"

    def _rest(self) -> str:
        return f"{self.output.checkpoint:012d}{_tag(self.output.worker)}{self.ending}"

    @classmethod
    def parse(cls, text: object) -> PartName | None:
        """None if it is none."""
        found = _NAME.fullmatch(text) if isinstance(text, str) else None
        return None if found is None else cls(Output(int(found[1]), int(found[2]), int(found[3] or 0)), found[4])


class PartDirectory:
    """See the module.

    Args:
        path: The directory, made if missing.
        context: Who wants to write.
    """

    def __init__(self, path: Path, context: SinkContext) -> None:
        self.path = path
        self.staging = path / ".onceflow"
        self._context = context
        self._run = _Run(context.lineage, context.job_epoch, context.run or secrets.token_hex(8))
        self._opened = 0
        #: Worker → the name of kind ``newest-*`` that is moved on by this run.
        self._newest: dict[int, Path] = {}
        with sink_errors(path):
            _make_directory(path)
            _make_directory(self.staging, mode=0o700)
            if not stat.S_ISDIR(self.staging.lstat().st_mode):
                raise SinkError(f"{self.staging} is a link; make it a directory of its own, or delete it")

    # -- names -----------------------------------------------------------------------------------

    def staged(self, name: PartName, epoch: int | None) -> Path:
        """Where a prepared part lies; an older version did not say whose it is."""
        if epoch is None:
            return self.staging / f"staged-{name}"
        return self.staging / f"staged-{name.of_run(epoch)}"

    def final(self, name: PartName) -> Path:
        """Where it is visible."""
        return self.path / f"part-{name}"

    def open_part(self, suffix: str) -> OpenPart:
        """A new file of this worker."""
        self._opened += 1
        run, tag = self._run, _tag(self._context.worker)
        return OpenPart(self.staging / f"open-{run.lineage:04d}-{run.epoch:012d}-{self._opened}{tag}{suffix}")

    # -- who may write ---------------------------------------------------------------------------

    def check(self, newest: Output | None, before: Output | None) -> None:
        """Whether this run may write here; changes nothing.

        Args:
            newest: The newest output, as far as the state of this worker knows.
            before: The one before it.

        Raises:
            FencedError: A newer run writes here.
            SinkError: It belongs to somebody else, or it is newer or older than the state.
        """
        self._check_owner()
        staging = self._look()
        self._check_former_epoch()
        newer = max((run for run in staging.runs if run != self._run), default=None)
        if newer is not None and (newer.lineage, newer.epoch) >= (self._run.lineage, self._run.epoch):
            raise FencedError(f"{self._fenced(newer)}. If none does, {self._older_state()}")
        self._check_visible(staging)
        self._check_complete(staging, newest, before)

    def take(self) -> None:
        """From now on nobody older may write here."""
        self._claim()
        run = self._run
        name = self.staging / f"epoch-{run.lineage:04d}-{run.epoch:012d}-{run.token}"
        with sink_errors(self.path):
            _touch(name)
            sync_directory(self.staging)
        self.check_run()

    def check_run(self) -> _Staging:
        """What is under way here.

        Raises:
            FencedError: A newer run may write here, and this one must stop.
            SinkError: Somebody has emptied the directory.
        """
        staging = self._look()
        newest = max(staging.runs, default=None)
        if newest is None:
            raise SinkError(f"{self.staging} was emptied or replaced while the job runs; run the job again")
        # Another one of the same epoch: of a copy of the state, and neither can be right.
        if any(run != self._run and (run.lineage, run.epoch) >= self._rank for run in staging.runs):
            raise FencedError(self._fenced(max(run for run in staging.runs if run != self._run)))
        return staging

    @contextlib.contextmanager
    def effects(self) -> Iterator[None]:
        """What fails within, because a newer run has cleaned up, fails with ``FencedError``."""
        try:
            with sink_errors(self.path):
                yield
        except SinkError:
            self.check_run()
            raise

    @property
    def _rank(self) -> tuple[int, int]:
        return self._run.lineage, self._run.epoch

    def _fenced(self, newer: _Run) -> str:
        mine, theirs = f"epoch {self._run.epoch}", f"epoch {newer.epoch}"
        if newer.lineage != self._run.lineage:
            mine, theirs = f"{mine} of lineage {self._run.lineage}", f"{theirs} of lineage {newer.lineage}"
        elif newer.epoch == self._run.epoch:
            theirs = f"another run, from a copy of this state, with {theirs}"
        return f"{theirs} of job {self._context.job!r} writes to {self.path}; this process has {mine} and must stop"

    def _check_former_epoch(self) -> None:
        """Where an older version kept the newest job epoch."""
        path = self.staging / "epoch"
        text = self._read(path)
        if text is None:
            return
        try:
            newest = int(text)
        except ValueError:
            raise SinkError(f"{path} is damaged: {text!r} is no epoch. Delete it if no other process writes") from None
        if newest > self._run.epoch:
            raise FencedError(
                f"epoch {newest} of job {self._context.job!r} writes to {self.path}; this process has epoch "
                f"{self._run.epoch} and must stop. If none does, {self._older_state()}"
            )

    # -- whose it is -----------------------------------------------------------------------------

    def _check_owner(self) -> str:
        """The state directory that it belongs to, empty if it does not say."""
        text = self._read(self.staging / "owner")
        if text is None:
            return ""
        job, sink, state, *_ = [*text.split("\n"), "", ""]
        if (job, sink) != (self._context.job, self._context.sink):
            raise SinkError(
                f"{self.path} holds the output of sink {sink!r} of job {job!r}; give each sink its own directory"
            )
        if state and self._context.state_id and state != self._context.state_id:
            raise SinkError(
                f"{self.path} holds the output of job {job!r} with another state directory (identity {state}, and this "
                f"one is {self._context.state_id}): run the job with that one, or give this one a directory of its "
                f"own. If the job's state was deleted, move the part files away and delete {self.staging} too"
            )
        return state

    def _claim(self) -> None:
        """Makes it this sink's, unless somebody else was first."""
        context = self._context
        path = self.staging / "owner"
        mine = self.staging / f"open-{self._run.lineage}-{self._run.epoch}-0{_tag(context.worker)}"
        with sink_errors(self.path):
            if path.exists() and (self._check_owner() or not context.state_id):
                return
            with FileIO(mine, "x") as file:
                file.write(f"{context.job}\n{context.sink}\n{context.state_id}\n".encode())
                os.fsync(file.fileno())
            if path.exists():
                # Of an older version, which did not say which state it belongs to.
                mine.rename(path)
            else:
                try:
                    os.link(mine, path)
                except FileExistsError:
                    pass
                except OSError:
                    # Not every file system has links; whoever comes second finds out when it is checked below.
                    mine.rename(path)
                mine.unlink(missing_ok=True)
        self._check_owner()

    # -- what is visible -------------------------------------------------------------------------

    def parts(self) -> list[tuple[PartName, Path]]:
        """All visible parts, in order."""
        with sink_errors(self.path), os.scandir(self.path) as entries:
            names = [entry.name for entry in entries if entry.name.startswith("part-")]
        found = [(PartName.parse(name.removeprefix("part-")), self.path / name) for name in names]
        return sorted(((name, path) for name, path in found if name), key=lambda part: (part[0].output.rank, part[1]))

    def applied(self, checkpoint: int) -> bool | None:
        """Whether a checkpoint of this lineage was made visible."""
        newest = self._look().newest_of_all
        if any(name.output.rank == (self._run.lineage, checkpoint) for name, _ in self.parts()):
            return True
        return None if newest == (0, 0) else newest >= (self._run.lineage, checkpoint)

    def check_visible(self) -> None:
        """Again, when nobody older can make anything visible any more."""
        with self.effects():
            self._check_visible(self._look())

    def _check_visible(self, staging: _Staging) -> None:
        context = self._context
        parts = self.parts()
        restored = context.restored_checkpoint
        decided = max(context.newest_decided or 0, restored or 0)
        if restored is None and parts:
            raise SinkError(
                f"{self.path} holds output of an earlier run, and this job starts from nothing: move the part "
                "files away, or choose another directory"
            )
        left = [
            path.name
            for name, path in parts
            if name.output.lineage < context.lineage and name.output.checkpoint > (restored or 0)
        ]
        if left:
            raise SinkError(
                f"{self.path} holds output that came after checkpoint {restored} and will be written again: move "
                f"the part files from {left[0]} to {left[-1]} away"
            )
        newest = max((name.output.rank for name, _ in parts), default=(0, 0))
        newest = max(newest, staging.newest_of_all)
        if newest > (context.lineage, decided):
            lineage = "" if newest[0] == context.lineage else f" of lineage {newest[0]}"
            raise SinkError(
                f"{self.path} holds the output of checkpoint {newest[1]}{lineage} of job {context.job!r}, and the "
                f"newest one of this run's state is {decided or 'none'}: {self._older_state()}"
            )

    def _check_complete(self, staging: _Staging, newest: Output | None, before: Output | None) -> None:
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
        return f"the output of checkpoint {lost.checkpoint}{whose} is lost: {self.path} does not know it; {holds}"

    def _incomplete(self, lost: Output, there: tuple[int, int], newest: int) -> str:
        again = "move part files that are left away, and run it once with fresh=True (--fresh)"
        if there[1]:
            again = (
                f"resume with from_checkpoint from {there[1]}, the newest checkpoint that the directory has in full, "
                f"or from one before it; or, if the state has none of them any more, {again}"
            )
        return (
            f"{self._lost(lost, there)}. It was emptied, or put back from an older copy. Put the newest one back; or "
            f"write what is missing again: {again}; or, to go on without what is missing, run it once with "
            f"from_checkpoint={newest} (--from-checkpoint {newest})"
        )

    def _older_state(self) -> str:
        """How to go on with a state that is older than the output."""
        context = self._context
        number = context.newest_decided or context.restored_checkpoint
        way = (
            f"move the part files that came after checkpoint {number} away, and run it once with "
            f"from_checkpoint={number} (--from-checkpoint {number})"
            if number is not None
            else f"move the part files away, delete {self.staging}, and run it again"
        )
        return (
            "the state is older than its output, as when a backup was put back, and would write it again. Run the job "
            f"with its newest state; or, to go on from this one on purpose, {way}"
        )

    def mark(self, output: Output) -> None:
        """Notes that the output of a worker was made visible up to this one.

        Without a sync of its own: what it says can be seen by the part file itself until the next checkpoint, whose
        preparation syncs it.
        """
        name = self.staging / _newest_name(output)
        former, self._newest[output.worker] = self._newest.get(output.worker), name
        if former is not None:
            try:
                former.rename(name)
            except FileNotFoundError:
                pass
            else:
                return
        _touch(name)

    # -- what was left ---------------------------------------------------------------------------

    def clean(self) -> None:
        """Removes what older runs have left, and what says less than another name does."""
        with sink_errors(self.path):
            staging = self._look()
            for name, run in staging.left.items():
                if run < self._rank:
                    # A run that is being replaced may still remove or rename files of its own.
                    (self.staging / name).unlink(missing_ok=True)
            exceeded = [name for name, rank in staging.fences.items() if rank < self._rank]
            exceeded += [name for name, (worker, rank) in staging.marks.items() if rank < staging.newest[worker]]
            for name in (*exceeded, "epoch"):
                (self.staging / name).unlink(missing_ok=True)
            self._newest = {
                worker: self.staging / _newest_name(Output(*rank, worker)) for worker, rank in staging.newest.items()
            }

    def _look(self) -> _Staging:
        found = _Staging()
        with sink_errors(self.path), os.scandir(self.staging) as entries:
            names = [entry.name for entry in entries]
        for name in names:
            if match := _FENCE.fullmatch(name):
                found.runs.append(_Run(int(match[1]), int(match[2]), match[3]))
                found.fences[name] = (int(match[1]), int(match[2]))
            elif match := _NEWEST.fullmatch(name):
                worker, rank = int(match[3] or 0), (int(match[1]), int(match[2]))
                found.marks[name] = (worker, rank)
                found.newest[worker] = max(rank, found.newest.get(worker, rank))
            elif match := _OPEN.fullmatch(name) or _STAGED.fullmatch(name):
                found.left[name] = (int(match[1] or 0), int(match[2] or 0))
        return found

    def _read(self, path: Path) -> str | None:
        """A small file of ours; None if there is none. Links, pipes and the like are not read."""
        with sink_errors(self.path):
            try:
                descriptor = _open_regular(path)
            except FileNotFoundError:
                return None
            with FileIO(descriptor, "r") as file:
                return (file.read(_OWNER_BYTES) or b"").decode(errors="replace")


def _tag(worker: int) -> str:
    """What a worker adds to the names of its files; the first one nothing, as when there was only one."""
    return f"_w{worker:04d}" if worker else ""


def _newest_name(output: Output) -> str:
    return f"newest-{output.lineage:04d}-{output.checkpoint:012d}{_tag(output.worker)}"


def checksum_of(path: Path) -> tuple[int, int]:
    """(length, checksum) of a part file. Raises ``OSError``."""
    length = checksum = 0
    with FileIO(_open_regular(path), "r") as file:
        while data := file.read(_CHUNK_BYTES):
            length += len(data)
            checksum = _crc32(data, checksum)
    return length, checksum


def _touch(path: Path) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666))


def _open_regular(path: Path) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path} is no regular file")
    return descriptor


@contextlib.contextmanager
def sink_errors(directory: Path) -> Iterator[None]:
    """What the file system says, as a ``SinkError``."""
    try:
        yield
    except OSError as error:
        raise SinkError(f"{directory} cannot be written: {error}; check permissions and free space") from error


def _make_directory(path: Path, mode: int = 0o777) -> None:
    """A directory that is still there after a power cut, with the files that are synced into it."""
    if not path.parent.exists():
        _make_directory(path.parent)
    path.mkdir(mode=mode, exist_ok=True)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Makes the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
