"""Whether a dataflow can go on from a checkpoint, and whether the same input makes the same state again."""

from __future__ import annotations

from onceflow.exceptions import DataflowChangedError
from onceflow.graph.graph import Graph, OperatorStep, SourceStep
from onceflow.graph.steps import DropDuplicatesSpec
from onceflow.graph.structure import has_event_time

__all__ = ["check_resume", "fingerprint", "why_not_repeatable"]


def fingerprint(graph: Graph) -> dict[str, str]:
    """The steps that have state, by id, with kind and shape: what a checkpoint can be resumed with."""
    steps = {step.step_id: "source" for step in graph.sources()}
    steps.update({step.step_id: "sink" for step in graph.sinks()})
    steps.update({step.step_id: f"{step.kind} {step.shape}".strip() for step in graph.operators() if step.stateful})
    return steps


def why_not_repeatable(graph: Graph, *, waited: bool) -> str | None:
    """Why the same input might not give the same state again, as a sentence about a step; None if it does.

    Args:
        graph: The dataflow.
        waited: The order between partitions was a matter of time (see ``JobRecord``).
    """
    if graph.deterministic:
        return None
    stateful = [step for step in graph.operators() if step.stateful]
    for step in stateful:
        for before in graph.upstream(step):
            if isinstance(before, OperatorStep) and before.calls_functions:
                return f"step {before.step_id!r} calls functions of yours"
            if isinstance(before, SourceStep) and not before.source.deterministic:
                return f"source {before.step_id!r} calls functions of yours"
        if isinstance(step.spec, DropDuplicatesSpec) and not has_event_time(graph, step):
            return f"step {step.step_id!r} goes by the clock, since its records have no event time"
    if waited and stateful:
        return f"the state of step {stateful[0].step_id!r} may depend on the order in which partitions were read"
    return None


def check_resume(old: dict[str, str], graph: Graph) -> None:
    """Raises if the graph lacks a step that the checkpoint has state of, or has another one under its id.

    Raises:
        DataflowChangedError: Names the steps.
    """
    new = fingerprint(graph)
    gone = sorted(step_id for step_id in old if step_id not in new)
    other = sorted(step_id for step_id in old if step_id in new and new[step_id] != old[step_id])
    added = sorted(step_id for step_id in new if step_id not in old)
    if gone:
        renamed = f" (was one renamed to {added}?)" if added else ""
        raise DataflowChangedError(
            f"the checkpoint holds state of steps that the dataflow no longer has: {gone}{renamed}. Give them back "
            "their ids, or move away what the sinks hold and start over with fresh=True"
        )
    if other:
        changes = ", ".join(f"{step_id!r} was {old[step_id]} and is {new[step_id]}" for step_id in other)
        raise DataflowChangedError(
            f"steps changed so that their state means something else: {changes}. Put them back as they were, or move "
            "away what the sinks hold and start over with fresh=True"
        )
