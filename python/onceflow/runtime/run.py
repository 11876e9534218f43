"""Runs a dataflow: checks what was asked for, and has it done."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from os import PathLike, fspath
from typing import Any

from onceflow.clock import Clock, SystemClock
from onceflow.codec import CodecName
from onceflow.dataflow import Dataflow
from onceflow.events import JobEvent, JobResult
from onceflow.exceptions import ConfigurationError
from onceflow.graph.compatibility import OnChange
from onceflow.graph.division import divided
from onceflow.graph.guarantees import plan
from onceflow.graph.structure import check_emits_before_the_end
from onceflow.instances import Instance
from onceflow.restart import RestartPolicy
from onceflow.runtime.attempts import Attempts
from onceflow.runtime.options import JobOptions
from onceflow.types import Guarantee, GuaranteeName, Until

__all__ = ["run"]

#: From ``_renamed`` up to who called ``run``.
_STACK_OF_RUN = 3


def run(
    flow: Dataflow,
    state: str | PathLike[str],
    *,
    checkpoint_interval_s: float = 1.0,
    guarantee: Guarantee | GuaranteeName = Guarantee.EXACTLY_ONCE,
    batch_size: int = 8192,
    codec: CodecName = "msgpack",
    retain: int = 2,
    savepoint: str | None = None,
    resume_from: int | str = "newest",
    take_over: bool = False,
    on_change: OnChange = "refuse",
    on_event: Callable[[JobEvent], None] | None = None,
    clock: Clock | None = None,
    until: Until = "end",
    max_drift_s: float | None = None,
    instance: tuple[int, int] | None = None,
    restart: RestartPolicy | None = None,
    checkpoint_timeout_s: float = 600.0,
    checkpoint_min_pause_s: float | None = None,
    workers: int = 1,
    from_checkpoint: int | str | None = None,
    fresh: bool = False,
) -> JobResult:
    """Runs a dataflow until its sources end, or until it is interrupted.

    A job that was killed, failed or interrupted resumes from its newest checkpoint when it is run again with the same
    state directory. SIGINT and SIGTERM end it with a last checkpoint, also within a batch (see ``Stopping``); a second
    SIGINT without one, once a sink's call that is under way has returned (safe too). A job whose sources have ended is
    over: it does nothing when it is run again, also if there is more to read by then, and says so by a
    ``FinishedJobWarning``.

    Args:
        flow: What to run; its name is the job's name.
        state: State directory, made if missing, private to the owner. Nothing is left of it where the first run is
            refused before it has touched a sink.
        checkpoint_interval_s: Seconds from one checkpoint's start to the next one's. A checkpoint waits for the one
            before.
        guarantee: What the output promises; refused before the first record if a path cannot keep it.
        batch_size: Records that a source is asked for at once. It belongs to the job, and another one is refused when
            it is resumed: output that goes by batches (``map_batch``, changes of totals) is the same only then.
        codec: How values of user state become bytes: ``"msgpack"``, or ``"pickle"`` for any object (reading pickles
            runs code).
        retain: Complete checkpoints kept besides savepoints.
        savepoint: Name under which the last checkpoint of this run is kept; a savepoint is never collected.
        resume_from: ``"newest"``; or a checkpoint by its number, or a savepoint by its name; or ``"none"``, to
            start from nothing. Another one than the newest starts a new lineage: outputs after it are written again.
        take_over: Fence a running or paused process of this job instead of being refused. One that was stopped in the
            middle of a commit cannot be fenced: ``StoreLockedError`` names it; kill it (``kill -9``) or let it go on.
        on_change: What is done where the dataflow is not the one that made the state. ``"refuse"``: the run is refused,
            by an error that says what could be given instead: by the id of a step, or ``step/result`` of an aggregate
            or window step, or ``step/state`` of a processor, ``"drop"`` for what is gone, ``"empty"`` for what begins
            with nothing (a new source at its beginning, a new sink with what comes from now on; given for a step also
            what has changed in it), ``"widen"`` where whole numbers become floats. What was
            done is in ``JobResult.changes`` and ``Recovered.changes``. It is done once and may stay in the program: it
            allows no other change then; the error of that one says by which name to allow it.
        on_event: Called on the job's thread.
        clock: Where the time comes from.
        until: ``"end"``: sources are read to their ends, which is the end of the job. ``"caught_up"``: what is there
            now is processed (files to their last whole line as they are when they are opened, topics to their ends as
            they are at the start), the run ends with a checkpoint, and the next one goes on with what has grown or come
            since. Windows that are open stay open. A partition that is read to what is its end for now holds event time
            where it stands, unless its source has ``idle_after``: then until event time has come that much further
            elsewhere.
        max_drift_s: How far, in seconds of event time, one partition may read on ahead of another that has nothing to
            read yet. It bounds the state that is kept open meanwhile; one that is idle (``idle_after``), or that
            has not had a record yet, holds nobody up. None: as far as there is something. Where there is something to
            read in all of them, they are never further apart than a batch.
        instance: ``(index, count)``: one of ``count`` runs of this dataflow that divide its topics among them, on any
            machines; indexes begin with 0. Each has a state directory of its own, and goes on with the same index and
            count for ever. A step with state by key is allowed only where the topics are partitioned by that key.
        restart: What is done when the run fails: a ``FixedDelay`` or an ``ExponentialBackoff`` of ``onceflow.restart``
            begins it again in the same process, from the newest checkpoint, with everything reopened; None: the failure
            ends it. Not where it cannot heal by that (``ConfigurationError``, ``FencedError``, damage, input or state
            that is not what it was), nor before the first attempt could begin, nor after a signal, which ends a wait at
            once. What a function has kept outside of its state is not taken back. ``JobResult.restarts`` counts, a
            ``RestartWarning`` and the event ``Restarting`` tell.
        checkpoint_timeout_s: A checkpoint that is not ready to be decided so many seconds after its barriers, because a
            step or a sink's ``prepare`` takes so long, fails, and the attempt with it (see ``restart``), told by the
            event ``CheckpointFailed``. One that is decided rolls forward, however long its sinks' commits take.
        checkpoint_min_pause_s: Seconds at least from the end of a checkpoint to the start of the next one, so that a
            job whose checkpoints take as long as their interval gets time for records; None: none. Where sinks hold
            too much, and for the last one, nothing is waited for.
        workers: So many processes run the dataflow, each on a share of its partitions and keys.
        from_checkpoint, fresh: What ``resume_from`` was called before; still taken, with a ``DeprecationWarning``.

    A recovery that had to work around damaged checkpoints says so by a ``DamagedCheckpointWarning``.

    Raises:
        DeliveryGuaranteeError, ConfigurationError: Before anything was opened.
        DataflowChangedError: Steps with state are gone, new or changed, and ``on_change`` does not name them.
        UserFunctionError, SourceError, SinkError: The job failed, also after its restarts; it can be run again.
        FencedError: A newer run of the job has taken over.
        StoreError: The state directory cannot be used.
    """
    if not isinstance(flow, Dataflow):
        raise ConfigurationError(f"flow is a {type(flow).__name__}; give the Dataflow that is to run", setting="flow")
    if not isinstance(state, (str, PathLike)) or not fspath(state):
        raise ConfigurationError(f"state is {state!r}; give the path of a directory", setting="state")
    options = JobOptions.checked(
        checkpoint_interval_s=checkpoint_interval_s,
        guarantee=guarantee,
        batch_size=batch_size,
        codec=codec,
        retain=retain,
        savepoint=savepoint,
        resume_from=_renamed(resume_from, from_checkpoint, fresh),
        take_over=take_over,
        on_change=on_change,
        on_event=on_event,
        clock=clock or SystemClock(),
        until=until,
        max_drift_s=max_drift_s,
        restart=restart,
        checkpoint_timeout_s=checkpoint_timeout_s,
        checkpoint_min_pause_s=checkpoint_min_pause_s,
        workers=workers,
    )
    graph = divided(flow.graph, None if instance is None else Instance.checked("instance", instance))
    plan(graph, options.guarantee)
    if options.until == "caught_up":
        check_emits_before_the_end(graph)
    return Attempts(graph, state, options).run()


def _renamed(resume_from: Any, from_checkpoint: Any, fresh: Any) -> Any:
    """``resume_from``, also of those who call it by its old names."""
    if from_checkpoint is None and fresh is False:
        return resume_from
    if fresh is not False and (fresh is not True or from_checkpoint is not None):
        raise ConfigurationError(
            f"fresh is {fresh!r} and from_checkpoint {from_checkpoint!r}; give resume_from instead of them: 'newest', "
            "'none', the number of a checkpoint or the name of a savepoint"
        )
    told, chosen = ("fresh=True", "none") if fresh else ("from_checkpoint", from_checkpoint)
    warnings.warn(f"{told} is called resume_from={chosen!r} now", DeprecationWarning, stacklevel=_STACK_OF_RUN)
    return chosen
