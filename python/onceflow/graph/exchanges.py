"""Where records change from one worker to another: the edges by key, and how many of them lie before each step.

A key_by in front of a step with state is an exchange: every worker has records of every key there, and hands each to
the worker that has the key. Idea: Timely Dataflow, where each worker runs the whole graph on its share.
"""

from __future__ import annotations

from dataclasses import dataclass

from onceflow.exceptions import ConfigurationError
from onceflow.graph.graph import Graph, OperatorStep, SourceStep, StreamRef
from onceflow.graph.partitioning import ByKey
from onceflow.graph.steps import AssignTimestampsSpec

__all__ = ["Exchange", "check_divisible", "exchanges", "stages"]


@dataclass(frozen=True, slots=True)
class Exchange:
    """An edge by key.

    Attributes:
        step_id: The step that takes the records.
        number: Which of its inputs the edge is.
        origin: From which output.
        key: By what.
        stage: How many exchanges its records have passed with this one, at most.
    """

    step_id: str
    number: int
    origin: StreamRef
    key: ByKey
    stage: int


def stages(graph: Graph) -> dict[str, int]:
    """By step, how many exchanges its records have passed, at most."""
    found: dict[str, int] = {}
    for step_id, step in graph.steps.items():
        if isinstance(step, SourceStep):
            found[step_id] = 0
            continue
        found[step_id] = max(found[edge.origin.step_id] + isinstance(edge.partitioning, ByKey) for edge in step.inputs)
    return found


def exchanges(graph: Graph) -> list[Exchange]:
    """All of them, in the order of the graph."""
    before = stages(graph)
    return [
        Exchange(step.step_id, number, edge.origin, edge.partitioning, before[edge.origin.step_id] + 1)
        for step in graph.operators()
        for number, edge in enumerate(step.inputs)
        if isinstance(edge.partitioning, ByKey)
    ]


def check_divisible(graph: Graph) -> None:
    """Raises ``ConfigurationError`` unless several workers can run the dataflow."""
    before = stages(graph)
    for step in graph.operators():
        if isinstance(step.spec, AssignTimestampsSpec) and before[step.step_id]:
            raise ConfigurationError(
                f"assign_timestamps {step.step_id!r} needs records of partitions, and with several workers those that "
                f"have passed key_by ({_keyed_before(graph, step)!r}) are of none; put it before",
                setting="workers",
            )


def _keyed_before(graph: Graph, step: OperatorStep) -> str:
    return next(before.step_id for before in graph.upstream(step) if isinstance(before, OperatorStep) and before.keys)
