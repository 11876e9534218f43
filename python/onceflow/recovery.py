"""Where a run begins: the checkpoint that its state came from, its sinks brought up to it, and what is damaged.

The state is restored already when the backend is open. What is left is decided here: whether the dataflow may go on
from that checkpoint, which outputs are committed again, and, where newer checkpoints are damaged, what keeps the output
exact. ``recovery_plan`` of the core says what that is.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from os import PathLike

import msgspec

from onceflow._native import StateBackend, recovery_plan
from onceflow.codec import Codec
from onceflow.crash import crash_point
from onceflow.exceptions import ConfigurationError, DamagedCheckpointWarning, OnceflowError, StoreCorruptError
from onceflow.graph import Graph
from onceflow.job_record import JOB_BLOB, SINK_BLOB, JobRecord
from onceflow.planner import check_resume
from onceflow.process import closing
from onceflow.sink_legs import SinkLeg, open_leg, sink_errors
from onceflow.sinks import SinkContext
from onceflow.types import Guarantee

__all__ = [
    "Replay",
    "nothing_to_restore",
    "open_legs",
    "plan_recovery",
    "recover_legs",
    "resumed_job",
    "warn_of_damage",
]

#: From where a warning is raised up to who called ``run``.
_STACK_OF_RUN = 5


@dataclass(frozen=True, slots=True)
class Replay:
    """Input that is processed again with outputs suppressed: they are in the sinks, and only the state is missing.

    Attributes:
        until: The damaged checkpoint that the sinks have.
        positions: Its blobs of the source tasks, which is where outputs begin again.
        to_end: The job had finished with it: also what the end of its sources gives rise to is suppressed.
    """

    until: int
    positions: dict[str, bytes]
    to_end: bool


def nothing_to_restore(error: StoreCorruptError, state: str | PathLike[str], job: str) -> StoreCorruptError | None:
    """If a directory does not open because all of its checkpoints are damaged: the error, with what a person can do.

    To replay from the beginning what the sinks hold would need sources that still begin where they began. A position
    shows whether they do; of the beginning there is none, so the replay could be wrong without anybody noticing.
    """
    try:
        with StateBackend.open(state, job=job, read_only=True, create=False, checkpoint="none") as backend:
            known = backend.checkpoints()
    except OnceflowError:
        return None
    if not known:
        return None
    return StoreCorruptError(
        f"{error}. To start over, move away what the sinks hold and run once with fresh=True (--fresh on the command "
        "line): all input is read and all output is written again. The job does not do so by itself, because it cannot "
        "know whether its sources still begin where they began"
    )


def resumed_job(
    backend: StateBackend, graph: Graph, guarantee: Guarantee, codec: Codec, batch_size: int
) -> JobRecord | None:
    """What the restored checkpoint says of the job; None if it starts from nothing.

    Raises:
        ConfigurationError: The checkpoint is none of a dataflow, or of one that was started with other settings.
        DataflowChangedError: Stateful steps were removed or changed.
    """
    restored = backend.recovery.restored
    if restored is None:
        return None
    blob = restored.blobs.get(JOB_BLOB)
    if blob is None:
        raise ConfigurationError(
            f"{backend.path} holds checkpoints of a program that uses the state backend itself, not of a "
            "dataflow; give the dataflow its own directory"
        )
    job = JobRecord.decode(blob)
    wanted = {"guarantee": str(guarantee), "codec": codec.name, "batch_size": batch_size}
    for name, value in wanted.items():
        if getattr(job, name) != value:
            raise ConfigurationError(
                f"the job was started with {name}={getattr(job, name)!r} and is resumed with {value!r}; use the "
                "former, or start over with fresh state"
            )
    check_resume(job.steps, graph)
    return job


def open_legs(
    backend: StateBackend, graph: Graph, guarantee: Guarantee, codec: Codec, resources: ExitStack
) -> dict[str, SinkLeg]:
    """All sinks by step id, checked and opened: each may be written by this run. No output is changed."""
    restored = backend.recovery.restored
    # A record that cannot be read does not say its lineage. Counted in it lets pass what is decided about damage.
    known = [
        record for record in backend.checkpoints() if record.damage is not None or record.lineage == backend.lineage
    ]
    # Where newer state is damaged the sinks hold more than what was restored, and have learnt from it.
    learnt_from = next((record for record in reversed(known) if record.damage is None), restored)
    legs: dict[str, SinkLeg] = {}
    for step in graph.sinks():
        blob = None if learnt_from is None else learnt_from.blobs.get(f"{SINK_BLOB}{step.step_id}")
        context = SinkContext(
            graph.name,
            step.step_id,
            backend.job_epoch,
            backend.lineage,
            None if restored is None else restored.id,
            max((record.id for record in known), default=None),
            backend.store_id,
            None if blob is None else msgspec.msgpack.decode(blob),
        )
        with sink_errors(step.step_id, "open"):
            leg = open_leg(step.sink, context, guarantee, codec, backend.check_epoch)
        resources.push(closing(leg.close))
        legs[step.step_id] = leg
    return legs


def recover_legs(backend: StateBackend, legs: Mapping[str, SinkLeg]) -> None:
    """Commits the output of every decided checkpoint, and discards what else earlier runs have prepared.

    Only when all sinks are open and the run goes on: what is undone here cannot be done again.
    """
    # After a crash the next run must not come back to the lineage that was left.
    backend.begin_lineage()
    # Outputs of that are written again, so what is undone there must not be carried through.
    known = backend.checkpoints()
    decided = [record for record in known if record.damage is None and record.lineage == backend.lineage]
    restored = backend.recovery.restored
    if restored is not None and restored.lineage != backend.lineage:
        # The new lineage begins with it. As the last one of its own it may be decided and not committed yet.
        left = [record for record in known if record.id > restored.id and record.lineage in (0, restored.lineage)]
        decided = [*([] if left else [restored]), *decided]
    for step_id, leg in legs.items():
        crash_point("recover.pre_commit")
        with sink_errors(step_id, "recover"):
            leg.recover([(record.id, record.staged[step_id]) for record in decided if step_id in record.staged])
        crash_point("recover.post_commit")


def plan_recovery(backend: StateBackend, sinks: Iterable[str]) -> Replay | None:
    """What must be replayed so that the output stays exact although checkpoints are damaged.

    None if nothing must. Damaged checkpoints that no output needs are given up for good.

    Raises:
        StoreCorruptError: Nothing does; says what a person can choose.
    """
    recovery = backend.recovery
    restored = recovery.restored
    if not recovery.damage:
        return None
    later = [record.id for record in recovery.decided_after]
    unreadable = [number for number, _ in recovery.damage if number is not None and number not in later]
    made = recovery_plan(
        restored=None if restored is None else restored.id,
        decided_after=later,
        applied=dict.fromkeys(sinks),
        replayable_to_position=True,
        unreadable=unreadable,
    )
    if made.kind == "stop":
        reasons = "; ".join(reason for _, reason in recovery.damage)
        raise StoreCorruptError(
            f"{backend.path}: no exact recovery is possible: {made.reason} ({reasons}). Resume from a "
            "checkpoint of your choice with from_checkpoint, knowing that outputs after it are written again"
        )
    for number in made.abort:
        backend.delete_checkpoint(number)
    if made.kind != "replay_suppressed":
        return None
    record = next(record for record in recovery.decided_after if record.id == made.until)
    positions = {name: blob for name, blob in record.blobs.items() if name.startswith("source/")}
    return Replay(record.id, positions, JobRecord.decode(record.blobs[JOB_BLOB]).finished)


def warn_of_damage(backend: StateBackend, replay: Replay | None) -> None:
    """Damage that was worked around is never silent."""
    restored = backend.recovery.restored
    reasons = "; ".join(reason for _, reason in backend.recovery.damage)
    start = "the beginning" if restored is None else f"checkpoint {restored.id}"
    how = "Nothing newer had reached an output"
    if replay is not None:
        how = f"Up to checkpoint {replay.until} the input is processed again with outputs suppressed"
    warnings.warn(
        DamagedCheckpointWarning(
            f"{backend.path} is damaged ({reasons}); recovered from {start}. {how}: the output stays exact. "
            "Look after the disk"
        ),
        stacklevel=_STACK_OF_RUN,
    )
