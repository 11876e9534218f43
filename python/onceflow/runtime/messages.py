"""What a job and its worker tell each other.

The job sends ``Start``, ``Trigger``, ``Committed`` and ``Stop``. The worker answers by what its rounds, and ``take`` of
a message, yield, and goes on when the job asks for the next answer: so the job looks up between the pieces of a batch,
and decides what comes next. An error of the worker is an answer as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from onceflow._native import PendingCheckpoint
from onceflow.runtime.cost import CutCost
from onceflow.runtime.delivery import Sealed
from onceflow.types import Plain, Until

__all__ = [
    "NOTHING_COUNTED",
    "Acknowledged",
    "Committed",
    "Declined",
    "Ended",
    "Failed",
    "FromWorker",
    "Idle",
    "PieceTaken",
    "Start",
    "Stop",
    "StopAsked",
    "Tally",
    "ToWorker",
    "Trigger",
]


@dataclass(frozen=True, slots=True)
class Tally:
    """What the job's record says of its work from the beginning to a cut.

    Attributes:
        counts: ``records_in``, ``records_out``, ``rejected``, ``skipped`` and ``raised``.
        late: By window step, the records that came too late.
        waited: The order between partitions was, or may have been, a matter of time: one had nothing to read.
        agreed: By step, what the job has agreed on.
    """

    counts: Mapping[str, int]
    late: Mapping[str, int]
    waited: bool
    agreed: Mapping[str, Mapping[str, Plain]]


#: The counts of a job that has not begun.
NOTHING_COUNTED = {"records_in": 0, "records_out": 0, "rejected": 0, "skipped": 0, "raised": 0}


# -- from the job --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """Begin where a checkpoint stands.

    Attributes:
        blobs: What was kept in it; empty for the beginning.
        partitions: By source, those that it has now.
        tally: As of it.
        until: How far sources are read.
        max_drift_us: See ``Turns``.
        resumed: Sources that the checkpoint knows.
    """

    blobs: Mapping[str, bytes]
    partitions: Mapping[str, Sequence[str]]
    tally: Tally
    until: Until = "end"
    max_drift_us: int | None = None
    resumed: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Trigger:
    """Take part in a checkpoint, after what was read so far.

    Attributes:
        checkpoint_id: Which.
        checkpoint: Takes the worker's part; of one of several workers it is its store's own, with a number of its own.
        now_s: When its barriers come into being, in seconds of the job's clock.
    """

    checkpoint_id: int
    checkpoint: PendingCheckpoint
    now_s: float


@dataclass(frozen=True, slots=True)
class Committed:
    """A checkpoint is complete: decided, and all sinks have committed its output.

    Sources may tell others how far the job is, and sinks hold nothing for it any more.

    Attributes:
        checkpoint_id: Which: that of the last cut, or of the start.
    """

    checkpoint_id: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop where ``PieceTaken`` was said: if the run goes on, the rest of the round comes after the next trigger."""


ToWorker: TypeAlias = Trigger | Committed | Stop


# -- from the worker -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PieceTaken:
    """A piece of a batch, or of a round, was processed: here the round can be stopped."""


@dataclass(frozen=True, slots=True)
class Idle:
    """There was nothing to read in this round."""


@dataclass(frozen=True, slots=True)
class StopAsked:
    """A source asks for the end of the run."""


@dataclass(frozen=True, slots=True)
class Ended:
    """All partitions were read to their ends."""


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The worker's part of a checkpoint is in it.

    Attributes:
        checkpoint_id: Of which checkpoint.
        sealed: By step id, what belongs to it of the output to each sink.
        tally: As of the cut.
        cost: What the cut took.
    """

    checkpoint_id: int
    sealed: Mapping[str, Sealed]
    tally: Tally
    cost: CutCost = field(default_factory=CutCost)


@dataclass(frozen=True, slots=True)
class Declined:
    """The worker cannot take its part in a checkpoint, and cannot go on either: what was sealed does not come back.

    Attributes:
        checkpoint_id: Of which checkpoint.
        sealed: By step id, what was sealed for it nevertheless.
        error: Why.
    """

    checkpoint_id: int
    sealed: Mapping[str, Sealed]
    error: Exception


@dataclass(frozen=True, slots=True)
class Failed:
    """The worker cannot go on.

    Attributes:
        error: Why.
    """

    error: Exception


FromWorker: TypeAlias = PieceTaken | Idle | StopAsked | Ended | Acknowledged | Declined | Failed
