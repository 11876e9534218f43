"""Which records are in the hands of several steps, one of which may change them in place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from onceflow.graph.graph import Graph, OperatorStep, StreamRef
from onceflow.graph.steps import AssignTimestampsSpec, DropDuplicatesSpec, UnionSpec, WindowSpec

__all__ = ["InputRef", "Sharing", "sharing"]

#: The input of a step: its id, and the number of the input.
InputRef: TypeAlias = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Sharing:
    """How the users of one output take its records, so that none of them sees what another one changes.

    Attributes:
        first: They take the records before all others: they only read, and were declared after a step that may change.
        copied: They get copies.
    """

    first: frozenset[InputRef]
    copied: frozenset[InputRef]


def sharing(graph: Graph) -> Sharing:
    """What the records of each output need.

    Where an output has several users, those get copies behind which a function may change its records. The last of them
    gets the records themselves where all others have copies or only read, and have done so before. One that only reads
    and was declared after it takes the records first, unless what the two emit meets again, where their order shows.
    """
    edges: dict[StreamRef, list[InputRef]] = {}
    for step_id, step in graph.steps.items():
        for number, edge in enumerate(getattr(step, "inputs", ())):
            edges.setdefault(edge.origin, []).append((step_id, number))
    changing = _changing(graph, edges)
    first: set[InputRef] = set()
    copied: set[InputRef] = set()
    for users in edges.values():
        may_change = [user for user in users if user[0] in changing]
        others = [user for user in users if user[0] not in changing]
        if not may_change:
            continue
        later = [user for user in others if users.index(user) > users.index(may_change[-1])]
        keeps = any(not _only_reads(graph, edges, changing, step_id) for step_id, _ in others)
        if keeps or _meet(graph, edges, later, [user for user in users if user not in later]):
            copied.update(may_change)
        else:
            copied.update(may_change[:-1])
            first.update(later)
    return Sharing(frozenset(first), frozenset(copied))


def _changing(graph: Graph, edges: Mapping[StreamRef, list[InputRef]]) -> set[str]:
    """The steps that hand their records to a function, or to a step that does."""
    changing: set[str] = set()
    for step in reversed(graph.steps.values()):
        if isinstance(step, OperatorStep) and (
            step.may_change_records
            or any(user in changing for origin in _passed_on(step) for user, _ in edges.get(origin, ()))
        ):
            changing.add(step.step_id)
    return changing


def _only_reads(graph: Graph, edges: Mapping[StreamRef, list[InputRef]], changing: set[str], step_id: str) -> bool:
    """Whether nothing that a step is given is used once it has taken it: a sink may keep records until they are sealed,
    operators without functions take values out of them."""
    step = graph.steps[step_id]
    return (
        isinstance(step, OperatorStep)
        and step_id not in changing
        and all(
            _only_reads(graph, edges, changing, user)
            for origin in _passed_on(step)
            for user, _ in edges.get(origin, ())
        )
    )


def _passed_on(step: OperatorStep) -> list[StreamRef]:
    """The outputs in which the records themselves go on; of steps without functions."""
    if isinstance(step.spec, WindowSpec):
        return [StreamRef(step.step_id, "late")]
    if isinstance(step.spec, AssignTimestampsSpec | DropDuplicatesSpec | UnionSpec):
        return [StreamRef(step.step_id, side) for side in (None, *step.sides)]
    return []


def _meet(
    graph: Graph, edges: Mapping[StreamRef, list[InputRef]], some: Iterable[InputRef], others: Iterable[InputRef]
) -> bool:
    """Whether a step gets what comes of the records of both."""
    return not _after(graph, edges, some).isdisjoint(_after(graph, edges, others))


def _after(graph: Graph, edges: Mapping[StreamRef, list[InputRef]], users: Iterable[InputRef]) -> set[str]:
    """These steps, and all that get records from them."""
    found: set[str] = set()
    waiting = [step_id for step_id, _ in users]
    while waiting:
        step_id = waiting.pop()
        if step_id in found:
            continue
        found.add(step_id)
        waiting.extend(user for origin, users in edges.items() if origin.step_id == step_id for user, _ in users)
    return found
