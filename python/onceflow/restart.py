"""What is done when a run fails: restart policies, as arguments of ``run(..., restart=...)``.

Their names and bounds are those of Flink's restart strategies (fixed-delay, failure-rate, exponential-delay).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any, TypeAlias

from onceflow.exceptions import ConfigurationError

__all__ = ["ExponentialBackoff", "FixedDelay", "RestartPolicy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedDelay:
    """A run that failed is begun again after the same time, so many times at most.

    Attributes:
        delay_s: Seconds between a failure and the next attempt.
        attempts: So many restarts at most; the failure after them ends the run.
        within_s: Only restarts of the last so many seconds count (Flink's failure rate). None: all of the run.

    Raises:
        ConfigurationError: Settings that cannot be.
    """

    delay_s: float = 10.0
    attempts: int = 3
    within_s: float | None = None

    def __post_init__(self) -> None:
        _check_seconds("delay_s", self.delay_s)
        _check_attempts(self.attempts)
        if self.within_s is not None:
            _check_seconds("within_s", self.within_s)

    def wait_s(self, restarts: int, random: float) -> float:
        """Seconds to wait after so many restarts before; ``random`` is evenly spread over 0 to 1."""
        return self.delay_s


@dataclass(frozen=True, slots=True, kw_only=True)
class ExponentialBackoff:
    """A run that failed is begun again after a time that grows from failure to failure, until it is stable again.

    Attributes:
        first_s: Seconds before the first restart.
        longest_s: No wait is longer, but for its jitter.
        multiplier: Each wait is so many times the one before.
        jitter: A wait is longer or shorter by up to this share of it, at random, so that jobs that failed together do
            not come back together.
        reset_after_s: An attempt that has gone well for so many seconds makes all before it forgotten.
        attempts: So many restarts at most since then; the failure after them ends the run. None: for ever.

    Raises:
        ConfigurationError: Settings that cannot be.
    """

    first_s: float = 1.0
    longest_s: float = 60.0
    multiplier: float = 2.0
    jitter: float = 0.1
    reset_after_s: float = 600.0
    attempts: int | None = 10

    def __post_init__(self) -> None:
        _check_seconds("first_s", self.first_s)
        _check_seconds("longest_s", self.longest_s)
        _check_seconds("reset_after_s", self.reset_after_s)
        if self.longest_s < self.first_s:
            raise ConfigurationError(
                f"first_s is {self.first_s!r} and longest_s {self.longest_s!r}; the longest wait cannot be shorter "
                "than the first"
            )
        if not _is_number(self.multiplier) or self.multiplier < 1:
            raise ConfigurationError(
                f"multiplier is {self.multiplier!r}; give a number from 1 on, such as 2", setting="multiplier"
            )
        if not _is_number(self.jitter) or not 0 <= self.jitter <= 1:
            raise ConfigurationError(f"jitter is {self.jitter!r}; give a share from 0 to 1", setting="jitter")
        if self.attempts is not None:
            _check_attempts(self.attempts)

    def wait_s(self, restarts: int, random: float) -> float:
        """Seconds to wait after so many restarts before; ``random`` is evenly spread over 0 to 1."""
        try:
            wait_s = min(self.first_s * float(self.multiplier) ** restarts, self.longest_s)
        except OverflowError:
            wait_s = self.longest_s
        return wait_s * (1 + self.jitter * (2 * random - 1))


RestartPolicy: TypeAlias = FixedDelay | ExponentialBackoff


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _check_seconds(name: str, value: Any) -> None:
    if not _is_number(value) or value <= 0:
        raise ConfigurationError(
            f"{name} is {value!r}; give a number of seconds above 0, such as 0.5 or 10", setting=name
        )


def _check_attempts(value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(f"attempts is {value!r}; give a whole number from 1 on", setting="attempts")
