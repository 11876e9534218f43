"""Partitions that come while a job runs.

A source task is opened for each between two rounds, when no barrier is under way: so every checkpoint has either
nothing of a partition, and then the next run finds it anew and begins at its beginning, or its position with all that
came of it before the barrier.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack

from onceflow.clock import Clock
from onceflow.graph.graph import SourceStep
from onceflow.process import closing
from onceflow.runtime.source_task import SourceTask, source_errors
from onceflow.runtime.workers.share import Share
from onceflow.sources import SourceContext

__all__ = ["Growth"]

#: How often sources are asked.
_EVERY_S = 1.0


class Growth:
    """Asks the sources for partitions that have come.

    Args:
        sources: All of them.
        contexts: Of each, by step id.
        batch_size: Records that a task is asked for.
        clock: Where the time comes from.
        resources: Closes the tasks.
        share: Whose partitions are opened; None: all are.
    """

    def __init__(
        self,
        sources: Sequence[SourceStep],
        contexts: Mapping[str, SourceContext],
        batch_size: int,
        clock: Clock,
        resources: ExitStack,
        share: Share | None = None,
    ) -> None:
        self._contexts = contexts
        self._batch_size = batch_size
        self._clock = clock
        self._resources = resources
        #: Those that may get some; it is not known yet of which this is so.
        self._growing = list(sources)
        self._looked_s: float | None = None
        self._share = share

    @property
    def may_come(self) -> bool:
        """Whether a source may get partitions: then the run goes on though all that there are have ended."""
        return bool(self._growing)

    def come(self, tasks: Mapping[str, Sequence[SourceTask]]) -> Iterator[SourceTask]:
        """Tasks of partitions that nobody reads yet, opened; looked for once a second.

        Args:
            tasks: Of each source, by its step id.

        Raises:
            SourceError: What a source raises.
        """
        now_s = self._clock.monotonic()
        if not self._growing or (self._looked_s is not None and now_s - self._looked_s < _EVERY_S):
            return
        self._looked_s = now_s
        for step in list(self._growing):
            known, context = {task.partition for task in tasks[step.step_id]}, self._contexts[step.step_id]
            if self._share is not None:
                known |= self._share.others_of(step.step_id)
            with source_errors(step.step_id):
                found = step.source.new_partitions(known, context)
            if found is None:
                self._growing.remove(step)
            for partition in found or ():
                if self._share is not None and not self._share.owns(step.step_id, partition):
                    continue
                task = SourceTask(step, partition, None, self._batch_size, context)
                self._resources.push(closing(task.close))
                task.open()
                # In which order its records come beside those of others is a matter of time.
                task.waited = True
                yield task
