"""The process of one worker: what it does when its supervisor says so.

``python -c "from onceflow.runtime.workers.process import main; main(FD)"``, where FD is its end of a pair of sockets.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import socket
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any

import msgspec

from onceflow._native import CheckpointStats, PendingCheckpoint, StateBackend, WakeHandle
from onceflow.clock import SystemClock
from onceflow.codec import codec_by_name
from onceflow.crash import crash_point
from onceflow.events import PartsStats
from onceflow.exceptions import CheckpointError, CheckpointNotFoundError, StoreCorruptError, StoreMissingError
from onceflow.graph.exchanges import exchanges, stages
from onceflow.graph.graph import Graph
from onceflow.process import closing
from onceflow.runtime.checkpoint_thread import CheckpointThread
from onceflow.runtime.delivery import Sealed, sink_errors
from onceflow.runtime.evolution import agreed_without, evolve, known_steps, without
from onceflow.runtime.held import holds_half, holds_much
from onceflow.runtime.job_record import WATERMARKS_BLOB
from onceflow.runtime.messages import (
    NOTHING_COUNTED,
    Acknowledged,
    Committed,
    Declined,
    Ended,
    Failed,
    FromWorker,
    Idle,
    Start,
    StopAsked,
    Tally,
    Trigger,
)
from onceflow.runtime.partitions import list_partitions
from onceflow.runtime.recovery import open_deliveries, recover_sink
from onceflow.runtime.shares import Shares
from onceflow.runtime.signals import quick_switches
from onceflow.runtime.workers.exchange import Edges
from onceflow.runtime.workers.links import ORPHANED, Links, first_message
from onceflow.runtime.workers.messages import (
    Begin,
    Complete,
    Decided,
    Exit,
    OutputsCommitted,
    Part,
    PartDurable,
    Progressed,
    Recover,
    Recovered,
    Setup,
    TakePart,
    Warned,
    WorkerEnded,
    WorkerFailed,
    WorkerOpened,
    WorkerStops,
    portable,
)
from onceflow.runtime.workers.share import Share
from onceflow.runtime.workers.shared_worker import SharedWorker

__all__ = ["PART_BLOB", "main"]

#: In a worker's store: of which checkpoint of the job, and of which run, its own one is a part.
PART_BLOB = "part"
_PROGRESS_EVERY_S = 0.1
_EPOCH_EVERY_S = 1.0
_LAST_WORDS_S = 5.0
_PR_SET_PDEATHSIG = 1


class _OverError(Exception):
    """The run is over before it has begun."""


class _Process:
    """One worker.

    Args:
        setup: What it is to be.
        links: To the supervisor and the others.
        wake: Set when something has come.
        resources: Closes what it opens.
    """

    def __init__(self, setup: Setup, links: Links, wake: WakeHandle, resources: ExitStack) -> None:
        self._setup = setup
        self._links = links
        self._wake = wake
        self._resources = resources
        self._clock = SystemClock()
        self._run = next((context.run for context in setup.contexts.values()), "")
        #: The part that is under way.
        self._pending: PendingCheckpoint | None = None
        self._sealed: Mapping[str, Sealed] = {}
        self._staged: Mapping[str, list[bytes]] = {}
        #: What has come of the thread's work, for the supervisor.
        self._done: Any = None
        self._is_over = self._has_ended = self._changed = False
        self._last_progress = self._last_epoch_check = self._clock.monotonic()
        self._shares = Shares()

    # -- start ---------------------------------------------------------------------------------

    def run(self) -> None:
        """Until the supervisor says that the run is over."""
        setup = self._setup
        graph: Graph = pickle.loads(setup.graph)  # noqa: S301 - from the supervisor
        codec = codec_by_name(setup.codec)
        self._backend = self._open_store(graph)
        restored = self._backend.recovery.restored
        changes = () if setup.job is None else evolve(self._backend, codec, graph, setup.job, setup.on_change)
        # A sink that begins with nothing is not told what another one had learnt.
        begun = {change.step_id for change in changes if change.result is None}
        contexts = {
            step_id: replace(context, restored_state=None) if step_id in begun else context
            for step_id, context in setup.contexts.items()
        }
        self._deliveries = open_deliveries(self._backend, graph, setup.guarantee, codec, self._resources, contexts)
        found = exchanges(graph)
        edges = Edges(graph, found, setup.rank, setup.count, self._links, codec)
        share = Share(setup.rank, setup.count, setup.dealt, edges)
        blobs = {**setup.positions, **({} if restored is None else restored.blobs)}
        if restored is not None:
            mine = msgspec.msgpack.decode(blobs[WATERMARKS_BLOB], type=dict[str, int])
            before = {step_id for step_id, stage in stages(graph).items() if stage == 0}
            kept = {step_id: mark for step_id, mark in mine.items() if step_id not in before}
            blobs[WATERMARKS_BLOB] = msgspec.msgpack.encode({**kept, **setup.watermarks})
        tally = Tally(NOTHING_COUNTED, {}, False, {})
        if setup.job is not None:
            agreed = agreed_without(setup.job.agreed, changes)
            # What was counted before is the supervisor's.
            tally = Tally(NOTHING_COUNTED, {}, True, agreed)
        start = Start(
            without(blobs, changes),
            list_partitions(graph),
            tally,
            setup.until,
            setup.max_drift_us,
            known_steps(setup.job, changes),
        )
        self._worker = SharedWorker(
            graph,
            self._backend,
            codec,
            self._clock,
            self._deliveries,
            setup.batch_size,
            start,
            self._wake,
            self._resources,
            share,
            self._must_pause,
        )
        self._thread = CheckpointThread(self._work, self._wake)
        self._resources.push(closing(self._thread.close))
        self._links.tell(WorkerOpened(changes, self._backend.recovery.rows))
        self._recover(self._wait_for(Recover))
        self._links.tell(Recovered())
        begin = self._wait_for(Begin)
        if begin.checkpoint_id is not None:
            self._hear(self._worker.take(Committed(begin.checkpoint_id)))
        with quick_switches():
            self._loop()

    def _open_store(self, graph: Graph) -> StateBackend:
        setup, part = self._setup, self._setup.part
        options: dict[str, Any] = {"job": graph.name, "retain": setup.retain, "take_over": True}
        if part is None:
            backend = StateBackend.open(setup.store, resume_from="none", **options)
        else:
            try:
                backend = StateBackend.open(setup.store, create=False, resume_from=part.checkpoint, **options)
            except (CheckpointNotFoundError, StoreMissingError) as error:
                raise self._another_store(part, "is not there") from error
        self._resources.push(closing(backend.close))
        if part is None:
            return backend
        restored = backend.recovery.restored
        kept = None if restored is None else restored.blobs.get(PART_BLOB)
        if backend.store_id != part.store_id or kept is None or msgspec.msgpack.decode(kept) != part.run:
            raise self._another_store(part, "is of another run")
        # But for the newest one, which a store always keeps.
        for record in backend.checkpoints()[:-1]:
            if record.id not in setup.known:
                backend.delete_checkpoint(record.id)
        return backend

    def _another_store(self, part: Part, why: str) -> StoreCorruptError:
        return StoreCorruptError(
            f"{self._setup.store} is not what worker {self._setup.rank} had: its checkpoint {part.checkpoint} {why}, "
            "as when a part of the state directory was removed, or put back from a backup. Put all of the state "
            "directory back as it was at one moment"
        )

    def _recover(self, message: Recover) -> None:
        for step_id, delivery in self._deliveries.items():
            recover_sink(delivery, step_id, message.outputs.get(step_id, ()))

    def _wait_for(self, kind: type[Any]) -> Any:
        while (message := self._links.message()) is None:
            self._wake.wait(_EPOCH_EVERY_S)
        if isinstance(message, Exit):
            raise _OverError
        if not isinstance(message, kind):
            raise CheckpointError(f"the supervisor has said {message!r} before {kind.__name__}; report this")
        return message

    # -- work ----------------------------------------------------------------------------------

    def _loop(self) -> None:
        while not self._is_over:
            self._poll()
            if self._is_over:
                return
            must_wait = self._must_wait()
            idle = self._hear(self._worker.work(may_read=not must_wait, may_take=not must_wait))
            self._tell_progress()
            if idle and not self._is_over:
                with self._shares.backpressured() if must_wait else self._shares.idle():
                    self._worker.wait(_PROGRESS_EVERY_S)

    def _poll(self) -> None:
        self._backend.poll()
        now_s = self._clock.monotonic()
        if now_s - self._last_epoch_check >= _EPOCH_EVERY_S:
            self._last_epoch_check = now_s
            self._backend.check_epoch()
        if self._thread.poll():
            done, self._done = self._done, None
            self._links.tell(done)
        while (message := self._links.message()) is not None:
            self._take(message)

    def _take(self, message: Any) -> None:
        match message:
            case TakePart():
                # One that was not decided may have left the name itself.
                name = None if message.savepoint is None else f"{message.savepoint} {message.checkpoint_id}"
                self._pending = self._backend.begin_checkpoint(savepoint=name)
                trigger = Trigger(message.checkpoint_id, self._pending, self._clock.monotonic())
                crash_point("barrier.pre_inject")
                self._hear(self._worker.take(trigger))
            case Decided():
                self._thread.submit(message)  # type: ignore[arg-type]
            case Complete():
                self._pending = None
                self._hear(self._worker.take(Committed(message.checkpoint_id)))
            case Exit():
                self._is_over = True

    def _hear(self, messages: Iterator[FromWorker]) -> bool:
        """Does a piece of work; true if there was nothing to do."""
        idle = False
        for message in messages:
            match message:
                case Idle():
                    idle = True
                case StopAsked():
                    self._links.tell(WorkerStops())
                case Ended():
                    self._tell_progress(at_once=True)
                    self._links.tell(WorkerEnded())
                case Acknowledged():
                    self._changed = False
                    self._sealed = message.sealed
                    self._thread.submit(message)  # type: ignore[arg-type]
                case Declined(error=error) | Failed(error=error):
                    raise error
                case _:
                    self._changed = True
                    self._backend.poll()
        self._changed |= not idle
        return idle

    def _must_wait(self) -> bool:
        return holds_much(self._deliveries)

    def _must_pause(self) -> bool:
        self._tell_progress()
        return holds_half(self._deliveries)

    def _tell_progress(self, *, at_once: bool = False) -> None:
        now_s = self._clock.monotonic()
        if not at_once and now_s - self._last_progress < _PROGRESS_EVERY_S:
            return
        self._last_progress = now_s
        worker = self._worker
        busy, backpressured = self._shares.take()
        refused = {step_id: number for step_id, one in self._deliveries.items() if (number := one.refused())}
        self._links.tell(
            Progressed(
                worker.counts(),
                worker.late(),
                worker.lost_late(),
                holds_half(self._deliveries),
                self._changed,
                refused,
                busy,
                backpressured,
                worker.event_time,
                {step_id: each.held_bytes + each.sealed_bytes for step_id, each in self._deliveries.items()},
            )
        )

    # -- on the checkpoint thread --------------------------------------------------------------

    def _work(self, task: Any) -> bool:
        match task:
            case Acknowledged():
                self._done = self._make_durable(task)
            case Decided():
                self._commit(task.checkpoint_id)
                self._done = OutputsCommitted(task.checkpoint_id)
        return True

    def _make_durable(self, message: Acknowledged) -> PartDurable:
        pending = self._pending
        assert pending is not None, "a part is under way"
        staged: dict[str, list[bytes]] = {}
        learnt: dict[str, bytes] = {}
        for step_id, sealed in message.sealed.items():
            if sealed.learnt is not None:
                learnt[step_id] = sealed.learnt
            if sealed.output is not None:
                with sink_errors(step_id, "prepare"):
                    pieces = self._deliveries[step_id].prepare(message.checkpoint_id, sealed.output)
                if pieces is not None:
                    staged[step_id] = pieces
            crash_point("sink.post_prepare")
        pending.put_blob(PART_BLOB, msgspec.msgpack.encode(self._run))
        stats = pending.write()
        crash_point("part.post_write")
        self._staged = staged
        part = Part(self._backend.store_id, stats.id, self._run)
        positions = {
            f"source/{name}": msgspec.msgpack.encode(position) for name, position in self._worker.cut_positions.items()
        }
        marks = self._worker.cut_watermarks
        return PartDurable(
            message.checkpoint_id,
            part,
            staged,
            learnt,
            positions,
            marks,
            message.tally,
            _of(stats, message.checkpoint_id),
        )

    def _commit(self, checkpoint_id: int) -> None:
        for step_id, sealed in self._sealed.items():
            crash_point("sink.pre_commit")
            if sealed.output is not None:
                with sink_errors(step_id, "commit"):
                    self._deliveries[step_id].commit(checkpoint_id, sealed.output, self._staged.get(step_id))
            crash_point("sink.post_commit")


def _of(stats: CheckpointStats, checkpoint_id: int) -> PartsStats:
    return PartsStats(
        checkpoint_id,
        stats.delta_rows,
        stats.base_rows,
        stats.bytes_written,
        stats.freeze_s,
        stats.capture_s,
        stats.longest_pause_s,
        stats.durable_s,
        stats.encode_s,
        stats.commit_s,
    )


def main(descriptor: int) -> None:
    """Runs a worker; its process ends with it."""
    # Also where a function holds the interpreter, so that nobody hears of the supervisor's end.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    control = socket.socket(fileno=descriptor)
    read = bytearray()
    while (first := first_message(read)) is None:
        data = control.recv(1 << 20)
        if not data:
            os._exit(ORPHANED)
        read += data
    setup: Setup = first[0]
    peers = {rank: socket.socket(fileno=number) for rank, number in setup.peers.items()}
    wake = WakeHandle()
    links = Links(control, peers, setup.exchanges, wake, read)
    _tell_warnings(links)
    code = 0
    try:
        with ExitStack() as resources:
            _Process(setup, links, wake, resources).run()
    except _OverError:
        pass
    except BaseException as error:
        code = 1
        with suppress(OSError):
            links.tell(WorkerFailed(portable(error)))
    links.drain(_LAST_WORDS_S)
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of clients, and what ends with an interpreter, have nothing more to do.
    os._exit(code)


def _tell_warnings(links: Links) -> None:
    """The caller of ``run`` is to see warnings, and may have them be errors."""

    def tell(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        links.tell(Warned(category, str(message)))

    warnings.showwarning = tell
    warnings.simplefilter("always")
