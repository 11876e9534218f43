"""Runs a dataflow: its rounds, its checkpoints, and its beginning and end.

One thread does the job's work: ``Rounds`` has the tasks of the job read and process. A checkpoint is a barrier behind a
round: at the cut operators write cached state into their tables, the tables are frozen, sinks are sealed, and work goes
on; the checkpoint thread then has the sinks prepare, writes the decision record, and has the sinks commit
(``Checkpointing``). Where a run begins is found out by ``recovery``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import ExitStack
from os import PathLike, fspath

from onceflow._native import StateBackend
from onceflow.clock import Clock, SystemClock
from onceflow.crash import crash_point
from onceflow.dataflow import Dataflow
from onceflow.events import CheckpointCompleted, JobEvent, JobResult, Progress, Recovered, Stopping
from onceflow.exceptions import (
    CheckpointError,
    CheckpointNotFoundError,
    ConfigurationError,
    FencedError,
    FinishedJobWarning,
    OnceflowError,
    SourceError,
    StoreCorruptError,
)
from onceflow.graph.guarantees import fingerprint, plan
from onceflow.process import closing, quick_switches, stop_on_signals
from onceflow.runtime.checkpoints import Checkpointing
from onceflow.runtime.job_record import JOB_BLOB, JobRecord
from onceflow.runtime.late import warn_of_late
from onceflow.runtime.options import JobOptions
from onceflow.runtime.recovery import (
    Plan,
    Replay,
    nothing_to_restore,
    open_legs,
    plan_recovery,
    recover_legs,
    resumed_job,
    warn_of_damage,
)
from onceflow.runtime.worker import Rounds
from onceflow.sources import PAUSE_S
from onceflow.types import Guarantee

__all__ = ["run"]

_WORKER = "worker"
#: A checkpoint begins early when sinks hold more, and while one is under way nothing is read then. The decision record
#: takes 1 GiB, and a round's output comes on top.
_MAX_HELD_RECORDS = 1_000_000
_MAX_HELD_BYTES = 64 << 20
_PROGRESS_EVERY_S = 0.1
_EPOCH_EVERY_S = 1.0
#: A job looks at its signals so often, also while it waits for something to read.
_LONGEST_WAIT_S = 0.1
#: From ``_Job.run`` up to who called ``run``.
_STACK_OF_RUN = 3
_NOTHING_COUNTED = {"records_in": 0, "records_out": 0, "rejected": 0, "skipped": 0}


def run(
    flow: Dataflow,
    state: str | PathLike[str],
    *,
    checkpoint_interval_s: float = 1.0,
    guarantee: Guarantee | str = Guarantee.EXACTLY_ONCE,
    batch_size: int = 8192,
    codec: str = "msgpack",
    retain: int = 2,
    savepoint: str | None = None,
    from_checkpoint: int | str | None = None,
    fresh: bool = False,
    take_over: bool = False,
    on_event: Callable[[JobEvent], None] | None = None,
    clock: Clock | None = None,
) -> JobResult:
    """Runs a dataflow until its sources end, or until it is interrupted.

    A job that was killed, failed or interrupted resumes from its newest checkpoint when it is run again with the same
    state directory. SIGINT and SIGTERM end it with a last checkpoint, also within a batch (see ``Stopping``); a second
    SIGINT without one, once a sink's call that is under way has returned (safe too). A job whose sources have ended is
    over: it does nothing when it is run again, also if there is more to read by then, and says so by a
    ``FinishedJobWarning``.

    Args:
        flow: What to run; its name is the job's name.
        state: State directory, made if missing, private to the owner.
        checkpoint_interval_s: Seconds from one checkpoint's start to the next one's. A checkpoint waits for the one
            before.
        guarantee: What the output promises; refused before the first record if a path cannot keep it.
        batch_size: Records that a source is asked for at once. It belongs to the job, and another one is refused when
            it is resumed: output that goes by batches (``map_batch``, changes of totals) is the same only then.
        codec: How values of user state become bytes: ``"msgpack"``, or ``"pickle"`` for any object (reading pickles
            runs code).
        retain: Complete checkpoints kept besides savepoints.
        savepoint: Name under which the last checkpoint of this run is kept; a savepoint is never collected.
        from_checkpoint: Resume from this number, or savepoint of this name, instead of the newest checkpoint. Starts a
            new lineage: outputs after it are written again.
        fresh: Start from nothing, in a new lineage.
        take_over: Fence a running or paused process of this job instead of being refused. One that was stopped in the
            middle of a commit cannot be fenced: ``StoreLockedError`` names it; kill it (``kill -9``) or let it go on.
        on_event: Called on the job's thread.
        clock: Where the time comes from.

    A recovery that had to work around damaged checkpoints says so by a ``DamagedCheckpointWarning``.

    Raises:
        DeliveryGuaranteeError, ConfigurationError: Before anything was opened.
        DataflowChangedError: Stateful steps were removed or changed.
        UserFunctionError, SourceError, SinkError: The job failed; it can be run again.
        FencedError: A newer run of the job has taken over.
        StoreError: The state directory cannot be used.
    """
    if not isinstance(flow, Dataflow):
        raise ConfigurationError(f"flow is a {type(flow).__name__}; give the Dataflow that is to run")
    if not isinstance(state, (str, PathLike)) or not fspath(state):
        raise ConfigurationError(f"state is {state!r}; give the path of a directory")
    options = JobOptions.checked(
        checkpoint_interval_s=checkpoint_interval_s,
        guarantee=guarantee,
        batch_size=batch_size,
        codec=codec,
        retain=retain,
        savepoint=savepoint,
        from_checkpoint=from_checkpoint,
        fresh=fresh,
        take_over=take_over,
        on_event=on_event,
        clock=clock or SystemClock(),
    )
    plan(flow.graph, options.guarantee)
    with ExitStack() as resources:
        checkpoint = "none" if options.fresh else _numbered(state, flow.name, options.from_checkpoint)
        try:
            backend = StateBackend.open(
                state, job=flow.name, retain=options.retain, take_over=options.take_over, checkpoint=checkpoint
            )
        except StoreCorruptError as error:
            told = nothing_to_restore(error, state, flow.name) if checkpoint is None else None
            if told is None:
                raise
            raise told from error
        resources.push(closing(backend.close))
        try:
            return _Job(flow, backend, options, resources).run()
        except Exception as error:
            _refuse_if_replaced(backend, error)
            raise


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


def _numbered(state: str | PathLike[str], job: str, checkpoint: int | str | None) -> int | None:
    """The number of a checkpoint that may be given as a savepoint's name: of the newest of that name."""
    if not isinstance(checkpoint, str):
        return checkpoint
    with StateBackend.open(state, job=job, read_only=True, create=False, checkpoint="none") as backend:
        named = {info.savepoint: info.id for info in backend.checkpoints() if info.savepoint is not None}
    if checkpoint not in named:
        raise CheckpointNotFoundError(f"no savepoint {checkpoint!r}; there are {sorted(named)}")
    return named[checkpoint]


class _Job:
    """One run. It listens to its rounds."""

    def __init__(
        self,
        flow: Dataflow,
        backend: StateBackend,
        options: JobOptions,
        resources: ExitStack,
    ) -> None:
        self._graph = flow.graph
        self._backend = backend
        self._options = options
        self._guarantee = options.guarantee
        self._codec = options.codec
        self._batch_size = options.batch_size
        self._clock = options.clock
        self._resources = resources
        #: By a source, and by a signal.
        self._stopping = self._interrupted = False
        #: An event is being told; a signal that comes meanwhile waits with its own.
        self._telling = False
        self._told_stopping = False
        self._untold: Exception | None = None
        self._replay: Replay | None = None
        self._last_start = self._clock.monotonic()
        self._last_progress = self._last_epoch_check = self._last_start
        self._completed = 0
        self._finished = False
        #: Window steps whose late records are lost, as was told.
        self._warned_of: set[str] = set()
        #: Something was read since the last cut.
        self._changed = False

    # -- start ---------------------------------------------------------------------------------

    def run(self) -> JobResult:
        backend, graph = self._backend, self._graph
        restored = backend.recovery.restored
        job = resumed_job(backend, graph, self._guarantee, self._codec, self._batch_size)
        self._last_checkpoint = None if restored is None else restored.id
        if restored is not None and job is not None and job.finished:
            if self._options.savepoint not in (None, restored.savepoint):
                raise ConfigurationError(
                    "the job has finished, so no checkpoint comes that could be kept as "
                    f"{self._options.savepoint!r}; give the savepoint to the run that finishes it"
                )
            recover_legs(backend, open_legs(backend, graph, self._guarantee, self._codec, self._resources), Plan())
            warnings.warn(
                FinishedJobWarning(
                    f"job {graph.name!r} had finished before, with checkpoint {restored.id}, so this run has done "
                    "nothing, whatever has changed since in its code, its input or its output. To compute it anew, "
                    "move its output away and run it once with fresh=True"
                ),
                stacklevel=_STACK_OF_RUN,
            )
            return self._result(job.counts, job.late, finished=True)
        self._legs = open_legs(backend, graph, self._guarantee, self._codec, self._resources)
        plan = plan_recovery(backend, graph, self._legs)
        self._replay = plan.replay
        recover_legs(backend, self._legs, plan)
        self._rounds = Rounds(
            graph,
            backend,
            self._codec,
            self._clock,
            {} if restored is None else restored.blobs,
            self._legs,
            self._batch_size,
            _NOTHING_COUNTED if job is None else job.counts,
            job is not None and job.waited,
            {} if job is None else job.late,
            self._resources,
        )
        self._checkpoints = Checkpointing(backend, self._legs, [*self._rounds.tasks, _WORKER], self._clock)
        self._resources.push(closing(self._checkpoints.close))
        if plan.replay is not None:
            self._rounds.replay_to(plan.replay.positions, to_end=plan.replay.to_end)
        self._recovered(plan)
        crash_point("recover.post_open")
        with stop_on_signals(self._interrupt), quick_switches():
            finished = self._loop()
        return self._result(self._rounds.counts(), self._rounds.late(), finished=finished)

    def _recovered(self, plan: Plan) -> None:
        recovery, replay = self._backend.recovery, plan.replay
        if recovery.damage:
            warn_of_damage(self._backend, plan)
        self._tell(
            Recovered(
                None if recovery.restored is None else recovery.restored.id,
                self._backend.job_epoch,
                recovery.rows,
                recovery.duration_s,
                None if replay is None else replay.until,
                tuple(reason for _, reason in recovery.damage),
                self._rounds.records_in,
                self._rounds.records_out,
            )
        )

    # -- rounds --------------------------------------------------------------------------------

    def _loop(self) -> bool:
        self._rounds.suppress(self._replay is not None)
        self._check_replay()
        while True:
            self._poll()
            if self._interrupted and self._replay is not None:
                # Nothing can be kept before its end, and nothing is lost: the next run replays.
                self._tell_stopping()
                return False
            if (self._interrupted or self._stopping) and self._replay is None:
                self._tell_stopping()
                self._finish_checkpoint(finished=False)
                return False
            if self._rounds.ended:
                break
            if self._checkpoints.pending is not None and self._holds_much():
                # What is read now could only be held as well.
                self._poll(_LONGEST_WAIT_S)
                self._tell_progress()
                continue
            if self._rounds.round(self):
                self._changed = True
            else:
                self._idle()
            self._warn_of_late()
            self._check_replay()
            self._tell_progress()
            if self._rounds.is_cut and not self._interrupted:
                self._start_checkpoint()
                self._rounds.go_on()
            elif self._checkpoints.pending is None and self._replay is None and self._is_due():
                self._start_checkpoint()
        if self._replay is not None and not self._replay.to_end:
            raise SourceError(
                "the sources ended before the positions of the damaged checkpoint were reached: they are not what they "
                "were, so no exact recovery is possible"
            )
        self._settle()
        self._rounds.end()
        self._finish_checkpoint(finished=True)
        return True

    def _idle(self) -> None:
        """Nothing was there to read."""
        if self._checkpoints.pending is not None:
            self._poll(PAUSE_S)
            return
        longest_s = _LONGEST_WAIT_S
        if self._changed and self._replay is None:
            due = self._last_start + self._options.checkpoint_interval_s
            longest_s = min(longest_s, max(due - self._clock.monotonic(), 0.0))
        self._rounds.wait(longest_s)

    def _check_replay(self) -> None:
        """Outputs are suppressed until every source stands where the damaged checkpoint stood.

        Of a job that had finished everything is suppressed, also what the end of its sources gives rise to.
        """
        replay = self._replay
        if replay is not None and not replay.to_end and self._rounds.has_arrived:
            self._replay = None
            self._rounds.suppress(False)
            self._rounds.end_replay()
            self._start_checkpoint()

    # -- what rounds tell ----------------------------------------------------------------------

    def _interrupt(self) -> None:
        """By the handler of a signal, in the middle of whatever the job's thread does."""
        self._interrupted = True
        if not self._telling:
            try:
                self._tell_stopping()
            except Exception as error:
                # Not here, where it would be taken for an error of a user's function.
                self._untold = error

    def between_pieces(self) -> bool:
        """Looks up within a batch; true if the run ends within it, or if sinks hold too much for its rest."""
        self._poll()
        self._tell_progress()
        while not self._interrupted and self._holds_much():
            if self._checkpoints.pending is None:
                return True
            self._poll(_LONGEST_WAIT_S)
            self._tell_progress()
        return self._interrupted

    def stop(self) -> None:
        """The run ends with a last checkpoint as soon as possible: not within a replay, which passes by places where
        earlier runs were stopped."""
        self._stopping = True

    def task_ended(self, name: str) -> None:
        """It counts as acknowledged from now on."""
        self._checkpoints.task_finished(name)

    def barrier_injected(self, name: str) -> None:
        """Its part of the checkpoint is known."""
        self._checkpoints.acknowledge(name)

    def cut(self) -> None:
        """What was processed so far belongs to the checkpoint."""
        pending = self._checkpoints.pending
        if pending is None:
            raise CheckpointError("the aligner has cut a checkpoint that nobody began; report this")
        crash_point("task.pre_snapshot")
        self._rounds.snapshot(pending)
        job = JobRecord(
            str(self._guarantee),
            self._codec.name,
            self._batch_size,
            fingerprint(self._graph),
            self._finished,
            self._rounds.counts(),
            self._rounds.waited,
            self._rounds.late(),
        )
        pending.put_blob(JOB_BLOB, job.encode())
        self._checkpoints.seal()
        crash_point("task.post_snapshot")
        self._checkpoints.acknowledge(_WORKER)

    # -- checkpoints ---------------------------------------------------------------------------

    def _is_due(self) -> bool:
        if self._changed and self._clock.monotonic() - self._last_start >= self._options.checkpoint_interval_s:
            return True
        return self._holds_much()

    def _holds_much(self) -> bool:
        """Whether all sinks together, for the checkpoint under way and for the next one, hold more than the bound."""
        legs, under_way = self._legs.values(), self._checkpoints
        return (
            sum((leg.held for leg in legs), under_way.held) > _MAX_HELD_RECORDS
            or sum((leg.held_bytes for leg in legs), under_way.held_bytes) > _MAX_HELD_BYTES
        )

    def _start_checkpoint(self, *, finished: bool = False, savepoint: str | None = None) -> None:
        """Injects a barrier behind the last batch of each task; the cut comes when the aligner has seen them all."""
        self._last_start = self._clock.monotonic()
        self._changed = False
        self._finished = finished
        pending = self._checkpoints.begin(savepoint)
        self._rounds.inject(pending.id, self._last_start, self)

    def _finish_checkpoint(self, *, finished: bool) -> None:
        """A last checkpoint, waited for."""
        self._settle()
        self._start_checkpoint(finished=finished, savepoint=self._options.savepoint)
        self._settle()
        crash_point("job.end")
        # Replaced after the decision, with nothing left for its sinks to commit, a run would not notice.
        self._backend.check_epoch()

    def _settle(self) -> None:
        """Waits for the checkpoint under way."""
        while self._checkpoints.pending is not None:
            self._poll(1.0)

    def _poll(self, timeout_s: float = 0.0) -> None:
        """Lets the capture go on for a slice, and hears of a checkpoint that has completed."""
        self._backend.poll()
        now = self._clock.monotonic()
        if now - self._last_epoch_check >= _EPOCH_EVERY_S:
            # A run that has nothing to write would not notice that it was replaced.
            self._last_epoch_check = now
            self._backend.check_epoch()
        if self._checkpoints.pending is None:
            return
        stats = self._checkpoints.poll(timeout_s)
        if stats is not None:
            self._last_checkpoint = stats.id
            self._completed += 1
            self._tell(
                CheckpointCompleted(stats, self._rounds.records_in, self._rounds.records_out, self._rounds.late())
            )

    # -- reports -------------------------------------------------------------------------------

    def _warn_of_late(self) -> None:
        for step_id, first in self._rounds.lost_late().items():
            if step_id not in self._warned_of:
                self._warned_of.add(step_id)
                warn_of_late(step_id, first)

    def _tell(self, event: JobEvent) -> None:
        if self._options.on_event is not None:
            self._telling = True
            try:
                self._options.on_event(event)
            finally:
                self._telling = False

    def _tell_stopping(self) -> None:
        error, self._untold = self._untold, None
        if error is not None:
            raise error
        if not self._told_stopping:
            self._told_stopping = True
            self._tell(Stopping(self._rounds.finishing))

    def _tell_progress(self) -> None:
        now = self._clock.monotonic()
        if now - self._last_progress >= _PROGRESS_EVERY_S:
            self._last_progress = now
            self._tell(Progress(self._rounds.records_in, self._rounds.records_out, self._rounds.late()))

    def _result(self, counts: dict[str, int], late: dict[str, int], *, finished: bool) -> JobResult:
        restored = self._backend.recovery.restored
        return JobResult(
            finished=finished,
            checkpoints=self._completed,
            last_checkpoint=self._last_checkpoint,
            resumed_from=None if restored is None else restored.id,
            late=late,
            **counts,
        )
