"""Runs a dataflow: source tasks, a worker task, checkpoints, recovery.

One thread does the job's work. Each round every source task reads one batch into its channel and the worker task takes
them in order. A checkpoint is a barrier in every channel: when the aligner has seen them all, operators write cached
state into their tables, the tables are frozen, sinks are sealed, and work goes on; the checkpoint thread then has the
sinks prepare, writes the decision record, and has the sinks commit. ``CheckpointCoordinator`` says what comes next.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from os import PathLike
from typing import Any

import msgspec

from onceflow._native import (
    BarrierAligner,
    CheckpointInfo,
    RecoveryPlan,
    StateBackend,
    recovery_plan,
)
from onceflow.channel import BarrierEvent, BatchEvent, Event
from onceflow.checkpointing import Checkpointing
from onceflow.clock import Clock, SystemClock
from onceflow.codec import codec_by_name
from onceflow.crash import crash_point
from onceflow.dataflow import Dataflow
from onceflow.events import CheckpointCompleted, JobEvent, JobResult, Progress, Recovered, Stopping
from onceflow.exceptions import (
    CheckpointError,
    CheckpointNotFoundError,
    ConfigurationError,
    DamagedCheckpointWarning,
    SourceError,
    StoreCorruptError,
    UserFunctionError,
)
from onceflow.planner import check_resume, fingerprint, plan
from onceflow.sink_legs import SinkLeg, open_leg, sink_errors
from onceflow.sinks import SinkContext
from onceflow.source_task import SourceTask
from onceflow.sources import StopRun
from onceflow.types import END_OF_TIME, Guarantee
from onceflow.worker_task import WorkerTask

__all__ = ["run"]

_JOB_BLOB = "job"
_JOB_FORMAT = 1
_WORKER = "worker"
_MAX_HELD_RECORDS = 1_000_000
_MAX_HELD_BYTES = 64 << 20
_PROGRESS_EVERY_S = 0.1
_IDLE_S = 0.002
_SWITCH_S = 0.001
#: From where a warning is raised up to who called ``run``.
_STACK_OF_RUN = 5


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
    state directory. SIGINT and SIGTERM end it with a last checkpoint; a second SIGINT without one, once a sink's
    call that is under way has returned (safe too). A job whose sources have ended is over: it does nothing when it is
    run again, also if there is more to read by then.

    Args:
        flow: What to run; its name is the job's name.
        state: State directory, made if missing, private to the owner.
        checkpoint_interval_s: Seconds from one checkpoint's start to the next one's. A checkpoint waits for the one
            before.
        guarantee: What the output promises; refused before the first record if a path cannot keep it.
        batch_size: Records that a source is asked for at once. Keep it from run to run: output that depends on batches
            is the same only then.
        codec: How values of user state become bytes: ``"msgpack"``, or ``"pickle"`` for any object (reading pickles
            runs code).
        retain: Complete checkpoints kept besides savepoints.
        savepoint: Name under which the last checkpoint of this run is kept; a savepoint is never collected.
        from_checkpoint: Resume from this number, or savepoint of this name, instead of the newest checkpoint. Starts a
            new lineage: outputs after it are written again.
        fresh: Start from nothing, in a new lineage.
        take_over: Fence a running or paused process of this job instead of being refused.
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
    settings = {"guarantee": Guarantee(guarantee), "batch_size": batch_size, "codec": codec}
    if not checkpoint_interval_s > 0:
        raise ConfigurationError(f"checkpoint_interval_s is {checkpoint_interval_s!r}; give seconds above 0")
    for name, number in (("batch_size", batch_size), ("retain", retain)):
        if not isinstance(number, int) or not 1 <= number < 1 << 31:
            raise ConfigurationError(f"{name} is {number!r}; give a whole number from 1 on")
    if fresh and from_checkpoint is not None:
        raise ConfigurationError("fresh=True starts from nothing; give it or from_checkpoint, not both")
    plan(flow.graph, Guarantee(guarantee))
    with ExitStack() as resources:
        backend = StateBackend.open(
            state,
            job=flow.name,
            retain=retain,
            take_over=take_over,
            checkpoint="none" if fresh else _numbered(state, flow.name, from_checkpoint),
        )
        resources.callback(backend.close)
        clock = clock or SystemClock()
        job = _Job(flow, backend, settings, checkpoint_interval_s, savepoint, on_event, clock, resources)
        return job.run()


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
    def __init__(
        self,
        flow: Dataflow,
        backend: StateBackend,
        settings: dict[str, Any],
        interval_s: float,
        savepoint: str | None,
        on_event: Callable[[JobEvent], None] | None,
        clock: Clock,
        resources: ExitStack,
    ) -> None:
        self._graph = flow.graph
        self._backend = backend
        self._guarantee: Guarantee = settings["guarantee"]
        self._codec = codec_by_name(settings["codec"])
        self._batch_size: int = settings["batch_size"]
        self._interval_s = interval_s
        self._savepoint = savepoint
        self._on_event = on_event
        self._clock = clock
        self._resources = resources
        self._stopping = False
        self._source_states: dict[str, dict[str, Any]] = {}
        self._watermarks: dict[str, int] = {}
        self._replay_to: dict[str, bytes] | None = None
        self._replay_to_end = False
        self._last_start = clock.monotonic()
        self._last_progress = self._last_start
        self._completed = 0
        self._finished = False
        #: Something was read since the last cut.
        self._changed = False
        self._counts = {"records_in": 0, "records_out": 0, "rejected": 0, "skipped": 0}
        self._out_before = self._rejected_before = 0

    # -- start ---------------------------------------------------------------------------------

    def run(self) -> JobResult:
        restored = self._backend.recovery.restored
        job = self._resume(restored)
        self._last_checkpoint = None if restored is None else restored.id
        if restored is not None and job is not None and job["finished"]:
            if self._savepoint not in (None, restored.savepoint):
                raise ConfigurationError(
                    f"the job has finished, so no checkpoint comes that could be kept as {self._savepoint!r}; give the "
                    "savepoint to the run that finishes it"
                )
            self._open_legs(restored)
            return self._result(finished=True)
        legs = self._open_legs(restored)
        recovery = self._recovery_plan(restored)
        self._open_tasks(restored, legs)
        self._recovered(restored, recovery)
        crash_point("recover.post_open")
        with _stop_on_signals(self), _quick_switches():
            finished = self._loop()
        return self._result(finished=finished)

    def stop(self) -> None:
        """The run ends with a last checkpoint as soon as possible."""
        self._stopping = True

    def _resume(self, restored: CheckpointInfo | None) -> dict[str, Any] | None:
        if restored is None:
            return None
        blob = restored.blobs.get(_JOB_BLOB)
        if blob is None:
            raise ConfigurationError(
                f"{self._backend.path} holds checkpoints of a program that uses the state backend itself, not of a "
                "dataflow; give the dataflow its own directory"
            )
        job: dict[str, Any] = msgspec.msgpack.decode(blob)
        if job["format"] != _JOB_FORMAT:
            raise ConfigurationError(f"the job was written in format {job['format']}; this version reads {_JOB_FORMAT}")
        wanted = {"guarantee": str(self._guarantee), "codec": self._codec.name, "batch_size": self._batch_size}
        for name, value in wanted.items():
            if job[name] != value:
                raise ConfigurationError(
                    f"the job was started with {name}={job[name]!r} and is resumed with {value!r}; use the former, or "
                    "start over with fresh state"
                )
        check_resume(job["steps"], self._graph)
        self._counts = job["counts"]
        self._out_before = self._counts["records_out"]
        self._rejected_before = self._counts["rejected"]
        return job

    def _open_legs(self, restored: CheckpointInfo | None) -> dict[str, SinkLeg]:
        backend = self._backend
        # Outputs of a lineage that was left are written again, so what is undone there must not be carried through.
        decided = [
            record for record in backend.checkpoints() if record.damage is None and record.lineage == backend.lineage
        ]
        self._legs: dict[str, SinkLeg] = {}
        for step in self._graph.sinks():
            context = SinkContext(
                self._graph.name,
                step.step_id,
                backend.job_epoch,
                backend.lineage,
                None if restored is None else restored.id,
            )
            with sink_errors(step.step_id, "open"):
                leg = open_leg(step.sink, context, self._guarantee, self._codec, backend.check_epoch)
            self._resources.push(_closing(leg.close))
            self._legs[step.step_id] = leg
            crash_point("recover.pre_commit")
            with sink_errors(step.step_id, "recover"):
                leg.recover(
                    [(record.id, record.staged[step.step_id]) for record in decided if step.step_id in record.staged]
                )
            crash_point("recover.post_commit")
        return self._legs

    def _recovery_plan(self, restored: CheckpointInfo | None) -> RecoveryPlan | None:
        recovery = self._backend.recovery
        if not recovery.damage:
            return None
        later = [record.id for record in recovery.decided_after]
        unreadable = [number for number, _ in recovery.damage if number is not None and number not in later]
        made = recovery_plan(
            restored=None if restored is None else restored.id,
            decided_after=later,
            applied=dict.fromkeys(self._legs),
            replayable_to_position=True,
            unreadable=unreadable,
        )
        if made.kind == "stop":
            reasons = "; ".join(reason for _, reason in recovery.damage)
            raise StoreCorruptError(
                f"{self._backend.path}: no exact recovery is possible: {made.reason} ({reasons}). Resume from a "
                "checkpoint of your choice with from_checkpoint, knowing that outputs after it are written again"
            )
        if restored is not None and any(record.lineage != restored.lineage for record in recovery.decided_after):
            raise StoreCorruptError(
                f"{self._backend.path}: no exact recovery is possible: every checkpoint since the job went on from "
                f"another one, or afresh, is damaged, and checkpoint {restored.id} is not part of its history. Start "
                "over with fresh state, or from a checkpoint of your choice with from_checkpoint"
            )
        for number in made.abort:
            self._backend.delete_checkpoint(number)
        if made.kind == "replay_suppressed":
            record = next(record for record in recovery.decided_after if record.id == made.until)
            self._replay_to = {name: blob for name, blob in record.blobs.items() if name.startswith("source/")}
            self._replay_to_end = msgspec.msgpack.decode(record.blobs[_JOB_BLOB])["finished"]
        return made

    def _open_tasks(self, restored: CheckpointInfo | None, legs: dict[str, SinkLeg]) -> None:
        blobs = {} if restored is None else restored.blobs
        self._tasks: list[SourceTask] = []
        known = {name for name in blobs if name.startswith("source/")}
        for step in self._graph.sources():
            partitions = step.source.partitions()
            if not partitions:
                raise SourceError(f"source {step.step_id!r} has no partitions; give it something to read")
            for partition in partitions:
                blob = blobs.get(f"source/{step.step_id}/{partition}")
                saved = None if blob is None else msgspec.msgpack.decode(blob)
                task = SourceTask(step, partition, saved, self._batch_size)
                self._resources.push(_closing(task.close))
                self._tasks.append(task)
                known.discard(f"source/{task.name}")
        if known:
            raise SourceError(
                f"partitions that the checkpoint has positions of are gone: {sorted(known)}; put the files back, or "
                "start over with fresh state"
            )
        self._by_source = {
            step.step_id: [task for task in self._tasks if task.step is step] for step in self._graph.sources()
        }
        self._aligner = BarrierAligner(len(self._tasks))
        self._worker = WorkerTask(self._graph, legs)
        self._resources.push(_closing(self._worker.close))
        prefix = "operator/"
        self._worker.open(
            self._backend,
            self._codec,
            self._clock,
            {name.removeprefix(prefix): blob for name, blob in blobs.items() if name.startswith(prefix)},
        )
        tasks = [*(task.name for task in self._tasks), _WORKER]
        self._checkpoints = Checkpointing(self._backend, legs, tasks, self._clock)
        self._resources.callback(self._checkpoints.close)
        for task in self._tasks:
            self._source_states[task.name] = task.snapshot()
        for step_id in self._by_source:
            self._advance(step_id)

    def _recovered(self, restored: CheckpointInfo | None, made: RecoveryPlan | None) -> None:
        recovery = self._backend.recovery
        if recovery.damage:
            self._warn(restored, made)
        self._tell(
            Recovered(
                None if restored is None else restored.id,
                self._backend.job_epoch,
                recovery.rows,
                recovery.duration_s,
                None if made is None else made.until,
                tuple(reason for _, reason in recovery.damage),
                self._counts["records_in"],
                self._out_before,
            )
        )

    def _warn(self, restored: CheckpointInfo | None, made: RecoveryPlan | None) -> None:
        reasons = "; ".join(reason for _, reason in self._backend.recovery.damage)
        start = "the beginning" if restored is None else f"checkpoint {restored.id}"
        how = "Nothing newer had reached an output"
        if made is not None and made.until is not None:
            how = f"Up to checkpoint {made.until} the input is processed again with outputs suppressed"
        warnings.warn(
            DamagedCheckpointWarning(
                f"{self._backend.path} is damaged ({reasons}); recovered from {start}. {how}: the output stays exact. "
                "Look after the disk"
            ),
            stacklevel=_STACK_OF_RUN,
        )

    # -- rounds --------------------------------------------------------------------------------

    def _loop(self) -> bool:
        self._worker.suppress(self._replay_to is not None)
        self._check_replay()
        if self._begins_lineage():
            # At once: after a crash the next run must not come back to the lineage that was left.
            self._start_checkpoint()
            self._settle()
        while True:
            self._poll()
            if self._stopping and self._replay_to is None:
                self._tell(Stopping())
                self._finish_checkpoint(finished=False)
                return False
            if all(task.ended for task in self._tasks):
                break
            if self._round():
                self._changed = True
            else:
                self._idle()
            self._check_replay()
            if self._checkpoints.pending is None and self._replay_to is None and self._is_due():
                self._start_checkpoint()
        if self._replay_to is not None and not self._replay_to_end:
            raise SourceError(
                "the sources ended before the positions of the damaged checkpoint were reached: they are not what they "
                "were, so no exact recovery is possible"
            )
        self._settle()
        self._worker.end()
        self._finish_checkpoint(finished=True)
        return True

    def _begins_lineage(self) -> bool:
        known = {record.lineage for record in self._backend.checkpoints()}
        return bool(known) and self._backend.lineage not in known

    def _idle(self) -> None:
        """Nothing was there to read."""
        if self._checkpoints.pending is None:
            time.sleep(_IDLE_S)
        else:
            self._poll(_IDLE_S)

    def _round(self) -> bool:
        """Every source task reads a batch, and the worker takes them in order."""
        progressed = False
        for task in self._tasks:
            if task.ended:
                continue
            try:
                progressed |= task.read()
            except StopRun:
                self.stop()
                progressed = True
            if task.ended:
                self._source_states[task.name] = task.snapshot()
        self._consume()
        return progressed

    def _consume(self) -> None:
        now = self._clock.monotonic
        aligner = self._aligner
        for number, task in enumerate(self._tasks):
            while len(task.channel) and not aligner.is_blocked(number):
                event = task.channel.pop()
                if isinstance(event, BatchEvent):
                    actions = aligner.receive(number, event)
                elif isinstance(event, BarrierEvent):
                    actions = aligner.barrier(number, event.checkpoint_id, created_s=event.created_s, now_s=now())
                else:
                    actions = aligner.end(number, now_s=now())
                    self._ended(task)
                for action in actions:
                    if action.kind == "deliver":
                        self._deliver(self._tasks[action.channel or 0], action.item)
                    elif action.kind == "trigger":
                        self._snapshot()

    def _deliver(self, task: SourceTask, event: Event) -> None:
        if not isinstance(event, BatchEvent):
            return
        batch = event.batch
        counts = self._counts
        counts["records_in"] += len(batch.records)
        counts["skipped"] += batch.skipped
        try:
            if batch.rejected:
                self._worker.reject(
                    task.step.step_id,
                    [
                        {
                            "source": task.step.step_id,
                            "partition": record.partition,
                            "position": record.position,
                            "reason": record.reason,
                            "text": record.text,
                        }
                        for record in batch.rejected
                    ],
                )
            self._worker.take(task.step.step_id, batch.records, batch.event_times)
            if event.watermark is not None:
                task.delivered = event.watermark
                self._advance(task.step.step_id)
        except UserFunctionError as error:
            if error.position is None and batch.first_record is not None:
                last = batch.first_record + len(batch.records) - 1
                error.position = f"{task.partition}, records {batch.first_record} to {last}"
                error.add_note(f"while processing {error.position} of source {task.step.step_id!r}")
            raise

    def _ended(self, task: SourceTask) -> None:
        task.delivered = END_OF_TIME
        self._checkpoints.task_finished(task.name)
        self._advance(task.step.step_id)

    def _advance(self, step_id: str) -> None:
        """Tells the worker a source's watermark, if it has risen: the lowest one of its partitions."""
        lowest = END_OF_TIME
        for task in self._by_source[step_id]:
            if task.delivered is None:
                return
            lowest = min(lowest, task.delivered)
        if lowest > self._watermarks.get(step_id, -(1 << 63)):
            self._watermarks[step_id] = lowest
            self._worker.advance(step_id, lowest)

    def _check_replay(self) -> None:
        """Outputs are suppressed until every source stands where the damaged checkpoint stood.

        Of a job that had finished everything is suppressed, also what the end of its sources gives rise to.
        """
        if self._replay_to is None or self._replay_to_end:
            return
        encode = msgspec.msgpack.encode
        if all(encode(task.snapshot()) == self._replay_to.get(f"source/{task.name}") for task in self._tasks):
            self._replay_to = None
            self._worker.suppress(False)
            self._start_checkpoint()

    # -- checkpoints ---------------------------------------------------------------------------

    def _is_due(self) -> bool:
        now = self._clock.monotonic()
        if now - self._last_progress >= _PROGRESS_EVERY_S:
            self._last_progress = now
            self._tell(Progress(self._counts["records_in"], self._records_out()))
        if self._changed and now - self._last_start >= self._interval_s:
            return True
        legs = self._legs.values()
        return any(leg.held > _MAX_HELD_RECORDS or leg.held_bytes > _MAX_HELD_BYTES for leg in legs)

    def _start_checkpoint(self, *, finished: bool = False, savepoint: str | None = None) -> None:
        """Injects a barrier behind the last batch of each task, and takes the snapshot when all have come."""
        self._last_start = self._clock.monotonic()
        self._changed = False
        self._finished = finished
        pending = self._checkpoints.begin(savepoint)
        live = [task for task in self._tasks if not task.ended]
        for task in live:
            self._source_states[task.name] = task.snapshot()
            task.inject(pending.id, self._last_start)
            crash_point("barrier.mid_inject")
            self._checkpoints.acknowledge(task.name)
        if live:
            self._consume()
        else:
            self._snapshot()

    def _finish_checkpoint(self, *, finished: bool) -> None:
        """A last checkpoint, waited for."""
        self._settle()
        self._start_checkpoint(finished=finished, savepoint=self._savepoint)
        self._settle()
        crash_point("job.end")
        # Replaced after the decision, with nothing left for its sinks to commit, a run would not notice.
        self._backend.check_epoch()

    def _settle(self) -> None:
        """Waits for the checkpoint under way."""
        while self._checkpoints.pending is not None:
            self._poll(1.0)

    def _snapshot(self) -> None:
        """The cut: what was processed so far belongs to the checkpoint."""
        pending = self._checkpoints.pending
        if pending is None:
            raise CheckpointError("the aligner has cut a checkpoint that nobody began; report this")
        crash_point("task.pre_snapshot")
        for step_id, data in self._worker.snapshot(pending).items():
            pending.put_blob(f"operator/{step_id}", data)
        pending.freeze()
        for name, state in self._source_states.items():
            pending.put_blob(f"source/{name}", msgspec.msgpack.encode(state))
        self._counts["records_out"] = self._records_out()
        self._counts["rejected"] = self._rejected_before + self._worker.rejected
        pending.put_blob(
            _JOB_BLOB,
            msgspec.msgpack.encode(
                {
                    "format": _JOB_FORMAT,
                    "guarantee": str(self._guarantee),
                    "codec": self._codec.name,
                    "batch_size": self._batch_size,
                    "steps": fingerprint(self._graph),
                    "finished": self._finished,
                    "counts": self._counts,
                }
            ),
        )
        self._checkpoints.seal()
        crash_point("task.post_snapshot")
        self._checkpoints.acknowledge(_WORKER)

    def _poll(self, timeout_s: float = 0.0) -> None:
        """Lets the capture go on for a slice, and hears of a checkpoint that has completed."""
        self._backend.poll()
        if self._checkpoints.pending is None:
            return
        stats = self._checkpoints.poll(timeout_s)
        if stats is not None:
            self._last_checkpoint = stats.id
            self._completed += 1
            self._tell(CheckpointCompleted(stats, self._counts["records_in"], self._records_out()))

    # -- reports -------------------------------------------------------------------------------

    def _records_out(self) -> int:
        return self._out_before + self._worker.records_out

    def _tell(self, event: JobEvent) -> None:
        if self._on_event is not None:
            self._on_event(event)

    def _result(self, *, finished: bool) -> JobResult:
        restored = self._backend.recovery.restored
        return JobResult(
            finished=finished,
            checkpoints=self._completed,
            last_checkpoint=self._last_checkpoint,
            resumed_from=None if restored is None else restored.id,
            **self._counts,
        )


def _closing(close: Callable[[], None]) -> Callable[..., None]:
    """Closes at the end of a run. An error of it does not take the place of the one that ended the run."""

    def leave(_kind: object, error: BaseException | None, _trace: object) -> None:
        try:
            close()
        except Exception as failure:
            if error is None:
                raise
            error.add_note(f"and closing failed: {type(failure).__name__}: {failure}")

    return leave


@contextmanager
def _quick_switches() -> Iterator[None]:
    """While a job runs, a thread that wants the GIL waits 1 ms for it at most.

    By default it waits 5 ms, and the checkpoint thread would do so after each of its dozen system calls.
    """
    before = sys.getswitchinterval()
    quick = min(before, _SWITCH_S)
    sys.setswitchinterval(quick)
    try:
        yield
    finally:
        # Another run that ends meanwhile, or a user's function, may have set something else.
        if sys.getswitchinterval() == quick:
            sys.setswitchinterval(before)


@contextmanager
def _stop_on_signals(job: _Job) -> Iterator[None]:
    """SIGINT and SIGTERM stop the job; a second SIGINT interrupts it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, _: object) -> None:
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        job.stop()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
