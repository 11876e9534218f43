"""The contract of a source: where records come from, and how to come back to a position.

A source is a description (paths, settings); it opens one reader per partition. A reader hands out batches and
can say, between two batches, from which position the next record would be read. That position is kept in every
checkpoint. The first requirement of exactly-once is this promise:

    **A reader opened at a position hands out exactly the records that a reader which had come to
    that position would have handed out next.**

A source that cannot promise it sets ``replayable = False`` and can only be part of at_most_once jobs; what it has
handed out it must not hand out again.
If the reader also cuts its batches at the same places, whatever came before (the file sources do), jobs that emit
per batch give the same bytes after a failure as without one.

Where nothing is there to read, a job waits. A source that hears of new records itself (``wakes = True``) sets the wake
handle of its context when there are some, from whatever thread; any other is asked again, up to twenty times a second.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from onceflow.checks import CheckContext, Finding
from onceflow.clock import Clock, SystemClock
from onceflow.columns import Columns
from onceflow.exceptions import ConfigurationError
from onceflow.instances import Instance
from onceflow.types import Batch, Plain, Until

if TYPE_CHECKING:
    from onceflow.leftovers import Leftover, SourceLeftoverContext

__all__ = ["RejectedRecord", "Source", "SourceBatch", "SourceContext", "SourceReader", "StopRun", "Wake"]


class Wake(Protocol):
    """What a reader sets when there may be something to read."""

    def set(self) -> None:
        """Has the job look again: from any thread, at once, and never blocking. In a forked child nothing happens."""


class _NobodyWaits:
    def set(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class SourceContext:
    """Who reads.

    Attributes:
        job: Name of the dataflow.
        step_id: Of the source.
        worker: Number of the worker that reads, from 0 on; the only one of a job is 0.
        clock: Where the job takes the time from.
        wake: What to set when there may be something to read again, from any thread: see ``Source.wakes``.
        until: ``"end"``: a reader hands out what its partition holds to the end, if it has one. ``"caught_up"``: it
            ends with what was there when it was opened, and comes back to that position in a later run. A source that
            has no end and does not look at this keeps such a run going.
        resumed: The run goes on from a checkpoint that knows the source: a partition that is not in it has come since.
    """

    job: str = ""
    step_id: str = ""
    worker: int = 0
    clock: Clock = field(default_factory=SystemClock)
    wake: Wake = field(default_factory=_NobodyWaits)
    until: Until = "end"
    resumed: bool = False


@dataclass(frozen=True, slots=True)
class RejectedRecord:
    """A record that could not be read; it goes to the source's dead-letter stream.

    Attributes:
        source: Step id of the source (filled in by the runner).
        partition: Name of the partition.
        position: Where it lies, for people: ``flights.csv:17``.
        reason: Why it was refused.
        text: The record as it was found (undecodable bytes escaped).
    """

    source: str
    partition: str
    position: str
    reason: str
    text: str


@dataclass(slots=True)
class SourceBatch:
    """Records read at once.

    Attributes:
        records: A list, or columns.
        event_times: int64 microseconds since 1970 UTC, one a record, if the source has them.
        rejected: Malformed records, which belong to the dead-letter stream (in order): neither among ``records`` nor
            counted in ``skipped``.
        skipped: Number of malformed records that are only counted.
        first_record: Number of the first record within the partition (from 0), for error messages.
    """

    records: Batch
    event_times: npt.NDArray[np.int64] | None = None
    rejected: list[RejectedRecord] = field(default_factory=list)
    skipped: int = 0
    first_record: int | None = None

    def piece(self, start: int, end: int) -> SourceBatch:
        """The records from ``start`` to before ``end`` of a batch without refused ones."""
        records = self.records.slice(start, end) if isinstance(self.records, Columns) else self.records[start:end]
        times = None if self.event_times is None else self.event_times[start:end]
        first = None if self.first_record is None else self.first_record + start
        return SourceBatch(records, times, first_record=first)


class SourceReader(ABC):
    """Reads one partition, from one thread."""

    @abstractmethod
    def read(self, max_records: int) -> SourceBatch | None:
        """Up to ``max_records`` records; an empty batch if none is there yet; None at the end.

        Must not block for longer than a moment. Raises ``SourceError`` for input that cannot be read,
        ``MalformedRecordError`` for a bad record where the policy is to fail.
        """

    @abstractmethod
    def position(self) -> Plain:
        """Where the next record would be read from: what ``Source.open`` takes. Cheap."""

    def close(self) -> None:  # noqa: B027 - optional
        """Releases files and connections. Called once."""


class Source(ABC):
    """Describes an input; see the module for the contract."""

    #: Whether a reader can come back to a position it has given.
    replayable: ClassVar[bool] = True
    #: Whether a record that is handed out again is equal: not sure of one that calls functions of the user's.
    deterministic: bool = True
    #: Whether batches come with event times.
    has_event_time: bool = False
    #: Whether refused records are handed to the dead-letter stream (which then must have a sink).
    has_dead_letters: bool = False
    #: Whether its readers set ``context.wake`` (see ``open_with_context``) whenever there may be something to read
    #: again after they had nothing. Then they are not asked before that.
    wakes: ClassVar[bool] = False
    #: Whether a partition that was read to its end may have more in a later run (until caught up).
    grows: ClassVar[bool] = True
    #: So many partitions are read at a time; where one ends the next one, in the order of ``partitions``, begins. For
    #: partitions that end and cost descriptors or memory while they are open. None: all of them at once.
    max_open_partitions: ClassVar[int | None] = None
    #: Of a source that reads a share: of which instance of the job; how many partitions all instances have together, as
    #: of the last ``partitions``; the field of the records that is their key, and the name of the function that puts
    #: keys into partitions.
    job_instance: Instance | None = None
    all_partitions: int | None = None
    partitioned_by: str | None = None
    partitioner: str | None = None

    @abstractmethod
    def partitions(self) -> list[str]:
        """Names of the partitions, each read by its own reader. Stable over restarts; may grow.

        Names are text that UTF-8 can write: checkpoints hold positions by name.
        """

    def new_partitions(self, known: Set[str], context: SourceContext) -> list[str] | None:
        """Partitions that have come since ``partitions`` was called: the job reads them from then on, each from its
        beginning.

        Asked for now and then while the job runs, between two rounds; so it must be quick, or look seldom. What it
        returns is opened with no position, like any other partition that the checkpoint does not know.

        Args:
            known: All that the job has.
            context: Who reads.

        Returns:
            None, which is the default, if none ever come in this run: then it ends when those that there are have
            ended, and nobody asks again.
        """
        return None

    @property
    def positions_of(self) -> dict[str, str]:
        """What positions are of, by the name of a setting, such as the name of a topic; no secret is in it.

        A job whose source has another one is a changed dataflow: ``on_change`` may let the source begin at the
        beginning of what it reads now. By default nothing, where the names of partitions say it.
        """
        return {}

    def shared(self, instance: Instance, keys: Sequence[tuple[str, frozenset[str]]]) -> Source:
        """This source as one of several runs of a job reads it, which divide its partitions among them.

        Each partition is read by one instance, always the same; there may be none for an instance. By default it is
        refused: each run would read all of it.

        Args:
            instance: Which one.
            keys: The steps that have state by a key of these records, and which fields of them, unchanged, it has.

        Raises:
            ConfigurationError: It cannot be divided, or not by the key of a step: then one run would have only a part
                of a key's records.
        """
        raise ConfigurationError(
            f"a {type(self).__name__} cannot be divided among several runs of a job, so each of them would read all of "
            "it: of sources KafkaSource and LogSource can. Put its records into a topic first, by a job of its own",
            setting="instance",
        )

    def check_share(self, records: Batch) -> None:
        """That records of a source which reads a share still belong to it: called where they come to a step with state
        by their key, if functions of the user's have had them in their hands since they were read.

        Raises:
            SourceError: Another instance has the state of the key that one has now, or it has none.
        """
        raise ConfigurationError(
            f"a {type(self).__name__} cannot tell whether a filter, or another function before a step by key, has "
            "changed the keys of its records: put key_by before it",
            setting="instance",
        )

    def restore(self, positions: Mapping[str, Plain]) -> None:  # noqa: B027 - optional
        """What the job agreed on when it began still holds for partitions that have come since.

        Called once a run, after ``partitions`` and before the first reader is opened; what a source takes from
        positions here, such as the types of columns, must not depend on which partitions there are now.

        Args:
            positions: Of each partition that the checkpoint knows, the one to resume from (None: not begun); none if
                the job starts from nothing.
        """

    @abstractmethod
    def open(self, partition: str, position: Plain) -> SourceReader:
        """A reader at ``position``; None means the beginning.

        Raises:
            SourceError: missing, a directory, unreadable, wrong encoding.
            SourceChangedError: the input shrank or changed, so that the position would not be exact.
        """

    def open_with_context(self, partition: str, position: Plain, context: SourceContext) -> SourceReader:
        """What a job calls: ``open`` for a source that has a use for the context of the job. By default ``open``.

        The source itself may be part of several jobs at a time, so what is kept by job belongs to the reader. Of a
        class that overrides ``open`` of a source which has this, and not this, ``open`` is called: it is asked again
        as one that wakes nobody, and may not be part of runs until caught up.
        """
        return self.open(partition, position)

    def same_position(self, one: Plain, other: Plain) -> bool:
        """Whether two positions of a partition are the same place.

        To be overridden where a position holds more than the place, such as what makes a resume cheaper.
        """
        return one == other

    def on_checkpoint_complete(  # noqa: B027 - optional
        self, checkpoint_id: int, positions: Mapping[str, Plain], context: SourceContext
    ) -> None:
        """A checkpoint is complete: durable, and all sinks have committed it.

        No run begins before these positions again, unless somebody goes back on purpose (``resume_from``). What is
        to be told outside may be told now: offsets to a broker, a place in a replication slot. Where the next run
        begins is said by the checkpoints alone.

        Called on the job's thread, between two reads, for each complete checkpoint in their order, never for one that
        was not decided. A run that was killed may have left out its last one, so the next run calls it for the
        checkpoint that it resumes from before it reads anything: it is called at least once.

        Args:
            checkpoint_id: Its number.
            positions: Of each partition of the source, what its reader's ``position`` returned; None: not begun.
            context: Who reads.

        Raises:
            SourceError: The run ends, and nothing is lost. Other exceptions become one.
        """

    def check(self, context: CheckContext) -> Iterable[Finding]:
        """Looks at the real system before a start, such as by ``onceflow explain --check``: is it there, may it be
        read, and will it still have what a job that was down comes back to? Changes nothing. By default nothing is
        looked at. What it raises becomes a finding of its own; no finding holds a secret."""
        return ()

    def leftovers(self, context: SourceLeftoverContext) -> Iterable[Leftover]:
        """What the job holds in the system that it reads, or has left there, such as by ``onceflow doctor``: a slot for
        which a server keeps its log, a group of readers. Looks, and changes nothing. What a run may resume with is
        ``kept``; what is offered to ``resolve`` is this job's without a doubt, and neither the dataflow nor one of its
        checkpoints has it. Called only while no run of the job lives. By default there is nothing."""
        return ()


class StopRun(Exception):  # noqa: N818 - like StopIteration, no error
    """Raised by a reader's ``read`` to end this run with a last checkpoint; the next run goes on after it."""
