"""How long to measure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["FULL", "QUICK", "Scale"]


@dataclass(frozen=True, slots=True)
class Scale:
    """Lengths and sizes: the full suite gives figures, the quick one shows in a minute that everything runs.

    Attributes:
        name: As on the command line.
        time: Factor on every measured time.
        rounds: Interleaved rounds, unless a suite needs more.
        largest: Largest number of keys.
    """

    name: Literal["full", "quick"]
    time: float
    rounds: int
    largest: int

    def seconds(self, full: float, *, least: float = 0.0) -> float:
        """A measured time that takes ``full`` seconds in the full suite."""
        return max(full * self.time, least)

    def keys(self, *sizes: int) -> list[int]:
        """The sizes that this scale measures: at least the smallest."""
        return [size for size in sizes if size <= self.largest] or [min(sizes)]


FULL = Scale("full", time=1.0, rounds=5, largest=10_000_000)
QUICK = Scale("quick", time=0.05, rounds=2, largest=100_000)
