"""Contenders take turns: every round runs each of them once, so that a busy moment of the machine hits all alike."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

__all__ = ["Rate", "best_rate", "best_time", "interleave", "median"]


Name = TypeVar("Name")
Measure = TypeVar("Measure")


class Rate(NamedTuple):
    """Records a second, of the clock and of the process's CPU time: other processes disturb the second one less."""

    rate: float
    of_cpu: float


def interleave(
    benchmark: Any, contenders: Mapping[Name, Callable[[], Measure]], rounds: int
) -> dict[Name, list[Measure]]:
    """What each contender measured, round by round; the order within a round rotates.

    Args:
        benchmark: The fixture of pytest-benchmark; its own time is that of whole rounds.
        contenders: Measure themselves, in a unit of their own choice.
        rounds: How many.
    """
    names = list(contenders)
    found: dict[Name, list[Measure]] = {name: [] for name in names}

    def round_() -> None:
        for name in names:
            found[name].append(contenders[name]())
        names.append(names.pop(0))

    benchmark.pedantic(round_, rounds=rounds, iterations=1)
    return found


def best_time(seconds: list[float]) -> float:
    """The least disturbed round."""
    return min(seconds)


def best_rate(rates: list[Rate]) -> Rate:
    """The least disturbed round, by either clock."""
    return Rate(max(one.rate for one in rates), max(one.of_cpu for one in rates))


def median(values: Sequence[float]) -> float:
    """The usual round."""
    return statistics.median(values)
