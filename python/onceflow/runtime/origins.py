"""Where records came from, for whoever must look at them: in dead letters, and in errors of functions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from onceflow.exceptions import UserFunctionError
from onceflow.runtime.source_task import SourceTask
from onceflow.sources import SourceBatch

__all__ = ["dead_letters", "positions_told"]


def dead_letters(task: SourceTask, batch: SourceBatch) -> list[dict[str, Any]]:
    """What a source has refused of a batch, as records."""
    return [
        {
            "source": task.step.step_id,
            "partition": record.partition,
            "position": record.position,
            "reason": record.reason,
            "text": record.text,
        }
        for record in batch.rejected
    ]


@contextmanager
def positions_told(task: SourceTask, batch: SourceBatch) -> Iterator[None]:
    """Errors of functions say where their records came from."""
    try:
        yield
    except UserFunctionError as error:
        if error.position is None and batch.first_record is not None:
            last = batch.first_record + len(batch.records) - 1
            error.position = f"{task.partition}, records {batch.first_record} to {last}"
            error.add_note(f"while processing {error.position} of source {task.step.step_id!r}")
        raise
