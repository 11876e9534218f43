"""Looks for what a dead job left behind, and resolves what nobody needs.

Only looking takes no lock and raises no epoch. To resolve, the state directory is opened as a run opens it: the lock is
taken, so that no run begins meanwhile, and the job epoch is raised, so that a paused run that was replaced can decide
nothing any more. Only then is read what was decided, and looked again; what is removed then is what the next run would
remove. Nothing is committed, and no lineage begins.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from os import PathLike, fspath

import msgspec

from onceflow._native import StateBackend
from onceflow.clock import SystemClock
from onceflow.dataflow import Dataflow
from onceflow.exceptions import ConfigurationError, OnceflowError, described
from onceflow.instances import Instance, job_and_instance, run_of
from onceflow.leftovers import Leftover, LeftoverContext, SourceLeftoverContext
from onceflow.runtime.job_record import JOB_BLOB, JobRecord, step_of
from onceflow.runtime.partitions import saved_positions
from onceflow.sinks import Committable, TransactionalSink

__all__ = ["Diagnosis", "StepDiagnosis", "diagnosed", "resolved"]


_RETAIN = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class StepDiagnosis:
    """What was left behind for one source or sink.

    Attributes:
        step_id: Of the source or sink.
        connector: Name of its class.
        leftovers: What was found.
        error: Why it could not be looked at, or not be resolved.
    """

    step_id: str
    connector: str
    leftovers: tuple[Leftover, ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was left behind.

    Attributes:
        job: Name of the dataflow.
        running: A run owns the state directory: what it holds is its own, and nothing was looked at.
        owner: The process id that the lock of the state directory names, alive or not; None if there is none.
        damage: Of checkpoints that cannot be read.
        sources: Those that hold or have left something, or could not be looked at.
        sinks: One by one.
    """

    job: str
    running: bool
    owner: int | None
    damage: tuple[str, ...]
    sources: tuple[StepDiagnosis, ...]
    sinks: tuple[StepDiagnosis, ...]

    @property
    def removable(self) -> int:
        """How many things can be resolved."""
        return sum(each.fate == "removable" for step in (*self.sources, *self.sinks) for each in step.leftovers)

    @property
    def failed(self) -> bool:
        """Whether a source or sink could not be looked at, or something not be resolved."""
        return any(step.error is not None for step in (*self.sources, *self.sinks))


def diagnosed(flow: Dataflow, state: str | PathLike[str], instance: Instance | None = None) -> Diagnosis:
    """Looks, and changes nothing.

    Args:
        flow: The dataflow.
        state: Of the job.
        instance: Which of the runs that divide the job the state is of; None: the state says it.

    Raises:
        ConfigurationError: The state is another instance's.
        StoreError: The state directory is missing, another job's, or cannot be read.
    """
    job = _job_of(flow, state, instance)
    with StateBackend.open(state, job=job, read_only=True, create=False, resume_from="none") as backend:
        owner, running = _owner(state)
        if running:
            return Diagnosis(job, running, owner, _damage(backend), (), ())
        known = _Known(flow, job, backend, backend.newest_job_epoch())
        sources = tuple(known.sources())
        return Diagnosis(job, running, owner, _damage(backend), sources, tuple(known.sinks()))


def resolved(flow: Dataflow, state: str | PathLike[str], instance: Instance | None = None) -> Diagnosis:
    """Removes what is removable, and says what it was. Takes what ``diagnosed`` takes.

    Raises:
        ConfigurationError: The state is another instance's.
        StoreLockedError: A run owns the state directory; nothing was touched.
        StoreError: The state directory is missing, another job's, or cannot be used.
    """
    owner, _ = _owner(state)
    job = _job_of(flow, state, instance)
    # Nothing is collected either, however many checkpoints the job keeps.
    with StateBackend.open(state, job=job, create=False, resume_from="none", retain=_RETAIN) as backend:
        known = _Known(flow, job, backend, backend.job_epoch - 1)
        sources = tuple(_resolved(found, backend) for found in known.sources())
        sinks = tuple(_resolved(found, backend) for found in known.sinks())
        return Diagnosis(job, False, owner, _damage(backend), sources, sinks)


def _job_of(flow: Dataflow, state: str | PathLike[str], instance: Instance | None) -> str:
    """The name of the job that a state is of: of any of the instances that the dataflow may be divided into, or of the
    one that was asked for."""
    with StateBackend.open(state, read_only=True, create=False, resume_from="none") as backend:
        job = backend.job
    name, theirs = job_and_instance(job)
    if name != flow.name:
        return flow.name
    if instance is not None and instance != theirs:
        raise ConfigurationError(
            f"{fspath(state)} has the state of {run_of(theirs)} of job {name!r}, and not of instance {instance}",
            setting="instance",
        )
    return job


class _Known:
    """What a dataflow and the checkpoints of its state know."""

    def __init__(self, flow: Dataflow, job: str, backend: StateBackend, job_epoch: int) -> None:
        self._graph = flow.graph
        self._job = job
        self._state_id = backend.store_id
        self._job_epoch = job_epoch
        checkpoints = backend.checkpoints()
        self._records = [record for record in checkpoints if record.damage is None]
        self._complete = len(self._records) == len(checkpoints)
        sources = {step.step_id for step in self._graph.sources()}
        sinks = {step.step_id for step in self._graph.sinks()}
        for record in self._records:
            sinks |= set(map(step_of, record.staged))
            if JOB_BLOB in record.blobs:
                steps = JobRecord.decode(record.blobs[JOB_BLOB]).steps
                sources |= {step_id for step_id, kind in steps.items() if kind == "source"}
                sinks |= {step_id for step_id, kind in steps.items() if kind == "sink"}
        self._known_sources, self._known_sinks = frozenset(sources), frozenset(sinks)

    def sources(self) -> Iterator[StepDiagnosis]:
        """Those of which there is something to say."""
        for step in self._graph.sources():
            positions = (saved_positions(record.blobs, step.step_id) for record in self._records)
            context = SourceLeftoverContext(
                self._job,
                step.step_id,
                self._state_id,
                tuple(filter(None, positions)),
                self._complete,
                self._known_sources,
                SystemClock(),
            )
            found = _looked_at(step.step_id, step.source, functools.partial(step.source.leftovers, context))
            if found.leftovers or found.error is not None:
                yield found

    def sinks(self) -> Iterator[StepDiagnosis]:
        """All of them."""
        told: set[tuple[str, str]] = set()
        for step in self._graph.sinks():
            decided = tuple(
                Committable(record.id, msgspec.msgpack.decode(staged))
                for record in self._records
                for name, staged in record.staged.items()
                if step_of(name) == step.step_id and isinstance(step.sink, TransactionalSink)
            )
            context = LeftoverContext(
                self._job,
                step.step_id,
                self._state_id,
                self._job_epoch,
                decided,
                self._complete,
                self._known_sinks,
                SystemClock(),
                self._known_sinks - {step.step_id for step in self._graph.sinks()},
            )
            found = _looked_at(step.step_id, step.sink, functools.partial(step.sink.leftovers, context))
            # Two sinks that write to one place find the same there.
            new = tuple(each for each in found.leftovers if (each.fate, each.subject) not in told)
            told |= {(each.fate, each.subject) for each in new}
            yield replace(found, leftovers=new)


def _looked_at(step_id: str, connector: object, look: Callable[[], Iterable[Leftover]]) -> StepDiagnosis:
    kind = type(connector).__name__
    try:
        return StepDiagnosis(step_id, kind, tuple(look()))
    except Exception as error:
        return StepDiagnosis(step_id, kind, error=_told(error))


def _resolved(found: StepDiagnosis, backend: StateBackend) -> StepDiagnosis:
    try:
        for leftover in found.leftovers:
            if leftover.resolve is not None:
                # Who has taken the directory over goes on from here.
                backend.check_epoch()
                leftover.resolve()
    except Exception as error:
        return StepDiagnosis(found.step_id, found.connector, found.leftovers, _told(error))
    return found


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, OnceflowError) else described(error)


def _damage(backend: StateBackend) -> tuple[str, ...]:
    return tuple(
        f"checkpoint {record.id or '?'} cannot be read: {record.damage}"
        for record in backend.checkpoints()
        if record.damage is not None
    )


def _owner(state: str | PathLike[str]) -> tuple[int | None, bool]:
    """The process that the owner's lock names, and whether it is held."""
    try:
        descriptor = os.open(os.path.join(fspath(state), "owner.lock"), os.O_RDONLY | os.O_CLOEXEC)  # noqa: PTH118
    except FileNotFoundError:
        # Such as in a backup.
        return None, False
    with _closing(descriptor):
        text = os.read(descriptor, 32).strip()
        pid = int(text) if text.isdigit() else None
        try:
            # Shared, as readers without a slot take it, and for no longer than it takes to ask.
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            return pid, True
        return pid, False


@contextmanager
def _closing(descriptor: int) -> Iterator[None]:
    try:
        yield
    finally:
        os.close(descriptor)
