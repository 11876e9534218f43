"""What a dataflow can promise, as data: paths, what each of them stands on, and what could be done about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from onceflow.types import Guarantee

__all__ = [
    "ExplainedEdge",
    "ExplainedStep",
    "Explanation",
    "PathExplanation",
    "Requirement",
    "Suggestion",
    "SuggestionKind",
]

#: ``"needed"``: one way to have the guarantee that is lacking. ``"stronger"``: what a stronger guarantee would need.
#: ``"cheaper"``: a guarantee that costs less and is as good here. ``"caution"``: what the guarantee rests on, and
#: nobody has said.
SuggestionKind: TypeAlias = Literal["needed", "stronger", "cheaper", "caution"]


@dataclass(frozen=True, slots=True)
class Requirement:
    """One thing that a guarantee stands on.

    Attributes:
        role: What of the path it is about.
        steps: The steps that it is about; of ``state`` those that have some.
        holds: Whether it does.
        text: Why, or why not.
    """

    role: Literal["source", "state", "sink"]
    steps: tuple[str, ...]
    holds: bool
    text: str


@dataclass(frozen=True, slots=True)
class Suggestion:
    """What could be done.

    Attributes:
        kind: See ``SuggestionKind``.
        text: For people.
        guarantee: The one that it is about.
        steps: The steps that it is about.
    """

    kind: SuggestionKind
    text: str
    guarantee: Guarantee
    steps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PathExplanation:
    """A way from a source to a sink.

    Attributes:
        steps: On the way; the name of a side output stands in brackets after the step that it leaves.
        source: Step id of its beginning.
        sink: Step id of its end.
        kept: Whether the guarantee is.
        others: How many more paths with the same ends it stands for.
        requirements: What it stands on.
        suggestions: What could be done.
    """

    steps: tuple[str, ...]
    source: str
    sink: str
    kept: bool
    others: int
    requirements: tuple[Requirement, ...]
    suggestions: tuple[Suggestion, ...]

    def __str__(self) -> str:
        return " → ".join(self.steps)


@dataclass(frozen=True, slots=True)
class ExplainedStep:
    """A step of the dataflow.

    Attributes:
        step_id: Its name.
        role: What it is.
        kind: Name of the class of a source or sink; of an operator what the user called (``map``, ``window``).
        stateful: Whether it has state under its name.
        calls_functions: Whether it calls functions of the user's.
    """

    step_id: str
    role: Literal["source", "operator", "sink"]
    kind: str
    stateful: bool
    calls_functions: bool


@dataclass(frozen=True, slots=True)
class ExplainedEdge:
    """How records get from a step to another one.

    Attributes:
        origin: Step id.
        side: Name of the side output; None: the main one.
        target: Step id.
        keyed_by: By what records are keyed; None: they are not.
    """

    origin: str
    side: str | None
    target: str
    keyed_by: str | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """What ``Dataflow.explanation`` gives; ``str`` of it is for people.

    Attributes:
        dataflow: Its name.
        guarantee: Which one was asked for.
        kept: Whether all paths keep it.
        steps: In the order in which they were added.
        edges: Between them.
        paths: From each source to each sink; of more than a hundred one for each pair of ends.
    """

    dataflow: str
    guarantee: Guarantee
    kept: bool
    steps: tuple[ExplainedStep, ...]
    edges: tuple[ExplainedEdge, ...]
    paths: tuple[PathExplanation, ...]

    def as_dict(self) -> dict[str, Any]:
        """Lists, dicts, texts, numbers and bools, named as the attributes are, with ``"version": 1``.

        A later version adds names and takes none away; where a name would mean something else, ``version`` rises.
        """
        return {"version": 1, **asdict(self)}

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"dataflow {self.dataflow!r}, {self.guarantee}"
        for path in self.paths:
            yield ""
            yield f"{path}: {self.guarantee if path.kept else f'NOT {self.guarantee}'}"
            for requirement in path.requirements:
                name = requirement.role if requirement.role == "state" else requirement.steps[0]
                yield f"  {'ok     ' if requirement.holds else 'MISSING'}  {name}: {requirement.text}"
            for suggestion in path.suggestions:
                yield f"  {suggestion.text}" if suggestion.kind == "needed" else f"  note     {suggestion.text}"
            if path.others:
                yield f"  note     more paths with these ends, which stand on the same: {path.others:,}"
        yield ""
        yield "The guarantee ends at the sinks: what reads their output decides what it makes of it."
