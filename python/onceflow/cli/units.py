"""Durations, bytes, counts and times, as people write and read them."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import typer

__all__ = ["bytes_text", "checked_duration", "count_text", "duration_s", "duration_text", "time_text"]

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_BYTES = ("B", "KiB", "MiB", "GiB", "TiB")


def duration_s(text: str) -> float:
    """Seconds of a duration such as ``100ms``, ``10s``, ``0.5s`` or ``2m``.

    Raises:
        typer.BadParameter: No duration, or not above 0.
    """
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise typer.BadParameter(f"{text!r} is not a duration; write a number and ms, s, m or h, such as 100ms or 10s")
    seconds = float(found[1]) * _SECONDS[found[2]]
    if seconds <= 0:
        raise typer.BadParameter(f"{text!r} must be above 0")
    return seconds


def checked_duration(text: str) -> str:
    """As a callback of an option: the text, if ``duration_s`` takes it."""
    duration_s(text)
    return text


def duration_text(seconds: float) -> str:
    """A duration with about three digits: ``850 µs``, ``12.3 ms``, ``4.05 s``, ``3 min 20 s``, ``2 h 5 min``."""
    # The bounds are where rounding would show 1000 of a unit, or 60 of one.
    if seconds < 0.0009995:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 0.9995:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 59.95:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def bytes_text(size: float) -> str:
    """A size in binary units: ``640 B``, ``1.5 MiB``."""
    unit = 0
    while size >= 1023.5 and unit < len(_BYTES) - 1:
        size /= 1024
        unit += 1
    return f"{size:.0f} {_BYTES[unit]}" if unit == 0 or size >= 99.95 else f"{size:.1f} {_BYTES[unit]}"


def count_text(number: float) -> str:
    """A whole number with separators: ``1,234,567``."""
    return f"{number:,.0f}"


def time_text(unix_ms: int) -> str:
    """A moment in the local time zone: ``2025-01-31 12:30:05``."""
    return datetime.fromtimestamp(unix_ms / 1000, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
