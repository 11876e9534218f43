"""A dataflow as data: its steps, and by which edges records come to them.

``Dataflow`` builds it; it is checked, explained, compared with what a checkpoint knows, and run. It has no cycles, and
every step but a source has exactly one input (several for a union). It can be pickled where the functions, sources and
sinks in it can be, and printed without what may be secret.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from onceflow.graph.partitioning import FORWARD, ByKey, Partitioning
from onceflow.graph.steps import InspectSpec, StepSpec
from onceflow.sinks import Sink
from onceflow.sources import Source

__all__ = ["Edge", "Graph", "OperatorStep", "SinkStep", "SourceStep", "Step", "StreamRef"]


@dataclass(frozen=True, slots=True)
class StreamRef:
    """An output of a step.

    Attributes:
        step_id: The step that emits.
        side: Name of its side output (``late``, ``dead_letters``); None is the main output.
    """

    step_id: str
    side: str | None = None

    def __str__(self) -> str:
        return self.step_id if self.side is None else f"{self.step_id} ({self.side})"


@dataclass(frozen=True, slots=True)
class Edge:
    """How records come to a step.

    Attributes:
        origin: From which output.
        partitioning: How they are divided among the workers that run the step.
    """

    origin: StreamRef
    partitioning: Partitioning = FORWARD

    def __str__(self) -> str:
        return str(self.origin) if self.partitioning == FORWARD else f"{self.origin} {self.partitioning!r}"


@dataclass(frozen=True, slots=True, repr=False)
class SourceStep:
    """Where records enter. Its dead letters leave by the side output ``dead_letters``.

    Attributes:
        step_id: Unique.
        source: Where from.
        max_out_of_orderness_us: How far behind the newest event time of its partition a record may come.
        idle_after_us: How long nothing comes from a partition before it holds no watermark back; None: it always does.
    """

    step_id: str
    source: Source
    max_out_of_orderness_us: int = 0
    idle_after_us: int | None = None

    def __repr__(self) -> str:
        # What a connector says of itself may be a secret.
        return f"source {self.step_id}: {type(self.source).__name__}"


@dataclass(frozen=True, slots=True, repr=False)
class OperatorStep:
    """A step between. What it is to do is in ``spec``, and what is known of that can be asked of the step as well.

    Attributes:
        step_id: Unique; for a step without state it is made from kind and place (``map-2``).
        spec: What it is to do.
        inputs: How records come to it.
    """

    step_id: str
    spec: StepSpec
    inputs: tuple[Edge, ...]

    @property
    def kind(self) -> str:
        """See ``StepSpec``."""
        return self.spec.kind

    @property
    def stateful(self) -> bool:
        """See ``StepSpec``."""
        return self.spec.stateful

    @property
    def sides(self) -> tuple[str, ...]:
        """See ``StepSpec``."""
        return self.spec.sides

    @property
    def goes_by_batches(self) -> bool:
        """See ``StepSpec``."""
        return self.spec.goes_by_batches

    @property
    def emits_at_end(self) -> bool:
        """See ``StepSpec``."""
        return self.spec.emits_at_end

    @property
    def keys(self) -> tuple[ByKey, ...]:
        """By what its records are keyed, in the order of its inputs; empty if they are not."""
        return tuple(edge.partitioning for edge in self.inputs if isinstance(edge.partitioning, ByKey))

    @property
    def shape(self) -> str:
        """By which keys it has state, and what that means, for people: a checkpoint is resumed only with the same."""
        return ", ".join(filter(None, (*(key.selector.shape for key in self.keys), self.spec.shape)))

    @property
    def calls_functions(self) -> bool:
        """It calls functions of the user's, which may give something else for the same input."""
        return self.spec.calls_functions or any(key.selector.function is not None for key in self.keys)

    @property
    def may_change_records(self) -> bool:
        """It hands records to functions of the user's, which may change them in place."""
        return self.calls_functions or isinstance(self.spec, InspectSpec)

    def __repr__(self) -> str:
        return f"{self.step_id}: {self.spec!r} ← {', '.join(map(str, self.inputs))}"


@dataclass(frozen=True, slots=True, repr=False)
class SinkStep:
    """Where records leave.

    Attributes:
        step_id: Unique.
        sink: Where to.
        inputs: How records come to it.
    """

    step_id: str
    sink: Sink
    inputs: tuple[Edge, ...]

    def __repr__(self) -> str:
        return f"sink {self.step_id}: {type(self.sink).__name__} ← {', '.join(map(str, self.inputs))}"


Step: TypeAlias = SourceStep | OperatorStep | SinkStep


@dataclass(slots=True, repr=False)
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

    def __repr__(self) -> str:
        return "\n  ".join((f"dataflow {self.name!r}", *map(repr, self.steps.values())))

    def users(self) -> dict[StreamRef, list[OperatorStep | SinkStep]]:
        """By output, the steps that take it, in the order in which they were added."""
        users: dict[StreamRef, list[OperatorStep | SinkStep]] = {}
        for step in self.steps.values():
            if not isinstance(step, SourceStep):
                for origin in dict.fromkeys(edge.origin for edge in step.inputs):
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
                waiting.extend(self.steps[edge.origin.step_id] for edge in reversed(before.inputs))
