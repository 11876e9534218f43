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
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

from onceflow.connectors.files.part_checks import VisibleParts
from onceflow.connectors.files.part_file import (
    OpenPart,
    make_directory,
    open_regular,
    sink_errors,
    sync_directory,
    touch,
)
from onceflow.connectors.files.part_names import (
    Output,
    PartName,
    Run,
    Staging,
    newest_name,
    read_names,
    staged_name,
    worker_tag,
)
from onceflow.exceptions import FencedError, SinkError
from onceflow.sinks import SinkContext

__all__ = ["PartDirectory"]

_OWNER_BYTES = 1 << 16


class PartDirectory:
    """See the module.

    Args:
        path: The directory, made if missing when the run begins to write here (``take``).
        context: Who wants to write.
    """

    def __init__(self, path: Path, context: SinkContext) -> None:
        self.path = path
        self.staging = path / ".onceflow"
        self._context = context
        self._run = Run(context.lineage, context.job_epoch, context.run or secrets.token_hex(8))
        self._opened = 0
        self._visible = VisibleParts(path, self.staging, context)
        #: The newest output of what this run goes on from, as far as it is known.
        self._known: Output | None = None
        #: Worker → the name of kind ``newest-*`` that is moved on by this run.
        self._newest: dict[int, Path] = {}
        self._check_place()

    def _check_place(self) -> None:
        """Refuses what is no place for a directory of a sink; changes nothing."""
        with sink_errors(self.path):
            there = self.path
            while not os.path.lexists(there):
                there = there.parent
            number = 0
            if not there.is_dir():
                number = errno.EEXIST if there == self.path else errno.ENOTDIR
            elif os.statvfs(there).f_flag & os.ST_RDONLY:
                number = errno.EROFS
            elif not os.access(there, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
                number = errno.EACCES
            if number:
                raise OSError(number, os.strerror(number), os.fspath(there))
            with contextlib.suppress(FileNotFoundError):
                if not stat.S_ISDIR(self.staging.lstat().st_mode):
                    raise SinkError(f"{self.staging} is a link; make it a directory of its own, or delete it")

    # -- names -----------------------------------------------------------------------------------

    def staged(self, name: PartName, epoch: int | None) -> Path:
        """Where a prepared part lies."""
        return self.staging / staged_name(name, epoch)

    def final(self, name: PartName) -> Path:
        """Where it is visible."""
        return self.path / f"part-{name}"

    def open_part(self, suffix: str) -> OpenPart:
        """A new file of this worker."""
        self._opened += 1
        run, tag = self._run, worker_tag(self._context.worker)
        return OpenPart(self.staging / f"open-{run.lineage:04d}-{run.epoch:012d}-{self._opened}{tag}{suffix}")

    # -- who may write ---------------------------------------------------------------------------

    def check(self, newest: Output | None, before: Output | None, *, is_known: bool = False) -> None:
        """Whether this run may write here; changes nothing.

        Args:
            newest: The newest output, as far as the state of this worker knows.
            before: The one before it.
            is_known: The state says which is the newest, also that there is none.

        Raises:
            FencedError: A newer run writes here.
            SinkError: It belongs to somebody else, or it is newer or older than the state.
        """
        self._check_owner()
        staging = self._look()
        self._check_former_epoch()
        newer = max((run for run in staging.runs if run != self._run), default=None)
        if newer is not None and (newer.lineage, newer.epoch) >= (self._run.lineage, self._run.epoch):
            raise self._fenced(newer, f". If none does, {self._visible.older_state()}")
        self._known = Output(0, 0, self._context.worker) if newest is None and is_known else newest
        self._visible.check(staging, self._known)
        self._check_copies(staging)
        self._visible.check_complete(staging, newest, before)

    def take(self) -> None:
        """From now on nobody older may write here."""
        with sink_errors(self.path):
            make_directory(self.path)
            make_directory(self.staging, mode=0o700)
        self._check_place()
        self._claim()
        run = self._run
        name = self.staging / f"epoch-{run.lineage:04d}-{run.epoch:012d}-{run.token}"
        with sink_errors(self.path):
            touch(name)
            sync_directory(self.staging)
        # Of two copies of the state that begin at the same time at least one sees the other.
        self._check_copies(self.check_run())

    def _check_copies(self, staging: Staging) -> None:
        for run in staging.runs:
            if run.lineage == self._run.lineage and self._context.is_of_a_copy(run.epoch, run.token):
                raise SinkError(
                    f"{self.path} was written by another copy of the state of job {self._context.job!r}, in a run with "
                    f"epoch {run.epoch} that this one does not know: output would be missing there, or be there twice. "
                    "Run the job with the copy that has written last, or give each a directory of its own; or, to go "
                    f"on from this one on purpose, {self._visible.way_on()}"
                )

    def check_run(self) -> Staging:
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
            raise self._fenced(max(run for run in staging.runs if run != self._run))
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

    def _fenced(self, newer: Run, advice: str = "") -> FencedError:
        mine, theirs = f"epoch {self._run.epoch}", f"epoch {newer.epoch}"
        if newer.lineage != self._run.lineage:
            mine, theirs = f"{mine} of lineage {self._run.lineage}", f"{theirs} of lineage {newer.lineage}"
        elif newer.epoch == self._run.epoch:
            theirs = f"another run, from a copy of this state, with {theirs}"
        return FencedError(
            f"{theirs} of job {self._context.job!r} writes to {self.path}; this process has {mine} and must stop"
            f"{advice}",
            epoch=self._run.epoch,
            newer_epoch=newer.epoch,
            newer_lineage=newer.lineage if newer.lineage > self._run.lineage else None,
        )

    def _check_former_epoch(self) -> None:
        """Where an older version kept the newest job epoch."""
        path = self.staging / "epoch"
        text = self._read(path)
        if text is None:
            return
        try:
            newest = int(text)
        except ValueError:
            raise SinkError(
                f"{path} is damaged: {text!r} is not an epoch. Delete it if no other process writes"
            ) from None
        if newest > self._run.epoch:
            raise FencedError(
                f"epoch {newest} of job {self._context.job!r} writes to {self.path}; this process has epoch "
                f"{self._run.epoch} and must stop. If none does, {self._visible.older_state()}",
                epoch=self._run.epoch,
                newer_epoch=newest,
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
                f"{self.path} {self._holds()} sink {sink!r} of job {job!r}; give each sink its own directory"
                f"{self._is_unused()}"
            )
        if state and self._context.state_id and state != self._context.state_id:
            raise SinkError(
                f"{self.path} {self._holds()} job {job!r} with another state directory (identity {state}, and this "
                f"one is {self._context.state_id}): run the job with that one, or give this one a directory of its own"
                f"{self._is_unused() or self._state_is_gone()}"
            )
        return state

    def _holds(self) -> str:
        return "is taken by" if self._is_unused() else "holds the output of"

    def _is_unused(self) -> str:
        """What to do about an owner whose run has ended before it wrote anything; empty if something was written."""
        staging = self._look()
        is_staged = any(name.startswith("staged-") for name in staging.left)
        if is_staged or staging.newest_of_all != (0, 0) or self._visible.parts():
            return ""
        return f". Nothing was written yet: if its run has failed and does not come back, delete {self.staging}"

    def _state_is_gone(self) -> str:
        return f". If the job's state was deleted, move the part files away and delete {self.staging} too"

    def _claim(self) -> None:
        """Makes it this sink's, unless somebody else was first."""
        context = self._context
        path = self.staging / "owner"
        mine = self.staging / f"open-{self._run.lineage}-{self._run.epoch}-0{worker_tag(context.worker)}"
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
        return self._visible.parts()

    def applied(self, checkpoint: int) -> bool | None:
        """Whether a checkpoint of this lineage was made visible."""
        newest = self._look().newest_of_all
        if any(name.output.rank == (self._run.lineage, checkpoint) for name, _ in self.parts()):
            return True
        return None if newest == (0, 0) else newest >= (self._run.lineage, checkpoint)

    def check_visible(self) -> None:
        """Again, when nobody older can make anything visible any more."""
        with self.effects():
            self._visible.check(self._look(), self._known)

    def mark(self, output: Output) -> None:
        """Notes that the output of a worker was made visible up to this one.

        Without a sync of its own: what it says can be seen by the part file itself until the next checkpoint, whose
        preparation syncs it.
        """
        name = self.staging / newest_name(output)
        former, self._newest[output.worker] = self._newest.get(output.worker), name
        if former is not None:
            try:
                former.rename(name)
            except FileNotFoundError:
                pass
            else:
                return
        touch(name)

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
                worker: self.staging / newest_name(Output(*rank, worker)) for worker, rank in staging.newest.items()
            }

    def _look(self) -> Staging:
        with sink_errors(self.path):
            try:
                entries = os.scandir(self.staging)
            except FileNotFoundError:
                # Nobody has begun to write here.
                return read_names(())
            with entries:
                return read_names(entry.name for entry in entries)

    def _read(self, path: Path) -> str | None:
        """A small file of ours; None if there is none. Links, pipes and the like are not read."""
        with sink_errors(self.path):
            try:
                descriptor = open_regular(path)
            except FileNotFoundError:
                return None
            with FileIO(descriptor, "r") as file:
                return (file.read(_OWNER_BYTES) or b"").decode(errors="replace")
