"""The contract of a source: where records come from, and how to come back to a position.

A source is a description (paths, settings); it opens one reader per partition. A reader hands out batches and
can say, between two batches, from which position the next record would be read. That position is kept in every
checkpoint. Leg one of exactly-once rests on this promise:

    **A reader opened at a position hands out exactly the records that a reader which had come to
    that position would have handed out next.**

A source that cannot promise it sets ``replayable = False`` and can only be part of at_most_once jobs; what it has
handed out it must not hand out again.
If the reader also cuts its batches at the same places, whatever came before (the file sources do), jobs that emit
per batch give the same bytes after a failure as without one.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from onceflow.columns import Columns
from onceflow.types import Batch, Plain

__all__ = ["PAUSE_S", "RejectedRecord", "Source", "SourceBatch", "SourceReader", "StopRun"]

#: How long a job pauses where nothing was there to read and nobody knows when there will be.
PAUSE_S = 0.002


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
        rejected: Records that were refused and belong to the dead-letter stream (in order).
        skipped: Number of records that were refused and only counted.
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
    #: So many partitions are read at a time; where one ends the next one, in the order of ``partitions``, begins. For
    #: partitions that end and cost descriptors or memory while they are open. None: all of them at once.
    max_open_partitions: ClassVar[int | None] = None

    @abstractmethod
    def partitions(self) -> list[str]:
        """Names of the partitions, each read by its own reader. Stable over restarts; may grow.

        Names are text that UTF-8 can write: checkpoints hold positions by name.
        """

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

    def same_position(self, one: Plain, other: Plain) -> bool:
        """Whether two positions of a partition are the same place.

        To be overridden where a position holds more than the place, such as what makes a resume cheaper.
        """
        return one == other

    def wait(self, positions: Mapping[str, Plain], timeout_s: float) -> None:
        """Waits until one of these partitions may have something to read behind its position, or the time is over.

        Called when no partition of a job had anything, if this is the only source left. Returning early costs another
        look, no more; so it may pause a moment, as it does unless a source knows better.

        Args:
            positions: By partition, what its reader's ``position`` returned.
            timeout_s: Seconds, at most.
        """
        time.sleep(min(timeout_s, PAUSE_S))

    def describe(self) -> dict[str, Any]:
        """What ``explain`` shows; no secrets."""
        return {"type": type(self).__name__}


class StopRun(Exception):  # noqa: N818 - like StopIteration, no error
    """Raised by a reader's ``read`` to end this run with a last checkpoint; the next run goes on behind it."""
