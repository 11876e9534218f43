"""What could be done about a path: what it lacks, what is stronger or cheaper, and what it rests on unsaid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from onceflow.graph.explanation import Requirement, Suggestion
from onceflow.graph.graph import Graph, OperatorStep, SinkStep, SourceStep
from onceflow.graph.steps import DropDuplicatesSpec
from onceflow.graph.structure import has_event_time
from onceflow.sinks import IdempotentSink, Sink
from onceflow.types import Guarantee

__all__ = ["SAVED", "needed", "recognises_outputs", "suggestions"]

#: How many times as fast upserts into a file are under effectively_once as under exactly_once: docs/benchmarks.md.
SAVED = 1.6

_EXACTLY, _EFFECTIVELY = Guarantee.EXACTLY_ONCE, Guarantee.EFFECTIVELY_ONCE


def recognises_outputs(sink: Sink) -> bool:
    """Whether a sink knows a repeat by the identity of the output, and not by the record."""
    return isinstance(sink, IdempotentSink) and sink.recognises == "outputs"


def needed(source: SourceStep, sink: SinkStep, guarantee: Guarantee) -> Suggestion:
    """For a path that does not keep a guarantee: what its ends lack, or which weaker one it keeps."""
    options, steps = [], []
    if not source.source.replayable:
        options.append("read from a source that can be replayed (a topic that the records go to first is one)")
        steps.append(source.step_id)
    if sink.sink.delivery == "plain" and guarantee in (_EXACTLY, _EFFECTIVELY):
        options.append(
            "write to a transactional sink (such as CsvSink; OutboxSink makes one of any target with transactions) or "
            "an idempotent one (an upsert by key, a request with an idempotency key)"
        )
        steps.append(sink.step_id)
    if recognises_outputs(sink.sink) and guarantee is _EFFECTIVELY:
        options.append("choose exactly_once, or give the sink what it recognises a record by")
        steps.append(sink.step_id)
    weaker = "at_least_once" if source.source.replayable else "at_most_once"
    text = f"Either {' and '.join(options)}, or choose {weaker} with open eyes."
    return Suggestion("needed", text, guarantee, tuple(steps))


def suggestions(
    graph: Graph, source: SourceStep, sink: SinkStep, guarantee: Guarantee, lacking: Sequence[Requirement]
) -> Iterator[Suggestion]:
    """For a path that keeps a guarantee.

    Args:
        graph: The dataflow.
        source: Where the path begins.
        sink: Where it ends.
        guarantee: The one that it keeps.
        lacking: What exactly_once would need besides.
    """
    delivery, unsure = sink.sink.delivery, _unsure(graph, sink)
    if sink.sink.relies_on is not None and guarantee is not Guarantee.AT_LEAST_ONCE:
        yield Suggestion("caution", f"{sink.step_id}: {sink.sink.relies_on}", guarantee, (sink.step_id,))
    if guarantee is _EXACTLY and delivery == "idempotent" and not recognises_outputs(sink.sink):
        text = (
            "effectively_once would be cheaper here: a repeated write replaces itself, so output need not wait for the "
            f"decision, nor be kept in it ({SAVED:g} times the rate, measured with upserts into a file)"
        )
        if unsure:
            text += f"; it is as good only if {_named(unsure)} the same whenever a record is processed again"
        yield Suggestion("cheaper", text, _EFFECTIVELY, (sink.step_id,))
    if guarantee is _EFFECTIVELY and delivery == "idempotent" and unsure:
        yield Suggestion(
            "caution",
            f"this stands on {_named(unsure, 'giving', 'giving')} the same whenever a record is processed again, which "
            "nobody has said: a repeated write with another key replaces nothing, and one with another value shows "
            "two truths. Say Dataflow(..., deterministic=True) if it is so; or choose exactly_once, which writes what "
            "was fixed once",
            _EXACTLY,
            tuple(unsure),
        )
    if guarantee is Guarantee.AT_LEAST_ONCE and delivery != "transactional" and unsure:
        text = f"what a crash repeats may differ from what was written first, unless {_named(unsure)} the same again"
        yield Suggestion("caution", text, guarantee, tuple(unsure))
    if guarantee in (Guarantee.AT_LEAST_ONCE, Guarantee.AT_MOST_ONCE):
        text = "all steps of this path could keep exactly_once"
        if lacking:
            text = f"for exactly_once it lacks this: {'; '.join(_lack(each) for each in lacking)}"
        yield Suggestion("stronger", text, _EXACTLY, tuple(step for each in lacking for step in each.steps))


def _lack(requirement: Requirement) -> str:
    return f"{', '.join(requirement.steps)} {requirement.text}"


def _named(steps: Sequence[str], one: str = "gives", many: str = "give") -> str:
    shown = ", ".join(map(repr, steps[:3])) + (f" and {len(steps) - 3} more" if len(steps) > 3 else "")
    return f"{'step' if len(steps) == 1 else 'steps'} {shown} {one if len(steps) == 1 else many}"


def _unsure(graph: Graph, sink: SinkStep) -> list[str]:
    """The steps before a sink that may give something else when a record is processed again, in their order."""
    if graph.deterministic:
        return []
    found = set()
    for edge in sink.inputs:
        step = graph.steps[edge.origin.step_id]
        before = graph.upstream(step) if isinstance(step, OperatorStep) else [step]
        found |= {each.step_id for each in before if _may_differ(graph, each)}
    return [step_id for step_id in graph.steps if step_id in found]


def _may_differ(graph: Graph, step: object) -> bool:
    if isinstance(step, SourceStep):
        return not step.source.deterministic
    if isinstance(step, OperatorStep):
        by_clock = isinstance(step.spec, DropDuplicatesSpec) and not has_event_time(graph, step)
        return step.calls_functions or by_clock
    return False
