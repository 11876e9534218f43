"""What a log measures durations by, and what it stamps records with."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onceflow import _native
    from onceflow.clock import Clock

__all__ = ["LogTime"]


class LogTime:
    """A log's own clock, the same in all processes that use it.

    It shows about the time of day, but goes on with the machine's monotonic clock: setting the wall clock lets nobody
    be declared dead, nothing time out, nothing be forgotten or removed. Over a boot it goes on by what the wall clock
    says has passed.
    """

    __slots__ = ("_clock", "_log")

    def __init__(self, log: _native.Log, clock: Clock) -> None:
        self._log = log
        self._clock = clock

    def now_ms(self) -> int:
        """Milliseconds by the log's clock: for everything that lasts."""
        return self._log.time_ms(self._clock.monotonic(), self._clock.now())

    def wall_ms(self) -> int:
        """Milliseconds since 1970 by the wall clock: for the timestamps of records."""
        return int(self._clock.now() * 1000)
