"""Looks at the real systems of a dataflow by the ``check`` of its sources and sinks. Changes nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

from onceflow.checks import CheckContext, Checked, Finding, collected
from onceflow.clock import Clock
from onceflow.exceptions import SourceError
from onceflow.graph.graph import Graph, SourceStep
from onceflow.graph.structure import check_structure
from onceflow.sources import SourceContext
from onceflow.types import Guarantee, Plain

__all__ = ["Look", "looks"]


@dataclass(frozen=True, slots=True)
class Look:
    """At what one source or sink reaches.

    Attributes:
        step_id: Its step.
        role: Which of the two it is.
        connector: Name of its class.
        findings: Looks, as long as it is read.
    """

    step_id: str
    role: Literal["source", "sink"]
    connector: str
    findings: Callable[[], Iterable[Finding]]

    def checked(self, timeout_s: float | None = None) -> Checked:
        """What it finds.

        Args:
            timeout_s: So long it may take: what does not answer by then is left behind, and is an error.
        """
        if timeout_s is None:
            return Checked(self.step_id, self.role, self.connector, collected(self._findings(), self.connector))
        found: list[Finding] = []
        # It cannot be stopped: a client that waits for a server may do so for ever.
        thread = threading.Thread(target=collected, args=(self._findings(), self.connector, found), daemon=True)
        thread.start()
        thread.join(timeout_s)
        told = tuple(found)
        if thread.is_alive():
            told += (
                Finding(
                    "error",
                    self.connector,
                    f"what is asked has not answered within {timeout_s:g} s: it may be stopped or cut off",
                    "see that it answers, or wait longer for it (--timeout)",
                ),
            )
        return Checked(self.step_id, self.role, self.connector, told)

    def _findings(self) -> Iterator[Finding]:
        """Called when it is read, so that what it raises at once is a finding too."""
        yield from self.findings()


def looks(
    graph: Graph, guarantee: Guarantee, clock: Clock, positions: Mapping[str, Mapping[str, Plain]] | None = None
) -> list[Look]:
    """At each source and then each sink, one after the other: a system that answers slowly delays the rest.

    Args:
        graph: The dataflow.
        guarantee: What the job is to promise.
        clock: Where this machine's time comes from.
        positions: By source and partition, from where the job's next run goes on; None: that is not known.

    Raises:
        ConfigurationError: The dataflow is not whole.
    """
    check_structure(graph)
    found = []
    for source in graph.sources():
        mine = None if positions is None else positions.get(source.step_id, {})
        context = CheckContext(graph.name, source.step_id, guarantee, clock, mine)
        found.append(Look(source.step_id, "source", type(source.source).__name__, _at_source(source, context)))
    for sink in graph.sinks():
        context = CheckContext(graph.name, sink.step_id, guarantee, clock)
        look = partial(sink.sink.check, context)
        found.append(Look(sink.step_id, "sink", type(sink.sink).__name__, look))
    return found


def _at_source(step: SourceStep, context: CheckContext) -> Callable[[], Iterator[Finding]]:
    def look() -> Iterator[Finding]:
        yield from step.source.check(context)
        if context.positions:
            yield _resumes(step, context.positions, context)

    return look


def _resumes(step: SourceStep, positions: Mapping[str, Plain], context: CheckContext) -> Finding:
    """Whether a run could go on from positions: as it does, and without reading anything."""
    source, who = step.source, SourceContext(context.job, step.step_id, clock=context.clock, resumed=True)
    subject = f"positions of {step.step_id!r}"
    try:
        there = source.partitions()
        source.restore(positions)
        if missing := sorted(positions.keys() - set(there)):
            raise SourceError(f"partitions that the checkpoint has positions of are gone: {missing}")
        for partition, position in positions.items():
            if position is not None:
                source.open_with_context(partition, position, who).close()
    except SourceError as error:
        return Finding("error", subject, str(error))
    new = len(set(there) - positions.keys())
    text = f"a run can go on from all {len(positions)}" + (f"; {new} partitions have come since" if new else "")
    return Finding("ok", subject, text)
