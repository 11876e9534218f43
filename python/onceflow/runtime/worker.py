"""The tasks of a job at work: each round source tasks read one batch each, and the pipeline takes them in order.

Who reads in a round follows from where the tasks stand (``turns``), so what the worker sees does not depend on where
checkpoints fall. A barrier comes after the same round on all channels; when the aligner has seen it on all of them,
this is the cut. The worker knows no job: it does what it is told, and answers by messages.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import msgspec

from onceflow._native import AlignerAction, BarrierAligner, StateBackend, WakeHandle
from onceflow.clock import Clock
from onceflow.codec import Codec
from onceflow.crash import crash_point
from onceflow.exceptions import CheckpointError, ConfigurationError
from onceflow.graph.graph import Graph
from onceflow.process import HomeProcess, closing
from onceflow.runtime import snapshots
from onceflow.runtime.channel import BarrierEvent, BatchEvent, Event
from onceflow.runtime.cost import CutCost
from onceflow.runtime.delivery import Delivery, Sealed, seal
from onceflow.runtime.growth import Growth
from onceflow.runtime.messages import (
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
    ToWorker,
    Trigger,
)
from onceflow.runtime.origins import dead_letters, positions_told
from onceflow.runtime.pace import Pace
from onceflow.runtime.partitions import open_partitions
from onceflow.runtime.pipeline import FirstLate, Pipeline
from onceflow.runtime.source_task import SourceTask, source_errors
from onceflow.runtime.turns import Turns
from onceflow.runtime.workers.share import Share
from onceflow.sources import SourceContext, StopRun
from onceflow.types import END_OF_TIME, Micros
from onceflow.watermarks import combined, combined_partitions

__all__ = ["Worker"]


class Worker:
    """The source tasks and the pipeline of one run, opened.

    Args:
        graph: What to run.
        backend: For the tables of operators.
        codec: For their values.
        clock: Where the time comes from.
        deliveries: The sinks by step id.
        batch_size: Records that a source task is asked for.
        start: Where it begins.
        wake: Ends a ``wait``.
        resources: Closes what was opened.
        share: What of the job is this worker's; None: all of it.

    Raises:
        SourceError: Nothing to read, or a partition that the checkpoint has a position of is gone.
    """

    def __init__(
        self,
        graph: Graph,
        backend: StateBackend,
        codec: Codec,
        clock: Clock,
        deliveries: dict[str, Delivery],
        batch_size: int,
        start: Start,
        wake: WakeHandle,
        resources: ExitStack,
        share: Share | None = None,
    ) -> None:
        blobs = start.blobs
        rank = 0 if share is None else share.rank
        self._wake = wake
        self._until = start.until
        #: How often nothing was there to read since something was.
        self._looks = 0
        self._home = HomeProcess()
        self._clock = clock
        self._deliveries = deliveries
        self._before = start.tally
        #: A source asks in this round for the end of the run.
        self._stopping = False
        #: Some task of this round has been silent for so long that it holds nothing open any more.
        self._fell_idle = False
        self._counts = dict(start.tally.counts)
        self._contexts = {
            step.step_id: SourceContext(
                graph.name, step.step_id, rank, clock, wake, start.until, step.step_id in start.resumed
            )
            for step in graph.sources()
        }
        self._tasks = open_partitions(graph, start.partitions, blobs, batch_size, self._contexts, resources, share)
        self._by_source = {
            step.step_id: [task for task in self._tasks if task.step is step] for step in graph.sources()
        }
        self._sources = {step.step_id: step.source for step in graph.sources()}
        self._turns = Turns(self._by_source, start.max_drift_us)
        self._growth = Growth(graph.sources(), self._contexts, batch_size, clock, resources, share)
        #: Until everything is where a replay ends, nothing comes besides.
        self._is_replay = False
        #: Number of the first task's channel, behind those from other workers.
        self._first = 0 if share is None else share.channels
        self._numbers = {task.name: number for number, task in enumerate(self._tasks, self._first)}
        #: Numbers of the tasks with something in their channels.
        self._filled: set[int] = set()
        self._is_replayable = all(step.source.replayable for step in graph.sources())
        self._can_be_cut = self._is_replayable and not any(step.goes_by_batches for step in graph.operators())
        self._pace = Pace()
        #: The round was stopped within a batch, or between two of them.
        self._is_stopped = False
        #: A barrier has come there: the next round is the rest of it.
        self._goes_back = False
        #: Records of the batch that is processed now, if it must be processed to its end.
        self.finishing = 0
        self._aligner = BarrierAligner(max(self._first + len(self._tasks), 1))
        #: Its barriers are on their way.
        self._cutting: Trigger | None = None
        #: What was sealed for the newest cut.
        self._sealed: dict[str, Sealed] = {}
        partitions = {step_id: [task.name for task in tasks] for step_id, tasks in self._by_source.items()}
        self._pipeline = Pipeline(graph, deliveries, partitions, None if share is None else share.edges)
        resources.push(closing(self._pipeline.close))
        self._passed = snapshots.passed_time(blobs, clock)
        watermarks = snapshots.watermarks(blobs, self._by_source)
        if start.until == "caught_up":
            self._check_no_source_had_ended(watermarks)
        self._pipeline.open(
            backend,
            codec,
            clock,
            self._passed,
            snapshots.operators(blobs),
            start.tally.agreed,
            watermarks,
            [(task.step.step_id, task.name) for task in self._tasks if task.delivered == END_OF_TIME],
        )
        self._pipeline.rest_sources([step_id for step_id, tasks in self._by_source.items() if not tasks])
        #: What resumes each source task: as of the last barrier, or of its end.
        self._positions = {task.name: task.snapshot() for task in self._tasks}
        #: The same as of the last cut.
        self._cut_positions = dict(self._positions)

    def _check_no_source_had_ended(self, watermarks: Mapping[str, Micros]) -> None:
        """Refuses to read on where the end of a source has closed windows: whatever came would be late."""
        ended = [step_id for step_id in self._by_source if watermarks.get(step_id) == END_OF_TIME]
        if ended:
            raise ConfigurationError(
                f"source {ended[0]!r} was read to its end by a run with until='end', which has closed its windows for "
                "good, so nothing can follow; finish the job with until='end', or start over with resume_from='none'"
            )

    @property
    def cut_positions(self) -> Mapping[str, dict[str, Any]]:
        """What resumes each source task, by its name, as of the last cut."""
        return self._cut_positions

    @property
    def records_in(self) -> int:
        """Records that the sources have handed out."""
        return self._counts["records_in"]

    @property
    def records_out(self) -> int:
        """Records that reached a sink."""
        return self._before.counts["records_out"] + self._pipeline.records_out

    @property
    def event_time(self) -> Micros | None:
        """How far event time has come in the partition that holds it back; None if there is none that does."""
        marks = (task.delivered for task in self._turns.live if not task.idle)
        return min((mark for mark in marks if mark not in (None, END_OF_TIME)), default=None)

    def counts(self) -> dict[str, int]:
        """Those of ``JobResult``, of earlier runs too."""
        rejected = self._before.counts["rejected"] + self._pipeline.rejected
        # Earlier versions had these among the rejected ones.
        raised = self._before.counts.get("raised", 0) + self._pipeline.raised
        return {**self._counts, "records_out": self.records_out, "rejected": rejected, "raised": raised}

    def late(self) -> dict[str, int]:
        """By window step, the records that came too late for their windows, those of earlier runs included."""
        return {step_id: self._before.late.get(step_id, 0) + late for step_id, late in self._pipeline.late.items()}

    @property
    def _tally(self) -> Tally:
        # Of one partition the order is given.
        waited = len(self._tasks) > 1 and any(task.waited or task.caught_up is not None for task in self._tasks)
        return Tally(self.counts(), self.late(), self._before.waited or waited, self._pipeline.agreed())

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
        self._is_replay = True
        for task in self._tasks:
            blob = positions.get(f"source/{task.name}")
            here = {**task.snapshot(), "ended": task.ended or to_end}
            task.aim(here if blob is None else msgspec.msgpack.decode(blob))

    def end_replay(self) -> None:
        """Source tasks read on."""
        self._is_replay = False
        for task in self._tasks:
            task.aim(None)

    @property
    def has_arrived(self) -> bool:
        """Whether each source task stands where the replay ends."""
        return all(task.has_arrived for task in self._tasks)

    # -- what the job has it do ----------------------------------------------------------------

    def round(self) -> Iterator[FromWorker]:
        """Source tasks read a batch each, and the pipeline takes them in order."""
        try:
            self._stopping = False
            self._go_back()
            self._grow()
            self._fell_idle = False
            progressed = self._turns.take(self._read)
            self._looks = 0 if progressed else self._looks + 1
            if self._stopping:
                yield StopAsked()
            yield from self._consume()
            if self._turns.all_ended and (self._is_replay or not self._growth.may_come):
                yield Ended()
            elif not progressed and not self._fell_idle and not self._stopping:
                yield Idle()
        except Exception as error:
            yield Failed(error)

    def _go_back(self) -> None:
        """After the barrier within a round: what was not taken is read again."""
        if not self._goes_back:
            return
        self._goes_back = False
        for task in self._tasks:
            if task.is_behind:
                task.go_back()

    def _grow(self) -> None:
        """Opens the partitions that have come; no barrier is under way."""
        # One of another worker may have come before this one has heard of the checkpoint.
        if self._is_replay or self._cutting is not None or self._aligner.pending_checkpoint is not None:
            return
        if not (come := list(self._growth.come(self._by_source))):
            return
        for task in come:
            self._numbers[task.name] = self._first + len(self._tasks)
            self._tasks.append(task)
            self._by_source[task.step.step_id].append(task)
            self._turns.join(task)
            self._pipeline.join_partition(task.step.step_id, task.name)
            self._positions[task.name] = task.snapshot()
        self._aligner = BarrierAligner(self._first + len(self._tasks))
        for number in self._ended_channels():
            self._aligner.end(number, now_s=self._clock.monotonic())
        for step_id in dict.fromkeys(task.step.step_id for task in come):
            self._advance(step_id)
        crash_point("task.joined")

    def _ended_channels(self) -> list[int]:
        """Numbers of the channels in which nothing more comes."""
        return [number for number, task in enumerate(self._tasks, self._first) if task.ended]

    @property
    def is_stopped(self) -> bool:
        """Whether the last round was stopped before its end."""
        return self._is_stopped

    def take(self, message: ToWorker) -> Iterator[FromWorker]:
        """Does what a message of the job says, also within a round, between two of its answers."""
        match message:
            case Trigger():
                yield from self._trigger(message)
            case Committed():
                yield from self._committed(message)
            case Stop():
                self._is_stopped = True

    def _trigger(self, message: Trigger) -> Iterator[FromWorker]:
        """Puts a barrier after the last batch of each task, and takes what lies before it; then the cut comes."""
        self._cutting, self._sealed = message, {}
        try:
            live = self._turns.live
            for task in live:
                self._filled.add(self._numbers[task.name])
                self._positions[task.name] = task.snapshot_of_taken() if task.is_behind else task.snapshot()
                task.inject(message.checkpoint_id, message.now_s)
                crash_point("barrier.mid_inject")
            if live:
                yield from self._consume()
            yield from self._injected(message, live)
            self._goes_back, self._is_stopped = self._is_stopped, False
        except Exception as error:
            yield Declined(message.checkpoint_id, self._sealed, error)

    def _injected(self, message: Trigger, live: Sequence[SourceTask]) -> Iterator[FromWorker]:
        """What lies before the barriers of all sources was taken."""
        if not live:
            yield self._cut()

    def _committed(self, message: Committed) -> Iterator[FromWorker]:
        """Sinks hold nothing for the last cut any more, and sources may tell others how far the job is."""
        try:
            for delivery in self._deliveries.values():
                delivery.committed()
            for step_id, tasks in self._by_source.items():
                known = [task for task in tasks if task.name in self._cut_positions]
                positions = {task.partition: self._cut_positions[task.name]["position"] for task in known}
                with source_errors(step_id):
                    source = self._sources[step_id]
                    source.on_checkpoint_complete(message.checkpoint_id, positions, self._contexts[step_id])
        except Exception as error:
            yield Failed(error)

    def wait(self, longest_s: float) -> None:
        """Nothing was there to read: until there may be something, or somebody wakes it; for so long at most."""
        again_s = self._turns.look_again_s(self._clock.monotonic(), looks=self._looks)
        self._wake.wait(min(longest_s, again_s))

    def end(self) -> Iterator[FromWorker]:
        """All sources have ended: operators emit what is left. Stopped, it goes on in the next call after a trigger."""
        try:
            for _ in self._pipeline.end():
                yield PieceTaken()
                if self._is_stopped:
                    return
        except Exception as error:
            yield Failed(error)

    # -- what comes of it ----------------------------------------------------------------------

    def _read(self, task: SourceTask) -> bool:
        """One batch; false if there was nothing to read."""
        try:
            progressed = task.read()
        except StopRun:
            # Not progress: who reads beside it must not depend on whether a run ends here.
            self._stopping, progressed = True, False
        self._filled.add(self._numbers[task.name])
        if task.ended:
            self._positions[task.name] = task.snapshot()
            self._turns.ended(task)
        was_idle = task.idle
        task.rest(found=progressed, now_s=self._clock.monotonic())
        if task.idle != was_idle:
            # It held windows open, whose output belongs to a checkpoint although nothing was read.
            self._fell_idle = True
            self._pipeline.rest_partition(task.step.step_id, task.name, idle=True)
            self._advance(task.step.step_id)
        return progressed

    def _cut(self, start_delay_s: float = 0.0, alignment_s: float = 0.0) -> Acknowledged:
        """Everything before the barriers was processed and nothing after them: the tables are frozen, the sinks
        sealed; event times within steps and the positions become part of the checkpoint."""
        trigger, self._cutting = self._cutting, None
        began_s = time.monotonic()
        if trigger is None:
            raise CheckpointError("the aligner has cut a checkpoint that nobody began; report this")
        crash_point("task.pre_snapshot")
        snapshots.take(trigger.checkpoint, self._pipeline, self._positions, self._passed)
        self._cut_positions = dict(self._positions)
        self._home.check()
        seal(self._deliveries, trigger.checkpoint_id, self._sealed)
        crash_point("task.post_snapshot")
        cost = CutCost(start_delay_s, alignment_s, time.monotonic() - began_s)
        return Acknowledged(trigger.checkpoint_id, self._sealed, self._tally, cost)

    def _consume(self) -> Iterator[FromWorker]:
        now = self._clock.monotonic
        aligner = self._aligner
        for number in sorted(self._filled):
            task = self._tasks[number - self._first]
            while len(task.channel) and not aligner.is_blocked(number):
                event = task.channel.pop()
                if isinstance(event, BatchEvent):
                    if not self._is_stopped and number > self._first and self._is_replayable:
                        yield PieceTaken()
                    if self._is_stopped:
                        continue  # It is read again.
                    actions = aligner.receive(number, event)
                elif isinstance(event, BarrierEvent):
                    actions = aligner.barrier(number, event.checkpoint_id, created_s=event.created_s, now_s=now())
                else:
                    actions = aligner.end(number, now_s=now())
                    if task.caught_up is None:
                        task.delivered = END_OF_TIME
                    self._pipeline.end_partition(task.step.step_id, task.name, task.caught_up)
                    self._advance(task.step.step_id)
                for action in actions:
                    if isinstance(action, AlignerAction.Deliver):
                        yield from self._deliver(self._tasks[action.channel - self._first], action.item)
                    elif isinstance(action, AlignerAction.Trigger):
                        yield self._cut(action.start_delay_s, action.alignment_s)

        self._filled = {number for number in self._filled if len(self._tasks[number - self._first].channel)}
        self._turns.leave_out_ended()

    def _deliver(self, task: SourceTask, event: Event) -> Iterator[FromWorker]:
        if not isinstance(event, BatchEvent):
            return
        batch, times = event.batch, event.times
        can_be_cut = self._can_be_cut and not batch.rejected and not batch.skipped
        self._counts["skipped"] += batch.skipped
        if batch.rejected:
            with positions_told(task, batch):
                self._pipeline.reject(task.step.step_id, dead_letters(task, batch))
        start, total = 0, len(batch.records)
        self.finishing = 0 if can_be_cut else total
        while True:
            end = min(start + self._pace.piece(batch.records), total) if can_be_cut else total
            is_whole = end - start == total
            piece = batch if is_whole else batch.piece(start, end)
            began_s = time.monotonic()
            with positions_told(task, piece):
                self._counts["records_in"] += len(piece.records)
                of_piece = times if is_whole or times is None else times[start:end]
                self._pipeline.take(task.step.step_id, task.name, piece.records, of_piece)
            self._pace.took(end - start, time.monotonic() - began_s)
            task.took(piece, is_last=end == total)
            start = end
            if start == total:
                break
            yield PieceTaken()
            if self._is_stopped:
                return
        self.finishing = 0
        with positions_told(task, batch):
            self._pipeline.settle(task.step.step_id)
            if event.watermark is not None:
                task.delivered = event.watermark
            if task.idle and (len(batch.records) or batch.rejected or batch.skipped):
                task.catch_up(self._pipeline.reached(task.step.step_id))
                self._pipeline.rest_partition(task.step.step_id, task.name, idle=task.idle)
            if event.watermark is not None:
                self._advance(task.step.step_id)

    def _advance(self, step_id: str) -> None:
        """Tells the pipeline a source's watermark: that of its partitions together."""
        if self._until == "end":
            watermark, idle = combined((task.delivered, task.idle) for task in self._turns.of_source(step_id))
            self._pipeline.advance(step_id, watermark, idle=idle)
            return
        # How far others have come decides what waits for those that are caught up.
        delivered = [task.delivered for task in self._tasks if task.delivered not in (None, END_OF_TIME)]
        reached = max((watermark for watermark in delivered if watermark is not None), default=None)
        for source_id in dict.fromkeys([step_id, *self._turns.caught_up]):
            watermark, idle = combined_partitions(
                ((task.delivered, task.idle, task.caught_up) for task in self._turns.of_source(source_id)), reached
            )
            self._pipeline.advance(source_id, watermark, idle=idle)
