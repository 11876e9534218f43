"""Durations, sizes and counts as people write and read them."""

from __future__ import annotations

import pytest
import typer

from onceflow.cli.units import bytes_text, count_text, duration_s, duration_text


@pytest.mark.parametrize(
    ("text", "seconds"), [("100ms", 0.1), ("10s", 10), ("2m", 120), ("0.5s", 0.5), ("1h", 3600), (" 5 s ", 5)]
)
def test_read(text, seconds):
    assert duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "ms", "-1s", "1.s", "1e3s", "1d", "10 s s", "nan s", "٣s٣"])
def test_refused_naming_the_units(text):
    with pytest.raises(typer.BadParameter, match="ms, s, m or h"):
        duration_s(text)


@pytest.mark.parametrize("text", ["0s", "0.0ms"])
def test_nothing_is_no_duration(text):
    with pytest.raises(typer.BadParameter, match="above 0"):
        duration_s(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.00085, "850 µs"),
        (0.0009996, "1 ms"),
        (0.0123, "12.3 ms"),
        (0.9996, "1 s"),
        (4.05, "4.05 s"),
        (59.96, "1 min 0 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 5 min"),
    ],
)
def test_shown(seconds, text):
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (640, "640 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1 << 20, "1.0 MiB"), (150 << 30, "150 GiB")],
)
def test_sizes(size, text):
    assert bytes_text(size) == text


def test_counts():
    assert count_text(1234567.8) == "1,234,568"
