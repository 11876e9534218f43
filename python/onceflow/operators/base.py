"""The contract between a task and the operators in it.

A task chains operators: an operator takes a batch and hands zero or more batches to its output. Everything
happens on one thread, in the order of the stream, so an operator needs no locks. At a barrier the task asks
each operator to ``snapshot``; state that lives in backend tables is frozen by the task right after.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from onceflow._native import StateBackend
from onceflow.clock import Clock
from onceflow.codec import Codec
from onceflow.operators.passed_time import PassedTime
from onceflow.types import Batch, Micros, Plain
from onceflow.watermarks import Times

__all__ = ["EventTimes", "Operator", "OperatorContext", "Output"]

#: The event times of a batch; None where the source has none.
EventTimes: TypeAlias = Times | None


class Output(Protocol):
    """Where an operator's results go."""

    def emit(self, records: Batch, times: EventTimes = None) -> None:
        """Passes a batch on. An empty batch is dropped. Not to be changed afterwards."""

    def emit_side(self, name: str, records: Batch, times: EventTimes = None) -> None:
        """Passes a batch to a side output (late records, dead letters) if something is attached."""


@dataclass(frozen=True, slots=True)
class OperatorContext:
    """What an operator may use.

    Attributes:
        step_id: Name of the step; the prefix of its tables' names (``step_id`` or ``step_id/part``).
        backend: Tables are made with ``backend.table(...)`` in ``open`` and belong to every checkpoint.
        codec: How values become bytes.
        clock: The only way to ask for the time of day.
        passed: By which durations are counted that are kept in state.
        watermark: The step's, as of the checkpoint that the job resumes from; None if no event time had come.
        marks: What ``marks`` returned for that checkpoint.
        agreed: What ``agreed`` returned for it: the step goes by it, also if its tables are empty here.
    """

    step_id: str
    backend: StateBackend
    codec: Codec
    clock: Clock
    passed: PassedTime
    watermark: Micros | None = None
    marks: Mapping[str, Micros] = field(default_factory=dict)
    agreed: Mapping[str, Plain] = field(default_factory=dict)


class Operator:
    """One step. Subclasses override what they need.

    Attributes:
        behind_us: How far below the watermark the times of what it emits on its own account may lie, in microseconds.
            Its output's watermark stays behind by that, so that nothing it emits is late downstream.
    """

    behind_us: int = 0

    def open(self, context: OperatorContext) -> None:
        """Called once before anything else; makes tables, reads restored state."""

    def process(self, records: Batch, times: EventTimes, out: Output) -> None:
        """Handles a batch that is not empty."""
        out.emit(records, times)

    def on_watermark(self, watermark: Micros, out: Output) -> None:
        """Event time has come to ``watermark``: no record below it is expected any more."""

    def snapshot(self) -> None:
        """At the barrier: writes cached state back into the tables."""

    def agreed(self) -> dict[str, Plain]:
        """By name, what the step has agreed on once, for all workers and runs of the job: types of keys, names
        and kinds of states. The job record keeps it."""
        return {}

    def marks(self) -> dict[str, Micros]:
        """How far the step has come in event time, or in its end, by name, beyond its watermark: that is kept in any
        case."""
        return {}

    def end(self, out: Output) -> Iterator[None]:
        """The input has ended for good (after a last watermark): emits what is left, piece by piece.

        Between two pieces a barrier may come: ``marks`` keeps how far it is, and the next call, also of another run,
        goes on from there.
        """
        return iter(())

    def close(self) -> None:
        """Releases resources; called also after an error."""
