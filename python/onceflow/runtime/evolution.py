"""State that was made by another dataflow, brought into the form that this one wants, where its user has said so.

All of it happens in the tables that were restored, before any sink is opened: the first checkpoint makes it durable,
and what is refused or interrupted before that has changed nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import cast

import msgspec

from onceflow._native import StateBackend
from onceflow.aggregates import Aggregate
from onceflow.codec import Codec
from onceflow.exceptions import DataflowChangedError
from onceflow.graph.compatibility import OnChange, changed_states, differences, refuse_unnamed, taken_together
from onceflow.graph.graph import Graph
from onceflow.graph.steps import AggregateSpec, ProcessSpec, WindowSpec
from onceflow.operators.dropped_states import drop_states
from onceflow.operators.keys import other_keys
from onceflow.operators.table_columns import InexactError, TableChange
from onceflow.operators.totals import cells_of, columns_of
from onceflow.runtime.job_record import WATERMARKS_BLOB, JobRecord, step_of
from onceflow.state import Processor
from onceflow.types import Change, ColumnType, Plain, StateChange

__all__ = ["agreed_without", "evolve", "without"]

#: What else than tables a checkpoint keeps of a step: by the beginnings of the names, which its id follows.
_BLOBS = ("source/", "operator/", "sink/")


def evolve(
    backend: StateBackend, codec: Codec, graph: Graph, job: JobRecord, on_change: OnChange
) -> tuple[StateChange, ...]:
    """Changes the restored tables as the dataflow wants them.

    Args:
        backend: With the tables.
        codec: Of values of user state.
        graph: The dataflow.
        job: Of the dataflow that made the state.
        on_change: What its user says of the differences.

    Returns:
        What was done: nothing for a job that has finished, which does nothing more.

    Raises:
        DataflowChangedError: A difference that is not named, or a column that cannot be widened exactly. Nothing was
            changed.
    """
    changes = differences(job.steps, graph, job.settings)
    if job.finished:
        refuse_unnamed([change for change in changes if change.step_id in job.steps], on_change, job.done)
        return ()
    named = {change.name for change in changes} | {change.step_id for change in changes if change.result is None}
    changes.extend(
        change
        for change in (*_retyped(backend, graph), *_changed_states(graph, job.agreed))
        if change.name not in named and change.step_id not in named
    )
    changes = [_with_staged_output(backend, change) for change in changes]
    changes = taken_together(changes, on_change, job.done)
    refuse_unnamed(changes, on_change, job.done)
    tables = list(backend.tables())
    processors = {step.step_id: step.spec.processor for step in graph.operators() if isinstance(step.spec, ProcessSpec)}
    states = [change for change in changes if change.result is not None and change.step_id in processors]
    results = [change for change in changes if change.result is not None and change not in states]
    try:
        rebuilt = [
            TableChange(backend, name, columns, kept) for name, columns, kept in _rebuilt(backend, graph, results)
        ]
    except InexactError as error:
        raise DataflowChangedError(
            f"{error}. Leave type= out again, or let the result begin anew with on_change 'empty' in place of 'widen'",
            step_ids=tuple(dict.fromkeys(change.step_id for change in changes if change.action == "widen")),
        ) from error
    for name in tables:
        if any(_belongs(name, change) for change in changes if change not in states):
            backend.drop_table(name)
    for table in rebuilt:
        table.apply()
    for step_id in dict.fromkeys(change.step_id for change in states):
        names = {change.result for change in states if change.step_id == step_id and change.result is not None}
        drop_states(backend, codec, step_id, Processor.declared_by(processors[step_id]), names)
    return tuple(changes)


def without(blobs: Mapping[str, bytes], changes: Iterable[StateChange]) -> dict[str, bytes]:
    """The blobs of a checkpoint, without those of steps that are gone or begin with nothing."""
    steps = _whole(changes)
    kept = {
        name: blob for name, blob in blobs.items() if not (name.startswith(_BLOBS) and name.split("/", 2)[1] in steps)
    }
    watermarks = kept.get(WATERMARKS_BLOB)
    if watermarks is not None and steps:
        reached = msgspec.msgpack.decode(watermarks, type=dict[str, int])
        kept[WATERMARKS_BLOB] = msgspec.msgpack.encode(
            {step_id: watermark for step_id, watermark in reached.items() if step_id not in steps}
        )
    return kept


def _with_staged_output(backend: StateBackend, change: StateChange) -> StateChange:
    """Says of a sink that is gone, or is another one, that nobody commits what it had prepared, if it had."""
    restored = backend.recovery.restored
    if restored is None or change.result is not None or change.step_id not in map(step_of, restored.staged):
        return change
    what = f"{change.what}, and its output of checkpoint {restored.id} stays hidden unless it was committed by then"
    return replace(change, what=what)


def agreed_without(
    agreed: Mapping[str, Mapping[str, Plain]], changes: Sequence[StateChange]
) -> dict[str, Mapping[str, Plain]]:
    """What steps have agreed on, without those that are gone or begin with nothing; states of processors alike."""
    steps = _whole(changes)
    parts = {(change.step_id, change.result) for change in changes}
    left: dict[str, Mapping[str, Plain]] = {}
    for step_id, facts in agreed.items():
        if step_id in steps:
            continue
        states = facts.get("states")
        if isinstance(states, dict):
            left[step_id] = {**facts, "states": {n: kind for n, kind in states.items() if (step_id, n) not in parts}}
        else:
            left[step_id] = facts
    return left


def known_steps(job: JobRecord | None, changes: Iterable[StateChange]) -> frozenset[str]:
    """The steps that a checkpoint knows and that do not begin with nothing."""
    return frozenset() if job is None else frozenset(job.steps) - _whole(changes)


def _whole(changes: Iterable[StateChange]) -> set[str]:
    return {change.step_id for change in changes if change.result is None}


def _belongs(table: str, change: StateChange) -> bool:
    """Whether a table goes with a change, whole."""
    step_id = change.step_id
    if change.result is None:
        return table == step_id or table.startswith((f"{step_id}/", f"{step_id}:"))
    # Beside the table of the totals, where this result is in a column that is taken away.
    return change.action != "widen" and table in (
        f"{step_id}/{change.result}",
        f"{other_keys(step_id)}/{change.result}",
    )


def _totals(graph: Graph) -> Iterator[tuple[str, Mapping[str, Aggregate]]]:
    for step in graph.operators():
        if isinstance(step.spec, AggregateSpec | WindowSpec):
            yield step.step_id, step.spec.aggregates


def _changed_states(graph: Graph, agreed: Mapping[str, Mapping[str, Plain]]) -> Iterator[StateChange]:
    """States of processors that are gone or of another kind."""
    for step in graph.operators():
        states = agreed.get(step.step_id, {}).get("states")
        if isinstance(step.spec, ProcessSpec) and isinstance(states, dict):
            yield from changed_states(step, cast("dict[str, str]", states))


def _retyped(backend: StateBackend, graph: Graph) -> Iterator[StateChange]:
    """Results for which ``type=`` asks for another type than their state has."""
    tables = backend.tables()
    for step_id, aggregates in _totals(graph):
        for result, aggregate in aggregates.items():
            names = [name for name in (step_id, other_keys(step_id)) if name in tables]
            kinds = [
                "mixed" if f"{name}/{result}" in tables else tables[name].columns[result]
                for name in names
                if result in tables[name].columns
            ]
            others = [kind for kind in kinds if kind != aggregate.type]
            if aggregate.type is None or not others:
                continue
            can_widen = aggregate.type == "f64" and all(kind in ("i64", "u64") for kind in others)
            action: Change = "widen" if can_widen else "empty"
            yield StateChange(
                step_id,
                result,
                action,
                f"step {step_id!r} has state of type {others[0]} for {aggregate.kind} {result!r}, which now asks for "
                f"type {aggregate.type}",
            )


def _rebuilt(
    backend: StateBackend, graph: Graph, changes: Iterable[StateChange]
) -> Iterator[tuple[str, dict[str, ColumnType], list[str]]]:
    """Names of the tables whose columns change, what these are to be, and which of them are kept."""
    actions = {(change.step_id, change.result): change.action for change in changes}
    steps = {change.step_id for change in changes}
    tables = backend.tables()
    for step_id, aggregates in _totals(graph):
        for name in (step_id, other_keys(step_id)) if step_id in steps else ():
            if name not in tables:
                continue
            columns: dict[str, ColumnType] = {}
            kept: list[str] = []
            for result, aggregate in aggregates.items():
                match actions.get((step_id, result)):
                    case None:
                        kept.extend(cells_of(result, aggregate))
                        columns |= {cell: tables[name].columns[cell] for cell in cells_of(result, aggregate)}
                    case "widen":
                        kept.append(result)
                        columns[result] = "f64"
                    case _:
                        columns |= columns_of({result: aggregate}, {})
            yield name, columns, kept
