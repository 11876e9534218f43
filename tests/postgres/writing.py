"""One writer of a PostgresSink, without a job: checkpoints by hand."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg

from onceflow.connectors.postgres import PostgresSink
from onceflow.sinks import Committable, SinkContext, TransactionalSinkWriter

__all__ = ["commit", "context", "opened", "prepared", "rows", "write"]


def context(epoch: int = 1, restored: int | None = None, state: Any = None, *, job: str = "job") -> SinkContext:
    """Of a run of the job "job" with the sink "out"."""
    return SinkContext(
        job,
        "out",
        job_epoch=epoch,
        lineage=1,
        restored_checkpoint=restored,
        newest_decided=restored,
        state_id="5" * 32,
        restored_state=state,
    )


@contextlib.contextmanager
def opened(
    sink: PostgresSink,
    epoch: int = 1,
    restored: int | None = None,
    state: Any = None,
    decided: Sequence[Committable] = (),
    *,
    job: str = "job",
) -> Iterator[TransactionalSinkWriter]:
    """A writer that has recovered."""
    writer = sink.open(context(epoch, restored, state, job=job))
    try:
        writer.recover(decided)
        yield writer
    finally:
        writer.close()


def prepared(writer: TransactionalSinkWriter, checkpoint_id: int, records: Any) -> tuple[Committable, Any]:
    """What is decided for a checkpoint, and what the checkpoint keeps of the writer."""
    writer.write(records)
    sealed = writer.seal(checkpoint_id)
    state = writer.snapshot()
    return Committable(checkpoint_id, writer.prepare(checkpoint_id, sealed)), state


def commit(writer: TransactionalSinkWriter, checkpoint_id: int, records: Any) -> Any:
    """A whole checkpoint; what it keeps of the writer."""
    committable, state = prepared(writer, checkpoint_id, records)
    writer.commit(committable)
    return state


def write(sink: PostgresSink, records: Any) -> Any:
    """The first checkpoint of a first run; what it keeps of the writer."""
    with opened(sink) as writer:
        return commit(writer, 1, records)


def rows(dsn: str, query: str) -> list[tuple]:
    """What a query has."""
    with psycopg.connect(dsn) as session:
        return session.execute(query).fetchall()
