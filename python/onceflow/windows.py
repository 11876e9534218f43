"""Windows over event time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import numpy.typing as npt

from onceflow.exceptions import ConfigurationError
from onceflow.types import FIRST_MICROS, LAST_MICROS

__all__ = ["Tumbling", "micros_of"]

_MICROSECOND = timedelta(microseconds=1)
#: All of event time; no sum of a time and of two durations that are no longer leaves int64.
_LONGEST_US = LAST_MICROS - FIRST_MICROS + 1


def micros_of(what: str, duration: timedelta, *, longest_us: int | None = _LONGEST_US) -> int:
    """Whole microseconds of a duration that is not negative.

    Raises:
        ConfigurationError: Negative, longer than ``longest_us`` (None: than any), or not a timedelta.
    """
    if not isinstance(duration, timedelta):
        raise ConfigurationError(f"{what} is {duration!r}; give a datetime.timedelta")
    micros = duration // _MICROSECOND
    if micros < 0:
        raise ConfigurationError(f"{what} is {duration}; it cannot be negative")
    if longest_us is not None and micros > longest_us:
        raise ConfigurationError(
            f"{what} is {duration}; give at most {timedelta(microseconds=longest_us)}, which is all of the time from "
            "the year 1 to 9999"
        )
    return micros


@dataclass(frozen=True, slots=True, init=False)
class Tumbling:
    """Windows of one size that follow one another without gap or overlap.

    ``Tumbling(days=1)`` is a day in UTC; ``Tumbling(hours=1, offset=timedelta(minutes=30))`` an hour from half past on.

    Args:
        size: Length of a window; or give its parts: ``days``, ``hours``, ``minutes``, ``seconds``.
        offset: Where windows begin, relative to 1970-01-01T00:00Z; it may be negative, and counts modulo the size.

    Raises:
        ConfigurationError: Not longer than 0, or longer than all event time.
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
        try:
            total = size + timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
        except (OverflowError, TypeError, ValueError) as error:
            raise ConfigurationError(
                f"the size of a window cannot be {size!r} and {days!r} days, {hours!r} hours, {minutes!r} minutes, "
                f"{seconds!r} seconds: {error}"
            ) from error
        # How long it may be says the step that uses it.
        micros = micros_of("the size of a window", total, longest_us=None)
        if micros == 0:
            raise ConfigurationError("a window needs a size, such as Tumbling(days=1)")
        object.__setattr__(self, "size_us", micros)
        if not isinstance(offset, timedelta):
            raise ConfigurationError(f"the offset of a window is {offset!r}; give a datetime.timedelta")
        object.__setattr__(self, "offset_us", offset // _MICROSECOND % micros)

    def __str__(self) -> str:
        return f"windows of {timedelta(microseconds=self.size_us)} from {timedelta(microseconds=self.offset_us)}"

    def checked(self, step_id: str) -> Tumbling:
        """Itself.

        Raises:
            ConfigurationError: Longer than all event time; names the step that would use it.
        """
        micros_of(f"step {step_id!r}: the size of the window", self.size_us * _MICROSECOND)
        return self

    def starts(self, times: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Start of the window of each time, all in microseconds since 1970 UTC."""
        # Numpy divides by a scalar some times as fast as it gets the remainder.
        starts: npt.NDArray[np.int64] = times - self.offset_us
        np.floor_divide(starts, self.size_us, out=starts)
        np.multiply(starts, self.size_us, out=starts)
        np.add(starts, self.offset_us, out=starts)
        return starts
