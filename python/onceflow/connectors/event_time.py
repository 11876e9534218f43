"""Event times from what records hold: ISO text, datetimes, dates, or seconds since 1970.

The one place in which they are understood, whatever the source. A time is int64 microseconds since 1970 UTC, in the
years 1 to 9999: beyond, a number most likely has another unit than was meant, and no datetime could show it. Nothing is
cut: what is no whole number of microseconds is refused, but for floats, which hold no decimal fraction exactly and are
rounded. What is refused makes its record malformed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from onceflow.types import FIRST_MICROS, LAST_MICROS, Micros

__all__ = [
    "EventTimeParser",
    "arrow_micros",
    "arrow_reason",
    "in_range",
    "iso_moment",
    "micros",
    "millis_to_micros",
    "numpy_micros",
    "out_of_range",
]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = 1_000_000
_FIRST_SECOND, _LAST_SECOND = FIRST_MICROS // _SECOND, LAST_MICROS // _SECOND
_CACHED = 100_000

# Python takes any character between date and time (1701011112345 for a moment of 1701), a fraction of a minute for one
# of a second, and cuts the digits behind the sixth. These two tell what it reads rightly: at a glance by each third
# character of the usual form, or in full.
_SEPARATORS = {f"--{gap}{rest}" for gap in "T " for rest in ("", "::", ":", ":Z", ":+", ":-")} | {"--"}
_ISO = re.compile(
    r"(?:\d{4}-\d\d-\d\d|\d{8}|\d{4}-W\d\d(?:-\d)?|\d{4}W\d\d\d?)"
    r"(?:[Tt ]\d\d(?::?\d\d(?::?\d\d(?:[.,]\d{1,6}0*)?)?)?(?:[Zz]|[+-]\d\d(?::?\d\d(?::?\d\d)?)?)?)?",
    re.ASCII,
)
_USUAL_LENGTH = 26  # 2024-01-01T00:00:00.000000


class EventTimeParser:
    """Turns values into int64 microseconds since 1970 UTC; remembers texts, since times repeat.

    Text is ISO 8601; without a zone it is UTC. Numbers are seconds.
    """

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def parse(self, values: Sequence[Any]) -> npt.NDArray[np.int64]:
        """One time a value.

        Raises:
            ValueError: A value that is no time; see ``micros``.
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


def micros(value: Any) -> Micros:
    """Microseconds since 1970 UTC of ISO text, a datetime or date (UTC without a zone), or seconds since 1970.

    Raises:
        ValueError: Not a time, not in the years 1 to 9999, or not a whole number of microseconds.
    """
    if isinstance(value, np.generic):
        value = _plain(value)
    if isinstance(value, str):
        value = iso_moment(value)
    if isinstance(value, datetime):
        if getattr(value, "nanosecond", 0):
            raise ValueError(f"{value!r} is not a whole number of microseconds")
        moment = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
        delta = moment - _EPOCH
        found = (delta.days * 86_400 + delta.seconds) * _SECOND + delta.microseconds
        # A zone can move a moment at either end out of the years.
        if not FIRST_MICROS <= found <= LAST_MICROS:
            raise ValueError(f"{value!r} is not in the years 1 to 9999 of UTC")
        return found
    if isinstance(value, date):
        return (value.toordinal() - _EPOCH.toordinal()) * 86_400 * _SECOND
    if isinstance(value, Decimal) and value.is_finite():
        exact = Fraction(value) * _SECOND
        if exact.denominator != 1 or not FIRST_MICROS <= exact <= LAST_MICROS:
            raise ValueError(f"{value!r} seconds since 1970 are not whole microseconds in the years 1 to 9999")
        return int(exact)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if not _FIRST_SECOND <= value < _LAST_SECOND + 1:
            raise ValueError(f"{value!r} seconds since 1970 are not in the years 1 to 9999")
        return min(round(value * _SECOND), LAST_MICROS)
    raise ValueError(f"{value!r} is not a time")


def iso_moment(text: str) -> datetime:
    """The datetime of ISO 8601 text, with a zone if the text has one.

    Raises:
        ValueError: It is something else, or has more than six digits of a second.
    """
    usual = text[4:17:3] in _SEPARATORS and (len(text) <= _USUAL_LENGTH or not text[_USUAL_LENGTH].isdigit())
    if not usual and not _ISO.fullmatch(text):
        raise ValueError(f"{text!r} is not an ISO 8601 text, or has more than six digits of a second")
    return datetime.fromisoformat(text)


def _plain(value: np.generic) -> Any:
    """A numpy scalar as a Python object."""
    if not isinstance(value, np.datetime64):
        return value.item()
    exact = value.astype("M8[us]")
    if np.isnat(value) or exact.astype(value.dtype) != value or not isinstance(exact.item(), datetime):
        raise ValueError(f"{value!r} is not a whole number of microseconds in the years 1 to 9999")
    return exact.item()


def out_of_range(times: npt.NDArray[np.int64]) -> int | None:
    """Index of the first time that is not in the years 1 to 9999; None if all are."""
    if not len(times) or (int(times.min()) >= FIRST_MICROS and int(times.max()) <= LAST_MICROS):
        return None
    return int(np.flatnonzero(~in_range(times))[0])


def in_range(times: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which of these microseconds since 1970 are in the years 1 to 9999."""
    return (times >= FIRST_MICROS) & (times <= LAST_MICROS)


def millis_to_micros(millis: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Microseconds of milliseconds since 1970, and which of them are times; the others mean nothing."""
    valid = (millis >= FIRST_MICROS // 1000) & (millis <= LAST_MICROS // 1000)
    return np.where(valid, millis, 0) * 1000, valid


def numpy_micros(array: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Event times of a numpy array of datetime64, or of what ``micros`` takes; and which of them are times."""
    if array.dtype.kind == "M" and not isinstance(array, np.ma.MaskedArray):
        found = array.astype("M8[us]")
        # NaT is not equal to itself; years beyond the range of microseconds wrap, and do not come back.
        valid = np.asarray(found.astype(array.dtype) == array)
        times = np.where(valid, found.view(np.int64), 0)
        return times, valid & in_range(times)
    times, valid = np.zeros(len(array), dtype=np.int64), np.zeros(len(array), dtype=np.bool_)
    for row, value in enumerate(array):
        try:
            times[row] = micros(value)
        except ValueError:
            continue
        valid[row] = True
    return times, valid


def arrow_micros(array: Any) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Event times of an Arrow array of timestamps, dates, or seconds since 1970; and which of them are times.

    Where a value is missing or refused, as ``arrow_reason`` says, the time means nothing.

    Raises:
        TypeError: The array holds no times.
    """
    import pyarrow as pa  # noqa: PLC0415 - an extra, there where Arrow arrays are

    kind = array.type
    valid: npt.NDArray[np.bool_] = np.asarray(array.is_valid())
    if pa.types.is_floating(kind):
        seconds = array.fill_null(0).to_numpy(zero_copy_only=False).astype(np.float64)
        valid = valid & (seconds >= _FIRST_SECOND) & (seconds < _LAST_SECOND + 1)
        found = np.round(np.where(valid, seconds, 0.0) * _SECOND).astype(np.int64)
        return np.minimum(found, LAST_MICROS), valid
    if pa.types.is_integer(kind):
        ticks, a_second = array.fill_null(0).to_numpy(zero_copy_only=False), 1
    elif pa.types.is_timestamp(kind) or pa.types.is_date64(kind):
        ticks = array.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
        a_second = {"s": 1, "ms": 1_000, "us": _SECOND, "ns": 1_000 * _SECOND}[getattr(kind, "unit", "ms")]
    elif pa.types.is_date32(kind):
        days = array.cast(pa.int32()).fill_null(0).to_numpy(zero_copy_only=False)
        ticks, a_second = days.astype(np.int64) * 86_400, 1
    else:
        raise TypeError(f"is {kind}; make it a timestamp")
    if a_second > _SECOND:
        found, below = np.divmod(ticks, a_second // _SECOND)
        return found, valid & (below == 0)
    # Before they are multiplied, which could wrap.
    valid = valid & (ticks >= _FIRST_SECOND * a_second) & (ticks < (_LAST_SECOND + 1) * a_second)
    return np.where(valid, ticks, 0).astype(np.int64) * (_SECOND // a_second), valid


def arrow_reason(array: Any, row: int) -> str:
    """Why a value that ``arrow_micros`` has refused is no event time."""
    scalar = array[row]
    if not scalar.is_valid:
        return "is missing"
    unit = getattr(array.type, "unit", None)
    if unit == "ns":
        return f"{scalar.value} ns since 1970 are not a whole number of microseconds"
    name = {"s": "seconds", "ms": "ms", "us": "µs"}.get(unit or "")
    if name is None:
        name = {"date32[day]": "days", "date64[ms]": "ms"}.get(str(array.type), "seconds")
    value = getattr(scalar, "value", None)
    return f"{scalar.as_py() if value is None else value} {name} since 1970 are not in the years 1 to 9999"
