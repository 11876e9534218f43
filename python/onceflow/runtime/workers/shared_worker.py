"""One of several workers: what comes from the others beside its own sources, and barriers and ends handed on.

Records pass exchanges in stages: a step's stage is how many exchanges its records have passed. When the barrier has
come in all channels up to a stage, everything before it has been handed on, so the barrier goes into the channels of
the next one; when it has come in all channels the worker's part of the checkpoint is cut. Until then its sources wait:
what they read would belong to the next checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack

import msgspec

from onceflow._native import AlignerAction, StateBackend, WakeHandle
from onceflow.clock import Clock
from onceflow.codec import Codec
from onceflow.crash import crash_point
from onceflow.graph.exchanges import stages
from onceflow.graph.graph import Graph
from onceflow.runtime.delivery import Delivery
from onceflow.runtime.messages import (
    Acknowledged,
    Ended,
    Failed,
    FromWorker,
    Idle,
    PieceTaken,
    Start,
    StopAsked,
    Trigger,
)
from onceflow.runtime.source_task import SourceTask
from onceflow.runtime.worker import Worker
from onceflow.runtime.workers.exchange import Inlet
from onceflow.runtime.workers.links import Frame
from onceflow.runtime.workers.share import Share
from onceflow.types import Micros

__all__ = ["SharedWorker"]

#: Frames of a channel that are taken before the other channels have their turn.
_FRAMES_A_TURN = 8


class SharedWorker(Worker):
    """See ``Worker``; ``share`` is what is its own, and ``must_pause`` says that its sinks hold so much that a
    checkpoint comes before it goes on to emit what is left at the end."""

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
        share: Share,
        must_pause: Callable[[], bool],
    ) -> None:
        super().__init__(graph, backend, codec, clock, deliveries, batch_size, start, wake, resources, share)
        self._must_pause = must_pause
        self._graph = graph
        self._stages = stages(graph)
        #: How far event time had come at the last cut; see ``PartDurable``.
        self.cut_watermarks: dict[str, Micros | None] = {}
        self._edges = share.edges
        self._inlets = self._edges.inlets()
        self._links = self._edges.links
        #: Number of the channel of the supervisor's barriers.
        self._own = len(self._inlets)
        #: Up to which stage the barrier under way, and the end, have been handed on.
        self._barrier_stage = 0
        self._ended_stage = 0
        self._edges.announce()

    # -- rounds --------------------------------------------------------------------------------

    def work(self, *, may_read: bool, may_take: bool) -> Iterator[FromWorker]:
        """One round: source tasks read a batch each, and what has come from other workers is taken.

        Args:
            may_read: Sources may be read.
            may_take: What others have sent may be taken where no barrier is waited for.
        """
        try:
            progressed = False
            if may_take or self._cutting is not None:
                progressed = yield from self._take_inlets()
            if self._cutting is None and may_read and not self._edges.is_full(1):
                self._stopping = self._fell_idle = False
                self._grow()
                read = self._turns.take(self._read)
                self._looks = 0 if read else self._looks + 1
                progressed |= read or self._fell_idle
                if self._stopping:
                    yield StopAsked()
                yield from self._consume()
            if self._cutting is None and may_read:
                yield from self._hand_on_end()
            if not progressed:
                yield Idle()
        except Exception as error:
            yield Failed(error)

    def _take_inlets(self) -> Generator[FromWorker, None, bool]:
        progressed = False
        for number, inlet in enumerate(self._inlets):
            for _ in range(_FRAMES_A_TURN):
                if self._aligner.is_blocked(number) or self._edges.is_full(inlet.stage + 1):
                    break
                frame = self._links.receive(inlet.channel)
                if frame is None:
                    break
                progressed = True
                yield from self._take_frame(number, inlet, *frame)
        return progressed

    def _take_frame(self, number: int, inlet: Inlet, kind: Frame, payload: bytes) -> Iterator[FromWorker]:
        now_s = self._clock.monotonic()
        match kind:
            case Frame.BATCH:
                records, times = self._edges.batch(payload)
                inlet.node.emit(records, times)
                yield PieceTaken()
            case Frame.WATERMARK:
                watermark, idle = msgspec.msgpack.decode(payload)
                inlet.node.tell(watermark, idle=idle)
            case Frame.BARRIER:
                inlet.barrier, created_s = msgspec.msgpack.decode(payload)
                crash_point("exchange.barrier")
                yield from self._aligned(self._aligner.barrier(number, inlet.barrier, created_s=created_s, now_s=now_s))
            case Frame.END:
                inlet.has_ended = True
                yield from self._aligned(self._aligner.end(number, now_s=now_s))

    def _aligned(self, actions: Sequence[object]) -> Iterator[FromWorker]:
        self._hand_on_barrier()
        for action in actions:
            if isinstance(action, AlignerAction.Trigger):
                yield self._cut(action.start_delay_s, action.alignment_s)

    # -- barriers and ends ---------------------------------------------------------------------

    def _cut(self, start_delay_s: float = 0.0, alignment_s: float = 0.0) -> Acknowledged:
        acknowledged = super()._cut(start_delay_s, alignment_s)
        reached = self._pipeline.watermarks()
        self.cut_watermarks = {name: reached.get(name) for name in self._before_exchanges()}
        return acknowledged

    def _ended_channels(self) -> list[int]:
        ended = [number for number, inlet in enumerate(self._inlets) if inlet.has_ended]
        return [*ended, *super()._ended_channels()]

    def _before_exchanges(self) -> list[str]:
        """Sources that this worker has partitions of, and the steps of such before any exchange."""
        mine = [step_id for step_id, tasks in self._by_source.items() if tasks]
        for step in self._graph.operators():
            if self._stages[step.step_id] == 0 and any(origin.step_id in mine for origin in self._graph.origins(step)):
                mine.append(step.step_id)
        return mine

    def _injected(self, message: Trigger, live: Sequence[SourceTask]) -> Iterator[FromWorker]:
        self._barrier_stage = 0
        now_s = self._clock.monotonic()
        actions = self._aligner.barrier(self._own, message.checkpoint_id, created_s=message.now_s, now_s=now_s)
        yield from self._aligned(actions)

    def _hand_on_barrier(self) -> None:
        """Into the channels of each stage before which the barrier has come everywhere."""
        if self._cutting is None:
            return
        number = self._cutting.checkpoint_id
        while self._barrier_stage < self._edges.last_stage and all(
            inlet.barrier == number or inlet.has_ended for inlet in self._inlets if inlet.stage <= self._barrier_stage
        ):
            self._barrier_stage += 1
            if self._barrier_stage > self._ended_stage:
                data = msgspec.msgpack.encode((number, self._cutting.now_s))
                self._edges.send(self._barrier_stage, Frame.BARRIER, data)

    def _hand_on_end(self) -> Iterator[FromWorker]:
        """Where the input of a stage has ended its steps emit what is left, and the next stage hears of the end."""
        if not self._turns.all_ended or self._growth.may_come:
            return
        while self._ended_stage <= self._edges.last_stage:
            stage = self._ended_stage
            if not all(inlet.has_ended for inlet in self._inlets if inlet.stage <= stage):
                return
            if self._until == "end":
                if stage == 0:
                    # Others wait for those that this worker has no partition of as well.
                    for step_id, tasks in self._by_source.items():
                        if not tasks:
                            self._pipeline.end_source(step_id)
                for _ in self._pipeline.end(stage):
                    yield PieceTaken()
                    if self._must_pause():
                        return
            self._edges.send(stage + 1, Frame.END)
            self._ended_stage += 1
            if self._ended_stage > self._edges.last_stage:
                yield Ended()
