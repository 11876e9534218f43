"""The contract of sinks: where outputs go, and what the outside may see of them.

Three kinds, from the weakest to the strongest:

- ``PlainSink``: a write is visible at once and cannot be taken back (stdout, a request without a key).
  Good for at_most_once and at_least_once.
- ``IdempotentSink``: writing the same record again changes nothing (an upsert, a request with a key).
  Good for effectively_once as it is; for exactly_once its outputs are first fixed in the checkpoint's
  decision record and then written, as often as it takes.
- ``TransactionalSink``: outputs of a checkpoint become visible together, when the checkpoint was decided. For a target
  that has transactions, and nothing to prepare them with, ``onceflow.connectors.outbox`` has all of it but three
  methods.

The commit of a transactional sink, in the order of its steps:

1. ``write`` collects; nothing is visible.
2. ``seal`` (job's thread, at the barrier) cuts: what was written so far belongs to this checkpoint. Quick.
   ``snapshot`` says what the writer has learnt by then.
3. ``prepare`` (checkpoint thread) makes it durable, still invisible, and returns the committable.
4. The decision record with the committable becomes durable: the one commit point.
5. ``commit`` (checkpoint thread) makes it visible. Idempotent by contract: it is called again after any crash between
   4 and the next decision, also from another process.

Before 4 anything that fails leads to ``abort``. After 4 there is no way back.

The start of a run: all sinks are opened, which checks and changes nothing; then it is decided how the run goes on; only
then ``recover`` is called. So a start that is refused has touched no output.

Replaced, copied, put back
--------------------------
A process may be paused at any line, be replaced meanwhile, and go on; a state directory may be a copy, or be put back
from a backup while the target has gone on. A sink is exact through both if it

- keeps in its target who writes to it: the newest (lineage, job epoch), compared in this order and never lowered, and
  refuses whoever is older with ``FencedError``, in ``open`` and at each effect; and the ``state_id``, refusing another;
- does only what may happen late: it discards what older runs have left, never what a newer one has;
- keeps in its target the newest (lineage, checkpoint) that it made visible, and refuses in ``open``, at every attempt,
  a state of an older lineage, or one of the same lineage whose ``newest_decided`` is below that. The way on is a new
  lineage, chosen on purpose (``resume_from``), and the message says so;
- takes what was prepared and is not there for lost, unless it knows that it was committed;
- keeps by ``snapshot`` what it has written so far, and refuses (or warns of, where it cannot know) a target that lacks
  what the restored checkpoint says was there, also in a new lineage; and warns where a new lineage writes again, by
  ``RepeatedOutputWarning``, what stays in the target.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from onceflow.checks import CheckContext, Finding
from onceflow.types import Batch, Plain

if TYPE_CHECKING:
    from onceflow.leftovers import Leftover, LeftoverContext

__all__ = [
    "Committable",
    "IdempotentSink",
    "OutputId",
    "PlainSink",
    "Sink",
    "SinkContext",
    "SinkWriter",
    "TransactionalSink",
    "TransactionalSinkWriter",
]


#: Of a run whose state directory knows it; versions that noted none had shorter identities.
_RUN_DIGITS = 32


@dataclass(frozen=True, slots=True)
class SinkContext:
    """Who writes.

    Attributes:
        job: Name of the dataflow.
        sink: Step id of the sink.
        job_epoch: Raised at each start; whatever an older epoch holds must be refused.
        lineage: Of the timeline that the run belongs to: 1, until a job resumes on purpose from something else than its
            newest checkpoint. Then it is a number of up to 63 bits that is above all earlier ones, and that no other
            copy of the state gets.
        restored_checkpoint: The checkpoint that the job resumes from; None if it starts from nothing.
        newest_decided: The newest checkpoint of this lineage that the state directory knows as decided, whether it can
            be read or not; None if there is none. What a target holds beyond it comes from a newer state.
        state_id: Identity of the state directory; a copy or a backup of it has the same. Empty if it is not known.
        restored_state: What ``snapshot`` returned for the checkpoint that the output goes on from; None if nothing.
        newest_left: In a new lineage the newest checkpoint that is left by going back to ``restored_checkpoint``; None
            if nothing is: then the output of that checkpoint may still have to be committed.
        worker: Number of the worker, from 0 on; the only one of a job is 0. What workers write, name and keep must not
            meet: put the number into names, transactional ids and markers.
        run: Identity of this run of the job, the same for all of its workers, and of no other run, also not of a copy
            of the state with the same epoch. Empty if it is not known: then each writer is a run of its own.
        runs: Job epoch → identity of the runs that have begun with this state directory, all of them from the first one
            on; None if it is not known. See ``is_of_a_copy``.
    """

    job: str
    sink: str
    job_epoch: int
    lineage: int
    restored_checkpoint: int | None = None
    newest_decided: int | None = None
    state_id: str = ""
    restored_state: Plain = None
    newest_left: int | None = None
    worker: int = 0
    run: str = ""
    runs: Mapping[int, str] | None = None

    def is_of_a_copy(self, job_epoch: int, run: str) -> bool:
        """Whether a run that a target knows, of this lineage and state directory, was one of another copy of the state.
        What that has read and written this state does not know, whatever their checkpoints are called.

        Args:
            job_epoch: Of that run.
            run: Its identity.

        Returns:
            False also where nobody can tell: of a run that began long ago, or with a version that noted none.
        """
        if self.runs is None or run == self.run or len(run) < _RUN_DIGITS:
            return False
        return job_epoch >= min(self.runs, default=0) and self.runs.get(job_epoch) != run


@dataclass(frozen=True, slots=True)
class Committable:
    """A prepared output: enough to commit or abort it from another process.

    Attributes:
        checkpoint_id: The checkpoint it belongs to.
        handle: What the sink needs to find it; kept in the decision record (so keep it small).
    """

    checkpoint_id: int
    handle: Plain


@dataclass(frozen=True, slots=True)
class OutputId:
    """What tells one record of a job's output to a sink from all others, the same however often it is written.

    It is known where output waits for the decision of its checkpoint (exactly_once, at_most_once): the decision record
    keeps it with the records, so that a recovery, also one in a new lineage, writes each with the identity that it had.

    Attributes:
        run: Identity of the run that staged it, which is of no other run: copies of a state, and a state that was put
            back from a backup, never give the same identity to different records.
        checkpoint: Whose output it is.
        worker: Who staged it.
        number: Of the record within the worker's output of this checkpoint, from 0 on.
    """

    run: str
    checkpoint: int
    worker: int
    number: int


class SinkWriter(ABC):
    """Writes to a plain or idempotent sink, one call at a time.

    ``Sink.open`` and ``close`` are called on the job's thread. ``write`` and ``flush`` are too where the guarantee has
    them write at once; where outputs wait for the decision (exactly_once, at_most_once) they are called on the
    checkpoint thread, and at the start of a run on the job's thread. A client that belongs to one thread must be told
    not to mind (``sqlite3.connect(..., check_same_thread=False)``).
    """

    #: Records that the target has refused, and that the writer has skipped or put aside as dead letters, in this run:
    #: ``JobResult.refused``.
    refused: int = 0
    #: So many records may wait for their decision and then for their writes: with more of them a checkpoint begins
    #: early, and while one is under way nothing is read. For a target that is slow by the record, since the end of a
    #: run waits for them. None: only the bounds of the whole job hold.
    max_waiting: int | None = None

    @abstractmethod
    def write(self, records: Batch) -> None:
        """Writes in order. Raises ``SinkError``."""

    def check_output(self, records: Batch) -> None:  # noqa: B027 - optional
        """Refuses records that ``write_output`` would refuse whatever the target says.

        Called on the job's thread where output waits for the decision, at once, also while ``write_output`` is under
        way on the checkpoint thread: after the decision there is no way back, and each further run would stop there.

        Raises:
            SinkError: One of them cannot be written.
        """

    def write_output(self, records: Batch, first: OutputId) -> None:
        """What is called in place of ``write`` where output waits for the decision: ``write``, for a writer that has
        no use for identities.

        Args:
            records: As for ``write``.
            first: Identity of the first record; those that follow have the next numbers.
        """
        self.write(records)

    @abstractmethod
    def flush(self) -> None:
        """Returns when all that was written is where it should be (durable, acknowledged)."""

    def close(self) -> None:  # noqa: B027 - optional
        """Releases files and connections; what was not flushed may be lost."""


class TransactionalSinkWriter(ABC):
    """Writes to a transactional sink.

    ``applied`` and ``recover`` are called on the job's thread before anything else; then ``write``, ``seal`` and
    ``snapshot`` on the job's thread, ``prepare`` and ``commit`` on the checkpoint thread, meanwhile; and in the end, on
    the job's thread and when the checkpoint thread has ended, ``abort`` and ``close``.
    """

    #: Records, and bytes, that the writer was given since the last ``seal`` and keeps in memory until they are
    #: committed: when there are many, a checkpoint begins early, and until it is committed nothing is read. 0: it keeps
    #: nothing. None: it does not count, so the memory of all that it is given is estimated.
    held: int | None = None
    held_bytes: int | None = None
    #: So many bytes may be held for one checkpoint: with more of them the next one begins early. None: only the bound
    #: of the whole job holds.
    max_held_bytes: int | None = None

    def applied(self, checkpoint_id: int) -> bool | None:
        """Whether the output of a checkpoint of this lineage is visible; None if it cannot be told. Changes nothing."""
        return None

    @abstractmethod
    def recover(self, decided: Sequence[Committable]) -> None:
        """Called once, when all sinks are open and the run goes on: fences older runs for good, commits ``decided``
        (oldest first, of all workers; most or all may be committed already) and discards whatever else older runs of
        this job and sink have left prepared or half written, but nothing of another worker of this run."""

    @abstractmethod
    def write(self, records: Batch) -> None:
        """Collects records for the checkpoint that comes next."""

    @abstractmethod
    def seal(self, checkpoint_id: int) -> Any | None:
        """Ends what belongs to this checkpoint; returns it for ``prepare``, None if there is nothing."""

    def snapshot(self) -> Plain:
        """What the writer has learnt and must be the same after a restart, such as a schema; called right after
        ``seal``, kept in the checkpoint and given back as ``restored_state``. Small, and as msgpack can write it. Of
        a dict, what stands under ``"learnt"`` must be the same for all workers: a checkpoint is refused where two have
        learnt different things. Of dicts in it what both have counts, and bytes do not."""
        return None

    @abstractmethod
    def prepare(self, checkpoint_id: int, sealed: Any) -> Plain:
        """Makes it durable and invisible; returns the handle of the ``Committable``."""

    @abstractmethod
    def commit(self, committable: Committable) -> None:
        """Makes it visible, whichever worker prepared it. Called with a committable that was committed before, does
        nothing."""

    @abstractmethod
    def abort(self, checkpoint_id: int, sealed: Any) -> None:
        """Discards what was sealed or prepared for a checkpoint that was not decided."""

    def close(self) -> None:  # noqa: B027 - optional
        """Releases resources; what was written and not sealed is discarded."""


class Sink(ABC):
    """Base of the three kinds; users derive from one of them."""

    delivery: ClassVar[Literal["plain", "idempotent", "transactional"]]
    #: What is written is kept in this object, so that other processes cannot write to it.
    is_in_memory: ClassVar[bool] = False
    #: What a guarantee expects of the target and nobody here can check, as ``explain`` tells it; None: nothing.
    relies_on: str | None = None

    def check(self, context: CheckContext) -> Iterable[Finding]:
        """Looks at the real system before a start, such as by ``onceflow explain --check``: is it there, may it be
        written, and is it set so that the guarantee holds? Changes nothing, takes no lock and fences nobody. By default
        nothing is looked at. What it raises becomes a finding of its own; no finding holds a secret."""
        return ()

    def leftovers(self, context: LeftoverContext) -> Iterable[Leftover]:
        """What runs that died have left in the target, such as by ``onceflow doctor``: staged output that was not
        decided, open transactions, markers of sinks that are gone. Looks, and changes nothing; what each of them offers
        to ``resolve`` is what ``recover`` of the next run would do, and never touches what was decided, what is another
        job's, or what is newer. Called only while no run of the job lives. By default there is nothing."""
        return ()


class PlainSink(Sink):
    """Visible at once, cannot be taken back."""

    delivery = "plain"

    @abstractmethod
    def open(self, context: SinkContext) -> SinkWriter:
        """A writer; raises ``SinkError`` if the target cannot be written."""


class IdempotentSink(Sink):
    """Writing a record again, in the same order, leaves the target as one write did.

    By what the target knows a record again is said by ``recognises``. ``"records"``: by the record itself, such as a
    key in it, whoever writes it. ``"outputs"``: by the identity that the writer is told (``SinkWriter.write_output``),
    which only a decision can fix: then effectively_once, which writes before it, is refused, and under at_least_once a
    crash repeats output.

    Under exactly_once the records are kept in the decision record by the codec before they are written, so they must
    be values that the codec knows.

    A process that was paused and replaced is stopped before its next write. One that was paused within a write can
    only be refused by the target: have it compare ``(context.lineage, context.job_epoch)`` if runs are taken over. Nor
    does anybody but the target know that a state was put back from a backup: what was written since is written again.
    """

    delivery = "idempotent"
    recognises: Literal["records", "outputs"] = "records"

    @abstractmethod
    def open(self, context: SinkContext) -> SinkWriter:
        """A writer; raises ``SinkError`` if the target cannot be written."""


class TransactionalSink(Sink):
    """Outputs of a checkpoint become visible together, after its decision.

    Several workers
    ---------------
    Each worker of a run opens a writer of its own, with its number in ``context.worker``. They write side by side, so
    none may overwrite or discard what another one of the same run (``context.run``) has under way.

    Any worker commits any committable: what one has prepared, another one commits, in the same run or by ``recover`` in
    a later one, which may have more or fewer workers. So a handle says all that is needed, also who prepared it. Two
    workers never have the same committable at the same time.

    A run begins with one worker, any one: its ``recover`` gets everything that was decided, whoever prepared it, and
    fences all workers of older runs, also those that have no successor. Then the others recover, with nothing.
    """

    delivery = "transactional"

    @abstractmethod
    def open(self, context: SinkContext) -> TransactionalSinkWriter:
        """A writer. Checks whether this run may write, and changes nothing that another run could notice.

        Raises:
            FencedError: A newer run writes to the target.
            SinkError: The target cannot be written, belongs to another job, sink or state directory, or holds output
                that is newer than the state of this run.
        """
