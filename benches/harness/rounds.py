"""Contenders take turns: every round runs each of them once, so that a busy moment of the machine hits all alike."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["best", "interleave", "median"]


def interleave(benchmark: Any, contenders: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """What each contender measured, round by round; the order within a round rotates.

    Args:
        benchmark: The fixture of pytest-benchmark; its own time is that of whole rounds.
        contenders: Measure themselves, in a unit of their own choice.
        rounds: How many.
    """
    names = list(contenders)
    found: dict[str, list[float]] = {name: [] for name in names}

    def round_() -> None:
        for name in names:
            found[name].append(contenders[name]())
        names.append(names.pop(0))

    benchmark.pedantic(round_, rounds=rounds, iterations=1)
    return found


def best(seconds: list[float]) -> float:
    """The least disturbed round."""
    return min(seconds)


def median(values: list[float]) -> float:
    """The usual round."""
    return statistics.median(values)
