"""One checkpoint after another of a running job: from the cut to the sinks' commits.

The job's thread begins a checkpoint, injects its barriers and seals the sinks at the cut. From then on the checkpoint
thread carries out what ``CheckpointCoordinator`` says: prepare the sinks, decide, commit the sinks. It does so without
waiting for the job's thread, which is in the middle of a batch most of the time and only asks what became of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from onceflow._native import CheckpointCoordinator, CheckpointStats, CoordinatorEffect, PendingCheckpoint, StateBackend
from onceflow.clock import Clock
from onceflow.crash import crash_point
from onceflow.exceptions import CapacityExceededError, CheckpointError
from onceflow.process import HomeProcess
from onceflow.runtime.checkpoint_thread import CheckpointThread
from onceflow.runtime.delivery import Delivery, sink_errors
from onceflow.runtime.job_record import SINK_BLOB

__all__ = ["Checkpointing"]

_TIMEOUT_S = 600.0


class Checkpointing:
    """The checkpoints of one run, one at a time.

    Args:
        backend: Where state and decisions are kept.
        deliveries: The sinks by step id.
        tasks: Names of the tasks that acknowledge.
        clock: Where the time comes from.
    """

    def __init__(
        self, backend: StateBackend, deliveries: Mapping[str, Delivery], tasks: Sequence[str], clock: Clock
    ) -> None:
        self._backend = backend
        self._deliveries = deliveries
        self._clock = clock
        self._home = HomeProcess()
        self._coordinator = CheckpointCoordinator(list(tasks), list(deliveries), timeout_s=_TIMEOUT_S)
        self._thread = CheckpointThread(self._carry_out)
        self._pending: PendingCheckpoint | None = None
        self._sealed: dict[str, Any] = {}
        self._staged: dict[str, bytes] = {}
        self._stats: CheckpointStats | None = None
        #: Records, and bytes of them, that sinks hold for the checkpoint under way, until they have committed.
        self.held = 0
        self.held_bytes = 0

    # -- on the job's thread -------------------------------------------------------------------

    @property
    def pending(self) -> PendingCheckpoint | None:
        """The checkpoint under way."""
        return self._pending

    def begin(self, savepoint: str | None = None) -> PendingCheckpoint:
        """Begins a checkpoint, or a savepoint of this name: the caller injects its barriers and acknowledges for each
        task."""
        self._pending = pending = self._backend.begin_checkpoint(savepoint=savepoint)
        self._sealed, self._staged = {}, {}
        self._coordinator.trigger(pending.id, now_s=self._clock.monotonic())
        crash_point("barrier.pre_inject")
        return pending

    def seal(self) -> None:
        """The cut: what was written to the sinks so far belongs to this checkpoint."""
        self._home.check()
        pending = self._under_way()
        for step_id, delivery in self._deliveries.items():
            with sink_errors(step_id, "seal"):
                self.held += delivery.held
                self.held_bytes += delivery.held_bytes
                self._sealed[step_id] = delivery.seal(pending.id)
                learnt = delivery.snapshot()
            if learnt is not None:
                pending.put_blob(f"{SINK_BLOB}{step_id}", learnt)

    def acknowledge(self, task: str) -> None:
        """A task's snapshot is taken; with the last one the checkpoint thread goes to work."""
        self._submit(self._coordinator.acknowledge(task, self._under_way().id, now_s=self._clock.monotonic()))

    def task_finished(self, task: str) -> None:
        """A task has ended for good: it counts as acknowledged from now on."""
        self._submit(self._coordinator.task_finished(task, now_s=self._clock.monotonic()))

    def poll(self, timeout_s: float = 0.0) -> CheckpointStats | None:
        """What the checkpoint under way cost if it has completed, waiting for it for up to a timeout in seconds.

        Raises:
            FencedError, SinkError, StoreError, CheckpointError: It failed. Sealed output cannot go back into the
                stream, so the run must end; the next one begins at the checkpoint before.
        """
        self._submit(self._coordinator.tick(self._clock.monotonic()))
        if not self._thread.poll(timeout_s):
            return None
        stats, self._pending = self._stats, None
        self.held = self.held_bytes = 0
        return stats

    def close(self) -> None:
        """Ends the checkpoint thread; what was sealed and not decided is discarded."""
        self._thread.close()
        pending, self._pending = self._pending, None
        if pending is not None and not pending.done:
            pending.abort()
            for step_id, sealed in self._sealed.items():
                if sealed is not None:
                    self._deliveries[step_id].abort(pending.id, sealed)

    def _submit(self, effects: Sequence[CoordinatorEffect]) -> None:
        for effect in effects:
            self._thread.submit(effect)

    def _under_way(self) -> PendingCheckpoint:
        if self._pending is None:
            raise CheckpointError("no checkpoint is under way")
        return self._pending

    # -- on the checkpoint thread --------------------------------------------------------------

    def _carry_out(self, effect: CoordinatorEffect) -> bool:
        """Does what the coordinator says, and what it says then; true when the checkpoint is complete."""
        waiting = deque([effect])
        while waiting:
            effect = waiting.popleft()
            if isinstance(effect, CoordinatorEffect.Complete):
                return True
            waiting.extend(self._step(effect))
        return False

    def _step(self, effect: CoordinatorEffect) -> Sequence[CoordinatorEffect]:
        self._home.check()
        pending = self._under_way()
        match effect:
            case CoordinatorEffect.PrepareSinks():
                return [more for step_id in self._deliveries for more in self._prepare(step_id, pending)]
            case CoordinatorEffect.Decide():
                return self._decide(pending)
            case CoordinatorEffect.CommitSink(sink=sink):
                return self._commit(sink, pending)
            case CoordinatorEffect.Abort(reason=reason) | CoordinatorEffect.Fail(reason=reason):
                raise CheckpointError(f"checkpoint {pending.id} failed: {reason}; run the job again")
        raise CheckpointError(f"{effect} is no work of the checkpoint thread; report this")

    def _prepare(self, step_id: str, pending: PendingCheckpoint) -> Sequence[CoordinatorEffect]:
        sealed = self._sealed[step_id]
        if sealed is not None:
            self._home.check()
            with sink_errors(step_id, "prepare"):
                staged = self._deliveries[step_id].prepare(pending.id, sealed)
            if staged is not None:
                self._staged[step_id] = staged
        crash_point("sink.post_prepare")
        return self._coordinator.prepared(step_id, pending.id)

    def _decide(self, pending: PendingCheckpoint) -> Sequence[CoordinatorEffect]:
        for step_id, staged in self._staged.items():
            pending.stage(step_id, staged)
        crash_point("decide.pre")
        try:
            self._stats = pending.write()
        except CapacityExceededError as error:
            # Nothing was written.
            raise self._too_much(pending, error) from error
        crash_point("decide.post_wait")
        return self._coordinator.decided(pending.id)

    def _too_much(self, pending: PendingCheckpoint, error: CapacityExceededError) -> CapacityExceededError:
        """Output that must come at once, such as a batch of a step that goes by batches, may pass every bound."""
        if not self._staged:
            return error
        step_id, staged = max(self._staged.items(), key=lambda item: len(item[1]))
        return CapacityExceededError(
            f"checkpoint {pending.id}: {error}. Of it {len(staged)} bytes are output of sink {step_id!r}, which is in "
            "the record until it is written. Nothing of it was written, and the next run begins at the checkpoint "
            "before. Let less come at once, by shorter windows, fewer keys or, in a new job, a smaller batch_size; or "
            "give a transactional sink that stages files, such as CsvSink, JsonLinesSink or ParquetSink"
        )

    def _commit(self, step_id: str, pending: PendingCheckpoint) -> Sequence[CoordinatorEffect]:
        crash_point("sink.pre_commit")
        sealed = self._sealed[step_id]
        if sealed is not None:
            with sink_errors(step_id, "commit"):
                self._deliveries[step_id].commit(pending.id, sealed, self._staged.get(step_id))
        crash_point("sink.post_commit")
        return self._coordinator.committed(step_id, pending.id)
