"""Where a run begins: the checkpoint that its state came from, its sinks brought up to it, and what is damaged.

The state is restored already when the backend is open. What is left is decided here: whether the dataflow may go on
from that checkpoint, which outputs are committed again, and, where newer checkpoints are damaged, what keeps the output
exact. ``recovery_plan`` of the core says what that is.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from os import PathLike

import msgspec

from onceflow._native import CheckpointInfo, RecoveryPlan, StateBackend, recovery_plan
from onceflow.codec import Codec
from onceflow.crash import crash_point
from onceflow.exceptions import (
    ConfigurationError,
    DamagedCheckpointWarning,
    OnceflowError,
    RepeatedOutputWarning,
    StoreCorruptError,
)
from onceflow.graph.compatibility import Settings, settings_of, why_not_repeatable
from onceflow.graph.graph import Graph
from onceflow.process import closing
from onceflow.runtime.delivery import Delivery, open_delivery, sink_errors
from onceflow.runtime.job_record import JOB_BLOB, SINK_BLOB, JobRecord, of_worker
from onceflow.runtime.snapshots import had_begun_to_end
from onceflow.sinks import PlainSink, SinkContext, TransactionalSink
from onceflow.types import Guarantee, StateChange

__all__ = [
    "Plan",
    "Replay",
    "decided_outputs",
    "has_finished",
    "nothing_to_restore",
    "open_deliveries",
    "plan_recovery",
    "recover_sink",
    "recover_sinks",
    "resumed_job",
    "sink_contexts",
    "warn_of_damage",
    "warn_of_repeats",
]

#: From where a warning is raised up to who called ``run``.
_STACK_OF_RUN = 8


@dataclass(frozen=True, slots=True)
class Replay:
    """Input that is processed again with outputs suppressed: they are in the sinks, and only the state is missing.

    Attributes:
        until: The damaged checkpoint that the sinks have.
        positions: Its blobs of the source tasks, which is where outputs begin again.
        to_end: The job had finished with it: also what the end of its sources gives rise to is suppressed.
        trusts_the_user: It is exact because the dataflow is said to be deterministic.
    """

    until: int
    positions: dict[str, bytes]
    to_end: bool
    trusts_the_user: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done about damage.

    Attributes:
        given_up: Decided checkpoints that no sink has applied: their input is processed again, with outputs.
        replay: None if nothing needs to be replayed.
    """

    given_up: tuple[int, ...] = ()
    replay: Replay | None = None


def nothing_to_restore(error: StoreCorruptError, state: str | PathLike[str], job: str) -> StoreCorruptError | None:
    """If a directory does not open because all of its checkpoints are damaged: the error, with what a person can do.

    To replay from the beginning what the sinks hold would need sources that still begin where they began. A position
    shows whether they do; of the beginning there is none, so the replay could be wrong without anybody noticing.
    """
    try:
        with StateBackend.open(state, job=job, read_only=True, create=False, resume_from="none") as backend:
            known = backend.checkpoints()
    except OnceflowError:
        return None
    if not known:
        return None
    return StoreCorruptError(
        f"{error}. To start over, move away what the sinks hold and run once with resume_from='none': "
        "all input is read and all output is written again. The job does not do so by itself, because it cannot "
        "know whether its sources still begin where they began"
    )


def has_finished(backend: StateBackend) -> bool:
    """Whether the job that is resumed is over."""
    restored = backend.recovery.restored
    return restored is not None and JOB_BLOB in restored.blobs and JobRecord.decode(restored.blobs[JOB_BLOB]).finished


def resumed_job(
    backend: StateBackend, graph: Graph, guarantee: Guarantee, codec: Codec, batch_size: int, workers: int = 1
) -> JobRecord | None:
    """What the restored checkpoint says of the job; None if it starts from nothing.

    Raises:
        ConfigurationError: The checkpoint is not of a dataflow, or of one that was started with other settings.
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
    if job.workers != workers and not job.finished:
        raise ConfigurationError(
            f"the job was started with workers={job.workers} and is resumed with {workers}; state cannot be divided "
            "anew yet: use the former, or move away what the sinks hold and start over with resume_from='none'",
            setting="workers",
            stored=job.workers,
        )
    wanted = {"guarantee": str(guarantee), "codec": codec.name, "batch_size": batch_size}
    for name, value in wanted.items():
        if getattr(job, name) != value:
            raise ConfigurationError(
                f"the job was started with {name}={getattr(job, name)!r} and is resumed with {value!r}; use the "
                "former, or move away what the sinks hold and start over with resume_from='none'",
                setting=name,
                stored=getattr(job, name),
            )
    return job


def sink_contexts(
    backend: StateBackend, graph: Graph, changes: Sequence[StateChange] = (), workers: int = 1
) -> list[dict[str, SinkContext]]:
    """For each worker, by step id, who writes to the sinks.

    Args:
        backend: Has the decisions.
        graph: Has the sinks.
        changes: A sink that begins with nothing by them is not told what another one had learnt.
        workers: How many write.
    """
    begun = {change.step_id for change in changes if change.result is None}
    restored = backend.recovery.restored
    # A record that cannot be read does not say its lineage. Counted in it lets pass what is decided about damage.
    known = [
        record for record in backend.checkpoints() if record.damage is not None or record.lineage == backend.lineage
    ]
    # Where newer state is damaged the sinks hold more than what was restored, and have learnt from it.
    learnt_from = next((record for record in reversed(known) if record.damage is None), restored)
    left = _left(backend)
    runs = backend.runs()

    def context(step_id: str, worker: int) -> SinkContext:
        blob = None
        if learnt_from is not None and step_id not in begun:
            blob = learnt_from.blobs.get(f"{SINK_BLOB}{of_worker(step_id, worker)}")
        return SinkContext(
            graph.name,
            step_id,
            backend.job_epoch,
            backend.lineage,
            None if restored is None else restored.id,
            max((record.id for record in known), default=None),
            backend.store_id,
            None if blob is None else msgspec.msgpack.decode(blob),
            left[-1].id if left else None,
            worker,
            backend.run,
            runs,
        )

    return [{step.step_id: context(step.step_id, worker) for step in graph.sinks()} for worker in range(workers)]


def open_deliveries(
    backend: StateBackend,
    graph: Graph,
    guarantee: Guarantee,
    codec: Codec,
    resources: ExitStack,
    contexts: Mapping[str, SinkContext],
) -> dict[str, Delivery]:
    """All sinks by step id, checked and opened: each may be written by this run. No output is changed.

    Args:
        backend: Knows when this run is replaced.
        graph: Has the sinks.
        guarantee, codec: Of the job.
        resources: Closes the sinks.
        contexts: By step id, who writes.
    """
    deliveries: dict[str, Delivery] = {}
    for step in graph.sinks():
        with sink_errors(step.step_id, "open"):
            delivery = open_delivery(step.sink, contexts[step.step_id], guarantee, codec, backend.check_epoch)
        resources.push(closing(delivery.close))
        deliveries[step.step_id] = delivery
    return deliveries


def _left(backend: StateBackend) -> list[CheckpointInfo]:
    """The checkpoints that a new lineage leaves by beginning with an older one."""
    restored = backend.recovery.restored
    if restored is None or restored.lineage == backend.lineage:
        return []
    known = backend.checkpoints()
    return [record for record in known if record.id > restored.id and record.lineage in (0, restored.lineage)]


def warn_of_repeats(backend: StateBackend, graph: Graph) -> None:
    """A plain sink does not know what it wrote; whoever keeps the checkpoints does. Of others their own kinds tell."""
    restored = backend.recovery.restored
    plain = [step.step_id for step in graph.sinks() if isinstance(step.sink, PlainSink)]
    if restored is None or restored.lineage == backend.lineage or not plain:
        return
    # Of any lineage: another one may have gone on from the same checkpoint.
    newest = max(record.id for record in backend.checkpoints())
    if newest == restored.id:
        return
    warnings.warn(
        RepeatedOutputWarning(
            f"job {graph.name!r} goes back to checkpoint {restored.id} and had come to {newest}: the plain sinks "
            f"{plain} have written output of the checkpoints between, which stays there, and write it again. Where "
            "that must not be, run the job with its newest state instead; or move away what they hold, and run it once "
            "with resume_from='none' (--resume-from none), which writes all of it once"
        ),
        stacklevel=_STACK_OF_RUN,
    )


def plan_recovery(
    backend: StateBackend, graph: Graph, deliveries: Mapping[str, Delivery], changes: Sequence[StateChange]
) -> Plan:
    """What keeps the output exact although checkpoints are damaged. Changes nothing.

    Args:
        backend: Says what is damaged.
        graph: The dataflow.
        deliveries: The sinks by step id.
        changes: What was changed of the restored state, so that it is not what an earlier run went on from.

    Raises:
        StoreCorruptError: Nothing does; says what a person can choose.
    """
    recovery = backend.recovery
    restored = recovery.restored
    if not recovery.damage:
        return Plan()
    later = {record.id: record for record in recovery.decided_after}
    unreadable = [number for number, _ in recovery.damage if number is not None and number not in later]
    base = 0 if restored is None else restored.id
    newest = JobRecord.decode(recovery.decided_after[-1].blobs[JOB_BLOB]) if later else None
    # It went on where the sources had ended, and the positions of a replay are theirs.
    within_end = any(
        had_begun_to_end(record.blobs, graph) and not JobRecord.decode(record.blobs[JOB_BLOB]).finished
        for record in later.values()
    )
    doubt: str | None
    if changes:
        doubt = (
            f"the dataflow is not what it was ({'; '.join(change.what for change in changes)}); run it once as it was"
        )
    elif within_end:
        doubt = "a step was handing out its results, after the end of its input"
    else:
        doubt = why_not_repeatable(graph, waited=newest is None or newest.waited)
    made = recovery_plan(
        restored=None if restored is None else base,
        decided_after=list(later),
        applied={
            step_id: _applied(delivery, step_id, base, later, unreadable) for step_id, delivery in deliveries.items()
        },
        replayable_to_position=doubt is None and all(step.source.replayable for step in graph.sources()),
        unreadable=unreadable,
    )
    if isinstance(made, RecoveryPlan.Stop):
        reasons = "; ".join(reason for _, reason in recovery.damage)
        why = "" if doubt is None else f". Whether processing it again gives the same state is not known: {doubt}"
        say = (
            ""
            if doubt is None or changes or within_end
            else (
                ". If the same input gives the same output on every run, say so with Dataflow(..., deterministic=True) "
                "and run the job again"
            )
        )
        raise StoreCorruptError(
            f"{backend.path}: no exact recovery is possible: {made.reason} ({reasons}){why}{say}. Or resume from a "
            "checkpoint of your choice with resume_from, knowing that outputs after it are written again"
        )
    if isinstance(made, RecoveryPlan.Resume):
        return Plan(tuple(made.abort))
    record = later[made.until]
    positions = {name: blob for name, blob in record.blobs.items() if name.startswith("source/")}
    finished = JobRecord.decode(record.blobs[JOB_BLOB]).finished
    return Plan(tuple(made.abort), Replay(record.id, positions, finished, graph.deterministic))


def _applied(
    delivery: Delivery, step_id: str, base: int, later: Mapping[int, CheckpointInfo], unreadable: Iterable[int]
) -> int | None:
    """The newest checkpoint that a sink has applied, as far as what is damaged goes; None if it cannot tell."""
    for number in sorted([*later, *unreadable], reverse=True):
        if number in later and step_id not in later[number].staged and delivery.stages:
            continue  # It had no output there.
        applied = delivery.applied(number)
        if applied is None or applied:
            return None if applied is None else number
    return base


def recover_sinks(backend: StateBackend, graph: Graph, deliveries: Mapping[str, Delivery], plan: Plan) -> None:
    """Commits the output of every decided checkpoint, and discards what else earlier runs have prepared.

    Only when all sinks are open and the run goes on: what is undone here cannot be done again.

    Raises:
        StoreCorruptError: An older run has made visible meanwhile what was to be given up.
    """
    for step_id, outputs in decided_outputs(backend, graph, plan).items():
        recover_sink(deliveries[step_id], step_id, outputs)
    for number in plan.given_up:
        # A run that was paused before the sinks were fenced may have gone on since they were asked.
        late = [step_id for step_id, delivery in deliveries.items() if delivery.applied(number)]
        if late:
            raise StoreCorruptError(
                f"{backend.path}: an older run of the job has made the output of checkpoint {number} visible in {late} "
                "while this one began, and the state of that checkpoint is damaged. Run the job again"
            )
    for number in plan.given_up:
        backend.delete_checkpoint(number)


def decided_outputs(backend: StateBackend, graph: Graph, plan: Plan) -> dict[str, list[tuple[int, bytes]]]:
    """By sink, the decided checkpoints with what was staged for them, of all workers, oldest first. From now on the job
    is resumed in the present lineage."""
    # After a crash the next run must not come back to the lineage that was left.
    backend.begin_lineage()
    # Before this run shows in a target: one that is found there and was never noted was of a copy of the state.
    backend.begin_run()
    # Outputs of that are written again, so what is undone there must not be carried through.
    known = [record for record in backend.checkpoints() if record.id not in plan.given_up]
    decided = [record for record in known if record.damage is None and record.lineage == backend.lineage]
    restored = backend.recovery.restored
    if restored is not None and restored.lineage != backend.lineage:
        # The new lineage begins with it. As the last one of its own it may be decided and not committed yet.
        decided = [*([] if _left(backend) else [restored]), *decided]
    settings = settings_of(graph)
    return {
        step.step_id: [
            (record.id, staged)
            # A decision waits for the writes of the one before: of what tells nobody whether it was written, only that
            # of the newest one can be missing.
            for record in (decided if isinstance(step.sink, TransactionalSink) else decided[-1:])
            if _is_of(record, step.step_id, settings)
            for staged in _staged(record, step.step_id)
        ]
        for step in graph.sinks()
    }


def recover_sink(delivery: Delivery, step_id: str, outputs: Sequence[tuple[int, bytes]]) -> None:
    """Commits what was decided for one sink."""
    crash_point("recover.pre_commit")
    with sink_errors(step_id, "recover"):
        delivery.recover(outputs)
    crash_point("recover.post_commit")


def _staged(record: CheckpointInfo, step_id: str) -> Iterator[bytes]:
    """What each worker has staged for a sink."""
    for worker in range(JobRecord.decode(record.blobs[JOB_BLOB]).workers):
        if (staged := record.staged.get(of_worker(step_id, worker))) is not None:
            yield staged


def _is_of(record: CheckpointInfo, step_id: str, settings: Settings) -> bool:
    """Whether what a checkpoint has staged for a sink was staged by one of its kind, as far as that is known."""
    former = JobRecord.decode(record.blobs[JOB_BLOB]).settings.get(step_id, {}).get("", {})
    now = settings[step_id][""]
    return all(now[name] == former[name] for name in former.keys() & now.keys())


def warn_of_damage(backend: StateBackend, plan: Plan) -> None:
    """Damage that was worked around is never silent."""
    replay = plan.replay
    restored = backend.recovery.restored
    reasons = "; ".join(reason for _, reason in backend.recovery.damage)
    start = "the beginning" if restored is None else f"checkpoint {restored.id}"
    how = "Nothing newer had reached an output: the output stays exact"
    if replay is not None:
        trust = ", if the dataflow is deterministic, as it says" if replay.trusts_the_user else ""
        how = (
            f"Up to checkpoint {replay.until} the input is processed again with outputs suppressed: the output stays "
            f"exact{trust}"
        )
    warnings.warn(
        DamagedCheckpointWarning(
            f"{backend.path} is damaged ({reasons}); recovered from {start}. {how}. Look after the disk"
        ),
        stacklevel=_STACK_OF_RUN,
    )
