"""Checks a dataflow before its first record: every path from a source to a sink, requirement by requirement.

Exactly-once has three requirements: a source that can be replayed, state and positions in one checkpoint, and a sink
that is transactional or idempotent. What a path lacks is named here, never discovered afterwards.

Branches that are merged again double the paths, so their number may be exponential in that of the steps. What a path
stands on is decided by its two ends alone: one path for each pair of a source and a sink says it all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from onceflow.exceptions import DeliveryGuaranteeError
from onceflow.graph.graph import Graph, OperatorStep, SinkStep, SourceStep, Step, StreamRef
from onceflow.graph.structure import check_structure
from onceflow.types import Guarantee

__all__ = ["explain", "plan"]

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


@dataclass(frozen=True, slots=True)
class _Requirement:
    holds: bool
    step_id: str
    text: str


def plan(graph: Graph, guarantee: Guarantee) -> None:
    """Raises unless the dataflow can run and keep the guarantee.

    Raises:
        ConfigurationError: No source or sink, an output that nobody takes, a window without event time.
        DeliveryGuaranteeError: A path that cannot keep the guarantee; names path, step and requirement.
    """
    check_structure(graph)
    users = graph.users()
    for path in (path for source in graph.sources() for path in _walk(users, source, each_step_once=True)):
        missing = [requirement for requirement in _requirements(path, guarantee) if not requirement.holds]
        if missing:
            raise DeliveryGuaranteeError(
                f"{guarantee} cannot be kept on the path {path}: step {missing[0].step_id!r} {missing[0].text}."
                f"{_advice(path)}",
                guarantee=guarantee,
                step_id=missing[0].step_id,
            )


def explain(graph: Graph, guarantee: Guarantee) -> str:
    """For people: each path with its requirements; a requirement that is missing is marked.

    Of more paths than anybody reads, only the first one between two ends is shown, with the number of the others.
    """
    check_structure(graph)
    lines = [f"dataflow {graph.name!r}, {guarantee}"]
    for path in _shown_paths(graph):
        requirements = _requirements(path, guarantee)
        kept = all(requirement.holds for requirement in requirements)
        lines.append("")
        lines.append(f"{path}: {guarantee if kept else f'NOT {guarantee}'}")
        lines.extend(
            f"  {'ok     ' if requirement.holds else 'MISSING'}  {requirement.step_id}: {requirement.text}"
            for requirement in requirements
        )
        if not kept:
            lines.append(f" {_advice(path)}")
        elif guarantee is Guarantee.EXACTLY_ONCE and path.sink.sink.delivery == "idempotent":
            lines.append("  note     effectively_once would be cheaper here: a repeated write replaces itself")
        if path.others:
            lines.append(f"  note     more paths with these ends, which stand on the same: {path.others:,}")
    lines.append("")
    lines.append("The guarantee ends at the sinks: what reads their output decides what it makes of it.")
    return "\n".join(lines)


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


def _requirements(path: _Path, guarantee: Guarantee) -> list[_Requirement]:
    source, sink = path.source, path.sink
    replayable = source.source.replayable
    kind = type(source.source).__name__
    target = type(sink.sink).__name__
    requirements = []
    if guarantee is Guarantee.AT_MOST_ONCE:
        text = (
            "positions are durable before outputs are written"
            if replayable
            else "cannot be read again from a position; it must not hand out a record again by itself"
        )
        requirements.append(_Requirement(True, source.step_id, f"{kind}: {text}"))
        requirements.append(_Requirement(True, sink.step_id, f"{target}: written after the decision, never again"))
        return requirements
    requirements.append(
        _Requirement(
            replayable,
            source.step_id,
            f"{kind} can be read again from a checkpoint's position"
            if replayable
            else f"is a {kind}, which cannot be read again from a position: what was read is lost by a crash",
        )
    )
    if guarantee is Guarantee.AT_LEAST_ONCE:
        requirements.append(
            _Requirement(True, sink.step_id, f"{target}: written before the decision, again after a crash")
        )
        return requirements
    requirements.append(_Requirement(True, "state", "state, positions and timers belong to one checkpoint"))
    delivery = sink.sink.delivery
    if delivery == "plain":
        text = f"is a {target}, which is neither transactional nor idempotent: after a crash it would repeat output"
    elif delivery == "idempotent":
        text = f"{target} is idempotent: " + (
            "its output is fixed by the decision, then written as often as it takes"
            if guarantee is Guarantee.EXACTLY_ONCE
            else "a repeated write replaces itself"
        )
    else:
        text = f"{target} is transactional: output becomes visible with its checkpoint"
    requirements.append(_Requirement(delivery != "plain", sink.step_id, text))
    return requirements


def _advice(path: _Path) -> str:
    options: list[Any] = []
    if not path.source.source.replayable:
        options.append("read from a source that can be replayed")
    if path.sink.sink.delivery == "plain":
        options.append("write to a transactional sink (such as CsvSink) or an idempotent one")
    weaker = "at_least_once" if path.source.source.replayable else "at_most_once"
    return f" Either {' and '.join(options)}, or choose {weaker} with open eyes."
