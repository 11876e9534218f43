"""A dataflow as data: sources, operators and sinks, and what is joined to what.

``Dataflow`` builds it, the planner checks and explains it, the runner runs it. It is a forest of
paths without cycles; every step but a source has exactly one input (several for a union).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from onceflow.operators.base import Operator
from onceflow.sinks import Sink
from onceflow.sources import Source

__all__ = ["Graph", "Input", "OperatorStep", "SinkStep", "SourceStep", "Step"]


@dataclass(frozen=True, slots=True)
class Input:
    """An output of another step.

    Attributes:
        step_id: The step that emits.
        side: Name of its side output (``late``, ``dead_letters``); None is the main output.
    """

    step_id: str
    side: str | None = None


@dataclass(frozen=True, slots=True)
class SourceStep:
    """Where records enter. Its dead letters leave by the side output ``dead_letters``.

    ``max_out_of_orderness_us``: how far behind the newest event time of its partition a record may come.
    ``idle_after_us``: how long nothing comes from a partition before it holds no watermark back; None: it always does.
    """

    step_id: str
    source: Source
    max_out_of_orderness_us: int = 0
    idle_after_us: int | None = None


@dataclass(frozen=True, slots=True)
class OperatorStep:
    """A step between.

    Attributes:
        step_id: Unique; for a step without state it is made from kind and place (``map-2``).
        kind: What the user called: ``map``, ``aggregate``, ``window`` …; shown by ``explain``.
        inputs: Whose records it takes.
        make: Makes the operator; called once a run.
        stateful: It has tables or snapshots under its id, so the id must not change.
        sides: Names of the side outputs it can emit to.
        shape: What its state means, for people: a checkpoint is resumed only with the same.
        calls_functions: It calls functions of the user's, which may give something else for the same input.
        goes_by_batches: What it emits depends on where batches are cut.
    """

    step_id: str
    kind: str
    inputs: tuple[Input, ...]
    make: Callable[[], Operator]
    stateful: bool = False
    sides: tuple[str, ...] = ()
    shape: str = ""
    calls_functions: bool = False
    goes_by_batches: bool = False


@dataclass(frozen=True, slots=True)
class SinkStep:
    """Where records leave."""

    step_id: str
    sink: Sink
    inputs: tuple[Input, ...]


Step: TypeAlias = SourceStep | OperatorStep | SinkStep


@dataclass(slots=True)
class Graph:
    """All steps of a dataflow in the order in which they were added: inputs before users.

    Attributes:
        name: Name of the dataflow; the job that a state directory belongs to.
        steps: By step id.
        deterministic: Its functions give the same for the same input, says who wrote them.
    """

    name: str
    steps: dict[str, Step] = field(default_factory=dict)
    deterministic: bool = False

    def users(self) -> dict[Input, list[OperatorStep | SinkStep]]:
        """By output, the steps that take it, in the order in which they were added."""
        users: dict[Input, list[OperatorStep | SinkStep]] = {}
        for step in self.steps.values():
            if not isinstance(step, SourceStep):
                for origin in dict.fromkeys(step.inputs):
                    users.setdefault(origin, []).append(step)
        return users

    def sources(self) -> list[SourceStep]:
        """All sources."""
        return [step for step in self.steps.values() if isinstance(step, SourceStep)]

    def operators(self) -> list[OperatorStep]:
        """All operators."""
        return [step for step in self.steps.values() if isinstance(step, OperatorStep)]

    def sinks(self) -> list[SinkStep]:
        """All sinks."""
        return [step for step in self.steps.values() if isinstance(step, SinkStep)]

    def origins(self, step: OperatorStep) -> Iterator[SourceStep]:
        """The sources whose records come to a step, each once."""
        return (before for before in self.upstream(step) if isinstance(before, SourceStep))

    def upstream(self, step: OperatorStep) -> Iterator[Step]:
        """A step and all that its records come from, each once."""
        waiting: list[Step] = [step]
        seen = set()
        while waiting:
            before = waiting.pop()
            if before.step_id in seen:
                continue
            seen.add(before.step_id)
            yield before
            if not isinstance(before, SourceStep):
                waiting.extend(self.steps[origin.step_id] for origin in reversed(before.inputs))
