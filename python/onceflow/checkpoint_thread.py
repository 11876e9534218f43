"""The thread that makes checkpoints durable while the job goes on."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["CheckpointThread", "Outcome"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one piece of work.

    Attributes:
        kind: As given to ``submit``.
        sink: As given to ``submit``.
        value: What the work returned.
        error: What it raised.
    """

    kind: str
    sink: str
    value: Any
    error: BaseException | None


class CheckpointThread:
    """Does pieces of work one after the other; the job's thread asks for what became of them.

    There is at most one checkpoint under way, so the queues hold a few entries for each sink.
    """

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[tuple[str, str, Callable[[], Any]] | None] = queue.SimpleQueue()
        self._outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="onceflow-checkpoint", daemon=True)
        self._thread.start()

    def submit(self, kind: str, sink: str, work: Callable[[], Any]) -> None:
        """Appends a piece of work."""
        self._work.put((kind, sink, work))

    def outcome(self, timeout_s: float = 0.0) -> Outcome | None:
        """The next outcome, if it comes within the timeout (seconds)."""
        try:
            return self._outcomes.get(timeout=timeout_s) if timeout_s > 0 else self._outcomes.get_nowait()
        except queue.Empty:
            return None

    def _run(self) -> None:
        while (item := self._work.get()) is not None:
            kind, sink, work = item
            try:
                self._outcomes.put(Outcome(kind, sink, work(), None))
            except BaseException as error:
                self._outcomes.put(Outcome(kind, sink, None, error))

    def close(self) -> None:
        """Waits for what was submitted, and ends the thread."""
        self._work.put(None)
        self._thread.join()
