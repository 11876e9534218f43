"""Whether a dataflow can go on from a checkpoint, and whether the same input makes the same state again."""

from __future__ import annotations

import re
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Literal, TypeAlias

from onceflow.aggregates import shape_of
from onceflow.exceptions import ConfigurationError, DataflowChangedError
from onceflow.graph.graph import Graph, OperatorStep, SourceStep
from onceflow.graph.steps import AggregateSpec, DropDuplicatesSpec, ProcessSpec, WindowSpec
from onceflow.graph.structure import has_event_time
from onceflow.sinks import Sink
from onceflow.sources import Source
from onceflow.state import Processor
from onceflow.types import Change, StateChange

__all__ = [
    "OnChange",
    "Settings",
    "changed_states",
    "checked_on_change",
    "differences",
    "fingerprint",
    "has_been_done",
    "refuse_unnamed",
    "settings_of",
    "taken_together",
    "why_not_repeatable",
]

#: What is done where state and dataflow do not fit: nothing, or what is said of each step (``"totals"``) and of each
#: result of an aggregate or window step (``"totals/revenue"``).
OnChange: TypeAlias = Literal["refuse"] | Mapping[str, Change]

#: By step, by result (empty: of the whole step) and by name: settings that what a state means depends on.
Settings: TypeAlias = Mapping[str, Mapping[str, Mapping[str, str]]]

#: A result in what a checkpoint knows of a step: name and kind of aggregate. A name with a comma is not taken for one:
#: it might begin with another column of the key.
_RESULT = re.compile(r"([^,=]+)=(count of a field|count|sum|min|max|mean|first|last)(?:, |$)")


def fingerprint(graph: Graph) -> dict[str, str]:
    """The steps that have state, by id, with kind and shape: what a checkpoint can be resumed with."""
    steps = {step.step_id: "source" for step in graph.sources()}
    steps.update({step.step_id: "sink" for step in graph.sinks()})
    steps.update({step.step_id: f"{step.kind} {step.shape}".strip() for step in graph.operators() if step.stateful})
    return steps


def settings_of(graph: Graph) -> dict[str, dict[str, dict[str, str]]]:
    """What the state of steps means besides kind and shape, as ``Settings``."""
    settings: dict[str, dict[str, dict[str, str]]] = {
        step.step_id: some for step in graph.operators() if (some := step.spec.settings)
    }
    for source in graph.sources():
        settings[source.step_id] = {"": {**_connector(source.source), **source.source.positions_of}}
    for sink in graph.sinks():
        settings[sink.step_id] = {"": {"delivery": sink.sink.delivery, **_connector(sink.sink)}}
    return settings


def _connector(given: Source | Sink) -> dict[str, str]:
    """Of which kind a source or sink of ours is, or one that is derived from it; of others that is not known."""
    for kind in type(given).__mro__:
        if kind.__module__.startswith("onceflow.connectors.") and not kind.__name__.startswith("_"):
            return {"kind": kind.__name__}
    return {}


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


def checked_on_change(value: OnChange) -> OnChange:
    """Itself.

    Raises:
        ConfigurationError: It is neither ``"refuse"`` nor says what to do by name.
    """
    actions = ("drop", "empty", "widen")
    if value == "refuse" or (
        isinstance(value, Mapping)
        and all(isinstance(name, str) and action in actions for name, action in value.items())
    ):
        return value
    raise ConfigurationError(
        f"on_change is {value!r}; give 'refuse', or by step id (or step id/result) what is done: 'drop', 'empty' or "
        "'widen', such as {'totals/revenue': 'empty'}",
        setting="on_change",
    )


def differences(old: Mapping[str, str], graph: Graph, settings: Settings | None = None) -> list[StateChange]:
    """What a checkpoint with these steps does not hold as the dataflow has it, each with what can be done about it.

    Args:
        old: What ``fingerprint`` said of the dataflow that the checkpoint is of.
        graph: The dataflow now.
        settings: What ``settings_of`` said; what is not in it is not known and not compared.
    """
    new = fingerprint(graph)
    steps = {step.step_id: step for step in graph.operators()}
    gone = sorted(step_id for step_id in old if step_id not in new)
    added = sorted(step_id for step_id in new if step_id not in old)
    changes = [
        StateChange(step_id, None, "drop", f"{old[step_id].split(' ')[0]} {step_id!r} is gone") for step_id in gone
    ]
    for step_id in sorted(step_id for step_id in old if step_id in new and new[step_id] != old[step_id]):
        results = _results(steps[step_id], old[step_id]) if step_id in steps else None
        if results is None:
            what = f"{step_id!r} was {old[step_id]} and is {new[step_id]}"
            changes.append(StateChange(step_id, None, "empty", what))
        else:
            changes.extend(_changed_results(steps[step_id], results))
    told = {(change.step_id, change.result) for change in changes}
    changes.extend(
        change
        for change in _changed_settings(settings or {}, settings_of(graph), new)
        if not told & {(change.step_id, None), (change.step_id, change.result)}
    )
    changes.extend(
        StateChange(step_id, None, "empty", f"{new[step_id].split(' ')[0]} {step_id!r} is new") for step_id in added
    )
    return changes


def _results(step: OperatorStep, old: str) -> dict[str, str] | None:
    """Kinds of aggregates by result, of a step that differs from what it was in these only; else None."""
    if not isinstance(step.spec, AggregateSpec | WindowSpec):
        return None
    before = f"{step.kind} {step.shape}".removesuffix(step.spec.results)
    rest = old.removeprefix(before)
    results = {match[1]: match[2] for match in _RESULT.finditer(rest)}
    is_whole = ", ".join(f"{name}={kind}" for name, kind in results.items()) == rest
    return results if old.startswith(before) and is_whole else None


def _changed_results(step: OperatorStep, old: Mapping[str, str]) -> Iterator[StateChange]:
    assert isinstance(step.spec, AggregateSpec | WindowSpec)
    aggregates = step.spec.aggregates
    new = {name: shape_of({name: aggregate}).removeprefix(f"{name}=") for name, aggregate in aggregates.items()}
    for name in sorted(old.keys() | new.keys()):
        what = f"the result {name!r} of {step.kind} {step.step_id!r}"
        if name not in new:
            yield StateChange(step.step_id, name, "drop", f"{what} ({old[name]}) is gone")
        elif name not in old:
            yield StateChange(step.step_id, name, "empty", f"{what} ({new[name]}) is new")
        elif old[name] != new[name]:
            yield StateChange(step.step_id, name, "empty", f"{what} was a {old[name]} and is a {new[name]}")


def changed_states(step: OperatorStep, old: Mapping[str, str]) -> Iterator[StateChange]:
    """What a processor no longer has of its states, or has in another way.

    Args:
        step: Of a processor.
        old: Kinds of the states that there were, by name. A new state is no change: it begins with nothing anyway.
    """
    assert isinstance(step.spec, ProcessSpec)
    new = Processor.declared_by(step.spec.processor).states
    added = sorted(new.keys() - old.keys())
    renamed = f" (was it renamed to one of {added}? Then give it back its name)" if added else ""
    for name in sorted(old):
        what = f"the state {name!r} of {step.kind} {step.step_id!r}"
        if name not in new:
            yield StateChange(step.step_id, name, "drop", f"{what} ({old[name]}) is gone{renamed}")
        elif new[name] != old[name]:
            yield StateChange(step.step_id, name, "empty", f"{what} was a {old[name]} and is a {new[name]}")


def _changed_settings(old: Settings, new: Settings, steps: Mapping[str, str]) -> Iterator[StateChange]:
    for step_id in sorted(old.keys() & new.keys()):
        for result in sorted(old[step_id].keys() & new[step_id].keys()):
            before, now = old[step_id][result], new[step_id][result]
            # No NaN has come to a state that refuses them, so it is also what one that takes them would be.
            changed = [
                name
                for name in sorted(before.keys() & now.keys())
                if before[name] != now[name] and (name, before[name]) != ("nan", "refuse")
            ]
            if changed:
                step = f"{steps[step_id].split(' ')[0]} {step_id!r}"
                what = f"the result {result!r} of {step}" if result else step
                had, has = (", ".join(f"{name} {some[name]}" for name in changed) for some in (before, now))
                yield StateChange(step_id, result or None, "empty", f"{what} had {had} and has {has}")


def refuse_unnamed(changes: Iterable[StateChange], on_change: OnChange, done: Collection[str] = ()) -> None:
    """Raises unless the setting names every change, with what is done about it.

    What else it names has been done by an earlier run and means nothing now; nor does it allow what has come since.

    Args:
        changes: To be done.
        on_change: The setting.
        done: What of it earlier runs have done, as ``has_been_done`` gives it.

    Raises:
        DataflowChangedError: Says what would have to be written, and the way back.
    """
    named: Mapping[str, str] = {} if isinstance(on_change, str) else on_change
    open_changes = list(changes)
    left = [change for change in open_changes if not _naming(change, named, done)]
    if not left:
        return
    gone = [change.step_id for change in left if change.result is None and change.action == "drop"]
    new = [change.step_id for change in left if change.what.endswith("is new") and change.result is None]
    renamed = f" (was one of {gone} renamed to one of {new}? Then give it back its id)" if gone and new else ""
    spent = {name for change in left for name in _spent(change, named, done)}
    wanted = {name: action for name, action in named.items() if name not in spent}
    wanted |= {_fresh_name(change, done): change.action for change in left}
    told = f"; what on_change says of {sorted(spent)} has been done, for an earlier change only" if spent else ""
    raise DataflowChangedError(
        f"the dataflow is not the one that the checkpoint has state of: {'; '.join(change.what for change in left)}"
        f"{renamed}{told}. Put it back as it was; or, if it is meant, say so: on_change={wanted} ("
        f"{_meanings(left)}); or move away what the sinks hold and start over with resume_from='none'",
        on_change=wanted,
        step_ids=tuple(dict.fromkeys(change.step_id for change in left)),
    )


def taken_together(
    changes: Iterable[StateChange], on_change: OnChange, done: Collection[str] = ()
) -> list[StateChange]:
    """The changes, with one of the whole step for those of its results or states where the setting says so."""
    named: Mapping[str, str] = {} if isinstance(on_change, str) else on_change
    taken: list[StateChange] = []
    parts: dict[str, list[StateChange]] = {}
    for change in changes:
        if change.result is None or _naming(change, named, done):
            taken.append(change)
        else:
            parts.setdefault(change.step_id, []).append(change)
    for step_id, some in parts.items():
        whole = StateChange(step_id, None, "empty", "; ".join(change.what for change in some))
        if _naming(whole, named, done):
            taken = [change for change in taken if change.step_id != step_id]
            taken.append(whole)
        else:
            taken.extend(some)
    return taken


def has_been_done(changes: Iterable[StateChange], on_change: OnChange, done: Collection[str]) -> list[str]:
    """What of the setting has been done when these changes have been, as ``NAME=ACTION``; without what was taken out.

    Args:
        changes: Which the setting names.
        on_change: The setting.
        done: What had been done before.
    """
    named: Mapping[str, str] = {} if isinstance(on_change, str) else on_change
    now = {use for change in changes for use in _naming(change, named, done)}
    return sorted(f"{name}={action}" for name, action in named.items() if f"{name}={action}" in {*done, *now})


def _names(change: StateChange, done: Collection[str]) -> list[str]:
    """How the setting may name a change: for short, or by marks that stand for no other; one at least is unused."""
    marks = (zlib.crc32(f"{number} {change.what}".encode()) for number in range(len(done) + 1))
    return [change.name, *(f"{change.name}@{mark:08x}" for mark in marks)]


def _naming(change: StateChange, named: Mapping[str, str], done: Collection[str]) -> list[str]:
    """What of the setting allows a change, as ``NAME=ACTION``."""
    uses = [f"{name}={change.action}" for name in _names(change, done) if named.get(name) == change.action]
    return [use for use in uses if use not in done]


def _spent(change: StateChange, named: Mapping[str, str], done: Collection[str]) -> list[str]:
    """What names in the setting have stood for an earlier change of the same."""
    own = (name for name in named if name == change.name or name.startswith(f"{change.name}@"))
    return [name for name in own if f"{name}={named[name]}" in done]


def _fresh_name(change: StateChange, done: Collection[str]) -> str:
    return next(name for name in _names(change, done) if f"{name}={change.action}" not in done)


def _meanings(changes: Iterable[StateChange]) -> str:
    meanings = {
        "drop": "'drop': its state, position or what it has not yet made visible is given up",
        "empty": "'empty': it begins with nothing, a source at its beginning, a sink with what comes from now on",
        "widen": "'widen': its whole numbers become floats, where that is exact",
    }
    actions = {change.action for change in changes}
    return ", ".join(text for action, text in meanings.items() if action in actions)
