"""Types of CSV columns: which one a sample suggests, and values of text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

__all__ = ["COLUMN_TYPES", "convert", "infer"]

_BOOLS = {"true": True, "false": False, "True": True, "False": False, "TRUE": True, "FALSE": False}

#: By name: what makes a value of a text.
COLUMN_TYPES: dict[str, Callable[[str], Any]] = {
    "int": int,
    "float": float,
    "bool": _BOOLS.__getitem__,
    "datetime": datetime.fromisoformat,
    "str": str,
}


def infer(values: Sequence[str], nulls: frozenset[str]) -> str:
    """The narrowest of int (64 bits), float, bool and str that fits all values; str if there are none."""
    present = [value for value in values if value not in nulls]
    if not present:
        return "str"
    # Python reads "1_000" as a number; in a file it is more likely a name.
    if not any("_" in value for value in present):
        try:
            numbers = [int(value) for value in present]
        except ValueError:
            pass
        else:
            # A longer number is an identifier: a float would lose its last digits.
            return "int" if min(numbers) >= -(1 << 63) and max(numbers) < 1 << 63 else "str"
        try:
            for value in present:
                float(value)
        except ValueError:
            pass
        else:
            return "float"
    return "bool" if all(value in _BOOLS for value in present) else "str"


def convert(values: Sequence[str], kind: str, nulls: frozenset[str]) -> Sequence[Any]:
    """The values as Python objects, None for what is missing.

    Raises:
        ValueError, KeyError: One does not fit the type.
    """
    complete = nulls.isdisjoint(values)
    if kind == "str":
        return values if complete else [None if value in nulls else value for value in values]
    make = COLUMN_TYPES[kind]
    if complete:
        return list(map(make, values))
    return [None if value in nulls else make(value) for value in values]
