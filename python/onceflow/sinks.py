"""The contract of sinks: where outputs go, and what the outside may see of them.

Three kinds, from the weakest to the strongest:

- ``PlainSink``: a write is visible at once and cannot be taken back (stdout, a request without a key).
  Good for at_most_once and at_least_once.
- ``IdempotentSink``: writing the same record again changes nothing (an upsert, a request with a key).
  Good for effectively_once as it is; for exactly_once its outputs are first fixed in the checkpoint's
  decision record and then written, as often as it takes.
- ``TransactionalSink``: outputs of a checkpoint become visible together, when the checkpoint was decided.

The commit of a transactional sink, in the order of its steps:

1. ``write`` collects; nothing is visible.
2. ``seal`` (job's thread, at the barrier) cuts: what was written so far belongs to this checkpoint. Quick.
3. ``prepare`` (checkpoint thread) makes it durable, still invisible, and returns the committable.
4. The decision record with the committable becomes durable: the one commit point.
5. ``commit`` (checkpoint thread) makes it visible. Idempotent by contract: it is called again after any crash between
   4 and the next decision, also from another process.

Before 4 anything that fails leads to ``abort``. After 4 there is no way back.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from onceflow.types import Batch, Plain

__all__ = [
    "Committable",
    "IdempotentSink",
    "PlainSink",
    "Sink",
    "SinkContext",
    "SinkWriter",
    "TransactionalSink",
    "TransactionalSinkWriter",
]


@dataclass(frozen=True, slots=True)
class SinkContext:
    """Who writes.

    Attributes:
        job: Name of the dataflow.
        sink: Step id of the sink.
        job_epoch: Raised at each start; whatever an older epoch holds must be refused.
        lineage: Changes when a job resumes on purpose from something else than its newest checkpoint.
        restored_checkpoint: The checkpoint that the job resumes from; None if it starts from nothing.
    """

    job: str
    sink: str
    job_epoch: int
    lineage: int
    restored_checkpoint: int | None = None


@dataclass(frozen=True, slots=True)
class Committable:
    """A prepared output: enough to commit or abort it from another process.

    Attributes:
        checkpoint_id: The checkpoint it belongs to.
        handle: What the sink needs to find it; kept in the decision record (so keep it small).
    """

    checkpoint_id: int
    handle: Plain


class SinkWriter(ABC):
    """Writes to a plain or idempotent sink, from one thread."""

    @abstractmethod
    def write(self, records: Batch) -> None:
        """Writes in order. Raises ``SinkError``."""

    @abstractmethod
    def flush(self) -> None:
        """Returns when all that was written is where it should be (durable, acknowledged)."""

    def close(self) -> None:  # noqa: B027 - optional
        """Releases files and connections; what was not flushed may be lost."""


class TransactionalSinkWriter(ABC):
    """Writes to a transactional sink.

    ``write``, ``seal`` and ``close`` are called on the job's thread, the others on the checkpoint thread, one at a
    time; ``recover`` before anything else.
    """

    #: Records, and bytes, that the writer keeps in memory until the next ``seal``, if it does: when there are many, a
    #: checkpoint begins early.
    held = 0
    held_bytes = 0

    @abstractmethod
    def recover(self, decided: Sequence[Committable]) -> None:
        """Called once at the start, after older epochs were fenced: commits ``decided`` (oldest first; most or all
        may be committed already) and aborts whatever else of this job and sink was left prepared or half written."""

    @abstractmethod
    def write(self, records: Batch) -> None:
        """Collects records for the checkpoint that comes next."""

    @abstractmethod
    def seal(self, checkpoint_id: int) -> Any | None:
        """Ends what belongs to this checkpoint; returns it for ``prepare``, None if there is nothing."""

    @abstractmethod
    def prepare(self, checkpoint_id: int, sealed: Any) -> Plain:
        """Makes it durable and invisible; returns the handle of the ``Committable``."""

    @abstractmethod
    def commit(self, committable: Committable) -> None:
        """Makes it visible. Called with a committable that was committed before, does nothing."""

    @abstractmethod
    def abort(self, checkpoint_id: int, sealed: Any) -> None:
        """Discards what was sealed or prepared for a checkpoint that was not decided."""

    def close(self) -> None:  # noqa: B027 - optional
        """Releases resources; what was written and not sealed is discarded."""


class Sink(ABC):
    """Base of the three kinds; users derive from one of them."""

    delivery: ClassVar[Literal["plain", "idempotent", "transactional"]]

    def describe(self) -> dict[str, Any]:
        """What ``explain`` shows; no secrets."""
        return {"type": type(self).__name__}


class PlainSink(Sink):
    """Visible at once, cannot be taken back."""

    delivery = "plain"

    @abstractmethod
    def open(self, context: SinkContext) -> SinkWriter:
        """A writer; raises ``SinkError`` if the target cannot be written."""


class IdempotentSink(Sink):
    """Writing a record again, in the same order, leaves the target as one write did.

    Under exactly_once the records are kept in the decision record by the codec before they are written, so they must
    be values that the codec knows.

    A process that was paused and replaced is stopped before its next write. One that was paused within a write can
    only be refused by the target: have it compare ``context.job_epoch`` if runs are taken over.
    """

    delivery = "idempotent"

    @abstractmethod
    def open(self, context: SinkContext) -> SinkWriter:
        """A writer; raises ``SinkError`` if the target cannot be written."""


class TransactionalSink(Sink):
    """Outputs of a checkpoint become visible together, after its decision."""

    delivery = "transactional"

    @abstractmethod
    def open(self, context: SinkContext) -> TransactionalSinkWriter:
        """A writer; raises ``SinkError`` if the target cannot be written."""
