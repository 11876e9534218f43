"""Types of CSV columns: which one a sample suggests, and values of text.

A column is taken for numbers only if each sampled value comes back as it was written: ``01234``, ``1e5`` and ``1.10``
may be identifiers, of which a number would keep something else. What comes behind the sample must be a number of that
type without loss, or it is refused. Where the user says the type, a value may be written in any way that means the
number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, TypeAlias

import msgspec

from onceflow.connectors.event_time import iso_moment
from onceflow.exceptions import SourceError

__all__ = ["COLUMN_TYPES", "Agreed", "ColumnType", "TypeGuess", "convert"]

_INT64 = range(-(1 << 63), 1 << 63)
_INT64_DIGITS = 20
# Up to here a float holds each whole number.
_EXACT_IN_FLOAT = 1 << 53

_BOOLS = {"true": True, "false": False, "True": True, "False": False, "TRUE": True, "FALSE": False}

_WHOLE = re.compile(r"0|-?[1-9][0-9]*")
_FRACTION = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:e[+-][0-9]+)?")
# What JSON reads as one.
_JSON_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
# What Python reads as a number and more: no digits of other scripts, no "1_000".
_ANY_NUMBER = re.compile(
    r"\s*[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?\s*|\s*[+-]?(?:nan|inf|infinity)\s*", re.IGNORECASE
)

_read_ints = msgspec.json.Decoder(list[Annotated[int, msgspec.Meta(ge=_INT64.start, le=_INT64.stop - 1)] | None]).decode
_read_floats = msgspec.json.Decoder(list[float | None]).decode


def _int(text: str) -> int:
    value = int(text) if _ANY_NUMBER.fullmatch(text) else None
    if value is None or value not in _INT64:
        raise ValueError(f"{text!r} is not a whole number of 64 bits")
    return value


def _float(text: str) -> float:
    if not _ANY_NUMBER.fullmatch(text):
        raise ValueError(f"{text!r} is not a number")
    value = float(text)
    if math.isinf(value) and any(digit in text for digit in "0123456789"):
        raise ValueError(f"{text!r} is beyond a float")
    return value


def _exact_int(text: str) -> int:
    value = int(text) if _WHOLE.fullmatch(text) else None
    if value is None or value not in _INT64:
        raise ValueError(f"{text!r} would not come back as it is written")
    return value


def _exact_float(text: str) -> float:
    value = float(text) if _JSON_NUMBER.fullmatch(text) else math.inf
    if not math.isfinite(value) or (_WHOLE.fullmatch(text) and abs(int(text)) > _EXACT_IN_FLOAT):
        raise ValueError(f"{text!r} would lose digits")
    return value


def _datetime(text: str) -> datetime:
    value = iso_moment(text)
    if value.tzinfo is not None:
        raise ValueError(f"{text!r} has a zone")
    return value


def _datetime_utc(text: str) -> datetime:
    value = iso_moment(text)
    if value.tzinfo is None:
        raise ValueError(f"{text!r} has no zone")
    return value.astimezone(UTC)


#: The types that a user can say.
ColumnType: TypeAlias = Literal["int", "float", "bool", "datetime", "datetime_utc", "str"]

#: By name: what makes a value of a text where the user says the type.
COLUMN_TYPES: dict[str, Callable[[str], Any]] = {
    "int": _int,
    "float": _float,
    "bool": _BOOLS.__getitem__,
    "datetime": _datetime,
    "datetime_utc": _datetime_utc,
    "str": str,
}
_EXACT = {"int": _exact_int, "float": _exact_float}


class TypeGuess:
    """The narrowest type that fits all values of a column that were shown to it.

    Args:
        said: What the user says; of datetimes it is looked for whether they have zones.
    """

    def __init__(self, said: str | None = None) -> None:
        self._said = said
        self._kinds: set[str] = set()
        #: A whole number was seen that a float cannot hold.
        self._large = False

    def add(self, texts: Iterable[str], nulls: Collection[str]) -> None:
        """More values of the column."""
        if self._said not in (None, "datetime"):
            return
        for text in set(texts).difference(nulls):
            if "str" in self._kinds:
                return
            self._kinds.add(self._kind_of(text) if self._said is None else _zone_of(text))

    def _kind_of(self, text: str) -> str:
        if _WHOLE.fullmatch(text):
            # A longer number is an identifier.
            value = int(text) if len(text) <= _INT64_DIGITS else _INT64.stop
            self._large |= abs(value) > _EXACT_IN_FLOAT
            return "int" if value in _INT64 else "str"
        if _FRACTION.fullmatch(text):
            number = float(text)
            # Python writes 1e-05; others, and people, 0.00001.
            if math.isfinite(number) and text in (repr(number), format(Decimal(repr(number)), "f")):
                return "float"
        return "bool" if text in _BOOLS else "str"

    @property
    def kind(self) -> str:
        """One of ``COLUMN_TYPES``; str if there were no values."""
        kinds = self._kinds
        if self._said is not None:
            return "datetime_utc" if "datetime_utc" in kinds else self._said
        if kinds == {"int"}:
            return "int"
        if kinds in ({"float"}, {"float", "int"}):
            return "str" if self._large else "float"
        return "bool" if kinds == {"bool"} else "str"


@dataclass(frozen=True, slots=True)
class Agreed:
    """What holds for all files of a source.

    Attributes:
        types: Of columns, by name.
        exact: The columns whose type was inferred.
        header: The columns that all files have, in some order; None if they may differ in those that are not read.
        untyped: No file had a row: until one is handed out, types are inferred anew by each run.
    """

    types: dict[str, str]
    exact: set[str]
    header: list[str] | None
    untyped: bool = False

    def check_header(self, path: str, header: list[str]) -> None:
        """Raises ``SourceError`` for a file with other columns."""
        if self.header is not None and set(header) != set(self.header):
            raise SourceError(
                f"{path} has the columns {header}, and the files that the job began with {self.header}: files of one "
                "source have the same columns. Take it away, or start over with columns=[...] to read those that all "
                "have"
            )

    def check_types(self, path: str, wanted: set[str]) -> None:
        """Raises ``SourceError`` if a column is read now that was not there when the types were agreed on."""
        unknown = sorted(wanted - set(self.types))
        if unknown:
            raise SourceError(
                f"{path}: the job has begun without the columns {unknown}; say their types by types={{...}}, or start "
                "over with resume_from='none'"
            )


def _zone_of(text: str) -> str:
    try:
        return "datetime" if iso_moment(text).tzinfo is None else "datetime_utc"
    except ValueError:
        return "no datetime"


def convert(texts: Sequence[str], kind: str, nulls: frozenset[str], *, exact: bool) -> Sequence[Any]:
    """The values as Python objects, None for what is missing.

    Args:
        texts: As they are written.
        kind: One of ``COLUMN_TYPES``.
        nulls: Texts that mean that the value is missing.
        exact: The type was guessed: a value must come back from the number without a loss.

    Raises:
        ValueError, KeyError: One does not fit the type.
    """
    complete = nulls.isdisjoint(texts)
    if kind == "str":
        return texts if complete else [None if text in nulls else text for text in texts]
    if kind in _EXACT and (values := _read_json(texts, kind, nulls, complete, exact)) is not None:
        return values
    make = _EXACT.get(kind, COLUMN_TYPES[kind]) if exact else COLUMN_TYPES[kind]
    if complete:
        return list(map(make, texts))
    return [None if text in nulls else make(text) for text in texts]


def _read_json(texts: Sequence[str], kind: str, nulls: frozenset[str], complete: bool, exact: bool) -> list[Any] | None:
    """Numbers as JSON has them, several times faster than one by one; None if there may be others."""
    joined = ",".join(texts)
    # JSON has blanks beside numbers, -0 is a whole number there, and null is nothing.
    if " " in joined or "\t" in joined or "\n" in joined or "\r" in joined or "-0," in f"{joined},":
        return None
    if "null" in joined and "null" not in nulls:
        return None
    if not complete:
        joined = ",".join("null" if text in nulls else text for text in texts)
    try:
        values: list[Any] = (_read_ints if kind == "int" else _read_floats)(f"[{joined}]")
    except msgspec.MsgspecError:
        return None
    if len(values) != len(texts):
        return None
    if exact and kind == "float":
        numbers = values if complete else [value for value in values if value is not None]
        if numbers and (max(numbers) >= _EXACT_IN_FLOAT or min(numbers) <= -_EXACT_IN_FLOAT):
            return None
    return values
