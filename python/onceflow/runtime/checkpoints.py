"""One checkpoint after another of a running job: from its barriers to the sinks' commits.

``CheckpointCoordinator`` says what comes next; here it is done. Barriers are injected on the job's thread, into whose
worker they go. The rest is the work of the checkpoint thread: have the sinks prepare, decide, have the sinks commit, or
give it up. It does so without waiting for the job's thread, which is in the middle of a batch most of the time and only
asks what became of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from onceflow._native import (
    CheckpointCoordinator,
    CheckpointStats,
    CoordinatorEffect,
    PendingCheckpoint,
    StateBackend,
    WakeHandle,
)
from onceflow.clock import Clock
from onceflow.crash import crash_point
from onceflow.exceptions import CapacityExceededError, CheckpointError, described
from onceflow.process import HomeProcess
from onceflow.runtime.checkpoint_thread import CheckpointThread
from onceflow.runtime.cost import COST_BLOB, Cost, WriteCost
from onceflow.runtime.delivery import Delivery, Sealed, Staged, sink_errors
from onceflow.runtime.job_record import JOB_BLOB, SINK_BLOB, JobRecord
from onceflow.runtime.messages import Acknowledged, Declined, Trigger

__all__ = ["Checkpoints"]

#: The one task that acknowledges: a worker answers for its sources too.
_WORKER = "worker"
_Effects: TypeAlias = Sequence[CoordinatorEffect]


class Checkpoints:
    """The checkpoints of one run, one at a time.

    Args:
        backend: Where state and decisions are kept.
        deliveries: The sinks by step id.
        clock: Where the time comes from.
        inject: Has the worker take part in a checkpoint, and hears its answers.
        wake: Set when a checkpoint has completed, or failed.
        timeout_s: A checkpoint whose decision was not asked for so long after its start is given up.
    """

    def __init__(
        self,
        backend: StateBackend,
        deliveries: Mapping[str, Delivery],
        clock: Clock,
        inject: Callable[[Trigger], None],
        wake: WakeHandle,
        timeout_s: float,
    ) -> None:
        self._backend = backend
        self._deliveries = deliveries
        self._clock = clock
        self._inject = inject
        self._home = HomeProcess()
        self._coordinator = CheckpointCoordinator([_WORKER], list(deliveries), timeout_s=timeout_s)
        self._thread = CheckpointThread(self._work, wake)
        self._pending: PendingCheckpoint | None = None
        self._sealed: Mapping[str, Sealed] = {}
        self._staged: dict[str, Staged] = {}
        self._stats: CheckpointStats | None = None
        #: What the writing of the last one took.
        self._last_cost: WriteCost | None = None
        #: Why a sink or the store could not do its part.
        self._error: BaseException | None = None
        self._aborted = False

    # -- on the job's thread -------------------------------------------------------------------

    @property
    def under_way(self) -> bool:
        """Whether a checkpoint is."""
        return self._pending is not None

    @property
    def current_id(self) -> int:
        """The number of the one under way."""
        return self._current().id

    def begin(self, savepoint: str | None = None) -> None:
        """Begins a checkpoint, or a savepoint of this name."""
        self._pending = pending = self._backend.begin_checkpoint(savepoint=savepoint)
        self._sealed, self._staged = {}, {}
        self._carry_out(self._coordinator.trigger(pending.id, now_s=self._clock.monotonic()))

    def acknowledge(self, message: Acknowledged, job: JobRecord) -> None:
        """The worker's part is in it; the checkpoint thread goes to work.

        Raises:
            CheckpointError: It has come too late.
        """
        self._home.check()
        pending = self._current()
        self._sealed = message.sealed
        for step_id, sealed in message.sealed.items():
            if sealed.learnt is not None:
                pending.put_blob(f"{SINK_BLOB}{step_id}", sealed.learnt)
        pending.put_blob(JOB_BLOB, job.encode())
        pending.put_blob(COST_BLOB, Cost(message.cost, self._last_cost).encode())
        now_s = self._clock.monotonic()
        self._carry_out_in_time(self._coordinator.acknowledge(_WORKER, message.checkpoint_id, now_s=now_s))

    def decline(self, message: Declined) -> None:
        """The worker cannot take its part in a checkpoint."""
        self._sealed = message.sealed
        self._carry_out(self._coordinator.decline(_WORKER, message.checkpoint_id, described(message.error)))

    def fail(self, reason: str) -> None:
        """The worker does not go on: what it has not acknowledged is given up."""
        self._carry_out(self._coordinator.task_failed(_WORKER, reason))

    def poll(self, timeout_s: float = 0.0) -> CheckpointStats | None:
        """What the checkpoint under way cost if it has completed, waiting for it for up to a timeout in seconds.

        Raises:
            FencedError, SinkError, StoreError, CheckpointError: It failed. Sealed output cannot go back into the
                stream, so the run must end; the next one begins at the checkpoint before.
        """
        self._carry_out_in_time(self._coordinator.tick(self._clock.monotonic()))
        if not self._thread.poll(timeout_s):
            return None
        stats, self._pending = self._stats, None
        self._last_cost = None if stats is None else WriteCost.of(stats)
        return stats

    def close(self) -> None:
        """Ends the checkpoint thread; what was sealed and not decided is discarded."""
        self.fail("the run ends")
        self._thread.close()
        if self._pending is None or not self._aborted:
            return
        for step_id, sealed in self._sealed.items():
            if sealed.output is not None:
                self._deliveries[step_id].abort(self._pending.id, sealed.output)

    def _carry_out(self, effects: _Effects) -> None:
        for effect in effects:
            if isinstance(effect, CoordinatorEffect.InjectBarriers):
                crash_point("barrier.pre_inject")
                pending = self._current()
                self._inject(Trigger(pending.id, pending, self._clock.monotonic()))
            else:
                self._thread.submit(effect)

    def _carry_out_in_time(self, effects: _Effects) -> None:
        """The same; raises at once where the time of the checkpoint is over, whatever its thread waits for."""
        self._carry_out(effects)
        for effect in effects:
            if isinstance(effect, CoordinatorEffect.Abort):
                raise CheckpointError(
                    f"checkpoint {effect.checkpoint_id} is given up: {effect.reason}. Raise checkpoint_timeout_s, or "
                    "see what takes so long; the next run begins at the checkpoint before"
                )

    def _current(self) -> PendingCheckpoint:
        if self._pending is None:
            raise CheckpointError("no checkpoint is under way")
        return self._pending

    # -- on the checkpoint thread --------------------------------------------------------------

    def _work(self, effect: CoordinatorEffect) -> bool:
        """Does what the coordinator says, and what it says then; true when the checkpoint is complete."""
        waiting = deque([effect])
        while waiting:
            effect = waiting.popleft()
            if isinstance(effect, CoordinatorEffect.Complete):
                return True
            # What a step leads to comes first: a sink that failed keeps the next one from going on.
            waiting.extendleft(reversed(self._step(effect)))
        return False

    def _step(self, effect: CoordinatorEffect) -> _Effects:
        self._home.check()
        pending = self._current()
        match effect:
            case CoordinatorEffect.PrepareSinks():
                return self._prepare(pending)
            case CoordinatorEffect.Decide():
                return self._decide(pending)
            case CoordinatorEffect.CommitSink(sink=sink):
                return self._commit(sink, pending)
            case CoordinatorEffect.Abort(reason=reason):
                # The sinks throw away what they have sealed when this thread has ended.
                self._aborted = True
                pending.abort()
            case CoordinatorEffect.Fail(reason=reason):
                pass
            case _:
                raise CheckpointError(f"{effect} is not for the checkpoint thread; report this")
        raise self._error or CheckpointError(f"checkpoint {pending.id} failed: {reason}; run the job again")

    def _prepare(self, pending: PendingCheckpoint) -> _Effects:
        effects: _Effects = ()
        for step_id, sealed in self._sealed.items():
            try:
                if sealed.output is not None:
                    self._home.check()
                    with sink_errors(step_id, "prepare"):
                        staged = self._deliveries[step_id].prepare(pending.id, sealed.output)
                    if staged is not None:
                        self._staged[step_id] = staged
            except BaseException as error:
                return self._coordinator.prepare_failed(step_id, pending.id, self._remember(error))
            crash_point("sink.post_prepare")
            effects = self._coordinator.prepared(step_id, pending.id)
        return effects

    def _decide(self, pending: PendingCheckpoint) -> _Effects:
        try:
            for step_id, staged in self._staged.items():
                pending.stage(step_id, staged)
            crash_point("decide.pre")
            self._stats = pending.write()
        except CapacityExceededError as error:
            # Nothing was written.
            reason = self._remember(self._too_much(pending, error))
            return self._coordinator.decision_failed(pending.id, reason, indefinite=False)
        except BaseException as error:
            # Once the writer has it, only the disk can tell.
            return self._coordinator.decision_failed(pending.id, self._remember(error), indefinite=pending.done)
        crash_point("decide.post_wait")
        return self._coordinator.decided(pending.id)

    def _too_much(self, pending: PendingCheckpoint, error: CapacityExceededError) -> CapacityExceededError:
        """Output that must come at once, such as a batch of a step that goes by batches, may pass every bound."""
        if not self._staged:
            return error
        step_id, staged = max(self._staged.items(), key=lambda item: sum(map(len, item[1])))
        nbytes = sum(map(len, staged))
        told = CapacityExceededError(
            f"checkpoint {pending.id}: {error}. Of it {nbytes} bytes are output of sink {step_id!r}, which is in "
            "the record until it is written. Nothing of it was written, and the next run begins at the checkpoint "
            "before. Let less come at once, by shorter windows, fewer keys or, in a new job, a smaller batch_size; or "
            "give a transactional sink that stages files, such as CsvSink, JsonLinesSink or ParquetSink",
            setting=error.setting,
            needed=error.needed,
            limit=error.limit,
        )
        told.__cause__ = error
        return told

    def _commit(self, step_id: str, pending: PendingCheckpoint) -> _Effects:
        crash_point("sink.pre_commit")
        sealed = self._sealed[step_id]
        try:
            if sealed.output is not None:
                with sink_errors(step_id, "commit"):
                    self._deliveries[step_id].commit(pending.id, sealed.output, self._staged.get(step_id))
        except BaseException as error:
            return self._coordinator.commit_failed(step_id, pending.id, self._remember(error))
        crash_point("sink.post_commit")
        return self._coordinator.committed(step_id, pending.id)

    def _remember(self, error: BaseException) -> str:
        if self._home.is_left:
            raise error  # In a child that a sink forked nothing is reported.
        self._error = error
        return described(error)
