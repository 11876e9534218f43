"""Tables of figures: what was measured, in which unit, against which goal.

A suite declares its table, and each of its cases adds rows. Rows travel as JSON in pytest-benchmark's ``extra_info``,
so that the report, and anybody else, reads them from one file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["Goal", "Table", "show", "verdict"]


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure should reach. Missing it fails nothing; the tables say by how much.

    Attributes:
        column: The figure.
        bound: In the column's unit.
        at_most: Whether less is better.
    """

    column: str
    bound: float
    at_most: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """The figures of one question.

    Attributes:
        name: Names the table in the JSON file.
        title: The question.
        units: By column: ``text``, ``count``, ``share``, ``times``, ``rate`` (records/s), ``seconds``, ``bytes``.
        note: How it was measured, in a sentence or two.
        rows: Added by ``record``.
        series: Samples over time for a plot.
    """

    name: str
    title: str
    units: Mapping[str, str]
    note: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)
    series: dict[str, list[float]] = field(default_factory=dict)

    def row(self, values: Mapping[str, Any], *goals: Goal) -> dict[str, Any]:
        """A row for ``extra_info``."""
        unknown = set(values) - set(self.units)
        if unknown:
            raise ValueError(f"table {self.name!r} has no columns {sorted(unknown)}")
        plain = {name: value if isinstance(value, str) else float(value) for name, value in values.items()}
        return {"values": plain, "goals": [asdict(goal) for goal in goals]}

    def as_json(self) -> dict[str, Any]:
        """The declaration and the rows."""
        return asdict(self)


def _scaled(value: float, steps: list[tuple[float, str]]) -> str:
    for factor, unit in steps:
        if abs(value) >= factor:
            return f"{_short(value / factor)} {unit}".rstrip()
    factor, unit = steps[-1]
    return f"{_short(value / factor)} {unit}".rstrip()


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


_SHOW: dict[str, Callable[[float], str]] = {
    "count": lambda value: f"{value:,.0f}",
    "share": lambda value: f"{value * 100:.0f} %" if value >= 0.095 else f"{value * 100:.2g} %",
    "times": lambda value: f"{_short(value)}×",  # noqa: RUF001 - the sign is meant
    "rate": lambda value: _scaled(value, [(1e6, "M/s"), (1e3, "k/s"), (1, "/s")]),
    "seconds": lambda value: _scaled(value, [(1, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")]),
    "bytes": lambda value: _scaled(value, [(1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B")]),
}


def show(value: Any, unit: str) -> str:
    """A figure for people; nothing for one that was not measured."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return str(value) if unit == "text" else _SHOW[unit](float(value))


def verdict(row: Mapping[str, Any], units: Mapping[str, str]) -> tuple[str, str]:
    """The texts of the columns "target" and "met"."""
    targets: list[str] = []
    met: list[str] = []
    for goal in row["goals"]:
        value, bound = row["values"][goal["column"]], goal["bound"]
        targets.append(f"{'≤' if goal['at_most'] else '≥'} {show(bound, units[goal['column']])}")
        missed = value - bound if goal["at_most"] else bound - value
        met.append("yes" if missed <= 0 else f"missed by {_percent(missed / bound)}")
    return ", ".join(targets), ", ".join(met)


def _percent(share: float) -> str:
    return f"{share * 100:.1g} %" if share < 0.095 else f"{share * 100:.0f} %"
