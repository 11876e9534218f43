"""Checks a dataflow before its first record: every path from a source to a sink, requirement by requirement.

Exactly-once has three requirements: a source that can be replayed, state and positions in one checkpoint, and a sink
that is transactional or idempotent. What a path lacks is named here, never discovered afterwards.

Branches that are merged again double the paths, so their number may be exponential in that of the steps. What a path
stands on is decided by its two ends alone: one path for each pair of a source and a sink says it all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

from onceflow.exceptions import DeliveryGuaranteeError
from onceflow.graph.explanation import (
    ExplainedEdge,
    ExplainedStep,
    Explanation,
    PathExplanation,
    Requirement,
    Suggestion,
)
from onceflow.graph.graph import Graph, OperatorStep, SinkStep, SourceStep, Step, StreamRef
from onceflow.graph.partitioning import ByKey
from onceflow.graph.structure import check_structure
from onceflow.graph.suggestions import needed, recognises_outputs, suggestions
from onceflow.types import Guarantee

__all__ = ["explained", "plan"]

#: From how many paths on only one is shown for all with the same ends.
_MAX_SHOWN = 100

#: The names on the way to a step, the last one first: the trail before it, and its own name.
_Trail: TypeAlias = tuple["_Trail | None", str]


@dataclass(frozen=True, slots=True)
class _Path:
    steps: tuple[str, ...]
    source: SourceStep
    sink: SinkStep
    #: How many paths with the same ends it stands for, besides itself.
    others: int = 0

    def __str__(self) -> str:
        return " → ".join(self.steps)


def plan(graph: Graph, guarantee: Guarantee) -> None:
    """Raises unless the dataflow can run and keep the guarantee.

    Raises:
        ConfigurationError: No source or sink, an output that nobody takes, a window without event time.
        DeliveryGuaranteeError: A path that cannot keep the guarantee; names path, step and requirement.
    """
    check_structure(graph)
    users = graph.users()
    for path in (path for source in graph.sources() for path in _walk(users, source, each_step_once=True)):
        missing = [each for each in _requirements(graph, path, guarantee) if not each.holds]
        if missing:
            (step_id, *_), text = missing[0].steps, missing[0].text
            raise DeliveryGuaranteeError(
                f"{guarantee} cannot be kept on the path {path}: step {step_id!r} {text}. "
                f"{needed(path.source, path.sink, guarantee).text}",
                guarantee=guarantee,
                step_id=step_id,
            )


def explained(graph: Graph, guarantee: Guarantee) -> Explanation:
    """Each path with its requirements, and what could be done.

    Of more paths than anybody reads, only the first one between two ends is shown, with the number of the others.

    Raises:
        ConfigurationError: The dataflow is not whole.
    """
    check_structure(graph)
    paths = tuple(_explained_path(graph, path, guarantee) for path in _shown_paths(graph))
    edges = (
        ExplainedEdge(
            edge.origin.step_id,
            edge.origin.side,
            step.step_id,
            repr(edge.partitioning.selector) if isinstance(edge.partitioning, ByKey) else None,
        )
        for step in graph.steps.values()
        if not isinstance(step, SourceStep)
        for edge in dict.fromkeys(step.inputs)
    )
    steps = tuple(map(_explained_step, graph.steps.values()))
    return Explanation(graph.name, guarantee, all(path.kept for path in paths), steps, tuple(edges), paths)


def _explained_path(graph: Graph, path: _Path, guarantee: Guarantee) -> PathExplanation:
    requirements = tuple(_requirements(graph, path, guarantee))
    kept = all(requirement.holds for requirement in requirements)
    lacking = [each for each in _requirements(graph, path, Guarantee.EXACTLY_ONCE) if not each.holds]
    found: tuple[Suggestion, ...] = (needed(path.source, path.sink, guarantee),)
    if kept:
        found = tuple(suggestions(graph, path.source, path.sink, guarantee, lacking))
    source, sink = path.source.step_id, path.sink.step_id
    return PathExplanation(path.steps, source, sink, kept, path.others, requirements, found)


def _explained_step(step: Step) -> ExplainedStep:
    if isinstance(step, SourceStep):
        return ExplainedStep(step.step_id, "source", type(step.source).__name__, False, not step.source.deterministic)
    if isinstance(step, SinkStep):
        return ExplainedStep(step.step_id, "sink", type(step.sink).__name__, False, False)
    return ExplainedStep(step.step_id, "operator", step.kind, step.stateful, step.calls_functions)


def _counts(graph: Graph, source: SourceStep) -> dict[str, int]:
    """By step id, how many paths lead from a source to it."""
    counts = {source.step_id: 1}
    for step in graph.steps.values():
        if not isinstance(step, SourceStep):
            counts[step.step_id] = sum(counts.get(edge.origin.step_id, 0) for edge in dict.fromkeys(step.inputs))
    return counts


def _shown_paths(graph: Graph) -> Iterator[_Path]:
    users, counts = graph.users(), {source.step_id: _counts(graph, source) for source in graph.sources()}
    total = sum(found.get(sink.step_id, 0) for found in counts.values() for sink in graph.sinks())
    for source in graph.sources():
        for path in _walk(users, source, each_step_once=total > _MAX_SHOWN):
            others = counts[source.step_id][path.sink.step_id] - 1
            yield replace(path, others=others) if total > _MAX_SHOWN else path


def _walk(
    users: dict[StreamRef, list[OperatorStep | SinkStep]], source: SourceStep, *, each_step_once: bool
) -> Iterator[_Path]:
    """The paths from a source, depth first; of those to a sink only the first if each step is entered once."""
    waiting: list[tuple[Step, _Trail]] = [(source, (None, source.step_id))]
    entered: set[str] = set()
    while waiting:
        step, trail = waiting.pop()
        if each_step_once and step.step_id in entered:
            continue
        entered.add(step.step_id)
        if isinstance(step, SinkStep):
            yield _Path(_names(trail), source, step)
            continue
        following: list[tuple[Step, _Trail]] = []
        for side in (None, *(("dead_letters",) if isinstance(step, SourceStep) else step.sides)):
            label = trail if side is None else (trail, f"({side})")
            following.extend((user, (label, user.step_id)) for user in users.get(StreamRef(step.step_id, side), ()))
        waiting.extend(reversed(following))


def _names(trail: _Trail) -> tuple[str, ...]:
    names: list[str] = []
    left: _Trail | None = trail
    while left is not None:
        left, name = left
        names.append(name)
    return tuple(reversed(names))


def _requirements(graph: Graph, path: _Path, guarantee: Guarantee) -> Iterator[Requirement]:
    yield _source_requirement(path.source, guarantee)
    if guarantee in (Guarantee.EXACTLY_ONCE, Guarantee.EFFECTIVELY_ONCE):
        steps = (graph.steps.get(name) for name in path.steps)
        stateful = tuple(step.step_id for step in steps if isinstance(step, OperatorStep) and step.stateful)
        what = f"positions and the state of {', '.join(stateful)}" if stateful else "positions of all sources"
        yield Requirement("state", stateful, True, f"{what} belong to one checkpoint")
    yield _sink_requirement(path.sink, guarantee)


def _source_requirement(step: SourceStep, guarantee: Guarantee) -> Requirement:
    replayable, kind = step.source.replayable, type(step.source).__name__
    if guarantee is Guarantee.AT_MOST_ONCE:
        text = (
            "positions are durable before outputs are written"
            if replayable
            else "cannot be read again from a position; it must not hand out a record again by itself"
        )
        return Requirement("source", (step.step_id,), True, f"{kind}: {text}")
    text = (
        f"{kind} can be read again from a checkpoint's position"
        if replayable
        else f"is a {kind}, which cannot be read again from a position: what was read is lost by a crash"
    )
    if step.source.job_instance is not None:
        text += f"; instance {step.source.job_instance} reads partitions {step.source.job_instance.shown}"
    return Requirement("source", (step.step_id,), replayable, text)


def _sink_requirement(step: SinkStep, guarantee: Guarantee) -> Requirement:
    delivery, kind = step.sink.delivery, type(step.sink).__name__
    weak = guarantee in (Guarantee.AT_MOST_ONCE, Guarantee.AT_LEAST_ONCE)
    if guarantee is Guarantee.AT_MOST_ONCE and delivery != "transactional":
        text = f"{kind}: written after the decision, never again"
    elif delivery == "transactional":
        text = f"{kind} is transactional: output becomes visible with its checkpoint"
    elif weak:
        text = f"{kind}: written before the decision, again after a crash"
    elif delivery == "plain":
        text = f"is a {kind}, which is neither transactional nor idempotent: after a crash it would repeat output"
    elif guarantee is Guarantee.EFFECTIVELY_ONCE and recognises_outputs(step.sink):
        text = (
            f"is a {kind} that recognises a repeat by the identity of its output, which exactly_once alone fixes "
            "before it is written: after a crash it would repeat output"
        )
        return Requirement("sink", (step.step_id,), False, text)
    elif guarantee is Guarantee.EXACTLY_ONCE:
        text = f"{kind} is idempotent: its output is fixed by the decision, then written as often as it takes"
    else:
        text = f"{kind} is idempotent: a repeated write replaces itself"
    return Requirement("sink", (step.step_id,), weak or delivery != "plain", text)
