"""Event times from what files hold: ISO text, datetimes, or numbers since 1970."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["FIRST_SECOND", "LAST_SECOND", "EventTimeParser", "micros"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CACHED = 100_000
# The years 1 to 9999. Beyond, a number is most likely milliseconds, and sums with window sizes would overflow.
FIRST_SECOND = -62_135_596_800
LAST_SECOND = 253_402_300_799


class EventTimeParser:
    """Turns values into int64 microseconds since 1970 UTC; remembers texts, since times repeat.

    Text is ISO 8601; without a zone it is UTC. Numbers are seconds.
    """

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def parse(self, values: Sequence[Any]) -> npt.NDArray[np.int64]:
        """One time a value.

        Raises:
            ValueError: A value that is no time.
        """
        if not set(map(type, values)) <= {str}:
            return np.fromiter(map(micros, values), np.int64, len(values))
        known = self._known
        missing = set(values).difference(known)
        if missing:
            if len(known) > _CACHED:
                known.clear()
                missing = set(values)
            for value in missing:
                known[value] = micros(value)
        return np.fromiter(map(known.__getitem__, values), np.int64, len(values))


def micros(value: Any) -> int:
    """Microseconds since 1970 UTC.

    Raises:
        ValueError: Not a time, or not in the years 1 to 9999.
    """
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if isinstance(value, datetime):
        moment = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
        delta = moment - _EPOCH
        found = (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        if not FIRST_SECOND <= value <= LAST_SECOND:
            raise ValueError(f"{value!r} seconds since 1970 are not in the years 1 to 9999")
        found = round(value * 1_000_000)
    else:
        raise ValueError(f"{value!r} is no time")
    return found
