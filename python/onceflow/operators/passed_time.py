"""How long ago something was, counted over runs.

A horizon or a time to live of records without event time is counted in time that has passed, not by the time of day:
setting the wall clock makes nothing expire, and nothing live longer. The count is part of each checkpoint and goes on
with the next run.
"""

from __future__ import annotations

import msgspec

from onceflow.clock import Clock
from onceflow.types import Micros

__all__ = ["PassedTime"]


class PassedTime:
    """Microseconds that pass, over runs too; they begin at about the time of day, and never go back.

    While the machine is on, its time since the last start counts. Where that has begun anew, after a boot
    or on another machine, so much has passed as both the wall clock and the time since the boot allow: what is
    remembered may be remembered longer, by the time that the machine was off, but is not forgotten early because a
    clock was set.

    Args:
        clock: Where the time comes from.
        restored: What ``snapshot`` returned for the checkpoint that is resumed from.
    """

    def __init__(self, clock: Clock, restored: bytes | None = None) -> None:
        self._clock = clock
        boot, up, wall = *self._up(), _micros(clock.now())
        passed = wall
        if restored is not None:
            saved: dict[str, int | str] = msgspec.msgpack.decode(restored)
            since = up - int(saved["up"])
            if saved["boot"] != boot or since < 0:
                since = min(max(wall - int(saved["wall"]), 0), up)
            passed = int(saved["passed"]) + since
        #: What is added to the time since the machine's start.
        self._offset = passed - up

    def _up(self) -> tuple[str, Micros]:
        boot, seconds = self._clock.since_boot()
        return boot, _micros(seconds)

    def now_us(self) -> Micros:
        """Microseconds by this count."""
        return self._up()[1] + self._offset

    def snapshot(self) -> bytes:
        """What lets the count go on in the next run."""
        boot, up = self._up()
        return msgspec.msgpack.encode(
            {"boot": boot, "up": up, "wall": _micros(self._clock.now()), "passed": up + self._offset}
        )


def _micros(seconds: float) -> Micros:
    return round(seconds * 1_000_000)
