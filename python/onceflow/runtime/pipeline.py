"""The task that runs all operators: a push-based graph of steps on one thread."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from onceflow._native import StateBackend
from onceflow.clock import Clock
from onceflow.codec import Codec
from onceflow.crash import crash_point
from onceflow.graph.division import ShareCheck, share_check
from onceflow.graph.exchanges import stages
from onceflow.graph.graph import Graph, OperatorStep, SinkStep, SourceStep, StreamRef
from onceflow.graph.sharing import sharing
from onceflow.operators.base import EventTimes, Operator, OperatorContext
from onceflow.operators.own_copies import own_copies
from onceflow.operators.passed_time import PassedTime
from onceflow.operators.timestamps import AssignTimestamps
from onceflow.process import HomeProcess
from onceflow.runtime.delivery import Delivery, sink_errors
from onceflow.runtime.marks import read_marks
from onceflow.runtime.operators import make_operator
from onceflow.runtime.workers.exchange import Edges
from onceflow.types import BEGINNING_OF_TIME, END_OF_TIME, Batch, Micros, Plain
from onceflow.watermarks import CaughtUp, combined, combined_partitions

__all__ = ["FirstLate", "Pipeline"]


class _Consumer(Protocol):
    def take(self, records: Batch, times: EventTimes) -> None: ...

    def advance(self) -> None: ...

    def expect(self, origin: _Node) -> None: ...


@dataclass(frozen=True, slots=True)
class FirstLate:
    """A record that was the first of a step to come too late, in microseconds since 1970 UTC.

    Attributes:
        time: Its event time.
        watermark: How far event time had come.
    """

    time: Micros
    watermark: Micros


class _Node:
    """A step's outputs: what it emits goes to the steps that use it."""

    def __init__(self) -> None:
        self.users: list[_Consumer] = []
        self.sides: dict[str, list[_Consumer]] = {}
        #: How far event time has come in what it emits; None before it is known. It never falls.
        self.watermark: Micros | None = None
        #: Nothing has come for a while, so it holds nobody's watermark back.
        self.idle = False
        self.rejected = 0

    def emit(self, records: Batch, times: EventTimes = None) -> None:
        if len(records) == 0:
            return
        for user in self.users:
            user.take(records, times)

    def emit_side(self, name: str, records: Batch, times: EventTimes = None) -> None:
        if len(records) == 0:
            return
        if name == "dead_letters":
            crash_point("dlq.pre_write")
            self.rejected += len(records)
        for user in self.sides.get(name, ()):
            user.take(records, times)
        if name == "dead_letters":
            crash_point("dlq.pre_advance")

    def tell(self, watermark: Micros | None, *, idle: bool) -> None:
        """Event time has come so far in what was emitted; it never falls."""
        if watermark is not None and (self.watermark is None or watermark > self.watermark):
            self.watermark = watermark
        elif idle == self.idle:
            return
        self.idle = idle
        for users in (self.users, *self.sides.values()):
            for user in users:
                user.advance()


class _OperatorNode(_Node):
    def __init__(self, step: OperatorStep, operator: Operator) -> None:
        super().__init__()
        self.step = step
        self.operator = operator
        self._origins: list[_Node] = []
        #: How far event time has come in its inputs.
        self.reached: Micros | None = None
        self.late = 0
        self.first_late: FirstLate | None = None

    def take(self, records: Batch, times: EventTimes) -> None:
        self.operator.process(records, times, self)

    def emit_side(self, name: str, records: Batch, times: EventTimes = None) -> None:
        if name == "late" and times is not None:
            if self.first_late is None and len(times):
                reached = times[:1].reached(BEGINNING_OF_TIME if self.reached is None else self.reached)
                self.first_late = FirstLate(int(times.values[0]), int(reached[0]))
            self.late += len(times)
        super().emit_side(name, records, times)

    def expect(self, origin: _Node) -> None:
        self._origins.append(origin)

    def inputs(self) -> tuple[Micros | None, bool]:
        """How far event time has come in its inputs together, and whether they are idle."""
        return combined((origin.watermark, origin.idle) for origin in self._origins)

    def advance(self) -> None:
        watermark, idle = self.inputs()
        if watermark is not None and (self.reached is None or watermark > self.reached):
            self.reached = watermark
            self.operator.on_watermark(watermark, self)
        self.tell(None if self.reached is None else self._behind(self.reached), idle=idle)

    def resume(self, watermark: Micros | None) -> None:
        """Event time had come so far in its inputs when the checkpoint was taken; nobody is told."""
        self.reached = watermark
        self.watermark = None if watermark is None else self._behind(watermark)

    def _behind(self, watermark: Micros) -> Micros:
        if watermark == END_OF_TIME:
            return watermark
        return max(watermark - self.operator.behind_us, BEGINNING_OF_TIME)


class _TimestampsNode(_OperatorNode):
    """``assign_timestamps``: event time begins here, with a watermark of its own for each partition."""

    def __init__(self, step: OperatorStep, operator: AssignTimestamps, partitions: Sequence[str]) -> None:
        super().__init__(step, operator)
        self._times = operator
        #: Whether it is idle, of each partition that has not ended.
        self._live = dict.fromkeys(partitions, False)
        #: There is a partition, or was one.
        self._has_begun = bool(partitions)
        self._caught_up: dict[str, CaughtUp] = {}

    def join(self, partition: str) -> None:
        """A partition has come."""
        self._live[partition] = False
        self.begin()

    def begin(self) -> None:
        """From now on it stands where its partitions do, and at the end of time without any."""
        self._has_begun = True

    def take_from(self, partition: str) -> None:
        """What comes next comes from this partition."""
        self._times.partition = partition

    def end(self, partition: str, caught_up: CaughtUp | None = None) -> None:
        """A partition has ended for good, or is caught up."""
        if caught_up is None:
            self._live.pop(partition, None)
        elif partition in self._live:
            self._caught_up[partition] = caught_up

    def rest(self, partition: str, *, idle: bool) -> None:
        """Nothing has come from a partition for a while, or something again."""
        if partition in self._live:
            self._live[partition] = idle

    def inputs(self) -> tuple[Micros | None, bool]:
        if not self._has_begun:
            return None, True
        marks = [(self._times.watermark(name), idle, self._caught_up.get(name)) for name, idle in self._live.items()]
        return combined_partitions(marks, max((mark for mark, _, _ in marks if mark is not None), default=None))

    def advance(self) -> None:
        """Not by the inputs: see ``settle``."""

    def settle(self) -> None:
        """A batch has been taken, or a partition has ended."""
        super().advance()


class _SinkNode:
    def __init__(self, step_id: str, delivery: Delivery) -> None:
        self._step_id = step_id
        self._delivery = delivery
        self._home = HomeProcess()
        self.suppressed = False
        self.written = 0

    def take(self, records: Batch, times: EventTimes) -> None:
        # What is suppressed was written by an earlier run, and counts like that.
        self.written += len(records)
        if not self.suppressed:
            self._home.check()
            with sink_errors(self._step_id, "write"):
                self._delivery.write(records)

    def advance(self) -> None:
        pass

    def expect(self, origin: _Node) -> None:
        pass


class _Copying:
    """Hands a step copies of the records, so that what its functions change in place others do not see.

    Columns are shared: nobody changes them in place.
    """

    def __init__(self, user: _Consumer) -> None:
        self._user = user
        self.advance = user.advance
        self.expect = user.expect

    def take(self, records: Batch, times: EventTimes) -> None:
        self._user.take(own_copies(records) if isinstance(records, list) else records, times)


class _Checking:
    """Hands a step by key of one of several runs the records whose keys are still that run's."""

    def __init__(self, user: _Consumer, share: ShareCheck) -> None:
        self._user = user
        self._share = share
        self.advance = user.advance
        self.expect = user.expect

    def take(self, records: Batch, times: EventTimes) -> None:
        self._share.check(records)
        self._user.take(records, times)


class Pipeline:
    """All operators of a graph.

    Args:
        graph: What to run.
        deliveries: By step id, how each sink is written.
        partitions: By source, the names of the tasks that read its partitions.
        edges: Where records change to other workers; None: there are none.
    """

    def __init__(
        self,
        graph: Graph,
        deliveries: dict[str, Delivery],
        partitions: Mapping[str, Sequence[str]],
        edges: Edges | None = None,
    ) -> None:
        self._stages = stages(graph)
        self._sources = {step.step_id: _Node() for step in graph.sources()}
        #: By source, the steps where event time begins for its records, each before those after it.
        self._timestamps: dict[str, list[_TimestampsNode]] = {source_id: [] for source_id in partitions}
        self._operators = {step.step_id: self._node(graph, step, partitions) for step in graph.operators()}
        self._sinks = {step.step_id: _SinkNode(step.step_id, deliveries[step.step_id]) for step in graph.sinks()}
        shared = sharing(graph)
        checked: dict[str, _Consumer] = {}
        for step_id, node in self._operators.items():
            share = share_check(graph, node.step)
            checked[step_id] = node if share is None else _Checking(node, share)
        inputs = [
            (step, number, edge.origin)
            for step in graph.steps.values()
            if not isinstance(step, SourceStep)
            for number, edge in enumerate(step.inputs)
        ]
        # In the order of the graph otherwise.
        for step, number, origin in sorted(inputs, key=lambda edge: (edge[0].step_id, edge[1]) not in shared.first):
            consumer: _Consumer = self._sinks[step.step_id] if isinstance(step, SinkStep) else checked[step.step_id]
            is_copied = (step.step_id, number) in shared.copied
            user = _Copying(consumer) if is_copied else consumer
            self._join(origin, user if edges is None else edges.outlet(step.step_id, number, user, _Node))

    def _node(self, graph: Graph, step: OperatorStep, partitions: Mapping[str, Sequence[str]]) -> _OperatorNode:
        operator = make_operator(step)
        if not isinstance(operator, AssignTimestamps):
            return _OperatorNode(step, operator)
        sources = [source.step_id for source in graph.origins(step)]
        node = _TimestampsNode(step, operator, [name for source_id in sources for name in partitions[source_id]])
        for source_id in sources:
            self._timestamps[source_id].append(node)
        return node

    def _join(self, origin: StreamRef, consumer: _Consumer) -> None:
        node: _Node = self._sources.get(origin.step_id) or self._operators[origin.step_id]
        users = node.users if origin.side is None else node.sides.setdefault(origin.side, [])
        users.append(consumer)
        consumer.expect(node)

    def open(
        self,
        backend: StateBackend,
        codec: Codec,
        clock: Clock,
        passed: PassedTime,
        kept: Mapping[str, bytes],
        agreed: Mapping[str, Mapping[str, Plain]],
        watermarks: Mapping[str, Micros],
        ended: Iterable[tuple[str, str]],
    ) -> None:
        """Opens all operators.

        Args:
            backend, codec, clock, passed: See ``OperatorContext``.
            kept: What ``marks`` returned for the checkpoint that is resumed from, by step id.
            agreed: What the job has agreed on, by step id.
            watermarks: Of sources and steps, as of the checkpoint that is resumed from.
            ended: Sources and partitions of them that had ended by then.
        """
        for source_id, partition in ended:
            for timestamps in self._timestamps[source_id]:
                timestamps.end(partition)
        for step_id, source in self._sources.items():
            source.watermark = watermarks.get(step_id)
        for step_id, node in self._operators.items():
            # A step that the checkpoint does not know begins where its inputs stand.
            watermark = watermarks.get(step_id, node.inputs()[0])
            marks, states = read_marks(node.step, kept.get(step_id))
            known = {**states, **agreed.get(step_id, {})}
            context = OperatorContext(step_id, backend, codec, clock, passed, watermark, marks, known)
            node.operator.open(context)
            node.resume(watermark)

    def take(self, source_id: str, partition: str, records: Batch, times: EventTimes) -> None:
        """A batch of a partition of a source, or a piece of it."""
        for node in self._timestamps[source_id]:
            node.take_from(partition)
        self._sources[source_id].emit(records, times)

    def settle(self, source_id: str) -> None:
        """A batch of a source was taken whole: what it says of event time is heard."""
        for node in self._timestamps[source_id]:
            node.settle()

    def end_partition(self, source_id: str, partition: str, caught_up: CaughtUp | None) -> None:
        """A partition of a source has ended for good, or is caught up."""
        for node in self._timestamps[source_id]:
            node.end(partition, caught_up)
            node.settle()

    def join_partition(self, source_id: str, partition: str) -> None:
        """A source has got a partition."""
        for node in self._timestamps[source_id]:
            node.join(partition)

    def reject(self, source_id: str, records: list[Any]) -> None:
        """Dead letters of a source."""
        self._sources[source_id].emit_side("dead_letters", records)

    def rest_partition(self, source_id: str, partition: str, *, idle: bool) -> None:
        """Nothing has come from a partition for a while, or something again."""
        for node in self._timestamps[source_id]:
            node.rest(partition, idle=idle)
            node.settle()

    def advance(self, source_id: str, watermark: Micros | None, *, idle: bool) -> None:
        """The watermark of a source, which never falls, and whether all of it is idle."""
        self._sources[source_id].tell(watermark, idle=idle)

    def rest_sources(self, source_ids: Iterable[str]) -> None:
        """Sources without partitions, which hold no windows open."""
        for source_id in source_ids:
            self.settle(source_id)
            self.advance(source_id, None, idle=True)

    def end_source(self, source_id: str) -> None:
        """A source without partitions has ended: none will come."""
        for node in self._timestamps[source_id]:
            node.begin()
            node.settle()
        self.advance(source_id, END_OF_TIME, idle=False)

    def reached(self, source_id: str) -> Micros | None:
        """How far event time has come in a source."""
        return self._sources[source_id].watermark

    def end(self, stage: int | None = None) -> Iterator[None]:
        """All inputs have ended: operators emit what is left, in the order of the graph.

        After each piece it may be left, and a barrier come; whoever calls it again goes on from there.

        Args:
            stage: Only those whose records have passed so many exchanges; None: all.
        """
        for step_id, node in self._operators.items():
            if stage is None or self._stages[step_id] == stage:
                yield from node.operator.end(node)

    def snapshot(self) -> dict[str, bytes]:
        """Operators write cached state into their tables. How far event time has come within them, by step id: what
        ``open`` takes."""
        for node in self._operators.values():
            node.operator.snapshot()
        marks = {step_id: node.operator.marks() for step_id, node in self._operators.items()}
        return {step_id: msgspec.msgpack.encode(some) for step_id, some in marks.items() if some}

    def agreed(self) -> dict[str, dict[str, Plain]]:
        """What steps have agreed on, by step id."""
        agreed = {step_id: node.operator.agreed() for step_id, node in self._operators.items()}
        return {step_id: some for step_id, some in agreed.items() if some}

    def watermarks(self) -> dict[str, Micros]:
        """How far event time has come, by source and step, where it is known: what ``open`` takes."""
        reached = {step_id: node.watermark for step_id, node in self._sources.items()}
        reached.update({step_id: node.reached for step_id, node in self._operators.items()})
        return {step_id: watermark for step_id, watermark in reached.items() if watermark is not None}

    @property
    def late(self) -> dict[str, int]:
        """By window step, the records that came too late for their windows."""
        return {step_id: node.late for step_id, node in self._operators.items() if "late" in node.step.sides}

    def lost_late(self) -> dict[str, FirstLate]:
        """By window step, the first record that came too late, where nothing takes such records."""
        return {
            step_id: node.first_late
            for step_id, node in self._operators.items()
            if node.first_late is not None and not node.sides.get("late")
        }

    def suppress(self, suppressed: bool) -> None:
        """While true, what reaches a sink is dropped: it was written by an earlier run."""
        for node in self._sinks.values():
            node.suppressed = suppressed

    @property
    def rejected(self) -> int:
        """Records that sources refused, and that were handed to dead letters."""
        return sum(node.rejected for node in self._sources.values())

    @property
    def raised(self) -> int:
        """Records for which functions of steps raised, handed to dead letters of those steps."""
        return sum(node.rejected for node in self._operators.values())

    @property
    def records_out(self) -> int:
        """Records that reached a sink."""
        return sum(node.written for node in self._sinks.values())

    def close(self) -> None:
        """Closes all operators."""
        for node in self._operators.values():
            node.operator.close()
