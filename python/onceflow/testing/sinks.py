"""Sinks that keep what they were given, one of each kind, with faults on demand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from onceflow.columns import rows_of
from onceflow.exceptions import FencedError, SinkError
from onceflow.sinks import (
    Committable,
    IdempotentSink,
    PlainSink,
    SinkContext,
    SinkWriter,
    TransactionalSink,
    TransactionalSinkWriter,
)
from onceflow.types import Batch, Plain

__all__ = ["IdempotentTestingSink", "PlainTestingSink", "TransactionalTestingSink"]


class _Faults:
    """Raises ``SinkError`` at chosen calls."""

    def __init__(self, fail: dict[str, int] | None) -> None:
        self._left = dict(fail or {})

    def call(self, name: str) -> None:
        left = self._left.get(name)
        if left is not None:
            self._left[name] = left - 1
            if left == 1:
                raise SinkError(f"a fault was asked for at {name}")


class PlainTestingSink(PlainSink):
    """Appends to ``records`` at once.

    Args:
        fail: Name of a call (``write``, ``flush``) → the how manyth of it fails.
    """

    __test__ = False
    is_in_memory = True

    def __init__(self, fail: dict[str, int] | None = None) -> None:
        self.records: list[Any] = []
        self._faults = _Faults(fail)

    def open(self, context: SinkContext) -> SinkWriter:
        """See ``Sink``."""
        return _ListWriter(self.records.extend, self._faults)


class IdempotentTestingSink(IdempotentSink):
    """Puts into ``records`` by key.

    Args:
        key: Key of a record.
        fail: As for ``PlainTestingSink``.
    """

    __test__ = False
    is_in_memory = True

    def __init__(self, key: Callable[[Any], Any], fail: dict[str, int] | None = None) -> None:
        self.records: dict[Any, Any] = {}
        self.writes = 0
        self._key = key
        self._faults = _Faults(fail)

    def open(self, context: SinkContext) -> SinkWriter:
        """See ``Sink``."""
        return _ListWriter(self._put, self._faults)

    def _put(self, records: list[Any]) -> None:
        self.writes += len(records)
        self.records.update((self._key(record), record) for record in records)


class _ListWriter(SinkWriter):
    def __init__(self, put: Callable[[list[Any]], None], faults: _Faults) -> None:
        self._put = put
        self._faults = faults

    def write(self, records: Batch) -> None:
        self._faults.call("write")
        self._put(rows_of(records))

    def flush(self) -> None:
        self._faults.call("flush")


class TransactionalTestingSink(TransactionalSink):
    """Shows in ``records`` what was committed; prepared output outlives the writer, as in a real system.

    Args:
        fail: Name of a call (``write``, ``seal``, ``prepare``, ``commit``) → the how manyth of it fails.
    """

    __test__ = False
    is_in_memory = True

    def __init__(self, fail: dict[str, int] | None = None) -> None:
        #: By checkpoint and worker.
        self.committed: dict[tuple[int, int], list[Any]] = {}
        self.prepared: dict[tuple[int, int], list[Any]] = {}
        #: Who may write.
        self.lineage: int | None = None
        self.epoch = 0
        self.run = ""
        #: What is visible: lineage and checkpoint.
        self.newest = (0, 0)
        self.state_id = ""
        self._faults = _Faults(fail)

    @property
    def records(self) -> list[Any]:
        """Committed output, in the order of checkpoints and workers."""
        return [record for output in sorted(self.committed) for record in self.committed[output]]

    def open(self, context: SinkContext) -> TransactionalSinkWriter:
        """See ``Sink``."""
        return _TransactionalWriter(self, context, self._faults)


class _TransactionalWriter(TransactionalSinkWriter):
    def __init__(self, sink: TransactionalTestingSink, context: SinkContext, faults: _Faults) -> None:
        self._sink = sink
        self._context = context
        self._faults = faults
        self._records: list[Any] = []
        if sink.state_id and context.state_id and sink.state_id != context.state_id:
            raise SinkError(f"job {context.job!r} writes here with another state directory")
        self._check_epoch()
        decided = max(context.newest_decided or 0, context.restored_checkpoint or 0)
        if sink.newest > (context.lineage, decided):
            raise SinkError(
                f"checkpoint {sink.newest[1]} is visible, and the newest one of this state is {decided or 'none'}: go "
                "on with resume_from to write it again"
            )

    def applied(self, checkpoint_id: int) -> bool | None:
        return self._sink.newest >= (self._context.lineage, checkpoint_id)

    def recover(self, decided: Sequence[Committable]) -> None:
        self._check_epoch()
        sink, context = self._sink, self._context
        former, sink.run = sink.run, context.run
        sink.lineage, sink.epoch, sink.state_id = context.lineage, context.job_epoch, context.state_id
        for committable in decided:
            self.commit(committable)
        if not context.run or context.run != former:
            # Else it is of the other workers of this run.
            sink.prepared.clear()

    def _check_epoch(self) -> None:
        sink, context = self._sink, self._context
        lineage = context.lineage if sink.lineage is None else sink.lineage
        if (context.lineage, context.job_epoch) < (lineage, sink.epoch):
            raise FencedError(
                f"epoch {sink.epoch} of job {context.job!r} writes here; this writer has epoch {context.job_epoch} "
                f"(lineages {lineage} and {context.lineage}) and must stop",
                epoch=context.job_epoch,
                newer_epoch=sink.epoch,
                newer_lineage=lineage if lineage > context.lineage else None,
            )

    def write(self, records: Batch) -> None:
        self._faults.call("write")
        self._records.extend(rows_of(records))

    def seal(self, checkpoint_id: int) -> Any | None:
        self._faults.call("seal")
        records, self._records = self._records, []
        return records or None

    def prepare(self, checkpoint_id: int, sealed: Any) -> Plain:
        self._faults.call("prepare")
        self._check_epoch()
        self._sink.prepared[checkpoint_id, self._context.worker] = sealed
        return self._context.worker

    def commit(self, committable: Committable) -> None:
        self._faults.call("commit")
        self._check_epoch()
        output = committable.checkpoint_id, _worker_of(committable)
        records = self._sink.prepared.pop(output, None)
        if records is not None:
            self._sink.committed[output] = records
            self._sink.newest = max(self._sink.newest, (self._context.lineage, committable.checkpoint_id))

    def abort(self, checkpoint_id: int, sealed: Any) -> None:
        self._sink.prepared.pop((checkpoint_id, self._context.worker), None)

    def close(self) -> None:
        self._records = []


def _worker_of(committable: Committable) -> int:
    if not isinstance(committable.handle, int):
        raise SinkError(f"checkpoint {committable.checkpoint_id} was not prepared here: {committable.handle!r}")
    return committable.handle
