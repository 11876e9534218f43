"""Windows over event time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import numpy.typing as npt

from onceflow.exceptions import ConfigurationError

__all__ = ["Tumbling", "micros_of"]


def micros_of(what: str, duration: timedelta) -> int:
    """Whole microseconds of a duration that is not negative."""
    micros = duration // timedelta(microseconds=1)
    if micros < 0:
        raise ConfigurationError(f"{what} is {duration}; it cannot be negative")
    return micros


@dataclass(frozen=True, slots=True, init=False)
class Tumbling:
    """Windows of one size that follow one another without gap or overlap.

    ``Tumbling(days=1)`` is a day in UTC; ``Tumbling(hours=1, offset=timedelta(minutes=30))`` an hour from half past on.

    Args:
        size: Length of a window; or give its parts: ``days``, ``hours``, ``minutes``, ``seconds``.
        offset: Where windows begin, relative to 1970-01-01T00:00Z.

    Raises:
        ConfigurationError: Not longer than 0.
    """

    size_us: int
    offset_us: int

    def __init__(
        self,
        size: timedelta = timedelta(0),
        *,
        days: float = 0,
        hours: float = 0,
        minutes: float = 0,
        seconds: float = 0,
        offset: timedelta = timedelta(0),
    ) -> None:
        total = size + timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
        micros = micros_of("the size of a window", total)
        if micros == 0:
            raise ConfigurationError("a window needs a size, such as Tumbling(days=1)")
        object.__setattr__(self, "size_us", micros)
        object.__setattr__(self, "offset_us", micros_of("the offset of a window", offset) % micros)

    def __str__(self) -> str:
        return f"windows of {timedelta(microseconds=self.size_us)} from {timedelta(microseconds=self.offset_us)}"

    def starts(self, times: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Start of the window of each time, all in microseconds since 1970 UTC."""
        starts: npt.NDArray[np.int64] = times - (times - self.offset_us) % self.size_us
        return starts
