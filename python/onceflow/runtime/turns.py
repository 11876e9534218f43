"""Who reads in a round.

Partitions and sources are kept together in event time: who is most behind reads, so that how far apart they are is
bounded by a batch, and neither the order in which sources were declared nor their speed decides results. Who reads in a
round follows from where the tasks stand, so what the worker sees does not depend on where checkpoints fall.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from onceflow.runtime.source_task import SourceTask
from onceflow.types import END_OF_TIME, Micros

__all__ = ["Turns"]

#: A job looks so often whether it was replaced, and whether there is something to read after all.
_LONGEST_S = 1.0
#: Sources that do not say when there is something are asked again after so long, then after twice that, up to 48 ms.
_FIRST_PAUSE_S = 0.0015
_DOUBLINGS = 5


class Turns:
    """Has source tasks read, round after round.

    Args:
        by_source: The tasks of each source, by its step id.
        max_drift_us: Nobody reads who is further ahead, in event time, of one that has nothing to read yet; None: as
            far as there is something.
    """

    def __init__(self, by_source: Mapping[str, Sequence[SourceTask]], max_drift_us: int | None = None) -> None:
        self._max_drift_us = max_drift_us
        #: Those that have not ended; who reads in a round must not cost what all partitions together do.
        self._live = {step_id: list(tasks) for step_id, tasks in by_source.items()}
        self._some_ended: set[str] = set()
        #: Those that are read to what is their end for now; they still hold watermarks back.
        self._caught_up: dict[str, list[SourceTask]] = {}

    @property
    def all_ended(self) -> bool:
        """Whether no task is left."""
        return not any(self._live.values())

    @property
    def live(self) -> list[SourceTask]:
        """The tasks that had not ended when the last round had."""
        return [task for tasks in self._live.values() for task in tasks]

    @property
    def caught_up(self) -> list[str]:
        """Sources with partitions that are read to what is their end for now."""
        return list(self._caught_up)

    def of_source(self, step_id: str) -> list[SourceTask]:
        """Those of one source, and its tasks that are caught up."""
        caught_up = self._caught_up.get(step_id)
        return [*self._live[step_id], *caught_up] if caught_up else self._live[step_id]

    def join(self, task: SourceTask) -> None:
        """A task of a partition that has come."""
        self._live[task.step.step_id].append(task)

    def ended(self, task: SourceTask) -> None:
        """A task has read its partition to the end; it is left out once the round is over."""
        self._some_ended.add(task.step.step_id)

    def leave_out_ended(self) -> None:
        """The round is over."""
        for step_id in self._some_ended:
            if caught_up := [task for task in self._live[step_id] if task.caught_up is not None]:
                self._caught_up.setdefault(step_id, []).extend(caught_up)
            self._live[step_id] = [task for task in self._live[step_id] if not task.ended]
        self._some_ended.clear()

    def take(self, read: Callable[[SourceTask], bool]) -> bool:
        """One round; false if there was nothing to read. ``read`` has a task read a batch and says whether it had one.

        Those read that are most behind in event time; where they have nothing to read yet they hold up who is further
        ahead than the drift allowed.

        Of a source that opens a part of its partitions at a time so many read that have not ended, the first ones in
        order. One that ends makes room for the next one in the same round: so partitions that have ended already when
        a job resumes change nothing in who reads beside whom.
        """
        if interrupted := [task for task in self.live if task.has_turn]:
            return _rest_of_round(interrupted, read)
        places = [task.place for task in self._in_turn() if not task.has_arrived]
        lowest = min((place for place in places if place is not None), default=END_OF_TIME)
        progressed = found = False
        ahead: list[tuple[Micros, SourceTask]] = []
        for task in self._in_turn():
            place = task.place
            if task.has_arrived:
                task.wait_turn()
            elif place is None or place <= lowest:
                had_ended = task.delivered == END_OF_TIME
                progressed |= (had_some := read(task))
                # Without an interruption it would not have been asked again.
                found |= had_some and not (had_ended and task.ended)
            else:
                ahead.append((place, task))
        furthest = self._furthest()
        while ahead and not found:
            lowest = min(place for place, _ in ahead)
            if lowest > furthest:
                break
            for task in [task for place, task in ahead if place == lowest]:
                found |= read(task)
            ahead = [(place, task) for place, task in ahead if place != lowest]
        for _, task in ahead:
            task.wait_turn()
        return progressed or found

    def _furthest(self) -> Micros:
        """Up to where, in event time, others may read while those that are most behind have nothing.

        Who is idle holds nobody up, nor does who has not had a record yet: nobody knows where it is.
        """
        if self._max_drift_us is None:
            return END_OF_TIME
        places = [task.place for task in self._in_turn() if not task.idle and not task.has_arrived]
        return min((place for place in places if place is not None), default=END_OF_TIME) + self._max_drift_us

    def _in_turn(self) -> Iterator[SourceTask]:
        """The tasks whose turn it is; those that end meanwhile make room for others."""
        for tasks in self._live.values():
            left = len(tasks)
            if tasks and tasks[0].step.source.max_open_partitions is not None:
                left = tasks[0].step.source.max_open_partitions
            for task in tasks:
                if left == 0:
                    break
                if not task.ended:
                    yield task
                    left -= not task.ended

    def look_again_s(self, now_s: float, *, looks: int) -> float:
        """Nothing was there to read: in how many seconds to ask again, unless somebody wakes the worker before.

        Args:
            now_s: By the job's clock.
            looks: How often nothing was there since something was.
        """
        longest = _LONGEST_S
        for task in self.live:
            if not task.wakes:
                longest = min(longest, _FIRST_PAUSE_S * 2 ** min(looks, _DOUBLINGS))
            if (idle_in_s := task.idle_in_s(now_s)) is not None:
                longest = min(longest, idle_in_s)
        return longest


def _rest_of_round(tasks: Sequence[SourceTask], read: Callable[[SourceTask], bool]) -> bool:
    """The rest of a round that was left."""
    progressed = False
    for task in tasks:
        task.has_turn = False
        if not task.has_arrived:
            progressed |= read(task)
    return progressed
