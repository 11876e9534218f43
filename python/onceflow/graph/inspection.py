"""Looks at the real systems of a dataflow by the ``check`` of its sources and sinks. Changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from onceflow.checks import CheckContext, Checked, Finding, collected
from onceflow.clock import Clock
from onceflow.graph.graph import Graph
from onceflow.graph.structure import check_structure
from onceflow.types import Guarantee

__all__ = ["inspected"]


def inspected(graph: Graph, guarantee: Guarantee, clock: Clock) -> Iterator[Checked]:
    """What each source and then each sink finds, one after the other: a system that answers slowly delays the rest.

    Raises:
        ConfigurationError: The dataflow is not whole.
    """
    check_structure(graph)
    for source in graph.sources():
        context = CheckContext(graph.name, source.step_id, guarantee, clock)
        name = type(source.source).__name__
        yield Checked(source.step_id, "source", name, collected(_looks(source.source.check, context), name))
    for sink in graph.sinks():
        context = CheckContext(graph.name, sink.step_id, guarantee, clock)
        name = type(sink.sink).__name__
        yield Checked(sink.step_id, "sink", name, collected(_looks(sink.sink.check, context), name))


def _looks(check: Callable[[CheckContext], Iterable[Finding]], context: CheckContext) -> Iterator[Finding]:
    """Called when it is read, so that what it raises at once is a finding too."""
    yield from check(context)
