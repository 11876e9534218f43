"""What all sinks promise, and what plain and idempotent ones do, as tests; see ``contracts``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

from onceflow.checks import CheckContext
from onceflow.columns import Columns
from onceflow.sinks import IdempotentSink, PlainSink, Sink, SinkContext, SinkWriter, TransactionalSinkWriter
from onceflow.testing.promises import check_findings, must

__all__ = ["IdempotentSinkContract", "PlainSinkContract", "SinkContract", "check_batch_unchanged"]


class SinkContract(ABC):
    """What all sinks promise.

    Attributes:
        columns: Whether batches of columns are written too; all sinks of onceflow take them.
    """

    columns: bool = True

    @abstractmethod
    def make_sink(self, directory: Path) -> Sink:
        """The sink; called again for a directory, one that reaches the same target."""

    @abstractmethod
    def visible(self, directory: Path) -> list[Any]:
        """What the outside sees in the target now, as records, in order; nothing if there is no target yet."""

    def make_records(self, start: int, stop: int) -> list[Any]:
        """Records that the sink can hold, all different; as ``visible`` gives them back."""
        return [{"id": number, "text": f"record {number}"} for number in range(start, stop)]

    def _context(
        self,
        epoch: int,
        restored: int | None,
        *,
        lineage: int = 1,
        state_id: str = "5" * 32,
        worker: int = 0,
        run: str = "",
    ) -> SinkContext:
        return SinkContext(
            "contract",
            "out",
            job_epoch=epoch,
            lineage=lineage,
            restored_checkpoint=restored,
            newest_decided=restored,
            state_id=state_id,
            worker=worker,
            run=run,
        )

    def test_a_check_changes_nothing(self, tmp_path: Path) -> None:
        """``check`` looks, and says what it finds; nothing of it is seen in the target."""
        sink, before = self.make_sink(tmp_path), self.visible(tmp_path)
        check_findings(lambda: sink.check(CheckContext("contract", "out")), tmp_path)
        must(self.visible(tmp_path) == before, "check() changes nothing", before, self.visible(tmp_path))

    def _as_columns(self, records: list[dict[str, Any]]) -> Columns:
        arrays: dict[str, Any] = {}
        for name in records[0]:
            array = np.empty(len(records), dtype=object)
            array[:] = [record[name] for record in records]
            arrays[name] = np.array(array.tolist()) if isinstance(records[0][name], int) else array
        return Columns(arrays)


class PlainSinkContract(SinkContract):
    """The promises of a ``PlainSink``."""

    @abstractmethod
    def make_sink(self, directory: Path) -> PlainSink | IdempotentSink:
        """The sink; called again for a directory, one that reaches the same target."""

    def _open(self, directory: Path, epoch: int = 1) -> SinkWriter:
        return self.make_sink(directory).open(self._context(epoch, None if epoch == 1 else 1))

    def _visible(self, directory: Path, expected: list[Any], promise: str) -> None:
        found = self.visible(directory)
        must(found == expected, promise, found, expected)

    def test_what_was_flushed_is_there(self, tmp_path: Path) -> None:
        """After ``flush`` all that was written is visible, in order, once."""
        writer = self._open(tmp_path)
        records = self.make_records(0, 12)
        for start, stop in ((0, 1), (1, 5), (5, 8)):
            writer.write(records[start:stop])
        writer.flush()
        self._visible(tmp_path, records[:8], "after flush() all that was written is visible, in order, once")
        writer.flush()
        self._visible(tmp_path, records[:8], "flush() without a write changes nothing")
        writer.write(records[8:])
        writer.flush()
        writer.close()
        self._visible(tmp_path, records, "a writer goes on after what it flushed")

    def test_another_writer_goes_on(self, tmp_path: Path) -> None:
        """A writer opened later adds to what is there."""
        records = self.make_records(0, 6)
        for epoch, part in enumerate((records[:3], records[3:]), 1):
            writer = self._open(tmp_path, epoch)
            writer.write(part)
            writer.flush()
            writer.close()
        self._visible(tmp_path, records, "a writer opened later keeps what is there")

    def test_columns_are_written_as_rows_are(self, tmp_path: Path) -> None:
        """A batch of columns leaves what the same rows leave; only where ``columns``."""
        if not self.columns:
            return
        records = self.make_records(0, 5)
        writer = self._open(tmp_path)
        writer.write(self._as_columns(records))
        writer.flush()
        writer.close()
        self._visible(tmp_path, records, "columns are written as the same rows are")

    def test_a_batch_is_not_changed(self, tmp_path: Path) -> None:
        """The records of a batch belong to other steps as well."""
        check_batch_unchanged(self._open(tmp_path), self.make_records(0, 3), self.make_records(0, 3))

    def test_a_writer_that_wrote_nothing_can_be_closed(self, tmp_path: Path) -> None:
        """Opening and closing leaves nothing, and no error."""
        self._open(tmp_path).close()
        self._visible(tmp_path, [], "a writer that wrote nothing leaves nothing")


class IdempotentSinkContract(PlainSinkContract):
    """The promises of an ``IdempotentSink``."""

    @abstractmethod
    def make_sink(self, directory: Path) -> IdempotentSink:
        """The sink; called again for a directory, one that reaches the same target."""

    def test_writing_again_changes_nothing(self, tmp_path: Path) -> None:
        """The same records in the same order, by the same writer and by another process, as often as it takes."""
        records = self.make_records(0, 8)
        writer = self._open(tmp_path)
        for _ in range(2):
            writer.write(records)
            writer.flush()
            self._visible(tmp_path, records, "writing a record again changes nothing")
        writer.close()
        for epoch in (2, 3):
            writer = self._open(tmp_path, epoch)
            writer.write(records)
            writer.flush()
            writer.close()
            self._visible(tmp_path, records, "writing a record again from another process changes nothing")

    def test_a_write_that_was_cut_off_is_made_good(self, tmp_path: Path) -> None:
        """A part of the records, without a flush or close, and then all of them: as one write did."""
        records = self.make_records(0, 8)
        self._open(tmp_path).write(records[:5])
        writer = self._open(tmp_path, 2)
        writer.write(records)
        writer.flush()
        writer.close()
        self._visible(tmp_path, records, "records written in part and then again leave what one write leaves")


def check_batch_unchanged(
    writer: SinkWriter | TransactionalSinkWriter, records: list[Any], expected: list[Any]
) -> None:
    """A writer leaves the batch as it is."""
    writer.write(records)
    must(records == expected, "write() leaves the batch as it is", records, expected)
    writer.close()
