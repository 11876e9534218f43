"""What a worker keeps of itself in a checkpoint, and how it is read again: tables, and blobs by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from onceflow._native import PendingCheckpoint
from onceflow.clock import Clock
from onceflow.graph.graph import Graph
from onceflow.operators.aggregate import EMITTED
from onceflow.operators.passed_time import PassedTime
from onceflow.runtime.job_record import WATERMARKS_BLOB
from onceflow.runtime.marks import read_marks
from onceflow.runtime.pipeline import Pipeline
from onceflow.runtime.source_task import SourceTask
from onceflow.types import Micros

__all__ = ["had_begun_to_end", "operators", "passed_time", "take", "watermarks"]

#: Name of the blob with the time that has passed.
_PASSED_BLOB = "passed"
#: And, followed by the step id, of the event times within a step.
_OPERATOR_BLOB = "operator/"


def take(
    checkpoint: PendingCheckpoint, pipeline: Pipeline, positions: Mapping[str, dict[str, Any]], passed: PassedTime
) -> None:
    """At the cut: freezes the tables; event times within steps and the positions become part of the checkpoint."""
    for step_id, data in pipeline.snapshot().items():
        checkpoint.put_blob(f"{_OPERATOR_BLOB}{step_id}", data)
    checkpoint.freeze()
    for name, position in positions.items():
        checkpoint.put_blob(f"source/{name}", msgspec.msgpack.encode(position))
    checkpoint.put_blob(_PASSED_BLOB, passed.snapshot())
    checkpoint.put_blob(WATERMARKS_BLOB, msgspec.msgpack.encode(pipeline.watermarks()))


def operators(blobs: Mapping[str, bytes]) -> dict[str, bytes]:
    """Event times within steps, by step id."""
    return {name.removeprefix(_OPERATOR_BLOB): blob for name, blob in blobs.items() if name.startswith(_OPERATOR_BLOB)}


def had_begun_to_end(blobs: Mapping[str, bytes], graph: Graph) -> bool:
    """Whether a step had handed out a part of what it does when its input has ended."""
    kept = operators(blobs)
    return any(EMITTED in read_marks(step, kept.get(step.step_id))[0] for step in graph.operators())


def passed_time(blobs: Mapping[str, bytes], clock: Clock) -> PassedTime:
    """How much time had passed."""
    return PassedTime(clock, blobs.get(_PASSED_BLOB))


def watermarks(blobs: Mapping[str, bytes], by_source: Mapping[str, Sequence[SourceTask]]) -> dict[str, Micros]:
    """How far event time had come, by source and step.

    A checkpoint of earlier versions does not say; a source's was the lowest of the partitions that it had then.
    """
    blob = blobs.get(WATERMARKS_BLOB)
    if blob is not None:
        return msgspec.msgpack.decode(blob, type=dict[str, int])
    restored: dict[str, Micros] = {}
    for step_id, tasks in by_source.items():
        marks = [task.delivered for task in tasks if task.resumed]
        known = [mark for mark in marks if mark is not None]
        if known and len(known) == len(marks):
            restored[step_id] = min(known)
    return restored
