"""A user's target behind an outbox."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any

import msgspec

from onceflow.checks import CheckContext, Finding
from onceflow.codec import MsgpackCodec
from onceflow.columns import rows_of
from onceflow.connectors.outbox.destination import Destination, Standings, Words
from onceflow.connectors.outbox.leftovers import left_markers
from onceflow.connectors.outbox.marker import FENCE, Marker, Slot, Standing, worker_of
from onceflow.connectors.outbox.staged import Place, Staged
from onceflow.connectors.outbox.target import OutboxTarget
from onceflow.connectors.outbox.writer import MAX_STAGED_BYTES, OutboxWriter, with_run
from onceflow.connectors.values import plain_value
from onceflow.crash import crash_point
from onceflow.exceptions import ConfigurationError, SerializationError, SinkError, described
from onceflow.instances import job_and_instance
from onceflow.leftovers import Leftover, LeftoverContext
from onceflow.sinks import SinkContext, TransactionalSink, TransactionalSinkWriter
from onceflow.types import Batch

__all__ = ["OutboxSink"]

#: The only one that a user's target has.
_PLACE = Place()


class OutboxSink(TransactionalSink):
    """Exactly once into a target that has transactions but no two phases.

    The output of a checkpoint is staged in the checkpoint itself and applied after it is decided, in one transaction of
    the target together with a marker; see ``onceflow.connectors.outbox.writer``. Idea: the transactional outbox of
    message-driven services.

    Args:
        connect: Gives an ``OutboxTarget`` of its own each time it is called, once for each worker of a run: such as
            ``functools.partial(OrdersTable, "orders.db")``.
        max_staged_bytes: Of one checkpoint, as the codec writes it; it must fit in memory and in the decision record.
            With half of it a checkpoint begins early, so the output of a batch must be smaller than that.

    Raises:
        ConfigurationError: Settings that cannot be.
    """

    def __init__(self, connect: Callable[[], OutboxTarget], *, max_staged_bytes: int = MAX_STAGED_BYTES) -> None:
        if isinstance(connect, OutboxTarget) or not callable(connect):
            raise ConfigurationError(
                f"OutboxSink: connect={connect!r}: give a function that connects to a target of its own each time it "
                "is called, such as functools.partial(OrdersTable, 'orders.db')",
                setting="connect",
            )
        whole = isinstance(max_staged_bytes, int) and not isinstance(max_staged_bytes, bool)
        if not whole or not 0 < max_staged_bytes <= MAX_STAGED_BYTES:
            raise ConfigurationError(
                f"OutboxSink: max_staged_bytes={max_staged_bytes!r}: give a number from 1 to {MAX_STAGED_BYTES}, which "
                "is what a decision record has room for",
                setting="max_staged_bytes",
            )
        self._connect = connect
        self._max_staged_bytes = max_staged_bytes

    def open(self, context: SinkContext) -> TransactionalSinkWriter:
        """See ``Sink``."""
        target = self._connect()
        if not isinstance(target, OutboxTarget):
            raise SinkError(f"connect of sink {context.sink!r} has given {target!r}: derive it from OutboxTarget")
        context = with_run(context)
        return OutboxWriter(_TargetDestination(target, context), context, self._max_staged_bytes)

    def check(self, context: CheckContext) -> Iterable[Finding]:
        """See ``Sink``: connects, and reads the markers of this sink."""
        owner = f"{context.job}/{context.step_id}"
        with closing(self._connect()) as target:
            kept = {worker_of(key): Standing.read(text) for key, text in target.read_markers(owner).items()}
        newest = max((standing.checkpoint for standing in kept.values()), default=0)
        holds = f"output of this sink up to checkpoint {newest}" if newest else "no output of this sink"
        yield Finding("ok", f"the target of {owner}", f"can be reached; it holds {holds}")

    def leftovers(self, context: LeftoverContext) -> Iterable[Leftover]:
        """See ``Sink``: markers, as far as the target tells whose it keeps."""
        with closing(self._connect()) as target:
            where = target.shown or f"the target of sink {context.sink!r}"
            # Its own it can always be asked for.
            owners = dict.fromkeys((f"{context.job}/{context.sink}", *target.owners()))
            kept = {owner: target.read_markers(owner) for owner in owners}
        return left_markers(kept, where, context, self._forget)

    def _forget(self, owner: str) -> None:
        with closing(self._connect()) as target:
            target.forget(owner)


class _TargetDestination(Destination[bytes]):
    """Parts are batches of records as the codec writes them."""

    def __init__(self, target: OutboxTarget, context: SinkContext) -> None:
        self._target = target
        self._context = context
        self._codec = MsgpackCodec()
        self.words = Words(
            store="the target",
            thing=f"the output of sink {context.sink!r} and its markers",
            own="a target of its own, under another name of the job or the sink, by which its markers go",
        )

    def where(self, place: str) -> str:
        return f"the target of sink {self._context.sink!r}" + (self._target.shown and f" in {self._target.shown}")

    def markers_of(self, job: str) -> str:
        owner = f"{job}/{self._context.sink}"
        how = self._target.how_to_forget(owner)
        return f"the markers of {owner!r} in the target" + (how and f" ({how})")

    def place(self) -> Place:
        return _PLACE

    def number_of(self, place: str) -> int:
        return _PLACE.number

    def standings(self) -> dict[Slot, Standing]:
        kept = self._target.read_markers(self._marker(FENCE, 0).owner)
        return {(_PLACE.name, worker_of(key)): Standing.read(text) for key, text in kept.items()}

    def jobs(self) -> Iterable[str]:
        if job_and_instance(self._context.job)[1] is None:
            # Some targets look through all that they have.
            return ()
        owners = (owner.partition("/") for owner in self._target.owners())
        return [job for job, _, sink in owners if sink == self._context.sink]

    def make(self) -> None:
        # The target is there when it is connected.
        pass

    def fence(self, judge: Callable[[Standings], Mapping[Slot, int]]) -> None:
        judge(self.standings())
        crash_point("outbox.pre_fence")
        self._target.fence(self._marker(FENCE, 0))
        crash_point("outbox.post_fence")
        # Again: nobody older can change them any more.
        judge(self.standings())

    def standing(self, slot: Slot) -> Standing:
        mine, (_, worker) = self._context, slot
        kept = self._target.read_markers(self._marker(FENCE, 0).owner)
        # Refuses what is not of this run, as a transaction would.
        self._marker(worker, 0).is_due(kept)
        text = kept.get(self._marker(worker, 0).key)
        return Standing(mine.job_epoch, mine.run, 0, mine.lineage) if text is None else Standing.read(text)

    def write(self, parts: list[bytes], records: Batch) -> int:
        # Bytes at once: user code may change a record later, such as a state that it also returned as a result.
        rows = rows_of(records)
        try:
            part = self._codec.encode(rows)
        except SerializationError:
            part = self._codec.encode([self._plain(row) for row in rows])
        parts.append(part)
        return len(part)

    def _plain(self, record: Any) -> Any:
        """A record with values of types that sinks take and the codec does not know, as those that it knows."""
        try:
            plain = plain_value(record)
            self._codec.encode(plain)
        except (SerializationError, TypeError, ValueError, OverflowError, RecursionError) as error:
            reason = error.__cause__ if isinstance(error, SerializationError) else error
            raise SinkError(
                f"a record cannot be staged: {described(reason or error)}. It is a {type(record).__qualname__}; map it "
                "to plain values: None, numbers, texts, bytes, times, Decimals, UUIDs, and lists and dicts of these"
            ) from error
        return plain

    def wall_ms(self) -> int:
        return int(time.time() * 1000)

    def check(self, staged: Staged[list[bytes]]) -> None:
        if type(self._target).check is not OutboxTarget.check:
            self._target.check(self._records(staged))

    def read(self, handle: bytes) -> Staged[list[bytes]]:
        return msgspec.msgpack.decode(handle, type=Staged[list[bytes]])

    def apply(self, staged: Staged[list[bytes]], checkpoint_id: int, is_due: Callable[[], bool]) -> None:
        if not is_due():
            return
        crash_point("outbox.pre_apply")
        left = self.standing(staged.slot).left_by(self._context.lineage)
        self._target.apply(self._records(staged), replace(self._marker(staged.worker, checkpoint_id), left=left))
        crash_point("outbox.post_apply")
        there = self.standing(staged.slot)
        if (there.lineage, there.checkpoint) != (self._context.lineage, checkpoint_id):
            raise SinkError(
                f"apply() of sink {self._context.sink!r} has returned without keeping its marker: keep marker.text "
                "under marker.owner and marker.key in the transaction that writes the records"
            )

    def close(self) -> None:
        self._target.close()

    def _records(self, staged: Staged[list[bytes]]) -> list[Any]:
        return [record for part in staged.parts for record in self._codec.decode(part)]

    def _marker(self, worker: int, checkpoint_id: int) -> Marker:
        mine = self._context
        return Marker(mine.job, mine.sink, worker, mine.lineage, checkpoint_id, mine.job_epoch, mine.run, mine.state_id)
