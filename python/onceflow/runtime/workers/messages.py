"""What a supervisor and its workers' processes tell each other, over a pair of sockets that nobody else has."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from onceflow.events import PartsStats
from onceflow.exceptions import OnceflowError, described
from onceflow.graph.compatibility import OnChange
from onceflow.runtime.job_record import JobRecord
from onceflow.runtime.messages import Tally
from onceflow.runtime.pipeline import FirstLate
from onceflow.sinks import SinkContext
from onceflow.types import Guarantee, Micros, StateChange, Until

__all__ = [
    "Begin",
    "Complete",
    "Decided",
    "Exit",
    "OutputsCommitted",
    "Part",
    "PartDurable",
    "Progressed",
    "Recover",
    "Recovered",
    "Setup",
    "TakePart",
    "Warned",
    "WorkerEnded",
    "WorkerFailed",
    "WorkerOpened",
    "WorkerStops",
    "portable",
]


@dataclass(frozen=True, slots=True)
class Part:
    """Where a worker has its part of a checkpoint.

    Attributes:
        store_id: Identity of its store.
        checkpoint: Its number there.
        run: Of the job, the run that made it.
    """

    store_id: str
    checkpoint: int
    run: str


# -- to a worker ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Setup:
    """What a worker is to be; the first message.

    Attributes:
        rank, count: Its number, and how many there are.
        graph: The dataflow, pickled.
        exchanges: How many it has.
        store: Directory of its store.
        peers: File descriptors of its connections to the others, by their numbers.
        guarantee, codec, batch_size, on_change, until, max_drift_us: See ``run``.
        retain: Checkpoints that its store keeps.
        contexts: By sink, who writes.
        part: Where it begins; None: with nothing.
        known: The checkpoints of its store that are parts of the job's; all others are nobody's.
        job: Of the checkpoint that the job begins with.
        positions: Of all partitions in it, by the names of their blobs.
        dealt: Which worker reads each partition.
        watermarks: How far event time had come in sources, and in steps before any exchange, over all workers.
    """

    rank: int
    count: int
    graph: bytes
    exchanges: int
    store: str
    peers: Mapping[int, int]
    guarantee: Guarantee
    codec: str
    batch_size: int
    on_change: OnChange
    until: Until
    max_drift_us: int | None
    retain: int
    contexts: Mapping[str, SinkContext]
    part: Part | None
    known: frozenset[int]
    job: JobRecord | None
    positions: Mapping[str, bytes]
    dealt: Mapping[str, int]
    watermarks: Mapping[str, Micros]


@dataclass(frozen=True, slots=True)
class Recover:
    """Shut older runs out of all sinks, and commit what was decided.

    Attributes:
        outputs: By sink, checkpoints with what was staged for them, oldest first.
    """

    outputs: Mapping[str, Sequence[tuple[int, bytes]]]


@dataclass(frozen=True, slots=True)
class Begin:
    """Go to work: all workers have recovered.

    Attributes:
        checkpoint_id: The one that the job begins with; None if there is none.
    """

    checkpoint_id: int | None


@dataclass(frozen=True, slots=True)
class TakePart:
    """Take part in a checkpoint.

    Attributes:
        checkpoint_id: Which.
        savepoint: Its name, if it is kept.
    """

    checkpoint_id: int
    savepoint: str | None


@dataclass(frozen=True, slots=True)
class Decided:
    """The checkpoint is decided: commit its output."""

    checkpoint_id: int


@dataclass(frozen=True, slots=True)
class Complete:
    """All workers have committed the output of the checkpoint."""

    checkpoint_id: int


@dataclass(frozen=True, slots=True)
class Exit:
    """The run is over."""


# -- from a worker -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WorkerOpened:
    """State is restored, sources and sinks are open; nothing was changed.

    Attributes:
        changes: See ``JobResult``.
        rows: State rows restored.
    """

    changes: tuple[StateChange, ...]
    rows: int


@dataclass(frozen=True, slots=True)
class Recovered:
    """Sinks are this run's."""


@dataclass(frozen=True, slots=True)
class PartDurable:
    """The worker's part is durable, its output prepared.

    Attributes:
        checkpoint_id: Of which checkpoint.
        part: Where it is.
        staged: By sink, what its output needs to be committed.
        learnt: By sink, see ``Delivery.snapshot``.
        positions: Of its partitions, by the names of their blobs.
        watermarks: Of sources that it has partitions of, and steps of such before any exchange; None: not known yet.
        tally: As of the cut.
        stats: What it cost.
    """

    checkpoint_id: int
    part: Part
    staged: Mapping[str, Sequence[bytes]]
    learnt: Mapping[str, bytes]
    positions: Mapping[str, bytes]
    watermarks: Mapping[str, Micros | None]
    tally: Tally
    stats: PartsStats


@dataclass(frozen=True, slots=True)
class OutputsCommitted:
    """The worker's output of a checkpoint is visible."""

    checkpoint_id: int


@dataclass(frozen=True, slots=True)
class Progressed:
    """Now and then.

    Attributes:
        counts: See ``Tally``.
        late: By window step, records that came too late.
        lost_late: By window step, the first one that nothing takes.
        holds: Its sinks hold so much that a checkpoint should come.
        changed: Something was read or taken since the last cut.
        refused: By sink, see ``JobResult``.
        busy, backpressured, event_time, held_bytes: See ``Progress``; the time in microseconds.
    """

    counts: Mapping[str, int]
    late: Mapping[str, int]
    lost_late: Mapping[str, FirstLate]
    holds: bool
    changed: bool
    refused: Mapping[str, int]
    busy: float = 0.0
    backpressured: float = 0.0
    event_time: Micros | None = None
    held_bytes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Warned:
    """A warning was raised, which the caller of ``run`` is to see."""

    category: type[Warning]
    text: str


@dataclass(frozen=True, slots=True)
class WorkerStops:
    """A source asks for the end of the run."""


@dataclass(frozen=True, slots=True)
class WorkerEnded:
    """Its sources, and what other workers hand it, have ended."""


@dataclass(frozen=True, slots=True)
class WorkerFailed:
    """It cannot go on.

    Attributes:
        error: Why.
    """

    error: BaseException


def portable(error: BaseException) -> BaseException:
    """An error that can be sent: itself where it can be pickled, else one that says the same."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - its own
    except Exception:
        return OnceflowError(described(error))
    return error
