"""The thread that makes checkpoints durable while the job goes on."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from onceflow._native import CoordinatorEffect, WakeHandle
from onceflow.process import HomeProcess

__all__ = ["CheckpointThread"]


class CheckpointThread:
    """Carries out effects one after the other; the job's thread asks what became of them.

    There is at most one checkpoint under way, so the queues hold a few entries.

    Args:
        wake: Set at each outcome.
        carry_out: Does the work of an effect and of those that follow from it; true when the checkpoint is complete.
    """

    def __init__(self, carry_out: Callable[[CoordinatorEffect], bool], wake: WakeHandle) -> None:
        self._carry_out = carry_out
        self._wake = wake
        self._home = HomeProcess()
        self._work: queue.SimpleQueue[CoordinatorEffect | None] = queue.SimpleQueue()
        #: None for a checkpoint that is complete.
        self._outcomes: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="onceflow-checkpoint", daemon=True)
        self._thread.start()

    def submit(self, effect: CoordinatorEffect) -> None:
        """Appends a piece of work."""
        self._work.put(effect)

    def poll(self, timeout_s: float = 0.0) -> bool:
        """True if a checkpoint has completed, waiting up to a timeout in seconds. Raises what its work raised."""
        try:
            error = self._outcomes.get(timeout=timeout_s) if timeout_s > 0 else self._outcomes.get_nowait()
        except queue.Empty:
            return False
        if error is not None:
            raise error
        return True

    def _run(self) -> None:
        while (effect := self._work.get()) is not None:
            try:
                if self._carry_out(effect):
                    self._outcomes.put(None)
                    self._wake.set()
            except BaseException as error:
                if self._home.is_left:
                    raise  # A child that a sink forked: nobody here asks, or submits more.
                self._outcomes.put(error)
                self._wake.set()

    def close(self) -> None:
        """Waits for what was submitted, and ends the thread."""
        self._work.put(None)
        self._thread.join()
