"""Which values a column keeps as they are: what comes back equals what went in, or it is refused before the decision.

Databases round, cut, pad and convert where a value does not fit. So each type of column that is known here has a
``Fit``; a column of another type cannot be written.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import types

__all__ = [
    "Fit",
    "binaries",
    "booleans",
    "dates",
    "decimals",
    "floats",
    "instants",
    "integers",
    "moments",
    "texts",
]


@dataclass(frozen=True, slots=True)
class Fit:
    """What a column takes.

    Attributes:
        type: By which values are bound.
        takes: In words: "whole numbers from 0 to 255".
        accepts: Whether a value, of whatever type, is one of them; None is no such value.
        is_exact: Whether equal values are equal to the database too, as a key must be.
    """

    type: types.TypeEngine[Any]
    takes: str
    accepts: Callable[[Any], bool]
    is_exact: bool = True


def integers(least: int, most: int, *, bools: bool = False) -> Fit:
    """Whole numbers of a range; a bool is one only where ``bools``."""
    kinds = (int, bool) if bools else (int,)
    accepts = lambda value: type(value) in kinds and least <= value <= most  # noqa: E731
    return Fit(types.BigInteger(), f"whole numbers from {least} to {most}", accepts)


def floats(*, nan: bool, infinite: bool) -> Fit:
    """Numbers of 64 bits; whole ones that such a number holds."""

    def accepts(value: Any) -> bool:
        if type(value) is int:
            return -(1 << 53) <= value <= 1 << 53
        if type(value) is not float:
            return False
        return math.isfinite(value) or (nan if math.isnan(value) else infinite)

    what = "finite floats" if not infinite else "floats, but no NaN" if not nan else "floats"
    return Fit(types.Double(), f"{what}, and whole numbers up to 2**53", accepts, is_exact=False)


def decimals(precision: int | None, scale: int | None, *, unsigned: bool = False) -> Fit:
    """Decimals and whole numbers of so many digits in all, and behind the point; None: as many as there may be."""
    behind = 16_383 if scale is None else scale
    before = 131_072 if precision is None else precision - behind

    def accepts(value: Any) -> bool:
        if type(value) not in (int, Decimal):
            return False
        value = Decimal(value)
        if not value.is_finite() or (unsigned and value < 0):
            return False
        if not value:
            return True
        _, digits, exponent = value.as_tuple()
        assert isinstance(exponent, int)
        # Zeros at the end are no digits that could be lost.
        significant = len(digits)
        while significant > 1 and digits[significant - 1] == 0 and exponent < 0:
            significant, exponent = significant - 1, exponent + 1
        return -exponent <= behind and significant + exponent <= before

    size = "any size" if precision is None else f"{before} digits before and {behind} after the point"
    return Fit(types.Numeric(precision, scale), f"finite decimals of {size}, and whole numbers", accepts)


def texts(characters: int | None = None, *, size: int | None = None, nul: bool = True, loose: bool = False) -> Fit:
    """Text.

    Args:
        characters: At most.
        size: Bytes of UTF-8 at most.
        nul: Whether it may have the character of that name.
        loose: The database takes different texts for the same: upper and lower case, spaces at the end.
    """

    def accepts(value: Any) -> bool:
        return (
            type(value) is str
            and (characters is None or len(value) <= characters)
            and (size is None or len(value.encode()) <= size)
            and (nul or "\0" not in value)
        )

    bound = "" if characters is None else f" of up to {characters} characters"
    bound += "" if size is None else f" of up to {size} bytes"
    return Fit(types.Text(), f"text{bound}" + ("" if nul else " without NUL"), accepts, is_exact=not loose)


def binaries(size: int | None = None) -> Fit:
    """Bytes, so many at most."""
    bound = "" if size is None else f", {size} at most"
    return Fit(
        types.LargeBinary(),
        f"bytes{bound}",
        lambda value: type(value) is bytes and (size is None or len(value) <= size),
    )


def booleans() -> Fit:
    """True and False."""
    return Fit(types.Boolean(), "True and False", lambda value: type(value) is bool)


def dates(*, first: date = date.min) -> Fit:
    """Dates from the first that there is on."""
    return Fit(types.Date(), f"dates from {first} on", lambda value: type(value) is date and value >= first)


def moments(digits: int = 6, *, first: datetime = datetime.min) -> Fit:
    """Datetimes without a zone, of so many digits of a second."""
    unit = 10 ** (6 - digits)

    def accepts(value: Any) -> bool:
        is_plain = type(value) is datetime and value.tzinfo is None
        return is_plain and value.microsecond % unit == 0 and value >= first

    return Fit(types.DateTime(), f"datetimes without a zone, of {digits} digits of a second", accepts)


def instants(digits: int = 6) -> Fit:
    """Datetimes with a zone, of so many digits of a second; they come back as the same instant."""
    unit = 10 ** (6 - digits)

    def accepts(value: Any) -> bool:
        return type(value) is datetime and value.tzinfo is not None and value.microsecond % unit == 0

    return Fit(types.DateTime(timezone=True), f"datetimes with a zone, of {digits} digits of a second", accepts)
