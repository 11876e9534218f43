"""What a running job tells about itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from onceflow._native import CheckpointStats
from onceflow.types import StateChange

__all__ = [
    "CheckpointCompleted",
    "CheckpointFailed",
    "JobEvent",
    "JobResult",
    "PartsStats",
    "Progress",
    "Recovered",
    "Restarting",
    "Stopping",
]


@dataclass(frozen=True, slots=True)
class PartsStats:
    """What a checkpoint of several workers cost, or the part of one of them, as ``CheckpointStats`` says it where there
    is one: rows and bytes of all, times of the slowest, in seconds."""

    id: int
    delta_rows: int
    base_rows: int
    bytes_written: int
    freeze_s: float
    capture_s: float
    longest_pause_s: float
    durable_s: float
    encode_s: float
    commit_s: float


@dataclass(frozen=True, slots=True)
class Recovered:
    """The job goes on from a checkpoint.

    Attributes:
        checkpoint_id: The checkpoint; None if the job starts from nothing.
        job_epoch: Of this run.
        rows: State rows restored.
        duration_s: What opening and restoring took.
        replaying_to: Outputs are suppressed until the positions of this checkpoint, whose own state is damaged.
        damage: What was damaged, for people.
        records_in: Records that earlier runs had read up to the checkpoint.
        records_out: Records that had reached a sink.
        changes: What of the checkpoint's state was given up, begins with nothing or was widened, as ``on_change`` said.
        counts: By name, what ``JobResult`` has besides: ``rejected``, ``skipped`` and ``raised``.
        late: By window step, records that had come too late.
    """

    checkpoint_id: int | None
    job_epoch: int
    rows: int
    duration_s: float
    replaying_to: int | None = None
    damage: tuple[str, ...] = ()
    records_in: int = 0
    records_out: int = 0
    changes: tuple[StateChange, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    late: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CheckpointCompleted:
    """A checkpoint is durable and the sinks have committed it."""

    stats: CheckpointStats | PartsStats
    records_in: int
    records_out: int
    late: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CheckpointFailed:
    """A checkpoint is given up, and the attempt of the run ends with it: what was sealed for it cannot go back.

    Told as soon as it is known, also while a sink that it waited for is still at work. One whose decision is written,
    and that a sink could not commit, is not lost: the next attempt, or run, commits it.

    Attributes:
        checkpoint_id: Its number.
        reason: Why, for people.
    """

    checkpoint_id: int
    reason: str


@dataclass(frozen=True, slots=True)
class Progress:
    """Now and then, at most ten times a second.

    Attributes:
        records_in: See ``JobResult``, as the others; those of earlier runs included.
        records_out: Records that reached a sink.
        late: By window step, records that came too late for their windows.
        rejected: See ``JobResult``, as the next two.
        skipped: Malformed records that were only counted.
        raised: Records for which the function of a step raised.
        busy: Share of the time since the last one, from 0 to 1, that the worker was at work; what is left beside the
            next one it waited for something to read.
        backpressured: Share of it that nothing was read, since sinks hold as much as they may until it is committed.
        event_time_s: How far event time has come, in seconds since 1970: the lowest watermark of the partitions that
            hold it back. None: there is none yet, or not any more.
        held_bytes: By sink, bytes that it holds in memory until they are committed.
    """

    records_in: int
    records_out: int
    late: Mapping[str, int] = field(default_factory=dict)
    rejected: int = 0
    skipped: int = 0
    raised: int = 0
    busy: float = 0.0
    backpressured: float = 0.0
    event_time_s: float | None = None
    held_bytes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stopping:
    """The job was asked to stop and ends with a last checkpoint. Told at once, within a batch too.

    Attributes:
        finishing: Records of the batch under way, which is processed to its end first, since what the dataflow puts out
            depends on where batches are cut (or one of its sources cannot be read again). 0: it ends within the batch.
    """

    finishing: int = 0


@dataclass(frozen=True, slots=True)
class Restarting:
    """The run has failed and is begun again, as its restart policy says. Everything that it had open is closed.

    Told before the wait; when everything is open again, ``Recovered`` says where it goes on.

    Attributes:
        restarts: So many times it was begun again, this time included.
        wait_s: Seconds until then.
        reason: Why it failed, for people.
    """

    restarts: int
    wait_s: float
    reason: str


JobEvent: TypeAlias = Recovered | CheckpointCompleted | CheckpointFailed | Progress | Stopping | Restarting


@dataclass(frozen=True, slots=True)
class JobResult:
    """How a run ended. Counts include earlier runs, up to the checkpoint that was resumed from.

    They are the same for all sources. Every record that a source reads is counted once: among ``records_in`` if it is
    handed to the dataflow; among ``rejected`` or ``skipped`` if it is malformed, which is to say that the source cannot
    read it, or finds no valid event time in it, and is told not to stop. What is not a record, such as an empty line of
    JSON Lines or the header of a CSV file, is not counted.

    Attributes:
        finished: All sources have ended and everything is committed; false if the job was stopped and can resume.
        records_in: Records that sources have handed to the dataflow.
        records_out: Records that reached a sink. One that reaches two sinks counts twice.
        rejected: Malformed records, handed to dead letters of their sources.
        skipped: Malformed records that were only counted.
        checkpoints: Completed in this run.
        last_checkpoint: Number of the newest checkpoint.
        resumed_from: Number of the checkpoint that this run began with.
        late: By window step, records that came too late for their windows. They go to ``flow.late(step_id)``; where
            nothing takes that they are left out, with a ``LateRecordsWarning``.
        changes: What of the state was given up, begins with nothing or was widened, as ``on_change`` said.
        caught_up: The run was one ``until="caught_up"``, and what was there is processed and committed; false if it was
            stopped before.
        refused: By sink, records that its target has refused in this run, and that were skipped or put aside as dead
            letters, as the sink was told.
        raised: Records for which the function of a step raised, or gave no valid event time, and that were handed to
            dead letters of that step. Where they are records of a source they are among ``records_in`` too.
        restarts: How often the run has failed and was begun again, by its restart policy. What is counted above is
            counted over all of its attempts.
        failures: Why, oldest first; the newest 100 of them.
    """

    finished: bool
    records_in: int
    records_out: int
    rejected: int
    skipped: int
    checkpoints: int
    last_checkpoint: int | None
    resumed_from: int | None
    late: Mapping[str, int] = field(default_factory=dict)
    changes: tuple[StateChange, ...] = ()
    caught_up: bool = False
    refused: Mapping[str, int] = field(default_factory=dict)
    raised: int = 0
    restarts: int = 0
    failures: tuple[str, ...] = ()
