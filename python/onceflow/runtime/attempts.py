"""The attempts of one run: opened and run to its end; and begun again, by its policy, where it fails.

Each attempt is what another process would do: it takes the state directory with a new epoch, goes on from the newest
checkpoint, and opens sources and sinks anew, which fence and clean up what the one before has left. What is different
from the first one: it never takes over (who runs in the meantime is newer), and never goes back (``resume_from`` is
done once).
"""

from __future__ import annotations

import gc
import traceback
import warnings
from contextlib import ExitStack
from dataclasses import replace
from os import PathLike, fspath
from types import FrameType

from onceflow._native import StateBackend, WakeHandle
from onceflow.events import JobResult, Restarting
from onceflow.exceptions import (
    ConfigurationError,
    FencedError,
    OnceflowError,
    RestartWarning,
    StoreCorruptError,
    StoreMismatchError,
    described,
)
from onceflow.graph.graph import Graph
from onceflow.instances import count_of, job_and_instance, run_of, what_it_is
from onceflow.process import HomeProcess, closing
from onceflow.runtime.job import Job
from onceflow.runtime.new_directory import NewDirectory
from onceflow.runtime.options import JobOptions
from onceflow.runtime.recovery import has_finished, nothing_to_restore
from onceflow.runtime.restarts import Restarts, may_heal
from onceflow.runtime.resume_from import numbered
from onceflow.runtime.signals import stop_on_signals
from onceflow.runtime.workers.supervisor import Supervisor

__all__ = ["Attempts"]

#: From ``Attempts._tell`` up to who called ``run``.
_STACK_OF_RUN = 6


class Attempts:
    """One run.

    Args:
        graph: What to run.
        state: Path of the state directory.
        options: Of the run.
    """

    def __init__(self, graph: Graph, state: str | PathLike[str], options: JobOptions) -> None:
        self._graph = graph
        self._state = state
        self._options = options
        self._home = HomeProcess()
        self._directory = NewDirectory(state)
        self._restarts = Restarts(options.restart)
        #: Of the newest attempt: its job, if it has come so far, and whether it has opened the state directory.
        self._job: Job | Supervisor | None = None
        self._has_opened = False
        #: Of the newest one that has opened it.
        self._epoch: int | None = None
        #: How far the attempts that failed had come together; None: none of them had begun.
        self._before: JobResult | None = None

    def run(self) -> JobResult:
        """Until an attempt ends well, or one fails for good."""
        try:
            return self._run()
        finally:
            self._directory.clean()

    def _run(self) -> JobResult:
        while True:
            try:
                return self._together(self._attempt())
            except Exception as error:
                failure = self._again(error)
                if failure is None:
                    raise
                self._release(error)
                if not self._waited(failure.wait_s):
                    error.add_note("the run was told to stop before it was begun again, and had no last checkpoint")
                    raise
            # The job, and what it held, goes with its frames, some of it in circles.
            gc.collect()

    # -- one attempt ---------------------------------------------------------------------------

    def _attempt(self) -> JobResult:
        with ExitStack() as resources:
            self._has_opened = False
            backend = self._opened()
            resources.push(closing(backend.close))
            try:
                self._check_successors(backend)
                self._epoch, self._has_opened = backend.job_epoch, True
                if self._options.workers == 1 or has_finished(backend):
                    self._job = Job(self._graph, backend, self._options, resources, is_restart=self._is_restart)
                else:
                    self._job = Supervisor(self._graph, backend, self._options, resources)
                return self._job.run()
            except Exception as error:
                _refuse_if_replaced(backend, error)
                if self._job is not None and not self._job.has_begun and not self._is_restart:
                    self._directory.refuse(backend)
                raise

    @property
    def _is_restart(self) -> bool:
        return self._restarts.count > 0

    def _opened(self) -> StateBackend:
        job, options = self._graph.name, self._options
        if self._epoch is not None:
            # Before the epoch is raised: who has run meanwhile is newer, and must not be fenced by this run.
            with StateBackend.open(self._state, job=job, read_only=True, create=False, resume_from="none") as backend:
                newest = backend.newest_job_epoch()
            if newest != self._epoch:
                raise self._replaced(newest)
        try:
            resume_from = "newest" if self._is_restart else numbered(self._state, job, options.resume_from)
            return StateBackend.open(
                self._state,
                job=job,
                retain=options.retain,
                take_over=options.take_over and not self._is_restart,
                resume_from=resume_from,
                create=not self._is_restart,
            )
        except StoreMismatchError as error:
            raise _another_instance(error, self._state, job) or error from None
        except StoreCorruptError as error:
            told = nothing_to_restore(error, self._state, job) if resume_from == "newest" else None
            if told is None:
                raise
            raise told from error

    def _check_successors(self, backend: StateBackend) -> None:
        """Another run may have come and gone between the look and the opening."""
        if self._epoch is not None and backend.job_epoch != self._epoch + 1:
            raise self._replaced(backend.job_epoch - 1)

    def _replaced(self, newest: int) -> FencedError:
        assert self._epoch is not None
        return FencedError(
            f"{fspath(self._state)} is at job epoch {newest}, and this run, which was to be begun again, had epoch "
            f"{self._epoch}: another run of the job has taken over meanwhile, so this one ends",
            epoch=self._epoch,
            newer_epoch=newest,
        )

    # -- and the next one ----------------------------------------------------------------------

    def _again(self, error: Exception) -> Restarting | None:
        """What follows on a failure; None: nothing, it ends the run."""
        job, self._job = self._job, None
        began_s = None if job is None else job.began_s
        is_over = (
            # A child that a function has forked, and that has come back into the run.
            self._home.is_left
            # Nobody knows whether it has raised the epoch.
            or not self._has_opened
            # What is wrong from the start is told at once.
            or (began_s is None and not self._is_restart)
            or (job is not None and job.is_interrupted)
        )
        if is_over or not may_heal(error):
            return None
        now_s = self._options.clock.monotonic()
        wait_s = self._restarts.next_wait_s(now_s=now_s, lasted_s=0.0 if began_s is None else now_s - began_s)
        if wait_s is None:
            if self._is_restart:
                error.add_note(
                    f"the run was begun again {self._restarts.count} times, and not any more, as restart= says"
                )
            return None
        if job is not None and began_s is not None:
            self._before = self._together(job.so_far())
        reason = described(error)
        self._restarts.begun_again(reason)
        failure = Restarting(self._restarts.count, wait_s, reason)
        self._tell(failure)
        return failure

    def _tell(self, failure: Restarting) -> None:
        warnings.warn(
            RestartWarning(
                f"job {self._graph.name!r} has failed and is begun again in {failure.wait_s:.3g} s from its newest "
                f"checkpoint (restart {failure.restarts}): {failure.reason}"
            ),
            stacklevel=_STACK_OF_RUN,
        )
        if self._options.on_event is not None:
            self._options.on_event(failure)

    def _waited(self, wait_s: float) -> bool:
        """Lets the time pass; false if a signal has ended it."""
        wake, stopped = WakeHandle(), []

        def stop() -> None:
            stopped.append(True)
            wake.set()

        with stop_on_signals(stop):
            wake.wait(wait_s)
        return not stopped

    @staticmethod
    def _release(error: BaseException) -> None:
        """An error that is kept for its text must not keep the tables and sinks of the attempt."""
        seen: list[BaseException] = []
        waiting: list[BaseException | None] = [error]
        while waiting:
            one = waiting.pop()
            if one is not None and all(one is not other for other in seen):
                seen.append(one)
                waiting += [one.__cause__, one.__context__]
                for frame, _ in traceback.walk_tb(one.__traceback__):
                    _clear(frame)

    def _together(self, result: JobResult) -> JobResult:
        """What an attempt has come to, with what those before it count for."""
        before = self._before
        told = replace(result, restarts=self._restarts.count, failures=tuple(self._restarts.reasons))
        if before is None:
            return told
        # The last one of the attempt before may have been decided, and committed by the recovery.
        recovered = result.resumed_from is not None and result.resumed_from > (before.last_checkpoint or 0)
        refused = dict(before.refused)
        for step_id, number in result.refused.items():
            refused[step_id] = refused.get(step_id, 0) + number
        return replace(
            told,
            checkpoints=before.checkpoints + recovered + result.checkpoints,
            resumed_from=before.resumed_from,
            changes=(*before.changes, *(change for change in result.changes if change not in before.changes)),
            refused=refused,
        )


def _clear(frame: FrameType | None) -> None:
    """Lets go of the variables of a frame, and of those that had called it and are over as well."""
    while frame is not None:
        try:
            frame.clear()
        except RuntimeError:
            return  # It is at work.
        frame = frame.f_back


def _another_instance(error: StoreMismatchError, state: str | PathLike[str], job: str) -> ConfigurationError | None:
    """What to do with the state of another instance of the same dataflow; None if it is something else."""
    if error.setting != "job" or error.stored is None:
        return None
    (flow, mine), (other, theirs) = job_and_instance(job), job_and_instance(str(error.stored))
    if flow != other or mine == theirs:
        return None
    way = "give each instance a state directory of its own"
    if count_of(mine) != count_of(theirs):
        way = (
            "the number of instances cannot be changed: partitions would move between states. Run as many instances as "
            "before, where you like; or start over, with new state directories and where the old ones have written "
            "nothing"
        )
    return ConfigurationError(
        f"{fspath(state)} has the state of {run_of(theirs)} of job {flow!r}, and this run {what_it_is(mine)}: {way}",
        setting="instance",
    )


def _refuse_if_replaced(backend: StateBackend, error: Exception) -> None:
    """Raises ``FencedError`` if a newer run has taken over: then it is why this one failed, whatever it fell over.

    Its successor may have removed a file that it was about to rename, or taken its producer's epoch.
    """
    if isinstance(error, FencedError):
        return
    try:
        backend.check_epoch()
    except FencedError as fenced:
        raise fenced from error
    except OnceflowError:
        # The directory cannot say, such as in a forked child: the error itself does.
        return
