"""Which records are in the hands of several steps, one of which may change them in place."""

from __future__ import annotations

from onceflow.graph.graph import Graph, OperatorStep, StreamRef
from onceflow.graph.steps import AssignTimestampsSpec, DropDuplicatesSpec, InspectSpec, UnionSpec, WindowSpec

__all__ = ["copied_edges"]


def copied_edges(graph: Graph) -> set[tuple[str, int]]:
    """The edges, by step and number of its input, that have to bring copies, so that no other step sees a change.

    Where an output has several users, and behind each of them a function may change its records, all get copies but the
    last one. Where there are others beside them, which only read, those share what was emitted.
    """
    edges: dict[StreamRef, list[tuple[str, int]]] = {}
    for step_id, step in graph.steps.items():
        for number, edge in enumerate(getattr(step, "inputs", ())):
            edges.setdefault(edge.origin, []).append((step_id, number))
    changing = _changing(graph, edges)
    copied: set[tuple[str, int]] = set()
    for users in edges.values():
        may_change = [edge for edge in users if edge[0] in changing]
        copied.update(may_change[:-1] if len(may_change) == len(users) else may_change)
    return copied


def _changing(graph: Graph, edges: dict[StreamRef, list[tuple[str, int]]]) -> set[str]:
    """The steps that hand their records to a function, or to a step that does."""
    changing: set[str] = set()
    for step in reversed(graph.steps.values()):
        if isinstance(step, OperatorStep) and (
            step.calls_functions
            or isinstance(step.spec, InspectSpec)
            or any(user in changing for origin in _passed_on(step) for user, _ in edges.get(origin, ()))
        ):
            changing.add(step.step_id)
    return changing


def _passed_on(step: OperatorStep) -> list[StreamRef]:
    """The outputs in which the records themselves go on; of steps without functions."""
    if isinstance(step.spec, WindowSpec):
        return [StreamRef(step.step_id, "late")]
    if isinstance(step.spec, AssignTimestampsSpec | DropDuplicatesSpec | UnionSpec):
        return [StreamRef(step.step_id, side) for side in (None, *step.sides)]
    return []
