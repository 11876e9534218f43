"""Time as an argument: the system's clock in jobs, a manual one in tests."""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path
from typing import Protocol

__all__ = ["Clock", "ManualClock", "SystemClock"]


class Clock(Protocol):
    """Where the program takes the time from."""

    def monotonic(self) -> float:
        """Seconds of a clock that never goes back."""

    def since_boot(self) -> tuple[str, float]:
        """A name of the machine's last start, and the seconds since then, also those that it slept."""

    def now(self) -> float:
        """Seconds since 1970 UTC."""


class SystemClock:
    """The machine's clocks."""

    def monotonic(self) -> float:
        """Seconds since the machine was booted, those included in which it slept; the same in all its processes."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def since_boot(self) -> tuple[str, float]:
        """The kernel's name of the machine's last start, and the seconds since then, also those that it slept."""
        return _boot_id(), time.clock_gettime(time.CLOCK_BOOTTIME)

    def now(self) -> float:
        """Seconds since 1970 UTC."""
        return time.time()


@cache
def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


class ManualClock:
    """A clock that stands still until it is moved."""

    def __init__(self, now: float = 0.0) -> None:
        self._now = now

    def monotonic(self) -> float:
        """Seconds since the start."""
        return self._now

    def since_boot(self) -> tuple[str, float]:
        """The same as ``monotonic``, of a machine that is never started anew."""
        return "manual", self._now

    def now(self) -> float:
        """Seconds since 1970 UTC."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Moves the clock forward."""
        self._now += seconds
