"""Whether a dataflow is whole: every output is taken, and windows get records with event time."""

from __future__ import annotations

from onceflow.exceptions import ConfigurationError
from onceflow.graph.graph import Graph, OperatorStep, SourceStep, StreamRef
from onceflow.graph.steps import AggregateSpec, AssignTimestampsSpec, WindowSpec

__all__ = ["check_emits_before_the_end", "check_structure", "has_event_time"]


def check_structure(graph: Graph) -> None:
    """Raises ``ConfigurationError`` unless the dataflow can run."""
    users = graph.users()
    if not graph.sources() or not graph.sinks():
        raise ConfigurationError(f"dataflow {graph.name!r} needs at least one source and one sink")
    for step in graph.sources():
        if not users.get(StreamRef(step.step_id)):
            raise ConfigurationError(f"nothing reads from source {step.step_id!r}; end its stream in a sink")
        if step.source.has_dead_letters and not users.get(StreamRef(step.step_id, "dead_letters")):
            raise ConfigurationError(
                f"source {step.step_id!r} hands out dead letters and nothing takes them: add "
                f"flow.dead_letters({step.step_id!r}).sink(...), or choose another on_malformed"
            )
    for operator in graph.operators():
        if not users.get(StreamRef(operator.step_id)):
            raise ConfigurationError(f"nothing takes the output of step {operator.step_id!r}; end it in a sink")
        if "dead_letters" in operator.sides and not users.get(StreamRef(operator.step_id, "dead_letters")):
            raise ConfigurationError(
                f"step {operator.step_id!r} hands out dead letters and nothing takes them: add "
                f"flow.dead_letters({operator.step_id!r}).sink(...), or leave dead_letters away"
            )
        if isinstance(operator.spec, WindowSpec):
            _check_event_time(graph, operator)
        if isinstance(operator.spec, AssignTimestampsSpec):
            _check_partitions(graph, operator)


def check_emits_before_the_end(graph: Graph) -> None:
    """Raises ``ConfigurationError`` for a step that would emit nothing in runs that do not end the input."""
    for step in graph.operators():
        if step.emits_at_end:
            raise ConfigurationError(
                f"step {step.step_id!r} emits when its input has ended, and runs with until='caught_up' do not end it: "
                "nothing would ever come out. Give it emit='changes' or a window, or run the job with until='end'"
            )


def has_event_time(graph: Graph, step: OperatorStep) -> bool:
    """True if all records that come to a step have one."""
    try:
        _check_event_time(graph, step)
    except ConfigurationError:
        return False
    return True


def _check_event_time(graph: Graph, window: OperatorStep) -> None:
    """Totals, dead letters, and sources that are told nothing of it have no event time."""
    waiting, seen = [window], {window.step_id}
    while waiting:
        for origin in (edge.origin for edge in waiting.pop().inputs):
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
                if isinstance(before.spec, AggregateSpec):
                    lacking = f"the totals of {origin.step_id!r}"
                elif isinstance(before.spec, AssignTimestampsSpec):
                    lacking = f"dead letters of {origin.step_id!r}" if origin.side == "dead_letters" else None
                elif before.step_id not in seen:
                    seen.add(before.step_id)
                    waiting.append(before)
            if lacking is not None:
                raise ConfigurationError(
                    f"window {window.step_id!r} needs event time, and {lacking} have none; put the window before, or "
                    "use window(...).aggregate(...) there too"
                )


def _check_partitions(graph: Graph, timestamps: OperatorStep) -> None:
    """Results that come when a window or the input ends are of no partition."""
    for before in graph.upstream(timestamps):
        if isinstance(before, OperatorStep) and isinstance(before.spec, WindowSpec | AggregateSpec):
            raise ConfigurationError(
                f"assign_timestamps {timestamps.step_id!r} needs records of partitions, and comes after "
                f"{before.kind} {before.step_id!r}, whose results are of none; put it before"
            )
