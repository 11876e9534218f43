"""The tasks of a job at work: each round source tasks read one batch each, and the pipeline takes them in order.

Who reads in a round follows from where the tasks stand (``turns``), so what the worker sees does not depend on where
checkpoints fall. A barrier comes behind the same round on all channels; when the aligner has seen it on all of them,
this is the cut.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Protocol

import msgspec

from onceflow._native import AlignerAction, BarrierAligner, PendingCheckpoint, StateBackend
from onceflow.clock import Clock
from onceflow.codec import Codec
from onceflow.crash import crash_point
from onceflow.exceptions import UserFunctionError
from onceflow.graph.graph import Graph
from onceflow.operators.passed_time import PassedTime
from onceflow.process import closing
from onceflow.runtime.channel import BarrierEvent, BatchEvent, Event
from onceflow.runtime.delivery import Delivery
from onceflow.runtime.job_record import WATERMARKS_BLOB
from onceflow.runtime.pace import Pace
from onceflow.runtime.partitions import open_partitions
from onceflow.runtime.pipeline import FirstLate, Pipeline
from onceflow.runtime.source_task import SourceTask
from onceflow.runtime.turns import Turns
from onceflow.sources import SourceBatch, StopRun
from onceflow.types import END_OF_TIME, Micros, Plain
from onceflow.watermarks import combined

__all__ = ["RoundsListener", "Worker"]

#: Name of the blob with the time that has passed.
_PASSED_BLOB = "passed"


class RoundsListener(Protocol):
    """Who is told what happens in a round, on the job's thread."""

    def stop(self) -> None:
        """A source asks for the end of the run."""

    def between_pieces(self) -> bool:
        """A piece of a batch was processed; true if a checkpoint is to be taken here, within the batch."""

    def task_ended(self, name: str) -> None:
        """A source task has read its partition to the end."""

    def barrier_injected(self, name: str) -> None:
        """A source task has noted its position; its barrier is in its channel."""

    def cut(self) -> None:
        """Everything before the barriers was processed and nothing behind them."""


class Worker:
    """The source tasks and the worker task of one run, opened.

    Args:
        graph: What to run.
        backend: For the tables of operators.
        codec: For their values.
        clock: Where the time comes from.
        blobs: Of the checkpoint to resume from; empty for the beginning.
        deliveries: The sinks by step id.
        batch_size: Records that a source task is asked for.
        counts: What earlier runs had counted.
        waited: What ``waited`` was at the end of them.
        late: By window step, the records that had come too late in earlier runs.
        agreed: By step, what the job has agreed on.
        resources: Closes what was opened.

    Raises:
        SourceError: Nothing to read, or a partition that the checkpoint has a position of is gone.
    """

    def __init__(
        self,
        graph: Graph,
        backend: StateBackend,
        codec: Codec,
        clock: Clock,
        blobs: Mapping[str, bytes],
        deliveries: dict[str, Delivery],
        batch_size: int,
        counts: Mapping[str, int],
        waited: bool,
        late: Mapping[str, int],
        agreed: Mapping[str, Mapping[str, Plain]],
        resources: ExitStack,
    ) -> None:
        self._waited = waited
        self._clock = clock
        self._late_before = dict(late)
        #: A source asks in this round for the end of the run.
        self._stopping = False
        self._counts = dict(counts)
        self._out_before, self._rejected_before = counts["records_out"], counts["rejected"]
        self._tasks = open_partitions(graph, blobs, batch_size, resources)
        self._by_source = {
            step.step_id: [task for task in self._tasks if task.step is step] for step in graph.sources()
        }
        self._turns = Turns(self._by_source)
        self._numbers = {task.name: number for number, task in enumerate(self._tasks)}
        #: Numbers of the tasks with something in their channels.
        self._filled: set[int] = set()
        self._is_replayable = all(step.source.replayable for step in graph.sources())
        self._can_be_cut = self._is_replayable and not any(step.goes_by_batches for step in graph.operators())
        self._pace = Pace()
        #: The round was left within a batch, or between two of them.
        self.is_cut = False
        #: Records of the batch that is processed now, if it must be processed to its end.
        self.finishing = 0
        self._aligner = BarrierAligner(len(self._tasks))
        partitions = {step_id: [task.name for task in tasks] for step_id, tasks in self._by_source.items()}
        self._pipeline = Pipeline(graph, deliveries, partitions)
        resources.push(closing(self._pipeline.close))
        prefix = "operator/"
        self._passed = PassedTime(clock, blobs.get(_PASSED_BLOB))
        self._pipeline.open(
            backend,
            codec,
            clock,
            self._passed,
            {name.removeprefix(prefix): blob for name, blob in blobs.items() if name.startswith(prefix)},
            agreed,
            self._restored_watermarks(blobs),
            [(task.step.step_id, task.name) for task in self._tasks if task.delivered == END_OF_TIME],
        )
        #: What resumes each source task: as of the last barrier, or of its end.
        self._positions = {task.name: task.snapshot() for task in self._tasks}

    def _restored_watermarks(self, blobs: Mapping[str, bytes]) -> dict[str, Micros]:
        """How far event time had come, by source and step.

        A checkpoint of earlier versions does not say; a source's was the lowest of the partitions that it had then.
        """
        blob = blobs.get(WATERMARKS_BLOB)
        if blob is not None:
            return msgspec.msgpack.decode(blob, type=dict[str, int])
        restored: dict[str, Micros] = {}
        for step_id, tasks in self._by_source.items():
            marks = [task.delivered for task in tasks if task.resumed]
            known = [mark for mark in marks if mark is not None]
            if known and len(known) == len(marks):
                restored[step_id] = min(known)
        return restored

    @property
    def tasks(self) -> list[str]:
        """Names of the source tasks."""
        return [task.name for task in self._tasks]

    @property
    def ended(self) -> bool:
        """Whether all sources have ended."""
        return self._turns.all_ended

    @property
    def records_in(self) -> int:
        """Records read."""
        return self._counts["records_in"]

    @property
    def records_out(self) -> int:
        """Records that reached a sink."""
        return self._out_before + self._pipeline.records_out

    def counts(self) -> dict[str, int]:
        """Records in, out, rejected and skipped, those of earlier runs included."""
        rejected = self._rejected_before + self._pipeline.rejected
        return {**self._counts, "records_out": self.records_out, "rejected": rejected}

    def late(self) -> dict[str, int]:
        """By window step, the records that came too late for their windows, those of earlier runs included."""
        return {step_id: self._late_before.get(step_id, 0) + late for step_id, late in self._pipeline.late.items()}

    def lost_late(self) -> dict[str, FirstLate]:
        """By window step, the first record of this run that came too late and that nothing takes."""
        return self._pipeline.lost_late()

    def suppress(self, suppressed: bool) -> None:
        """While true, what reaches a sink is dropped."""
        self._pipeline.suppress(suppressed)

    def replay_to(self, positions: Mapping[str, bytes], *, to_end: bool) -> None:
        """Source tasks read to exactly where a checkpoint with these blobs stood, and no further.

        A partition that has come since is not read; where the job had finished it has ended.
        """
        for task in self._tasks:
            blob = positions.get(f"source/{task.name}")
            here = {**task.snapshot(), "ended": task.ended or to_end}
            task.aim(here if blob is None else msgspec.msgpack.decode(blob))

    def end_replay(self) -> None:
        """Source tasks read on."""
        for task in self._tasks:
            task.aim(None)

    @property
    def has_arrived(self) -> bool:
        """Whether each source task stands where the replay ends."""
        return all(task.has_arrived for task in self._tasks)

    @property
    def waited(self) -> bool:
        """Whether the order between partitions was, or may have been, a matter of time: one had nothing to read."""
        return self._waited or (len(self._tasks) > 1 and any(task.waited for task in self._tasks))

    def round(self, listener: RoundsListener) -> bool:
        """Source tasks read a batch each, and the worker takes them in order; false if there was nothing to read."""
        self._stopping = False
        progressed = self._turns.take(lambda task: self._read(task, listener))
        self._consume(listener)
        return progressed or self._stopping

    def go_on(self) -> None:
        """After the barrier within a round: the next one is its rest."""
        self.is_cut = False
        for task in self._tasks:
            if task.is_behind:
                task.go_back()

    def _read(self, task: SourceTask, listener: RoundsListener) -> bool:
        """One batch; false if there was nothing to read."""
        try:
            progressed = task.read()
        except StopRun:
            # Not progress: who reads beside it must not depend on whether a run ends here.
            listener.stop()
            self._stopping, progressed = True, False
        self._filled.add(self._numbers[task.name])
        if task.ended:
            self._positions[task.name] = task.snapshot()
            self._turns.ended(task)
        was_idle = task.idle
        task.rest(found=progressed, now_s=self._clock.monotonic())
        if task.idle != was_idle:
            self._pipeline.rest_partition(task.step.step_id, task.name, idle=True)
            self._advance(task.step.step_id)
        return progressed

    def wait(self, longest_s: float) -> None:
        """Nothing was there to read: until there may be something, for so long at most."""
        self._turns.wait(longest_s)

    def inject(self, checkpoint_id: int, now_s: float, listener: RoundsListener) -> None:
        """Puts a barrier behind the last batch of each task, and takes what lies before it."""
        live = self._turns.live
        for task in live:
            self._filled.add(self._numbers[task.name])
            self._positions[task.name] = task.snapshot_of_taken() if task.is_behind else task.snapshot()
            task.inject(checkpoint_id, now_s)
            crash_point("barrier.mid_inject")
            listener.barrier_injected(task.name)
        if live:
            self._consume(listener)
        else:
            listener.cut()

    def end(self) -> None:
        """All sources have ended: operators emit what is left."""
        self._pipeline.end()

    def snapshot(self, pending: PendingCheckpoint) -> None:
        """At the cut: freezes the tables; event times within steps and the positions become part of the checkpoint."""
        for step_id, data in self._pipeline.snapshot().items():
            pending.put_blob(f"operator/{step_id}", data)
        pending.freeze()
        for name, position in self._positions.items():
            pending.put_blob(f"source/{name}", msgspec.msgpack.encode(position))
        pending.put_blob(_PASSED_BLOB, self._passed.snapshot())
        pending.put_blob(WATERMARKS_BLOB, msgspec.msgpack.encode(self._pipeline.watermarks()))

    @property
    def agreed(self) -> dict[str, dict[str, Plain]]:
        """By step, what the job has agreed on."""
        return self._pipeline.agreed()

    def _consume(self, listener: RoundsListener) -> None:
        now = self._clock.monotonic
        aligner = self._aligner
        for number in sorted(self._filled):
            task = self._tasks[number]
            while len(task.channel) and not aligner.is_blocked(number):
                event = task.channel.pop()
                if isinstance(event, BatchEvent) and self._is_left(number, listener):
                    continue  # It is read again.
                if isinstance(event, BatchEvent):
                    actions = aligner.receive(number, event)
                elif isinstance(event, BarrierEvent):
                    actions = aligner.barrier(number, event.checkpoint_id, created_s=event.created_s, now_s=now())
                else:
                    actions = aligner.end(number, now_s=now())
                    task.delivered = END_OF_TIME
                    listener.task_ended(task.name)
                    self._pipeline.end_partition(task.step.step_id, task.name)
                    self._advance(task.step.step_id)
                for action in actions:
                    if isinstance(action, AlignerAction.Deliver):
                        self._deliver(self._tasks[action.channel], action.item, listener)
                    elif isinstance(action, AlignerAction.Trigger):
                        listener.cut()

        self._filled = {number for number in self._filled if len(self._tasks[number].channel)}
        self._turns.leave_out_ended()

    def _is_left(self, number: int, listener: RoundsListener) -> bool:
        """Whether the round is left before the batch of this task."""
        if not self.is_cut and number and self._is_replayable:
            self.is_cut = listener.between_pieces()
        return self.is_cut

    def _deliver(self, task: SourceTask, event: Event, listener: RoundsListener) -> None:
        if not isinstance(event, BatchEvent):
            return
        batch, times = event.batch, event.times
        can_be_cut = self._can_be_cut and not batch.rejected and not batch.skipped
        self._counts["skipped"] += batch.skipped
        if batch.rejected:
            with self._positions_told(task, batch):
                self._pipeline.reject(
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
        start, total = 0, len(batch.records)
        self.finishing = 0 if can_be_cut else total
        while True:
            end = min(start + self._pace.piece(batch.records), total) if can_be_cut else total
            is_whole = end - start == total
            piece = batch if is_whole else batch.piece(start, end)
            began_s = time.monotonic()
            with self._positions_told(task, piece):
                self._counts["records_in"] += len(piece.records)
                of_piece = times if is_whole or times is None else times[start:end]
                self._pipeline.take(task.step.step_id, task.name, piece.records, of_piece)
            self._pace.took(end - start, time.monotonic() - began_s)
            task.took(piece, is_last=end == total)
            start = end
            if start == total:
                break
            if listener.between_pieces():
                self.is_cut = True
                return
        self.finishing = 0
        with self._positions_told(task, batch):
            self._pipeline.settle(task.step.step_id)
            if event.watermark is not None:
                task.delivered = event.watermark
            if task.idle and (len(batch.records) or batch.rejected or batch.skipped):
                task.catch_up(self._pipeline.reached(task.step.step_id))
                self._pipeline.rest_partition(task.step.step_id, task.name, idle=task.idle)
            if event.watermark is not None:
                self._advance(task.step.step_id)

    @contextmanager
    def _positions_told(self, task: SourceTask, batch: SourceBatch) -> Iterator[None]:
        """Errors of functions say where their records came from."""
        try:
            yield
        except UserFunctionError as error:
            if error.position is None and batch.first_record is not None:
                last = batch.first_record + len(batch.records) - 1
                error.position = f"{task.partition}, records {batch.first_record} to {last}"
                error.add_note(f"while processing {error.position} of source {task.step.step_id!r}")
            raise

    def _advance(self, step_id: str) -> None:
        """Tells the worker a source's watermark: that of its partitions together."""
        watermark, idle = combined((task.delivered, task.idle) for task in self._turns.of_source(step_id))
        self._pipeline.advance(step_id, watermark, idle=idle)
