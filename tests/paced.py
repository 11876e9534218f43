"""Sources that hand out a few batches for each checkpoint: a run has as many of them however slow the machine is.

A test that kills a run at its third checkpoint finds it there, with rows left for the next run.
"""

from __future__ import annotations

from typing import Any

from onceflow.sources import Source, SourceBatch

__all__ = ["Paced"]


class Paced(Source):
    """To be put before a source: ``class PacedCsv(Paced, CsvSource)``."""

    #: Before the first complete checkpoint, and after each.
    batches = 3

    def open_with_context(self, partition: str, position: Any, context: Any) -> Any:
        reader = super().open_with_context(partition, position, context)
        self._left = self.batches
        read = reader.read

        def paced(max_records: int) -> SourceBatch | None:
            if not self._left:
                return SourceBatch([])
            self._left -= 1
            return read(max_records)

        reader.read = paced  # type: ignore[method-assign]
        return reader

    def on_checkpoint_complete(self, checkpoint_id: int, positions: Any, context: Any) -> None:
        super().on_checkpoint_complete(checkpoint_id, positions, context)
        self._left = self.batches
        context.wake.set()
