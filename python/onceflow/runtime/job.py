"""One run of a job: its rounds, its checkpoints, and its beginning and end.

One thread does the job's work: ``Worker`` has the tasks of the job read and process. A checkpoint is a barrier after a
round: at the cut operators write cached state into their tables, the tables are frozen, sinks are sealed, and work goes
on; the checkpoint thread then has the sinks prepare, writes the decision record, and has the sinks commit
(``Checkpoints``). Where a run begins is found out by ``recovery``.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import ExitStack

from onceflow._native import CheckpointInfo, StateBackend, WakeHandle
from onceflow.crash import crash_point
from onceflow.events import CheckpointCompleted, JobResult, Recovered
from onceflow.exceptions import ConfigurationError, FencedError, FinishedJobWarning, SourceError, described
from onceflow.graph.compatibility import fingerprint, has_been_done, settings_of
from onceflow.graph.graph import Graph
from onceflow.process import closing
from onceflow.runtime.checkpoints import Checkpoints
from onceflow.runtime.evolution import agreed_without, evolve, known_steps, without
from onceflow.runtime.held import holds_half, holds_much
from onceflow.runtime.job_record import JobRecord
from onceflow.runtime.messages import (
    NOTHING_COUNTED,
    Acknowledged,
    Committed,
    Declined,
    Ended,
    Failed,
    FromWorker,
    Idle,
    PieceTaken,
    Start,
    Stop,
    StopAsked,
    Tally,
    Trigger,
)
from onceflow.runtime.options import JobOptions
from onceflow.runtime.partitions import list_partitions, saved_positions
from onceflow.runtime.recovery import (
    Plan,
    Replay,
    open_deliveries,
    plan_recovery,
    recover_sinks,
    resumed_job,
    sink_contexts,
    warn_of_damage,
    warn_of_repeats,
)
from onceflow.runtime.reports import Reports
from onceflow.runtime.signals import quick_switches, stop_on_signals
from onceflow.runtime.source_task import source_errors
from onceflow.runtime.worker import Worker
from onceflow.sources import SourceContext
from onceflow.types import StateChange

__all__ = ["Job"]

_EPOCH_EVERY_S = 1.0
#: A job looks at its signals so often, also while it waits for its sinks.
_LONGEST_WAIT_S = 0.1
#: From ``Job.run`` up to who called ``run``.
_STACK_OF_RUN = 6


class Job:
    """One run, or one attempt of it.

    Args:
        graph: What to run.
        backend: Its state, opened.
        options: Of the run.
        resources: Closes what is opened.
        is_restart: An attempt of the run has failed before: if it had finished the job, only its sinks are behind.
    """

    def __init__(
        self,
        graph: Graph,
        backend: StateBackend,
        options: JobOptions,
        resources: ExitStack,
        *,
        is_restart: bool = False,
    ) -> None:
        self._graph = graph
        self._backend = backend
        self._options = options
        self._guarantee = options.guarantee
        self._codec = options.codec
        self._batch_size = options.batch_size
        self._clock = options.clock
        self._resources = resources
        self._is_restart = is_restart
        #: When everything was open, and the first record could be read, by the job's clock; None: not yet.
        self.began_s: float | None = None
        self._reports = Reports(options.on_event, options.clock)
        #: Set by whoever gives the job's thread something to do while it waits for something to read.
        self._wake = WakeHandle()
        #: By a source, and by a signal.
        self._stopping = self._interrupted = False
        #: In the last round there was nothing to read; all sources have ended.
        self._idle = self._ended = False
        self._replay: Replay | None = None
        #: What was done about state of another dataflow; what of the setting for that has been, by earlier runs too.
        self._changes: tuple[StateChange, ...] = ()
        self._done: list[str] = []
        self._last_start = self._clock.monotonic()
        #: When the last checkpoint of this run was over.
        self._last_end = -math.inf
        self._last_epoch_check = self._last_start
        self._completed = 0
        self._finished = self._caught_up = False
        #: Sinks may have been touched, or another run.
        self.has_begun = False
        #: Something was read since the last cut.
        self._changed = False

    @property
    def is_interrupted(self) -> bool:
        """Whether a signal has told it to stop."""
        return self._interrupted

    def so_far(self) -> JobResult:
        """How far it has come, once it has begun."""
        return self._result(self._worker.counts(), self._worker.late(), finished=False)

    # -- start ---------------------------------------------------------------------------------

    def run(self) -> JobResult:
        backend, graph = self._backend, self._graph
        restored = backend.recovery.restored
        job = resumed_job(backend, graph, self._guarantee, self._codec, self._batch_size)
        if job is not None:
            self._changes = evolve(backend, self._codec, graph, job, self._options.on_change)
            self._done = has_been_done(self._changes, self._options.on_change, job.done)
        self._last_checkpoint = None if restored is None else restored.id
        if restored is not None and job is not None and job.finished:
            if self._options.savepoint not in (None, restored.savepoint):
                raise ConfigurationError(
                    "the job has finished, so no checkpoint comes that could be kept as "
                    f"{self._options.savepoint!r}; give the savepoint to the run that finishes it"
                )
            self._open_sinks()
            recover_sinks(backend, graph, self._deliveries, Plan())
            self._tell_sources(restored)
            if not self._is_restart:
                warnings.warn(
                    FinishedJobWarning(
                        f"job {graph.name!r} had finished before, with checkpoint {restored.id}, so this run has done "
                        "nothing, whatever has changed since in its code, its input or its output. To compute it anew, "
                        "move its output away and run it once with resume_from='none'. A job whose files grow, or get "
                        "new ones beside them, is run with until='caught_up' from the beginning: that does not finish "
                        "it"
                    ),
                    stacklevel=_STACK_OF_RUN,
                )
            return self._result(job.counts, job.late, finished=True)
        self._open_sinks()
        plan = plan_recovery(backend, graph, self._deliveries, self._changes)
        self._replay = plan.replay
        # What is missing there is said before anything is touched.
        partitions = list_partitions(graph)
        self.has_begun = True
        recover_sinks(backend, graph, self._deliveries, plan)
        tally = Tally(NOTHING_COUNTED, {}, False, {})
        if job is not None:
            tally = Tally(job.counts, job.late, job.waited, agreed_without(job.agreed, self._changes))
        blobs = {} if restored is None else without(restored.blobs, self._changes)
        start = Start(
            blobs,
            partitions,
            tally,
            self._options.until,
            self._options.max_drift_us,
            known_steps(job, self._changes),
        )
        self._worker = Worker(
            graph,
            backend,
            self._codec,
            self._clock,
            self._deliveries,
            self._batch_size,
            start,
            self._wake,
            self._resources,
        )
        self._checkpoints = Checkpoints(
            backend, self._deliveries, self._clock, self._inject, self._wake, self._options.checkpoint_timeout_s
        )
        self._resources.push(closing(self._checkpoints.close))
        if plan.replay is not None:
            self._worker.replay_to(plan.replay.positions, to_end=plan.replay.to_end)
        self._recovered(plan)
        if restored is not None:
            # The run before may have been killed before it had told.
            self._hear(self._worker.take(Committed(restored.id)))
        crash_point("recover.post_open")
        self.began_s = self._clock.monotonic()
        with stop_on_signals(self._interrupt), quick_switches():
            finished = self._loop()
        return self._result(self._worker.counts(), self._worker.late(), finished=finished)

    def _open_sinks(self) -> None:
        warn_of_repeats(self._backend, self._graph)
        while True:
            [contexts] = sink_contexts(self._backend, self._graph, self._changes)
            with ExitStack() as opened:
                try:
                    self._deliveries = open_deliveries(
                        self._backend, self._graph, self._guarantee, self._codec, opened, contexts
                    )
                except FencedError as error:
                    # Of a copy of the state whose clock was ahead. Who goes back on purpose is not refused.
                    if error.newer_lineage is None or not self._backend.raise_lineage(error.newer_lineage):
                        raise
                    continue
                self._resources.push(opened.pop_all())
                return

    def _tell_sources(self, restored: CheckpointInfo) -> None:
        """Of a job that had finished: the run that finished it may have been killed before it had told them."""
        for step in self._graph.sources():
            context = SourceContext(self._graph.name, step.step_id, clock=self._clock, wake=self._wake)
            positions = saved_positions(restored.blobs, step.step_id)
            with source_errors(step.step_id):
                step.source.on_checkpoint_complete(restored.id, positions, context)

    def _recovered(self, plan: Plan) -> None:
        recovery, replay, counts = self._backend.recovery, plan.replay, self._worker.counts()
        if recovery.damage:
            warn_of_damage(self._backend, plan)
        self._reports.tell(
            Recovered(
                None if recovery.restored is None else recovery.restored.id,
                self._backend.job_epoch,
                recovery.rows,
                recovery.duration_s,
                None if replay is None else replay.until,
                tuple(reason for _, reason in recovery.damage),
                self._worker.records_in,
                self._worker.records_out,
                self._changes,
                {name: counts[name] for name in ("rejected", "skipped", "raised")},
                self._worker.late(),
            )
        )

    # -- rounds --------------------------------------------------------------------------------

    def _loop(self) -> bool:
        self._worker.suppress(self._replay is not None)
        self._check_replay()
        while True:
            self._poll()
            if self._interrupted and self._replay is not None:
                # Nothing can be kept before its end, and nothing is lost: the next run replays.
                self._reports.stopping(self._worker.finishing)
                return False
            if (self._interrupted or self._stopping) and self._replay is None:
                self._reports.stopping(self._worker.finishing)
                self._finish_checkpoint(finished=False)
                return False
            if self._ended:
                break
            if self._checkpoints.under_way and holds_much(self._deliveries):
                # What is read now could only be held as well.
                with self._reports.shares.backpressured():
                    self._poll(_LONGEST_WAIT_S)
                self._reports.progress(self._worker, self._deliveries)
                continue
            self._idle = False
            self._hear(self._worker.round())
            if self._idle:
                self._wait()
            else:
                self._changed = True
            self._reports.late(self._worker.lost_late())
            self._check_replay()
            self._reports.progress(self._worker, self._deliveries)
            may_begin = not self._checkpoints.under_way and self._replay is None
            if (self._worker.is_stopped and not self._interrupted) or (may_begin and self._is_due()):
                self._start_checkpoint()
        if self._replay is not None and not self._replay.to_end:
            raise SourceError(
                "the sources ended before the positions of the damaged checkpoint were reached: they are not what they "
                "were, so no exact recovery is possible"
            )
        self._settle()
        # A replay that ends here is one of a job that had finished.
        if self._options.until == "caught_up" and self._replay is None:
            self._finish_checkpoint(finished=False)
            self._caught_up = True
            return False
        return self._end()

    def _end(self) -> bool:
        """All sources have ended: what is left comes out, with checkpoints between where sinks hold too much of it.

        False if it was interrupted: the next run goes on from there.
        """
        while True:
            self._hear(self._worker.end())
            if self._worker.is_stopped and not self._interrupted:
                self._start_checkpoint()
                continue
            if not self._worker.is_stopped:
                self._finish_checkpoint(finished=True)
                return True
            self._reports.stopping(self._worker.finishing)
            if self._replay is None:
                self._finish_checkpoint(finished=False)
            return False

    def _wait(self) -> None:
        """Nothing was there to read: what is to be done next wakes it, be it a checkpoint or a signal."""
        longest_s = _EPOCH_EVERY_S
        if self._changed and self._replay is None and not self._checkpoints.under_way:
            longest_s = min(longest_s, max(self._next_start - self._clock.monotonic(), 0.0))
        with self._reports.shares.idle():
            self._worker.wait(longest_s)

    def _check_replay(self) -> None:
        """Outputs are suppressed until every source stands where the damaged checkpoint stood.

        Of a job that had finished everything is suppressed, also what the end of its sources gives rise to.
        """
        replay = self._replay
        if replay is not None and not replay.to_end and self._worker.has_arrived:
            self._replay = None
            self._worker.suppress(False)
            self._worker.end_replay()
            self._start_checkpoint()

    # -- what the worker tells -----------------------------------------------------------------

    def _interrupt(self) -> None:
        """By the handler of a signal, in the middle of whatever the job's thread does."""
        self._interrupted = True
        self._wake.set()
        self._reports.interrupted(self._worker.finishing)

    def _hear(self, messages: Iterator[FromWorker]) -> None:
        """Has the worker do something, and takes its answers in turn."""
        for message in messages:
            match message:
                case PieceTaken():
                    if self._must_stop():
                        self._hear(self._worker.take(Stop()))
                case Idle():
                    self._idle = True
                case StopAsked():
                    # Not within a replay, which passes by places where earlier runs were stopped.
                    self._stopping = True
                case Ended():
                    self._ended = True
                case Acknowledged():
                    with self._reports.checkpoint_failures(self._checkpoints.current_id):
                        self._checkpoints.acknowledge(message, self._record(message.tally))
                case Declined(error=error):
                    self._checkpoints.decline(message)
                    with self._reports.checkpoint_failures(self._checkpoints.current_id):
                        raise error
                case Failed(error=error):
                    self._checkpoints.fail(described(error))
                    raise error

    def _must_stop(self) -> bool:
        """Looks up within a batch; true if the run ends within it, or if sinks hold too much for its rest."""
        self._poll()
        self._reports.progress(self._worker, self._deliveries)
        while not self._interrupted and holds_much(self._deliveries):
            if not self._checkpoints.under_way:
                return True
            with self._reports.shares.backpressured():
                self._poll(_LONGEST_WAIT_S)
            self._reports.progress(self._worker, self._deliveries)
        return self._interrupted

    def _record(self, tally: Tally) -> JobRecord:
        return JobRecord(
            str(self._guarantee),
            self._codec.name,
            self._batch_size,
            fingerprint(self._graph),
            self._finished,
            dict(tally.counts),
            tally.waited,
            dict(tally.late),
            {step_id: dict(some) for step_id, some in tally.agreed.items()},
            settings_of(self._graph),
            self._done,
        )

    # -- checkpoints ---------------------------------------------------------------------------

    @property
    def _next_start(self) -> float:
        """When the next checkpoint begins if there is something new by then."""
        return self._options.next_checkpoint_s(last_start_s=self._last_start, last_end_s=self._last_end)

    def _is_due(self) -> bool:
        if self._changed and self._clock.monotonic() >= self._next_start:
            return True
        return holds_half(self._deliveries)

    def _start_checkpoint(self, *, finished: bool = False, savepoint: str | None = None) -> None:
        """Injects a barrier after the last batch of each task; the cut comes when the aligner has seen them all."""
        self._last_start = self._clock.monotonic()
        self._changed = False
        self._finished = finished
        self._checkpoints.begin(savepoint)

    def _inject(self, message: Trigger) -> None:
        self._hear(self._worker.take(message))

    def _finish_checkpoint(self, *, finished: bool) -> None:
        """A last checkpoint, waited for."""
        self._reports.progress(self._worker, self._deliveries, at_once=True)
        self._settle()
        self._start_checkpoint(finished=finished, savepoint=self._options.savepoint)
        self._settle()
        if self._options.savepoint is None and any(each.repeats for each in self._deliveries.values()):
            # Its decision, behind the writes, spares the next run to write all of it again. A savepoint stays the last
            # checkpoint, so that who resumes from it leaves nothing.
            self._start_checkpoint(finished=finished)
            self._settle()
        crash_point("job.end")
        # Replaced after the decision, with nothing left for its sinks to commit, a run would not notice.
        self._backend.check_epoch()

    def _settle(self) -> None:
        """Waits for the checkpoint under way."""
        while self._checkpoints.under_way:
            self._poll(1.0)

    def _poll(self, timeout_s: float = 0.0) -> None:
        """Lets the capture go on for a slice, and hears of a checkpoint that has completed."""
        self._backend.poll()
        now = self._clock.monotonic()
        if now - self._last_epoch_check >= _EPOCH_EVERY_S:
            # A run that has nothing to write would not notice that it was replaced.
            self._last_epoch_check = now
            self._backend.check_epoch()
        if not self._checkpoints.under_way:
            return
        with self._reports.checkpoint_failures(self._checkpoints.current_id):
            stats = self._checkpoints.poll(timeout_s)
        if stats is not None:
            self._last_end = self._clock.monotonic()
            self._last_checkpoint = stats.id
            self._completed += 1
            self._hear(self._worker.take(Committed(stats.id)))
            self._reports.tell(
                CheckpointCompleted(stats, self._worker.records_in, self._worker.records_out, self._worker.late())
            )

    def _result(self, counts: dict[str, int], late: dict[str, int], *, finished: bool) -> JobResult:
        restored = self._backend.recovery.restored
        return JobResult(
            finished=finished,
            caught_up=self._caught_up,
            checkpoints=self._completed,
            last_checkpoint=self._last_checkpoint,
            resumed_from=None if restored is None else restored.id,
            late=late,
            changes=self._changes,
            refused={step_id: number for step_id, one in self._deliveries.items() if (number := one.refused())},
            records_in=counts["records_in"],
            records_out=counts["records_out"],
            rejected=counts["rejected"],
            skipped=counts["skipped"],
            raised=counts.get("raised", 0),
        )
