"""Checks a dataflow before its first record: every path from a source to a sink, leg by leg.

Exactly-once stands on three legs: a source that can be replayed, state and positions in one checkpoint, and a sink that
is transactional or idempotent. What a path lacks is named here, never discovered afterwards.

Branches that are merged again double the paths, so their number may be exponential in that of the steps. What a path
stands on is decided by its two ends alone: one path for each pair of a source and a sink says it all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from onceflow.exceptions import ConfigurationError, DataflowChangedError, DeliveryGuaranteeError
from onceflow.graph.graph import Graph, Input, OperatorStep, SinkStep, SourceStep, Step
from onceflow.types import Guarantee

__all__ = ["check_resume", "explain", "fingerprint", "origins", "plan", "why_not_repeatable"]

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
class _Leg:
    holds: bool
    step_id: str
    text: str


def plan(graph: Graph, guarantee: Guarantee) -> None:
    """Raises unless the dataflow can run and keep the guarantee.

    Raises:
        ConfigurationError: No source or sink, an output that nobody takes, a window without event time.
        DeliveryGuaranteeError: A path that cannot keep the guarantee; names path, step and leg.
    """
    _check_shape(graph)
    users = graph.users()
    for path in (path for source in graph.sources() for path in _walk(users, source, each_step_once=True)):
        missing = [leg for leg in _legs(path, guarantee) if not leg.holds]
        if missing:
            raise DeliveryGuaranteeError(
                f"{guarantee} cannot be kept on the path {path}: step {missing[0].step_id!r} {missing[0].text}."
                f"{_advice(path)}"
            )


def explain(graph: Graph, guarantee: Guarantee) -> str:
    """For people: each path with its legs; a leg that is missing is marked.

    Of more paths than anybody reads, only the first one between two ends is shown, with the number of the others.
    """
    _check_shape(graph)
    lines = [f"dataflow {graph.name!r}, {guarantee}"]
    for path in _shown_paths(graph):
        legs = _legs(path, guarantee)
        kept = all(leg.holds for leg in legs)
        lines.append("")
        lines.append(f"{path}: {guarantee if kept else f'NOT {guarantee}'}")
        lines.extend(f"  {'ok     ' if leg.holds else 'MISSING'}  {leg.step_id}: {leg.text}" for leg in legs)
        if not kept:
            lines.append(f" {_advice(path)}")
        elif guarantee is Guarantee.EXACTLY_ONCE and path.sink.sink.delivery == "idempotent":
            lines.append("  note     effectively_once would be cheaper here: a repeated write replaces itself")
        if path.others:
            lines.append(f"  note     more paths with these ends, which stand on the same: {path.others:,}")
    lines.append("")
    lines.append("The guarantee ends at the sinks: what reads their output decides what it makes of it.")
    return "\n".join(lines)


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
        for before in _upstream(graph, step):
            if isinstance(before, OperatorStep) and before.calls_functions:
                return f"step {before.step_id!r} calls functions of yours"
            if isinstance(before, SourceStep) and not before.source.deterministic:
                return f"source {before.step_id!r} calls functions of yours"
        if step.kind == "drop_duplicates" and not _has_event_time(graph, step):
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


def _check_shape(graph: Graph) -> None:
    users = graph.users()
    if not graph.sources() or not graph.sinks():
        raise ConfigurationError(f"dataflow {graph.name!r} needs at least one source and one sink")
    for step in graph.sources():
        if not users.get(Input(step.step_id)):
            raise ConfigurationError(f"nothing reads from source {step.step_id!r}; end its stream in a sink")
        if step.source.has_dead_letters and not users.get(Input(step.step_id, "dead_letters")):
            raise ConfigurationError(
                f"source {step.step_id!r} hands out dead letters and nothing takes them: add "
                f"flow.dead_letters({step.step_id!r}).sink(...), or choose another on_malformed"
            )
    for operator in graph.operators():
        if not users.get(Input(operator.step_id)):
            raise ConfigurationError(f"nothing takes the output of step {operator.step_id!r}; end it in a sink")
        if "dead_letters" in operator.sides and not users.get(Input(operator.step_id, "dead_letters")):
            raise ConfigurationError(
                f"step {operator.step_id!r} hands out dead letters and nothing takes them: add "
                f"flow.dead_letters({operator.step_id!r}).sink(...), or leave dead_letters away"
            )
        if operator.kind == "window":
            _check_event_time(graph, operator)
        if operator.kind == "assign_timestamps":
            _check_partitions(graph, operator)


def _has_event_time(graph: Graph, step: OperatorStep) -> bool:
    try:
        _check_event_time(graph, step)
    except ConfigurationError:
        return False
    return True


def _check_event_time(graph: Graph, window: OperatorStep) -> None:
    """Totals, dead letters, and sources that are told nothing of it have no event time."""
    waiting, seen = [window], {window.step_id}
    while waiting:
        for origin in waiting.pop().inputs:
            before = graph.steps[origin.step_id]
            lacking = None
            if isinstance(before, SourceStep):
                if origin.side == "dead_letters":
                    lacking = "dead letters of a source"
                elif not before.source.has_event_time:
                    raise ConfigurationError(
                        f"window {window.step_id!r} needs event time, and source {before.step_id!r} has none; give it "
                        "event_time=... (a source of your own: set has_event_time, and give batches event_times), or "
                        "put assign_timestamps(...) before the window"
                    )
            elif isinstance(before, OperatorStep):
                if before.kind == "aggregate":
                    lacking = f"the totals of {origin.step_id!r}"
                elif before.kind == "assign_timestamps" and origin.side == "dead_letters":
                    lacking = f"dead letters of {origin.step_id!r}"
                elif before.kind != "assign_timestamps" and before.step_id not in seen:
                    seen.add(before.step_id)
                    waiting.append(before)
            if lacking is not None:
                raise ConfigurationError(
                    f"window {window.step_id!r} needs event time, and {lacking} have none; put the window before, or "
                    "use window(...).aggregate(...) there too"
                )


def _check_partitions(graph: Graph, timestamps: OperatorStep) -> None:
    """Results that come when a window or the input ends are of no partition."""
    for before in _upstream(graph, timestamps):
        if isinstance(before, OperatorStep) and before.kind in ("window", "aggregate"):
            raise ConfigurationError(
                f"assign_timestamps {timestamps.step_id!r} needs records of partitions, and comes after "
                f"{before.kind} {before.step_id!r}, whose results are of none; put it before"
            )


def origins(graph: Graph, step: OperatorStep) -> Iterator[SourceStep]:
    """The sources whose records come to a step, each once."""
    return (before for before in _upstream(graph, step) if isinstance(before, SourceStep))


def _upstream(graph: Graph, step: OperatorStep) -> Iterator[Step]:
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
            waiting.extend(graph.steps[origin.step_id] for origin in reversed(before.inputs))


def _counts(graph: Graph, source: SourceStep) -> dict[str, int]:
    """By step id, how many paths lead from a source to it."""
    counts = {source.step_id: 1}
    for step in graph.steps.values():
        if not isinstance(step, SourceStep):
            counts[step.step_id] = sum(counts.get(origin.step_id, 0) for origin in dict.fromkeys(step.inputs))
    return counts


def _shown_paths(graph: Graph) -> Iterator[_Path]:
    users, counts = graph.users(), {source.step_id: _counts(graph, source) for source in graph.sources()}
    total = sum(found.get(sink.step_id, 0) for found in counts.values() for sink in graph.sinks())
    for source in graph.sources():
        for path in _walk(users, source, each_step_once=total > _MAX_SHOWN):
            others = counts[source.step_id][path.sink.step_id] - 1
            yield replace(path, others=others) if total > _MAX_SHOWN else path


def _walk(
    users: dict[Input, list[OperatorStep | SinkStep]], source: SourceStep, *, each_step_once: bool
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
            following.extend((user, (label, user.step_id)) for user in users.get(Input(step.step_id, side), ()))
        waiting.extend(reversed(following))


def _names(trail: _Trail) -> tuple[str, ...]:
    names: list[str] = []
    left: _Trail | None = trail
    while left is not None:
        left, name = left
        names.append(name)
    return tuple(reversed(names))


def _legs(path: _Path, guarantee: Guarantee) -> list[_Leg]:
    source, sink = path.source, path.sink
    replayable = source.source.replayable
    kind = type(source.source).__name__
    target = type(sink.sink).__name__
    legs = []
    if guarantee is Guarantee.AT_MOST_ONCE:
        text = (
            "positions are durable before outputs are written"
            if replayable
            else "cannot be read again from a position; it must not hand out a record again by itself"
        )
        legs.append(_Leg(True, source.step_id, f"{kind}: {text}"))
        legs.append(_Leg(True, sink.step_id, f"{target}: written after the decision, never again"))
        return legs
    legs.append(
        _Leg(
            replayable,
            source.step_id,
            f"{kind} can be read again from a checkpoint's position"
            if replayable
            else f"is a {kind}, which cannot be read again from a position: what was read is lost by a crash",
        )
    )
    if guarantee is Guarantee.AT_LEAST_ONCE:
        legs.append(_Leg(True, sink.step_id, f"{target}: written before the decision, again after a crash"))
        return legs
    legs.append(_Leg(True, "state", "state, positions and timers belong to one checkpoint"))
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
    legs.append(_Leg(delivery != "plain", sink.step_id, text))
    return legs


def _advice(path: _Path) -> str:
    options: list[Any] = []
    if not path.source.source.replayable:
        options.append("read from a source that can be replayed")
    if path.sink.sink.delivery == "plain":
        options.append("write to a transactional sink (such as CsvSink) or an idempotent one")
    weaker = "at_least_once" if path.source.source.replayable else "at_most_once"
    return f" Either {' and '.join(options)}, or choose {weaker} with open eyes."
