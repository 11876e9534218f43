"""The task that runs all operators: a push-based graph of steps on one thread."""

from __future__ import annotations

from typing import Any, Protocol

from onceflow._native import PendingCheckpoint, StateBackend
from onceflow.clock import Clock
from onceflow.codec import Codec
from onceflow.crash import crash_point
from onceflow.graph import Graph, Input, OperatorStep, SinkStep, SourceStep
from onceflow.operators.base import EventTimes, Operator, OperatorContext
from onceflow.process import HomeProcess
from onceflow.sink_legs import SinkLeg, sink_errors
from onceflow.types import END_OF_TIME, Batch, Micros

__all__ = ["WorkerTask"]


class _Consumer(Protocol):
    def take(self, records: Batch, times: EventTimes) -> None: ...

    def advance(self, origin: object, watermark: Micros) -> None: ...

    def expect(self, origin: object) -> None: ...


class _Node:
    """A step's outputs: what it emits goes to the steps that use it."""

    def __init__(self) -> None:
        self.users: list[_Consumer] = []
        self.sides: dict[str, list[_Consumer]] = {}
        self.emitted = 0
        self.rejected = 0

    def emit(self, records: Batch, times: EventTimes = None) -> None:
        if len(records) == 0:
            return
        self.emitted += len(records)
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

    def everyone(self) -> list[_Consumer]:
        return [*self.users, *(user for users in self.sides.values() for user in users)]


class _OperatorNode(_Node):
    def __init__(self, step: OperatorStep) -> None:
        super().__init__()
        self.step = step
        self.operator: Operator = step.make()
        self._inputs: dict[object, Micros | None] = {}
        self._watermark: Micros | None = None

    def take(self, records: Batch, times: EventTimes) -> None:
        self.operator.process(records, times, self)

    def expect(self, origin: object) -> None:
        self._inputs[origin] = None

    def advance(self, origin: object, watermark: Micros) -> None:
        self._inputs[origin] = watermark
        lowest = END_OF_TIME
        for known in self._inputs.values():
            if known is None:
                return
            lowest = min(lowest, known)
        if self._watermark is not None and lowest <= self._watermark:
            return
        self._watermark = lowest
        self.operator.on_watermark(lowest, self)
        for user in self.everyone():
            user.advance(self, lowest)


class _SinkNode:
    def __init__(self, step_id: str, leg: SinkLeg) -> None:
        self._step_id = step_id
        self._leg = leg
        self._home = HomeProcess()
        self.suppressed = False
        self.written = 0

    def take(self, records: Batch, times: EventTimes) -> None:
        # What is suppressed was written by an earlier run, and counts like that.
        self.written += len(records)
        if not self.suppressed:
            self._home.check()
            with sink_errors(self._step_id, "write"):
                self._leg.write(records)

    def advance(self, origin: object, watermark: Micros) -> None:
        pass

    def expect(self, origin: object) -> None:
        pass


class WorkerTask:
    """All operators of a graph.

    Args:
        graph: What to run.
        legs: By step id, how each sink is written.
    """

    def __init__(self, graph: Graph, legs: dict[str, SinkLeg]) -> None:
        self._sources = {step.step_id: _Node() for step in graph.sources()}
        self._operators = {step.step_id: _OperatorNode(step) for step in graph.operators()}
        self._sinks = {step.step_id: _SinkNode(step.step_id, legs[step.step_id]) for step in graph.sinks()}
        for step in graph.steps.values():
            if isinstance(step, SourceStep):
                continue
            consumer: _Consumer = (
                self._sinks[step.step_id] if isinstance(step, SinkStep) else self._operators[step.step_id]
            )
            for origin in step.inputs:
                self._join(origin, consumer)

    def _join(self, origin: Input, consumer: _Consumer) -> None:
        node: _Node = self._sources.get(origin.step_id) or self._operators[origin.step_id]
        users = node.users if origin.side is None else node.sides.setdefault(origin.side, [])
        users.append(consumer)
        consumer.expect(node)

    def open(self, backend: StateBackend, codec: Codec, clock: Clock, restored: dict[str, bytes]) -> None:
        """Opens all operators; ``restored`` holds their snapshots by step id."""
        for step_id, node in self._operators.items():
            node.operator.open(OperatorContext(step_id, backend, codec, clock, restored.get(step_id)))

    def take(self, source_id: str, records: Batch, times: EventTimes) -> None:
        """A batch of a source."""
        self._sources[source_id].emit(records, times)

    def reject(self, source_id: str, records: list[Any]) -> None:
        """Dead letters of a source."""
        self._sources[source_id].emit_side("dead_letters", records)

    def advance(self, source_id: str, watermark: Micros) -> None:
        """The watermark of a source."""
        node = self._sources[source_id]
        for user in node.everyone():
            user.advance(node, watermark)

    def end(self) -> None:
        """All inputs have ended: operators emit what is left, in the order of the graph."""
        for node in self._operators.values():
            node.operator.end(node)

    def snapshot(self, checkpoint: PendingCheckpoint) -> dict[str, bytes]:
        """Operators write cached state into their tables; what they return is kept besides."""
        snapshots = {}
        for step_id, node in self._operators.items():
            data = node.operator.snapshot(checkpoint)
            if data is not None:
                snapshots[step_id] = data
        return snapshots

    def suppress(self, suppressed: bool) -> None:
        """While true, what reaches a sink is dropped: it was written by an earlier run."""
        for node in self._sinks.values():
            node.suppressed = suppressed

    @property
    def rejected(self) -> int:
        """Records that were handed to dead letters."""
        return sum(node.rejected for node in (*self._sources.values(), *self._operators.values()))

    @property
    def records_out(self) -> int:
        """Records that reached a sink."""
        return sum(node.written for node in self._sinks.values())

    def close(self) -> None:
        """Closes all operators."""
        for node in self._operators.values():
            node.operator.close()
