"""Whether a run may write to a target: what the markers there say, beside what the job's state says."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

from onceflow.connectors.outbox.destination import Destination, Standings
from onceflow.connectors.outbox.marker import Slot, Standing
from onceflow.connectors.outbox.staged import Staged, Written
from onceflow.exceptions import (
    FencedError,
    MissingOutputWarning,
    OnceflowWarning,
    RepeatedOutputWarning,
    SinkError,
)
from onceflow.instances import Instance, count_of, job_and_instance, run_of, what_it_is
from onceflow.sinks import SinkContext

__all__ = ["Checks"]


class Checks:
    """Of one run. Changes nothing."""

    def __init__(self, context: SinkContext, destination: Destination[Any]) -> None:
        self._context = context
        self._destination = destination
        self._words = destination.words
        #: A target is looked at several times before it is written to.
        self._told: set[str] = set()
        self._known = Written.read(context.restored_state)
        #: Decided output that a new lineage begins with.
        self._begins_with: dict[Slot, Staged[Any]] = {}

    def expect(self, outputs: Iterable[tuple[int, Staged[Any]]]) -> None:
        """Called with the decided outputs once they are known. Says which of them may be written a second time."""
        first = {output.slot: (number, output) for number, output in outputs if output.lineage != self._context.lineage}
        self._begins_with = {slot: output for slot, (_, output) in first.items()}
        standings = self._destination.standings() if first else {}
        for slot, (checkpoint_id, output) in first.items():
            there = standings.get(slot)
            if there is None or output.lineage is None or there.newest_of(output.lineage) is not None:
                continue
            if self._context.lineage > (there.lineage or 0) > output.lineage:
                self._tell(
                    RepeatedOutputWarning(
                        f"{self._where(output.place)} holds the output of lineage {there.lineage}, and does not say "
                        f"whether it has that of checkpoint {checkpoint_id}, which job {self._context.job!r} goes on "
                        "from: it is written, and may be there twice"
                    )
                )

    def check(self, standings: Standings) -> None:
        """Whether this run may write.

        Raises:
            FencedError: A newer run writes.
            SinkError: The target is another state's, or newer than this one.
        """
        is_unused = not any(each.checkpoint for each in standings.values())
        for (place, _), standing in standings.items():
            self._check_state(place, standing, is_unused=is_unused)
            self._check_fence(place, standing)
        mine = self._destination.place().name
        newest = max((each.checkpoint for (place, _), each in standings.items() if place == mine), default=0)
        if self._context.restored_checkpoint is None and newest:
            raise SinkError(
                f"{self._where(mine)} holds output of an earlier run, up to checkpoint {newest}, and this job starts "
                f"from nothing, so it would be written again: delete {self._words.thing}, choose another one, or "
                f"delete {self._markers} if it shall be written again"
            )
        for (place, _), standing in standings.items():
            self._check_checkpoint(place, standing)
        for (place, _), standing in standings.items():
            self._check_copy(place, standing)

    def check_division(self) -> None:
        """That nobody has written here who divides the same job in another way: what one of those has read and written,
        one of these would read and write again.

        Raises:
            SinkError: Somebody has.
        """
        flow, instance = job_and_instance(self._context.job)
        for job in self._destination.jobs():
            other, theirs = job_and_instance(job)
            if other != flow or count_of(theirs) == count_of(instance):
                continue
            raise SinkError(
                f"{self._where(self._destination.place().name)} is written by {run_of(theirs)} of job {flow!r}, and "
                f"this run {what_it_is(instance)}: each record would be in it twice. Run as many instances as before; "
                f"or start over with {self._words.own}; or delete what they have written, and "
                f"{self._markers_of_others(flow, instance)}"
            )

    def _markers_of_others(self, flow: str, instance: Instance | None) -> str:
        """Of all runs that divide the job in another way."""
        jobs = {job: job_and_instance(job) for job in self._destination.jobs()}
        others = [job for job, (other, its) in jobs.items() if other == flow and count_of(its) != count_of(instance)]
        return " and ".join(map(self._destination.markers_of, sorted(others)))

    def check_new_lineage(self, standings: Standings) -> None:
        """Where a job goes back on purpose: that a target has what the output goes on from, and what it has after it.

        Once, before any sink is touched: afterwards the markers are of the new lineage.
        """
        mine = self._context
        restored = mine.restored_checkpoint
        if restored is None or mine.newest_decided is not None:
            return
        place = self._destination.place()
        here = {slot: standing for slot, standing in standings.items() if slot[0] == place.name}
        known = self._known
        left = max((each.checkpoint for each in here.values() if each.lineage != mine.lineage), default=0)
        others = [
            each for each in here.values() if known is not None and mine.lineage > (each.lineage or 0) > known.lineage
        ]
        if left > restored:
            self._tell(
                RepeatedOutputWarning(
                    f"{self._where(place.name)} holds the output of checkpoints after {restored}, up to {left}, of job "
                    f"{mine.job!r}: it stays there, and sink {mine.sink!r} writes it again, so readers find it twice. "
                    f"Where that must not be, run the job with its newest state instead; or delete "
                    f"{self._words.thing}, move away what other sinks hold, and run the job once with "
                    "resume_from='none' (--resume-from none), which writes all of it once"
                )
            )
        elif other := max(
            (each for each in others if each.checkpoint), key=lambda each: each.lineage or 0, default=None
        ):
            self._tell(
                RepeatedOutputWarning(
                    f"{self._where(place.name)} holds the output of lineage {other.lineage} of job {mine.job!r}, up to "
                    f"checkpoint {other.checkpoint}, which checkpoint {restored} does not come from: it stays there, "
                    f"and sink {mine.sink!r} writes what came of the same input, so readers find that twice"
                )
            )
        standing = None if known is None else here.get((place.name, known.worker))
        if known is None or standing is None or known.place != place.name or self._is_anew(known):
            return
        there = self.standing((place.name, known.worker), standing)
        # Without a checkpoint that is left, the output of the restored one may have to be committed yet.
        if mine.newest_left is not None and there < known.newest:
            error = self.older_target(place.name, known.newest, there, mine.newest_left)
            if standing.lineage == known.lineage:
                raise error
            # Another lineage has gone on from before it.
            self._tell(MissingOutputWarning(str(error)))

    def is_there(self, staged: Staged[Any]) -> bool:
        """Whether the place that output was decided for still exists."""
        if staged.target and staged.target != self._destination.place().target:
            self._tell(
                MissingOutputWarning(
                    f"the output of the newest checkpoint of job {self._context.job!r} was decided for another target "
                    f"than {self._where(self._destination.place().name)}, where it may be missing: run the job once "
                    "with that one to be sure"
                )
            )
            return False
        return self._destination.number_of(staged.place) <= staged.number

    def check_outputs(self, standings: Standings, outputs: Iterable[tuple[int, Staged[Any]]]) -> None:
        """Refuses a target that lacks what was in it: it would get what came after, and nobody would miss the rest."""
        mine = self._context
        visible: dict[Slot, int] = {slot: self.standing(slot, standing) for slot, standing in standings.items()}
        missing: dict[Slot, int] = {}
        for checkpoint_id, output in outputs:
            there = visible.get(output.slot, 0)
            if checkpoint_id <= there:
                continue
            if not any(place == output.place for place, _ in standings):
                # Whoever staged it had shut older runs out before, which leaves a marker.
                error = self._without_markers(output.place, checkpoint_id)
                if output.lineage == mine.lineage:
                    raise error
                self._tell(RepeatedOutputWarning(str(error)))
            if output.after is not None and there < output.after:
                error = self.older_target(output.place, output.after, there)
                if output.lineage == mine.lineage:
                    raise error
                # Another timeline goes on from here on purpose.
                self._tell(MissingOutputWarning(str(error)))
            if output.slot in missing and output.after is not None and not self._destination.markers_are_with_output:
                # A crash leaves no more than one decision without its output: the marker has gone back, and the output
                # may still be there.
                error = self.older_target(output.place, output.after, missing[output.slot])
                if output.lineage == mine.lineage:
                    raise error
                self._tell(RepeatedOutputWarning(str(error)))
            missing.setdefault(output.slot, there)
            visible[output.slot] = checkpoint_id
        known, place = self._known, self._destination.place().name
        if known is None or known.place != place:
            return
        if known.lineage != mine.lineage and mine.newest_left is not None:
            return
        there = visible.get((place, known.worker), 0)
        if there < known.newest and not self._is_anew(known):
            error = self.older_target(place, known.newest, there)
            if known.lineage == mine.lineage:
                raise error
            # From the end of a lineage a person goes on all the same.
            self._tell(MissingOutputWarning(str(error)))

    def _tell(self, warning: OnceflowWarning) -> None:
        """Warns, once."""
        if str(warning) not in self._told:
            self._told.add(str(warning))
            warnings.warn(warning, stacklevel=4)

    def standing(self, slot: Slot, standing: Standing) -> int:
        """The newest checkpoint of this timeline whose output is there."""
        if standing.lineage in (None, self._context.lineage):
            return standing.checkpoint
        # Another timeline begins with what it resumes from, whatever was written after it.
        restored = self._context.restored_checkpoint or 0
        first = self._begins_with.get(slot)
        known = self._known if first is None else first
        there = standing.newest_of(None if known is None else known.lineage)
        if there is None:
            there = standing.checkpoint
            if first is not None and first.lineage is not None:
                # A number of another lineage says nothing of this one's newest output; what was there before it was
                # compared when it was decided.
                there = min(there, restored - 1 if first.after is None else first.after)
        return min(there, restored)

    def older_target(self, place: str, expected: int, there: int, newest: int | None = None) -> SinkError:
        """The target lacks what was there."""
        number = newest or self._context.restored_checkpoint
        store = self._words.store
        return SinkError(
            f"{self._where(place)} had the output of checkpoint {expected} of job {self._context.job!r}, and has it up "
            f"to {there or 'none'} now: {store} is older than the job's state, as when a backup was put back. Put the "
            f"newest one of {store} back; or resume from a checkpoint whose output is there in full with "
            f"resume_from (--resume-from); or, to go on without what is lost, from {number}"
        )

    def _without_markers(self, place: str, checkpoint_id: int) -> SinkError:
        """Nobody can tell whether an output is there."""
        return SinkError(
            f"{self._where(place)} had markers of job {self._context.job!r} before checkpoint {checkpoint_id} was "
            f"decided, and has none now: they were deleted, or {self._words.store} is older than the job's state, as "
            f"when a backup was put back. Whether the output of checkpoint {checkpoint_id} is there nobody can tell. "
            f"Put the newest one of {self._words.store} back; or, if that output is missing or may be written again, "
            f"run the job once with resume_from={checkpoint_id} (--resume-from {checkpoint_id})"
        )

    def _is_anew(self, known: Written) -> bool:
        """A place, or a target, that was deleted and made anew has none of it on purpose."""
        return (
            known.target != self._destination.place().target or self._destination.number_of(known.place) > known.number
        )

    def _check_state(self, place: str, standing: Standing, *, is_unused: bool) -> None:
        mine = self._context.state_id
        if standing.state and mine and standing.state != mine:
            if elsewhere := self._destination.elsewhere(place):
                does = "has begun to write to" if is_unused else "writes to"
                raise SinkError(
                    f"the names of job {self._context.job!r} and sink {self._context.sink!r}, by which markers go, are "
                    f"taken: a run with another state directory (identity {standing.state}, and this one is {mine}) "
                    f"{does} {elsewhere}. Give the job or the sink another name{self._words.apart}. Only if that job "
                    f"never runs again, delete {self._markers}"
                )
            if is_unused:
                raise SinkError(
                    f"{self._where(place)} is taken by job {self._context.job!r} with another state directory "
                    f"(identity {standing.state}, and this one is {mine}), which has written nothing yet: run the job "
                    f"with that one, or write to {self._words.own}. If its run has failed and does not come back, "
                    f"delete {self._markers}"
                )
            raise SinkError(
                f"{self._where(place)} holds the output of job {self._context.job!r} with another state directory "
                f"(identity {standing.state}, and this one is {mine}): run the job with that one, or write to "
                f"{self._words.own}. If the job's state was deleted, delete {self._words.thing} too; or only "
                f"{self._markers}, if the output shall be written again"
            )

    def _check_fence(self, place: str, standing: Standing) -> None:
        mine = self._context
        lineage = mine.lineage if standing.lineage is None else standing.lineage
        if (lineage, standing.job_epoch) > (mine.lineage, mine.job_epoch):
            theirs = f"epoch {standing.job_epoch}" + (f" of lineage {lineage}" if lineage != mine.lineage else "")
            raise FencedError(
                f"{theirs} of job {mine.job!r} writes to {self._where(place)}; this process has epoch "
                f"{mine.job_epoch} and must stop. If none does, {self._older_state()}",
                epoch=mine.job_epoch,
                newer_epoch=standing.job_epoch,
                newer_lineage=lineage if lineage > mine.lineage else None,
            )

    def _check_copy(self, place: str, standing: Standing) -> None:
        mine = self._context
        if standing.lineage == mine.lineage and mine.is_of_a_copy(standing.job_epoch, standing.run):
            raise SinkError(
                f"{self._where(place)} was written by another copy of the state of job {mine.job!r}, in a run with "
                f"epoch {standing.job_epoch} that this one does not know: output would be missing there, or be there "
                "twice. Run the job with the copy that has written last, or give each "
                f"{self._words.own}; or, to go on from this one on purpose, {self._way_on()}"
            )

    def _check_checkpoint(self, place: str, standing: Standing) -> None:
        mine = self._context
        same = standing.lineage == mine.lineage or (standing.lineage is None and mine.newest_decided is not None)
        decided = max(mine.newest_decided or 0, mine.restored_checkpoint or 0)
        if same and standing.checkpoint > decided:
            raise SinkError(
                f"{self._where(place)} holds the output of checkpoint {standing.checkpoint} of job {mine.job!r}, and "
                f"the newest one of this run's state is {decided}: {self._older_state()}"
            )

    def _older_state(self) -> str:
        """How to go on with a state that is older than the target."""
        return (
            "the state is older than its output, as when a backup was put back or another copy of the job's state was "
            "run, and would write it again. Run the job with its newest state; or, to go on from this one on purpose, "
            f"{self._way_on()}"
        )

    def _way_on(self) -> str:
        number, thing = self._context.newest_decided or self._context.restored_checkpoint, self._words.thing
        if number is None:
            return f"delete {thing}, and run it again"
        return (
            f"run it once with resume_from={number} (--resume-from {number}): what was written after it stays in "
            f"{thing}, and is written again"
        )

    @property
    def _markers(self) -> str:
        return self._destination.markers_of(self._context.job)

    def _where(self, place: str) -> str:
        return self._destination.where(place)
