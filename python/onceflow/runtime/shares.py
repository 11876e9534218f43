"""What a worker's time goes to: work, waiting for something to read, waiting for its sinks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Shares"]


class Shares:
    """Shares of the time since they were last asked for.

    Args:
        now: Seconds, monotonic.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._since = now()
        self._idle_s = self._backpressured_s = 0.0

    @contextmanager
    def idle(self) -> Iterator[None]:
        """There is nothing to read."""
        began = self._now()
        try:
            yield
        finally:
            self._idle_s += self._now() - began

    @contextmanager
    def backpressured(self) -> Iterator[None]:
        """Nothing is read, since sinks hold too much."""
        began = self._now()
        try:
            yield
        finally:
            self._backpressured_s += self._now() - began

    def take(self) -> tuple[float, float]:
        """The busy and the backpressured share, from 0 to 1, of the time since the last call."""
        now = self._now()
        all_s = now - self._since
        idle_s, backpressured_s = self._idle_s, self._backpressured_s
        self._since, self._idle_s, self._backpressured_s = now, 0.0, 0.0
        if all_s <= 0:
            return 0.0, 0.0
        backpressured = min(backpressured_s / all_s, 1.0)
        return max(1.0 - backpressured - idle_s / all_s, 0.0), backpressured
