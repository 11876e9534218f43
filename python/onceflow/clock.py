"""Time as an argument: the system's clock in jobs, a manual one in tests."""

from __future__ import annotations

import time
from typing import Protocol

__all__ = ["Clock", "ManualClock", "SystemClock"]


class Clock(Protocol):
    """Where the program takes the time from."""

    def monotonic(self) -> float:
        """Seconds of a clock that never goes back."""

    def now(self) -> float:
        """Seconds since 1970 UTC."""


class SystemClock:
    """The machine's clocks."""

    def monotonic(self) -> float:
        """Seconds since the machine was booted, those included in which it slept; the same in all its processes."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def now(self) -> float:
        """Seconds since 1970 UTC."""
        return time.time()


class ManualClock:
    """A clock that stands still until it is moved."""

    def __init__(self, now: float = 0.0) -> None:
        self._now = now

    def monotonic(self) -> float:
        """Seconds since the start."""
        return self._now

    def now(self) -> float:
        """Seconds since 1970 UTC."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Moves the clock forward."""
        self._now += seconds
