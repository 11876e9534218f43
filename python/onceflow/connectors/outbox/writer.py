"""The writer of an outbox: output is staged in the job's own decision record, and applied after the decision.

Where staged records live, and why
----------------------------------
They are kept in the job's memory until the barrier, then inside the decision record, and nowhere else. So before the
decision there is nothing anywhere, and nothing can be orphaned; after it everything is there, fixed, for as long as it
takes, however long the target is away. The target needs no second phase: one transaction with output and marker. The
price is that output is written twice, and that what is written between two checkpoints must fit in memory and in the
record: a checkpoint begins early when much is held, and what does not fit is refused.

The steps of a checkpoint
-------------------------
1. ``write`` turns records into bytes; ``seal`` cuts.
2. ``prepare`` has the target check what it would refuse after the decision. Nothing is written.
3. The decision record, with the records in it, becomes durable.
4. ``commit`` applies the records in one transaction of the target, together with the marker of the worker that staged
   them: lineage, checkpoint, run. A checkpoint that is not above the marker's is there already and is dropped, so a
   commit can be repeated, by any worker.

A crash before 3 leaves nothing. Between 3 and the end of 4 the next run finds the decision, and the marker tells
whether the transaction was committed.

Fencing
-------
``open`` reads the markers and changes nothing: a run with another state directory, of an older lineage or job epoch, or
with a state that does not know a marker's checkpoint as decided, is refused there. ``recover`` has the target shut
older runs out, which it does in its transactions; then the markers are read again, which nobody older can change any
more; then what was decided is applied. A run that was paused and wakes up finds the target fenced.

Older copies
------------
A state that was put back from a copy does not know a marker's checkpoint: refused, at each attempt, until a new
timeline is begun on purpose. So is one that does not know the run that has written a marker: then another copy of the
state is in use, whose checkpoints have the same numbers. So of each lineage one run after the other has written here,
each with what the one before it had, and a number says what is there. A marker also keeps how far the lineages before
its own have come: a state that goes back on purpose while another copy has gone on finds by its own lineage's number
whether its newest output is there.

A target that was put back lacks what the state says was written: staged output names the checkpoint whose output was
there before it, and the checkpoint itself keeps the newest one that has output, so that the gap is refused too.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Generic, TypeVar, cast

import msgspec

from onceflow.connectors.outbox.checks import Checks
from onceflow.connectors.outbox.destination import Destination, Standings
from onceflow.connectors.outbox.marker import Slot
from onceflow.connectors.outbox.staged import Staged, Written
from onceflow.exceptions import SinkError
from onceflow.sinks import Committable, SinkContext, TransactionalSinkWriter
from onceflow.types import Batch, Plain

__all__ = ["MAX_STAGED_BYTES", "OutboxWriter", "with_run"]

#: Of one checkpoint and sink. A record of the store has a bound, for all sinks of a job together; a checkpoint begins
#: early long before.
MAX_STAGED_BYTES = 512 << 20

Part = TypeVar("Part")


def with_run(context: SinkContext) -> SinkContext:
    """The context, with an identity of the run: of this writer alone, if nobody has given one."""
    return context if context.run else replace(context, run=secrets.token_hex(8))


class OutboxWriter(TransactionalSinkWriter, Generic[Part]):
    """Until ``recover`` nothing is written; what is missing is made when this run may write.

    Args:
        destination: Closed by the writer, also if this raises.
        context: Who writes, with its run.
        max_staged_bytes: Of one checkpoint.
    """

    held: int = 0
    held_bytes: int = 0

    def __init__(
        self, destination: Destination[Part], context: SinkContext, max_staged_bytes: int = MAX_STAGED_BYTES
    ) -> None:
        self._destination = destination
        self._context = context
        self._max_staged_bytes = max_staged_bytes
        # What comes until the barrier fits in the rest.
        self.max_held_bytes = max_staged_bytes // 2
        self._checks = Checks(context, destination)
        self._parts: list[Part] = []
        #: The checkpoint that was sealed last, if it has output, and the newest of this worker that is visible.
        self._sealed = 0
        self._visible = 0
        #: What was prepared last, as it was returned and as it is: a commit need not read it again.
        self._prepared: tuple[Plain, Staged[list[Part]]] | None = None
        #: Prepared, and then aborted.
        self._aborted: set[int] = set()
        self._recovered = False
        try:
            standings = destination.standings()
            self._checks.check(standings)
            self._checks.check_division()
            self._checks.check_new_lineage(standings)
            destination.make()
        except BaseException:
            self.close()
            raise

    # -- the start -----------------------------------------------------------------------------

    def applied(self, checkpoint_id: int) -> bool | None:
        lineage = self._context.lineage
        standings = self._destination.standings().values()
        known = [each.checkpoint for each in standings if each.lineage in (None, lineage)]
        if known and max(known) >= checkpoint_id:
            return True
        return False if known and self._destination.settled() else None

    def recover(self, decided: Sequence[Committable]) -> None:
        staged = [(committable.checkpoint_id, self._staged(committable)) for committable in decided]
        outputs = [(checkpoint_id, output) for checkpoint_id, output in staged if self._checks.is_there(output)]
        self._checks.expect(outputs)

        def judge(standings: Standings) -> dict[Slot, int]:
            self._checks.check(standings)
            self._checks.check_outputs(standings, outputs)
            new = dict.fromkeys([self._slot(), *(output.slot for _, output in outputs)], 0)
            return new | {slot: self._checks.standing(slot, each) for slot, each in standings.items()}

        self._destination.fence(judge)
        # Again: of two that begin at the same time at least one sees the other.
        self._checks.check_division()
        self._recovered = True
        for checkpoint_id, output in outputs:
            self._apply(output, checkpoint_id)
        self._visible = self._newest(self._slot())

    # -- a checkpoint --------------------------------------------------------------------------

    def write(self, records: Batch) -> None:
        if not len(records):
            return
        self.held_bytes += self._destination.write(self._parts, records)
        self.held += len(records)
        if self.held_bytes > self._max_staged_bytes:
            raise SinkError(
                f"the output of one checkpoint has {self.held_bytes} bytes, and a decision record takes "
                f"{self._max_staged_bytes} of a sink at most: let checkpoints begin more often, read smaller batches, "
                "or write smaller records"
            )

    def seal(self, checkpoint_id: int) -> Any | None:
        parts, self._parts = self._parts, []
        self.held = self.held_bytes = 0
        self._sealed = checkpoint_id if parts else 0
        return parts or None

    def snapshot(self) -> Plain:
        place, newest = self._destination.place(), self._sealed or self._visible
        written = Written(place.target, place.name, place.number, self._context.lineage, newest, self._context.worker)
        return cast("Plain", msgspec.to_builtins(written))

    def prepare(self, checkpoint_id: int, sealed: Any) -> Plain:
        self._check_recovered()
        place, mine = self._destination.place(), self._context
        newest = self._newest(self._slot())
        if checkpoint_id <= newest:
            raise SinkError(
                f"{self._destination.where(place.name)} holds the output of checkpoint {newest} of job {mine.job!r}, "
                f"and this is checkpoint {checkpoint_id}: another copy of the job's state has written here. Give each "
                f"copy {self._destination.words.own}"
            )
        self._destination.stage(sealed)
        wall_ms = self._destination.wall_ms()
        staged: Staged[list[Part]] = Staged(
            place.name, place.number, mine.run, wall_ms, sealed, newest, mine.lineage, place.target, mine.worker
        )
        self._destination.check(staged)
        handle = self._destination.handle(staged)
        self._prepared = handle, staged
        return handle

    def commit(self, committable: Committable) -> None:
        self._check_recovered()
        prepared, self._prepared = self._prepared, None
        if prepared is not None and prepared[0] is committable.handle:
            staged = prepared[1]
        else:
            staged = self._staged(committable)
        self._destination.standing(staged.slot)
        # What an earlier run has staged was committed, or discarded, by the recovery.
        if staged.run != self._context.run:
            return
        mine = staged.slot == self._slot()
        if mine and committable.checkpoint_id in self._aborted:
            return
        self._apply(staged, committable.checkpoint_id)
        if mine:
            self._visible = committable.checkpoint_id

    def abort(self, checkpoint_id: int, sealed: Any) -> None:
        # What is not decided is nowhere.
        self._aborted.add(checkpoint_id)

    def close(self) -> None:
        self._parts = []
        self._destination.close()

    def _apply(self, staged: Staged[list[Part]], checkpoint_id: int) -> None:
        """Applies the output of a checkpoint, unless it is there."""

        def is_due() -> bool:
            there = self._newest(staged.slot)
            if checkpoint_id <= there:
                return False
            if staged.run == self._context.run and staged.after is not None and there < staged.after:
                raise self._checks.older_target(staged.place, staged.after, there)
            return True

        self._destination.apply(staged, checkpoint_id, is_due)

    def _newest(self, slot: Slot) -> int:
        return self._checks.standing(slot, self._destination.standing(slot))

    def _slot(self) -> Slot:
        return self._destination.place().name, self._context.worker

    def _check_recovered(self) -> None:
        if not self._recovered:
            raise SinkError("recover() comes before anything else")

    def _staged(self, committable: Committable) -> Staged[list[Part]]:
        try:
            return self._destination.read(committable.handle)
        except (msgspec.DecodeError, TypeError) as error:
            raise SinkError(
                f"what was staged for checkpoint {committable.checkpoint_id} is not of this kind of sink: {error}"
            ) from error
