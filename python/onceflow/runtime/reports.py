"""What a run tells while it lasts: events, to who listens, and warnings of late records."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from onceflow.clock import Clock
from onceflow.events import CheckpointFailed, JobEvent, Progress, Stopping
from onceflow.exceptions import described
from onceflow.runtime.delivery import Delivery
from onceflow.runtime.late import warn_of_late
from onceflow.runtime.pipeline import FirstLate
from onceflow.runtime.shares import Shares
from onceflow.runtime.worker import Worker

__all__ = ["Reports"]

_PROGRESS_EVERY_S = 0.1


class Reports:
    """What one attempt of a run tells.

    Args:
        on_event: Who listens; None: nobody.
        clock: Says when progress is told again.
    """

    def __init__(self, on_event: Callable[[JobEvent], None] | None, clock: Clock) -> None:
        self._on_event = on_event
        self._clock = clock
        self.shares = Shares()
        self._last_progress = clock.monotonic()
        #: An event is being told; a signal that comes meanwhile waits with its own.
        self._telling = False
        self._told_stopping = False
        self._untold: Exception | None = None
        #: Window steps whose late records are lost, as was told.
        self._warned_of: set[str] = set()

    def tell(self, event: JobEvent) -> None:
        """Whoever listens hears it, on this thread."""
        if self._on_event is not None:
            self._telling = True
            try:
                self._on_event(event)
            finally:
                self._telling = False

    def interrupted(self, finishing: int) -> None:
        """As ``stopping``, by the handler of a signal: what it raises is raised by the next call of that."""
        if not self._telling:
            try:
                self.stopping(finishing)
            except Exception as error:
                # Not here, where it would be taken for an error of a user's function.
                self._untold = error

    def stopping(self, finishing: int) -> None:
        """The job is to stop; told once."""
        error, self._untold = self._untold, None
        if error is not None:
            raise error
        if not self._told_stopping:
            self._told_stopping = True
            self.tell(Stopping(finishing))

    def progress(self, worker: Worker, deliveries: Mapping[str, Delivery], *, at_once: bool = False) -> None:
        """Told if it was not told a moment ago."""
        now = self._clock.monotonic()
        if not at_once and now - self._last_progress < _PROGRESS_EVERY_S:
            return
        self._last_progress = now
        if self._on_event is None:
            return
        busy, backpressured = self.shares.take()
        counts, event_time = worker.counts(), worker.event_time
        self.tell(
            Progress(
                counts["records_in"],
                counts["records_out"],
                worker.late(),
                rejected=counts["rejected"],
                skipped=counts["skipped"],
                raised=counts["raised"],
                busy=busy,
                backpressured=backpressured,
                event_time_s=None if event_time is None else event_time / 1_000_000,
                held_bytes={step_id: each.held_bytes + each.sealed_bytes for step_id, each in deliveries.items()},
            )
        )

    @contextmanager
    def checkpoint_failures(self, checkpoint_id: int) -> Iterator[None]:
        """Tells that the checkpoint under way has failed, before the run ends with it."""
        try:
            yield
        except Exception as error:
            self.tell(CheckpointFailed(checkpoint_id, described(error)))
            raise

    def late(self, lost: Mapping[str, FirstLate]) -> None:
        """Warns of records that are lost, once a step."""
        for step_id, first in lost.items():
            if step_id not in self._warned_of:
                self._warned_of.add(step_id)
                warn_of_late(step_id, first)
