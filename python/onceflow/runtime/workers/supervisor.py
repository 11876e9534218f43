"""One run of a job of several workers: the supervisor starts them, has them take checkpoints, and decides.

A worker keeps its part of a checkpoint in a store of its own; what makes the checkpoint is one decision record, which
the supervisor writes when all parts are durable and all output is prepared. It names the parts, and has what each
worker needs to commit its output: a part without a decision is nobody's. Where a worker fails, all end, and the next
run goes on from the last decision.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from onceflow._native import CheckpointCoordinator, CoordinatorEffect, PendingCheckpoint, StateBackend
from onceflow.clock import SystemClock
from onceflow.crash import crash_point
from onceflow.events import (
    CheckpointCompleted,
    CheckpointFailed,
    JobResult,
)
from onceflow.events import Recovered as JobRecovered
from onceflow.exceptions import (
    CheckpointError,
    ConfigurationError,
    FencedError,
    StoreCorruptError,
    described,
)
from onceflow.graph.compatibility import fingerprint, has_been_done, settings_of
from onceflow.graph.exchanges import check_divisible, exchanges
from onceflow.graph.graph import Graph
from onceflow.process import closing
from onceflow.runtime.job_record import JOB_BLOB, JobRecord
from onceflow.runtime.messages import NOTHING_COUNTED
from onceflow.runtime.options import JobOptions
from onceflow.runtime.partitions import list_partitions
from onceflow.runtime.recovery import Plan, decided_outputs, resumed_job, sink_contexts, warn_of_repeats
from onceflow.runtime.reports import Reports
from onceflow.runtime.signals import stop_on_signals
from onceflow.runtime.workers.crew import Crew, Member
from onceflow.runtime.workers.messages import (
    Begin,
    Complete,
    Decided,
    OutputsCommitted,
    Part,
    PartDurable,
    Progressed,
    Recover,
    Recovered,
    Setup,
    TakePart,
    Warned,
    WorkerEnded,
    WorkerFailed,
    WorkerOpened,
    WorkerStops,
)
from onceflow.runtime.workers.parts import (
    common_watermarks,
    keep_part,
    keep_positions,
    known_parts,
    part_of,
    positions_in,
)
from onceflow.runtime.workers.share import dealt_out
from onceflow.runtime.workers.tallies import agreed_by_all, check_learnt_alike, cost_of_all, progress_of_all, summed
from onceflow.runtime.workers.travel import pickled
from onceflow.sinks import SinkContext
from onceflow.types import Micros, StateChange

__all__ = ["Supervisor"]

#: Where workers have their stores, under the state directory.
_STORES = "workers"
#: Besides those of the job a worker keeps one that was not decided, and one that a run before has left.
_KEPT_BESIDES = 2
_EPOCH_EVERY_S = 1.0
_PROGRESS_EVERY_S = 0.1
_LOOK_S = 0.05
#: From ``Supervisor.run`` up to who called ``run``.
_STACK_OF_RUN = 3


class Supervisor:
    """One run.

    Args:
        graph: What to run.
        backend: Has the decisions.
        options: See ``run``.
        resources: Ends what was begun.
    """

    def __init__(self, graph: Graph, backend: StateBackend, options: JobOptions, resources: ExitStack) -> None:
        check_divisible(graph)
        if type(options.clock) is not SystemClock:
            raise ConfigurationError(
                f"clock is a {type(options.clock).__name__}, and workers in processes of their own go by the system's: "
                "leave it out, or run the job with one worker",
                setting="clock",
            )
        self._graph = graph
        self._backend = backend
        self._options = options
        self._count = workers = options.workers
        self._resources = resources
        self._clock = options.clock
        self._crew = Crew(workers, self._lost)
        self._coordinator = CheckpointCoordinator(
            [f"worker-{rank}" for rank in range(workers)],
            [f"worker-{rank}" for rank in range(workers)],
            timeout_s=options.checkpoint_timeout_s,
        )
        self._pending: PendingCheckpoint | None = None
        #: Other systems have been touched.
        self.has_begun = False
        self._finished = self._caught_up = False
        #: When the first record could be read, by the job's clock; None: not yet.
        self.began_s: float | None = None
        self._reports = Reports(options.on_event, options.clock)
        self._interrupted = self._stopping = False
        self._last_start = self._last_progress = self._last_epoch_check = self._clock.monotonic()
        self._last_end = -math.inf
        self._completed = 0
        self._last_checkpoint: int | None = None
        self._changes: tuple[StateChange, ...] = ()
        self._done: list[str] = []
        self._job: JobRecord | None = None
        self._dealt: dict[str, int] = {}
        self._positions: dict[str, bytes] = {}
        self._watermarks: dict[str, Micros] = {}
        #: Name of the savepoint that the checkpoint under way is to be.
        self._savepoint: str | None = None

    @property
    def is_interrupted(self) -> bool:
        """Whether a signal has told it to stop."""
        return self._interrupted

    def so_far(self) -> JobResult:
        """How far it has come, once it has begun."""
        return self._result(
            [worker.progress.counts for worker in self._workers], [worker.progress.late for worker in self._workers]
        )

    # -- start ---------------------------------------------------------------------------------

    def run(self) -> JobResult:
        backend, graph, options = self._backend, self._graph, self._options
        restored = backend.recovery.restored
        self._job = job = resumed_job(backend, graph, options.guarantee, options.codec, options.batch_size, self._count)
        if backend.recovery.damage:
            reasons = "; ".join(reason for _, reason in backend.recovery.damage)
            raise StoreCorruptError(
                f"{backend.path} is damaged ({reasons}), and input that several workers have processed cannot be "
                "processed again as it was: resume from a checkpoint of your choice with resume_from, knowing that "
                "outputs after it are written again"
            )
        self._last_checkpoint = None if restored is None else restored.id
        if restored is not None:
            self._positions, self._dealt, self._watermarks = positions_in(restored.blobs)
        listed = list_partitions(graph)
        names = [f"{step_id}/{partition}" for step_id, partitions in listed.items() for partition in partitions]
        self._dealt = dealt_out(names, self._dealt, self._count)
        parts = [part_of(restored.blobs, rank) if restored is not None else None for rank in range(self._count)]
        warn_of_repeats(backend, graph)
        flow = pickled(graph)
        self._resources.push(closing(self._close_crew))
        with stop_on_signals(self._interrupt):
            (Path(backend.path) / _STORES).mkdir(mode=0o700, exist_ok=True)
            while not self._has_opened(flow, parts):
                self._crew.close()
                self._crew = Crew(self._count, self._lost)
            opened = [worker.opened for worker in self._workers if worker.opened is not None]
            self._changes = tuple(dict.fromkeys(change for each in opened for change in each.changes))
            self._done = [] if job is None else has_been_done(self._changes, options.on_change, job.done)
            self.has_begun = True
            self._recover_sinks()
            self._reports.tell(
                JobRecovered(
                    self._last_checkpoint,
                    backend.job_epoch,
                    sum(each.rows for each in opened),
                    backend.recovery.duration_s,
                    records_in=self._count_of("records_in"),
                    records_out=self._count_of("records_out"),
                    changes=self._changes,
                    counts=self._counts([]),
                    late=self._late([]),
                )
            )
            self._crew.tell(Begin(self._last_checkpoint))
            crash_point("recover.post_open")
            self.began_s = self._clock.monotonic()
            try:
                self._caught_up = self._loop()
            except Exception as error:
                if self._pending is not None:
                    self._reports.tell(CheckpointFailed(self._pending.id, described(error)))
                raise
        self._crew.end()
        durable = [worker.durable for worker in self._workers if worker.durable is not None]
        return self._result([each.tally.counts for each in durable], [each.tally.late for each in durable])

    def _has_opened(self, flow: bytes, parts: list[Part | None]) -> bool:
        """Starts the workers; false if their sinks know a newer lineage, which the job's was raised above."""
        contexts = sink_contexts(self._backend, self._graph, (), self._count)
        known = known_parts(self._backend, self._count)
        self._crew.start()
        for worker in self._workers:
            rank = worker.rank
            worker.tell(self._setup(worker, flow, contexts[rank], parts[rank], known[rank]))
        try:
            self._until(lambda: all(worker.opened for worker in self._workers))
        except FencedError as error:
            # Of a copy of the state whose clock was ahead. Who goes back on purpose is not refused.
            if error.newer_lineage is None or not self._backend.raise_lineage(error.newer_lineage):
                raise
            return False
        return True

    def _close_crew(self) -> None:
        self._crew.close()

    @property
    def _workers(self) -> list[Member]:
        return self._crew.members

    def _setup(
        self,
        worker: Member,
        flow: bytes,
        contexts: Mapping[str, SinkContext],
        part: Part | None,
        known: frozenset[int],
    ) -> Setup:
        options = self._options
        return Setup(
            worker.rank,
            self._count,
            flow,
            len(exchanges(self._graph)),
            str(Path(self._backend.path) / _STORES / str(worker.rank)),
            worker.peers,
            options.guarantee,
            options.codec.name,
            options.batch_size,
            options.on_change,
            options.until,
            options.max_drift_us,
            options.retain + _KEPT_BESIDES,
            contexts,
            part,
            known,
            self._job,
            self._positions,
            self._dealt,
            self._watermarks,
        )

    def _recover_sinks(self) -> None:
        """The first worker shuts older runs out and commits what was decided; then the others open their sinks."""
        outputs = decided_outputs(self._backend, self._graph, Plan())
        first, *others = self._workers
        first.tell(Recover(outputs))
        self._until(lambda: first.has_recovered)
        for worker in others:
            worker.tell(Recover({}))
        self._until(lambda: all(worker.has_recovered for worker in others))

    # -- rounds --------------------------------------------------------------------------------

    def _loop(self) -> bool:
        while True:
            self._hear(_LOOK_S)
            self._tell_progress()
            if self._interrupted or self._stopping:
                self._reports.stopping(0)
                self._checkpoint_now(savepoint=self._options.savepoint)
                return False
            if all(worker.has_ended for worker in self._workers):
                self._settle()
                is_end = self._options.until == "end"
                self._finished = is_end
                self._checkpoint_now(savepoint=self._options.savepoint)
                return not is_end
            if self._pending is None and self._is_due():
                self._begin(None)

    def _is_due(self) -> bool:
        if any(worker.progress.holds for worker in self._workers):
            return True
        due_s = self._options.next_checkpoint_s(last_start_s=self._last_start, last_end_s=self._last_end)
        return self._clock.monotonic() >= due_s and any(worker.progress.changed for worker in self._workers)

    def _checkpoint_now(self, *, savepoint: str | None) -> None:
        """A last checkpoint, waited for."""
        self._settle()
        self._begin(savepoint)
        self._settle()
        crash_point("job.end")
        self._backend.check_epoch()

    def _settle(self) -> None:
        self._until(lambda: self._pending is None)

    def _until(self, is_so: Callable[[], object]) -> None:
        while not is_so():
            self._hear(_LOOK_S)

    def _hear(self, timeout_s: float) -> None:
        for worker, message in self._crew.hear(timeout_s):
            self._take(worker, message)
        self._carry_out(self._coordinator.tick(self._clock.monotonic()))
        now_s = self._clock.monotonic()
        if now_s - self._last_epoch_check >= _EPOCH_EVERY_S:
            self._last_epoch_check = now_s
            self._backend.check_epoch()

    def _take(self, worker: Member, message: Any) -> None:
        now_s = self._clock.monotonic()
        match message:
            case WorkerOpened():
                worker.opened = message
            case Recovered():
                worker.has_recovered = True
            case Progressed():
                worker.progress = message
            case PartDurable():
                worker.durable = message
                self._carry_out(self._coordinator.acknowledge(worker.name, message.checkpoint_id, now_s=now_s))
            case OutputsCommitted():
                self._carry_out(self._coordinator.committed(worker.name, message.checkpoint_id))
            case WorkerEnded():
                worker.has_ended = True
            case WorkerStops():
                self._stopping = True
            case Warned(category=category, text=text):
                warnings.warn(category(text), stacklevel=_STACK_OF_RUN)
            case WorkerFailed(error=error):
                error.add_note(f"in worker {worker.rank} of {self._count}")
                raise error

    def _lost(self, worker: Member, reason: str) -> None:
        """A worker is gone: what is not decided is given up."""
        effects = self._coordinator.task_failed(worker.name, reason)
        if self._pending is not None and any(isinstance(effect, CoordinatorEffect.Abort) for effect in effects):
            self._pending.abort()

    # -- checkpoints ---------------------------------------------------------------------------

    def _begin(self, savepoint: str | None) -> None:
        self._last_start = self._clock.monotonic()
        self._savepoint = savepoint
        self._pending = pending = self._backend.begin_checkpoint(savepoint=savepoint)
        for worker in self._workers:
            worker.durable = None
        self._carry_out(self._coordinator.trigger(pending.id, now_s=self._last_start))

    def _carry_out(self, effects: Any) -> None:
        for effect in effects:
            match effect:
                case CoordinatorEffect.InjectBarriers(checkpoint_id=number):
                    for worker in self._workers:
                        worker.tell(TakePart(number, self._savepoint))
                        crash_point("barrier.mid_inject")
                case CoordinatorEffect.PrepareSinks(checkpoint_id=number):
                    # Workers have, before they acknowledged.
                    for worker in self._workers:
                        self._carry_out(self._coordinator.prepared(worker.name, number))
                case CoordinatorEffect.Decide(checkpoint_id=number):
                    self._decide(number)
                case CoordinatorEffect.CommitSink(sink=name, checkpoint_id=number):
                    worker = next(each for each in self._workers if each.name == name)
                    worker.tell(Decided(number))
                    crash_point("decide.mid_tell")
                case CoordinatorEffect.Complete():
                    self._complete()
                case CoordinatorEffect.Abort(reason=reason) | CoordinatorEffect.Fail(reason=reason):
                    if self._pending is not None and isinstance(effect, CoordinatorEffect.Abort):
                        self._pending.abort()
                    raise CheckpointError(f"checkpoint {effect.checkpoint_id} failed: {reason}; run the job again")

    def _decide(self, number: int) -> None:
        pending = self._pending
        assert pending is not None, "a checkpoint is under way"
        durable = [worker.durable for worker in self._workers if worker.durable is not None]
        check_learnt_alike([each.learnt for each in durable])
        self._watermarks = common_watermarks([each.watermarks for each in durable])
        pending.freeze()
        for rank, each in enumerate(durable):
            self._dealt |= dict.fromkeys((name.removeprefix("source/") for name in each.positions), rank)
            self._positions |= each.positions
            keep_part(pending, rank, each)
        keep_positions(pending, self._positions, self._dealt, self._watermarks)
        pending.put_blob(JOB_BLOB, self._record(durable).encode())
        crash_point("decide.pre")
        pending.write()
        crash_point("decide.post_wait")
        self._carry_out(self._coordinator.decided(number))

    def _record(self, durable: list[PartDurable]) -> JobRecord:
        counts = self._counts([each.tally.counts for each in durable])
        late = self._late([each.tally.late for each in durable])
        return JobRecord(
            str(self._options.guarantee),
            self._options.codec.name,
            self._options.batch_size,
            fingerprint(self._graph),
            self._finished,
            counts,
            True,
            late,
            agreed_by_all([each.tally.agreed for each in durable]),
            settings_of(self._graph),
            self._done,
            self._count,
        )

    def _complete(self) -> None:
        pending, self._pending = self._pending, None
        assert pending is not None, "a checkpoint was under way"
        self._last_checkpoint = pending.id
        self._completed += 1
        self._last_end = self._clock.monotonic()
        self._crew.tell(Complete(pending.id))
        parts = [worker.durable.stats for worker in self._workers if worker.durable is not None]
        self._reports.tell(
            CheckpointCompleted(
                cost_of_all(parts),
                self._count_of("records_in"),
                self._count_of("records_out"),
                self._all_late(),
            )
        )

    # -- reports -------------------------------------------------------------------------------

    def _interrupt(self) -> None:
        self._interrupted = True
        self._reports.interrupted(0)

    def _counts(self, of_workers: list[Mapping[str, int]]) -> dict[str, int]:
        """Those of ``JobResult``, with those of earlier runs."""
        return summed(NOTHING_COUNTED if self._job is None else self._job.counts, of_workers)

    def _late(self, of_workers: list[Mapping[str, int]]) -> dict[str, int]:
        return summed({} if self._job is None else self._job.late, of_workers)

    def _count_of(self, name: str) -> int:
        return self._counts([worker.progress.counts for worker in self._workers])[name]

    def _all_late(self) -> dict[str, int]:
        return self._late([worker.progress.late for worker in self._workers])

    def _tell_progress(self) -> None:
        for worker in self._workers:
            self._reports.late(worker.progress.lost_late)
        now_s = self._clock.monotonic()
        if now_s - self._last_progress < _PROGRESS_EVERY_S:
            return
        self._last_progress = now_s
        told = [worker.progress for worker in self._workers]
        counts = self._counts([each.counts for each in told])
        self._reports.tell(progress_of_all(counts, self._all_late(), told))

    def _result(self, counts: list[Mapping[str, int]], late: list[Mapping[str, int]]) -> JobResult:
        restored, told = self._backend.recovery.restored, self._counts(counts)
        return JobResult(
            finished=self._finished,
            caught_up=self._caught_up,
            checkpoints=self._completed,
            last_checkpoint=self._last_checkpoint,
            resumed_from=None if restored is None else restored.id,
            late=self._late(late),
            changes=self._changes,
            refused=summed({}, [worker.progress.refused for worker in self._workers]),
            records_in=told["records_in"],
            records_out=told["records_out"],
            rejected=told["rejected"],
            skipped=told["skipped"],
            raised=told["raised"],
        )
