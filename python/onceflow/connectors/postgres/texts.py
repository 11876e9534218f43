"""Values as the text that PostgreSQL's COPY reads, column by column, and refused where a table would keep others.

PostgreSQL rounds, cuts and pads some values silently: 1.239 in ``numeric(6, 2)`` becomes 1.24. What does not come back
equal is refused here, before the decision. Times are instants: one without a zone is UTC, and a column without a zone
holds UTC.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, TypeAlias
from uuid import UUID

import numpy as np

from onceflow.connectors.values import base_value, exact_json

__all__ = ["KEY_TYPES", "NULL", "ColumnType", "encoder", "plain_kind"]

NULL = "\\N"

#: Texts of values none of which is None.
_Encode: TypeAlias = Callable[[list[Any]], list[str]]

#: Of these, two values are equal in SQL only if their texts here are.
KEY_TYPES = frozenset(
    {"bool", "int2", "int4", "int8", "numeric", "text", "varchar", "uuid", "date", "timestamp", "timestamptz", "bytea"}
)

_INTEGERS = {"int2": 16, "int4": 32, "int8": 64}
_ESCAPED = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
_NEEDS_ESCAPE = re.compile(r"[\\\t\n\r]")
#: Types of which texts are taken, if they have no size that these are fitted to.
_ROUNDING = {f"_{base}" for base in ("numeric", "varchar", "bpchar", "timestamp", "timestamptz", "time")}
_ROUNDING |= {"timetz", "interval", "_timetz", "_interval"}
#: With or without the letter by which ``bit_in`` tells both kinds.
_BITS = re.compile(r"[xX]([0-9a-fA-F]*)|[bB]?([01]*)")
#: U+0000 as JSON writes it, and not a backslash before "u0000".
_JSON_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


@dataclass(frozen=True, slots=True)
class ColumnType:
    """Attributes:
    name: As ``format_type`` says it: "numeric(6,2)".
    base: As the catalogue names it, of a domain the type below it: "numeric".
    modifier: Of the type; -1: none.
    labels: Of an enumeration; empty for all else.
    """

    name: str
    base: str
    modifier: int = -1
    labels: tuple[str, ...] = ()


def plain_kind(kind: ColumnType) -> str | None:
    """How ``_copy_lines`` takes values of a type, if it can."""
    if kind.base in ("text", "varchar"):
        return "text" if kind.modifier < 0 else None
    return kind.base if kind.base in ("bool", "int2", "int4", "int8", "float8") else None


def encoder(kind: ColumnType, *, is_key: bool = False) -> Callable[[Sequence[Any]], list[str]]:
    """A function that makes texts of values.

    It says what a column keeps; what ``_copy_lines`` takes at once is a part of that.

    Args:
        kind: Of the column.
        is_key: Equal values have one text.

    Returns:
        A function: values of a column → their texts, ``NULL`` for None. It raises ``ValueError`` or ``TypeError`` for
        values that a column of the type does not keep as they are; the text says what to do.
    """
    if kind.labels:
        encode: _Encode = _enum(kind)
    elif kind.base in _INTEGERS:
        encode = _integer(_INTEGERS[kind.base], kind.name)
    elif kind.base == "numeric":
        encode = _numeric(kind, is_key=is_key)
    elif kind.base in _MAKERS:
        encode = _MAKERS[kind.base](kind)
    else:
        encode = _text_only(kind)

    def texts(values: Sequence[Any]) -> list[str]:
        there = [value for value in values if value is not None]
        if len(there) == len(values):
            return encode(there)
        found = iter(encode(there))
        return [NULL if value is None else next(found) for value in values]

    return texts


def _plain(values: list[Any], wanted: set[type], advice: str) -> list[Any]:
    """Values of exactly these types; subclasses and numpy's scalars become them."""
    if set(map(type, values)) <= wanted:
        return values
    found = []
    for value in values:
        try:
            plain = base_value(value)
        except TypeError:
            plain = value
        if type(plain) not in wanted:
            raise TypeError(f"{value!r} is a {type(value).__name__}: {advice}")
        found.append(plain)
    return found


def _bool(kind: ColumnType) -> _Encode:
    return lambda values: ["t" if value else "f" for value in _plain(values, {bool}, "give True or False")]


def _integer(bits: int, name: str) -> _Encode:
    least, most = -(1 << bits - 1), (1 << bits - 1) - 1

    def encode(values: list[Any]) -> list[str]:
        numbers = _plain(values, {int}, "give a whole number")
        if numbers and not least <= min(numbers) <= max(numbers) <= most:
            raise ValueError(f"{max(numbers, key=abs)} is outside of the range of {name}, {least} to {most}")
        return list(map(str, numbers))

    return encode


def _float(kind: ColumnType) -> _Encode:
    single = kind.base == "float4"

    def encode(values: list[Any]) -> list[str]:
        numbers = _plain(values, {float, int}, "give a float")
        whole = [number for number in numbers if type(number) is int] if int in set(map(type, numbers)) else []
        for number in whole:
            if abs(number) > 1 << 53:
                raise ValueError(f"{number} is rounded by {kind.name}: make the column numeric or bigint")
        if single:
            for number in numbers:
                with np.errstate(over="ignore"):
                    kept = float(np.float32(number))
                if kept != number and number == number:  # noqa: PLR0124 - NaN is kept
                    raise ValueError(f"{number!r} is rounded by {kind.name}: make the column double precision")
        return list(map(repr, numbers))

    return encode


def _numeric(kind: ColumnType, *, is_key: bool) -> _Encode:
    digits, scale = _precision(kind.modifier)

    def text(number: Decimal) -> str:
        if not number.is_finite():
            raise ValueError(f"{number} is not a number: map it to None, or make the column double precision")
        if digits is not None and number:
            _, figures, exponent = number.normalize().as_tuple()
            assert isinstance(exponent, int)
            if -exponent > scale:
                raise ValueError(f"{number} is rounded by {kind.name}: round it, or widen the column")
            if len(figures) + exponent > digits - scale:
                raise ValueError(f"{number} does not fit into {kind.name}: widen the column")
        if digits is None and not is_key:
            # Such a column keeps zeros at the end, as money and measurements have them.
            return f"{number:f}"
        # One text for 1, 1.0 and 1E0, which are one value.
        return f"{number.normalize() if number else Decimal(0):f}"

    def encode(values: list[Any]) -> list[str]:
        advice = "give a Decimal or a whole number, such as Decimal(str(x)); or make the column double precision"
        return [text(Decimal(value)) for value in _plain(values, {int, Decimal}, advice)]

    return encode


def _precision(modifier: int) -> tuple[int | None, int]:
    """Digits and scale of a numeric type; see ``numeric_typmod_scale`` in PostgreSQL."""
    if modifier < 0:
        return None, 0
    packed = modifier - 4
    return packed >> 16 & 0xFFFF, ((packed & 0x7FF) ^ 1024) - 1024


def _string(kind: ColumnType) -> _Encode:
    longest = kind.modifier - 4 if kind.base in ("varchar", "bpchar") and kind.modifier >= 0 else None

    def encode(values: list[Any]) -> list[str]:
        texts = _plain(values, {str}, "give a str")
        if longest is not None and texts and (most := max(texts, key=len)) and len(most) > longest:
            raise ValueError(f"{_short(most)} is longer than {kind.name}")
        if kind.base == "bpchar" and any(text.endswith(" ") for text in texts):
            raise ValueError(f"{kind.name} does not keep spaces at the end: make the column text")
        if kind.base == "bpchar" and longest is not None and any(len(text) < longest for text in texts):
            raise ValueError(f"{_short(min(texts, key=len))} is padded by {kind.name}: make the column text")
        return _escaped(texts)

    return encode


def _name(kind: ColumnType) -> _Encode:
    """Types of the catalogues, which cut what is longer."""
    most = 63 if kind.base == "name" else 1

    def encode(values: list[Any]) -> list[str]:
        texts = _plain(values, {str}, "give a str")
        ready = _escaped(texts)
        for text in texts:
            if len(text.encode()) > most:
                raise ValueError(f"{_short(text)} is cut to {most} bytes by {kind.name}: make the column text")
        return ready

    return encode


def _money(kind: ColumnType) -> _Encode:
    def encode(values: list[Any]) -> list[str]:
        raise ValueError(f"{kind.name} rounds as the server's locale has it: make the column numeric(…, 2)")

    return encode


def _escaped(texts: list[str]) -> list[str]:
    joined = "".join(texts)
    if "\0" in joined:
        text = next(text for text in texts if "\0" in text)
        raise ValueError(f"{_short(text)} holds a NUL character, which PostgreSQL has no text for: remove it")
    try:
        joined.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"a text holds half of a surrogate pair, which is not a character: {error}") from error
    return [text.translate(_ESCAPED) for text in texts] if _NEEDS_ESCAPE.search(joined) else texts


def _bits(kind: ColumnType) -> _Encode:
    def text(value: str) -> str:
        if (found := _BITS.fullmatch(value)) is None:
            raise ValueError(f"{_short(value)} is no text of bits: give one such as '101'")
        hexadecimal, bits = found.groups()
        if hexadecimal is not None:
            bits = "".join(f"{int(digit, 16):04b}" for digit in hexadecimal)
        if kind.base == "bit" and kind.modifier >= 0 and len(bits) != kind.modifier:
            raise ValueError(f"{_short(value)} has {len(bits)} bits, and {kind.name} takes {kind.modifier}")
        if kind.modifier >= 0 and len(bits) > kind.modifier:
            raise ValueError(f"{_short(value)} has {len(bits)} bits, and {kind.name} takes {kind.modifier} at most")
        return bits

    return lambda values: list(map(text, _plain(values, {str}, "give a str of bits, such as '101'")))


def _bytes(kind: ColumnType) -> _Encode:
    return lambda values: [f"\\\\x{value.hex()}" for value in _plain(values, {bytes}, "give bytes")]


def _date(kind: ColumnType) -> _Encode:
    return lambda values: list(map(date.isoformat, _plain(values, {date}, "give a date, such as moment.date()")))


def _timestamp(kind: ColumnType) -> _Encode:
    def text(moment: datetime) -> str:
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        _check_fraction(kind, moment.microsecond)
        shown = moment.isoformat(" ")
        return shown if kind.base == "timestamptz" else shown.removesuffix("+00:00")

    return lambda values: list(map(text, _plain(values, {datetime}, "give a datetime")))


def _time(kind: ColumnType) -> _Encode:
    def text(moment: time) -> str:
        if moment.tzinfo is not None:
            raise ValueError(f"{moment} has a zone, which {kind.name} does not keep: remove it")
        _check_fraction(kind, moment.microsecond)
        return moment.isoformat()

    return lambda values: list(map(text, _plain(values, {time}, "give a time")))


def _check_fraction(kind: ColumnType, micros: int) -> None:
    """``timestamp(0)`` and the like round."""
    if 0 <= kind.modifier < 6 and micros % 10 ** (6 - kind.modifier):
        raise ValueError(f"a time with {micros} microseconds is rounded by {kind.name}: round it, or widen the column")


def _interval(kind: ColumnType) -> _Encode:
    if kind.modifier >= 0:
        return _text_only(kind)

    def text(value: timedelta) -> str:
        return f"{value.days} days {value.seconds}.{value.microseconds:06} seconds"

    return lambda values: list(map(text, _plain(values, {timedelta}, "give a timedelta")))


def _uuid(kind: ColumnType) -> _Encode:
    def text(value: UUID | str) -> str:
        # A text of a UUID, in one form.
        return str(value if isinstance(value, UUID) else UUID(value))

    return lambda values: list(map(text, _plain(values, {UUID, str}, "give a UUID")))


def _json(kind: ColumnType) -> _Encode:
    def text(value: Any) -> str:
        line = exact_json(value)
        if _JSON_NUL.search(line):
            raise ValueError("a text holds a NUL character, which jsonb has none for: remove it")
        return line.decode()

    return lambda values: _escaped(list(map(text, values)))


def _enum(kind: ColumnType) -> _Encode:
    labels = frozenset(kind.labels)

    def encode(values: list[Any]) -> list[str]:
        texts = _plain(values, {str}, "give a str")
        if not labels.issuperset(texts):
            unknown = next(text for text in texts if text not in labels)
            raise ValueError(f"{_short(unknown)} is none of {kind.name}: {', '.join(kind.labels)}")
        return _escaped(texts)

    return encode


def _text_only(kind: ColumnType) -> _Encode:
    if kind.base == "_money" or (kind.base in _ROUNDING and kind.modifier >= 0):
        return _rounding(kind)
    advice = f"give a str that PostgreSQL reads as {kind.name}"
    return lambda values: _escaped(_plain(values, {str}, advice))


def _rounding(kind: ColumnType) -> _Encode:
    def encode(values: list[Any]) -> list[str]:
        raise ValueError(f"{kind.name} may round, cut or pad what is in a text: make the column one without a size")

    return encode


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}…")


_MAKERS: dict[str, Callable[[ColumnType], _Encode]] = {
    "bool": _bool,
    "float4": _float,
    "float8": _float,
    "text": _string,
    "varchar": _string,
    "bpchar": _string,
    "name": _name,
    "char": _name,
    "money": _money,
    "bit": _bits,
    "varbit": _bits,
    "bytea": _bytes,
    "date": _date,
    "timestamp": _timestamp,
    "timestamptz": _timestamp,
    "time": _time,
    "interval": _interval,
    "uuid": _uuid,
    "json": _json,
    "jsonb": _json,
}
