"""Values as sinks hold them: one set of types for all, in rows and in columns alike.

None, bool, int, float, str, bytes, datetime, date, time, timedelta, Decimal, UUID, members of enumerations (as their
values), bytearray and memoryview (as bytes), subclasses of these (as the type itself), and numpy's scalars (as
Python's); in JSON and Parquet also lists and mappings of them. Times are instants: formats of text get them as ISO 8601
in UTC, and one without a zone is UTC. What has parts below a microsecond, or is outside of the years 1 to 9999 in UTC,
is refused. CSV has no text for bytes and containers, JSON none for NaN and infinities; what JSON has no kind of its own
for is text, and sets are lists, except where it is to be exact: then Decimals are numbers, and bytes and sets refused.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from math import isfinite
from types import NoneType
from typing import Any
from uuid import UUID

import msgspec
import numpy as np
import numpy.typing as npt

from onceflow._native import _uncommon
from onceflow.columns import Columns, to_list
from onceflow.exceptions import TypeMismatchError
from onceflow.types import Batch

__all__ = [
    "NotFiniteError",
    "arrow_arrays",
    "base_value",
    "csv_value",
    "exact_json",
    "has_csv_text",
    "iso_text",
    "json_line",
    "json_lines",
    "plain_columns",
    "plain_value",
]

_DATES = ("Y", "M", "W", "D")
_FIRST, _LAST = np.datetime64(datetime.min, "us"), np.datetime64(datetime.max, "us")
#: Types whose ``str`` is their text.
_CSV_TYPES = frozenset({NoneType, str, bool, int, float, Decimal, date, time, timedelta, UUID})
_EXACT = _CSV_TYPES | {bytes, datetime}


class NotFiniteError(ValueError):
    """NaN or an infinity, where a format has neither."""


def iso_text(moment: datetime) -> str:
    """``2024-01-01T00:00:00Z``, with microseconds if there are any; without a zone it is UTC."""
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return moment.isoformat().removesuffix("+00:00") + "Z"


def _numpy_value(value: Any) -> Any:
    """A numpy scalar as Python's value; anything else raises ``TypeError``."""
    if isinstance(value, (np.datetime64, np.timedelta64)):
        return to_list(np.array([value]))[0]
    is_scalar = isinstance(value, np.generic) or (isinstance(value, np.ndarray) and not value.ndim)
    plain = value.item() if is_scalar and value.dtype.kind in "biufSUO" else value
    if plain is value or isinstance(plain, (np.generic, np.ndarray)):
        raise TypeError(f"Encoding objects of type {type(value).__name__} is unsupported")
    return plain


def base_value(value: Any) -> Any:
    """A scalar as a value of the type itself that it is of; what a subclass makes of ``str`` and the like is not it.

    Raises:
        TypeError: It is no scalar.
        ValueError: It has parts below a microsecond, or is no time (NaT).
    """
    if type(value) in _EXACT:
        return value
    if isinstance(value, enum.Enum):
        return base_value(value.value)
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, (datetime, timedelta)):
        return _micros_only(value)
    for base, make in _BASES:
        if isinstance(value, base):
            return make(value)
    return _numpy_value(value)


def _micros_only(value: datetime | timedelta) -> datetime | timedelta:
    if value != value:  # noqa: PLR0124 - true of NaT alone
        raise ValueError(f"{value!r} is not a time: map it to None")
    if getattr(value, "nanosecond", 0) or getattr(value, "nanoseconds", 0):
        raise ValueError(f"{value!r} has parts below a microsecond: round it to microseconds")
    if isinstance(value, timedelta):
        return timedelta(value.days, value.seconds, value.microseconds)
    day = (value.year, value.month, value.day)
    clock = (value.hour, value.minute, value.second, value.microsecond)
    return datetime(*day, *clock, tzinfo=value.tzinfo, fold=value.fold)


#: Base types, and what makes a value of the type itself of one of a subclass, whatever that overrides.
_BASES: list[tuple[Any, Callable[[Any], Any]]] = [
    (int, int.__int__),
    (float, float.__float__),
    (str, str.__str__),
    (bytes, lambda value: bytes.__getitem__(value, slice(None))),
    (date, lambda value: date(value.year, value.month, value.day)),
    (
        time,
        lambda value: time(
            value.hour, value.minute, value.second, value.microsecond, tzinfo=value.tzinfo, fold=value.fold
        ),
    ),
    (Decimal, Decimal),
    (UUID, lambda value: UUID(int=value.int)),
]


@dataclass(frozen=True, slots=True)
class _Form:
    """What becomes of values that JSON has nothing for.

    Attributes:
        encoder: Writes what is plain.
        scalars: Types of scalars that it writes as they are meant; of datetimes if they are in UTC.
        nan_is_null: NaN and infinities become null instead of being refused.
        is_exact: See ``exact_json``.
    """

    encoder: msgspec.json.Encoder
    scalars: frozenset[type]
    nan_is_null: bool = False
    is_exact: bool = False


_TEXTS = _Form(msgspec.json.Encoder(), frozenset({bytes, date, datetime, timedelta, Decimal, UUID}))
_TEXTS_AND_NULLS = replace(_TEXTS, scalars=_TEXTS.scalars | {float}, nan_is_null=True)
#: Of Decimals each is looked at: they may be no numbers.
_NUMBERS = _Form(msgspec.json.Encoder(decimal_format="number"), _TEXTS.scalars - {bytes, Decimal}, is_exact=True)


def json_lines(records: Batch, *, nan_is_null: bool = False) -> bytes:
    """Records as JSON, one a line.

    Args:
        records: The records.
        nan_is_null: NaN and infinities become null instead of being refused.

    Raises:
        TypeError, ValueError, OverflowError, RecursionError: JSON cannot hold one.
    """
    form = _TEXTS_AND_NULLS if nan_is_null else _TEXTS
    if not isinstance(records, Columns):
        return _lines(records, form)
    rows = plain_columns(records).to_rows()
    return form.encoder.encode_lines(rows) if _are_plain_columns(records, nan_is_null) else _lines(rows, form)


def json_line(record: Any) -> bytes:
    """One record as JSON, without the end of the line; raises as ``json_lines``."""
    return _lines([record], _TEXTS)[:-1]


def exact_json(value: Any) -> bytes:
    """A value as JSON that says the same: Decimals are numbers, digit by digit; bytes and sets are refused.

    Dates, times and UUIDs are texts, as everywhere, and tuples lists. Raises as ``json_lines``.
    """
    return _lines([value], _NUMBERS)[:-1]


def _lines(rows: list[Any], form: _Form) -> bytes:
    try:
        data = form.encoder.encode_lines(rows)
        # What is nested too deeply, or in itself, is refused before it is looked through.
        if _are_plain(rows, form):
            return data
    except TypeError:
        pass
    return form.encoder.encode_lines([_plain_json(row, form) for row in rows])


def _are_plain_columns(columns: Columns, nan_is_null: bool) -> bool:
    """Whether names and types show that JSON has all values as the encoder writes them, without a look at each.

    Values of other types may be plain as well: rows show it.
    """
    return all(
        type(name) is str
        and (_is_plain_numpy if isinstance(array, np.ndarray) else _is_plain_arrow)(array, nan_is_null)
        for name, array in columns.arrays.items()
    )


def _is_plain_numpy(array: npt.NDArray[Any], nan_is_null: bool) -> bool:
    if array.dtype.kind == "f":
        # Python has no longer floats.
        return array.dtype.itemsize <= 8 and (nan_is_null or bool(np.isfinite(array).all()))
    return array.dtype.kind in "biuUmM"


def _is_plain_arrow(array: Any, nan_is_null: bool) -> bool:
    import pyarrow.compute as pc  # noqa: PLC0415 - an extra
    from pyarrow import types  # noqa: PLC0415 - an extra

    kind = array.type
    if types.is_float32(kind) or types.is_float64(kind):
        # Of no values it is None.
        return nan_is_null or pc.all(pc.is_finite(array)).as_py() is not False
    plain = (types.is_integer, types.is_boolean, types.is_string, types.is_large_string)
    times = (types.is_date, types.is_timestamp, types.is_time, types.is_duration)
    return any(is_kind(kind) for is_kind in (*plain, *times))


def _are_plain(rows: list[Any], form: _Form) -> bool:
    """Whether JSON has all that is in rows, in lists and dicts of them too, as the encoder writes it."""
    others = _uncommon(rows)
    if others is None:
        return False
    # Floats among them are not finite.
    return form.scalars.issuperset(map(type, others)) and all(
        other.tzinfo is UTC for other in others if type(other) is datetime
    )


def _plain_json(value: Any, form: _Form) -> Any:
    """The value with what the encoder would bend, or write twice, made plain or refused."""
    if isinstance(value, Mapping):
        return _plain_members(value, form)
    if form.is_exact and isinstance(value, (set, frozenset)):
        raise TypeError(f"JSON has nothing for a {type(value).__name__}: make it a list, in an order of your own")
    if isinstance(value, (list, tuple, set, frozenset)) or (isinstance(value, np.ndarray) and value.ndim):
        return [_plain_json(item, form) for item in value]
    try:
        plain = base_value(value)
    except TypeError:
        plain = msgspec.to_builtins(value, builtin_types=_BUILTINS, enc_hook=base_value)
        if type(plain) is type(value):
            raise
        return _plain_json(plain, form)
    if isinstance(plain, datetime):
        return iso_text(plain)
    if isinstance(plain, time) and plain.tzinfo is not None:
        # The encoder rounds offsets to minutes.
        text = plain.isoformat()
        return text.removesuffix("+00:00") + "Z" if plain.tzinfo is UTC else text
    if form.is_exact and isinstance(plain, bytes):
        raise TypeError(f"JSON has nothing for a {type(value).__name__}: make it a text, such as base64")
    if form.is_exact and isinstance(plain, Decimal) and not plain.is_finite():
        raise NotFiniteError(f"{plain} is not a value of JSON: map it to None, or to a text")
    if isinstance(plain, float) and not isfinite(plain) and not form.nan_is_null:
        raise NotFiniteError(f"{plain!r} is not a value of JSON: map it to None, or to a text")
    return plain if type(plain) in _EXACT else _plain_json(plain, form)


def plain_value(value: Any) -> Any:
    """The value, and all that is in it, as of the types themselves; containers stay what they are.

    Raises:
        TypeError, ValueError: Something in it is no value that sinks take.
    """
    if isinstance(value, Mapping):
        return {plain_value(name): plain_value(item) for name, item in value.items()}
    for kind in (list, tuple, set, frozenset):
        if isinstance(value, kind):
            return kind(map(plain_value, value))
    if isinstance(value, np.ndarray) and value.ndim:
        return [plain_value(item) for item in value]
    try:
        return base_value(value)
    except TypeError:
        plain = msgspec.to_builtins(value, builtin_types=_BUILTINS, enc_hook=base_value)
        if type(plain) is type(value):
            raise
        return plain_value(plain)


def _plain_members(value: Mapping[Any, Any], form: _Form) -> dict[Any, Any]:
    names = [name if type(name) is str else _plain_json(name, form) for name in value]
    # A name is a text, also where the same value is a number.
    names = [str(name) if isinstance(name, Decimal) else name for name in names]
    texts = names if set(map(type, names)) <= {str} else [form.encoder.encode({name: 0}) for name in names]
    if len(set(texts)) != len(texts):
        raise ValueError(f"the members {list(value)!r} have names that are the same in JSON: name them apart")
    return {name: _plain_json(item, form) for name, item in zip(names, value.values(), strict=True)}


#: What ``msgspec.to_builtins`` leaves for ``base_value``.
_BUILTINS = (bytes, bytearray, memoryview, datetime, date, time, timedelta, Decimal, UUID)


def has_csv_text(kinds: Iterable[type]) -> bool:
    """Whether ``str`` of values of these types is their text in CSV."""
    return _CSV_TYPES.issuperset(kinds)


def csv_value(value: Any) -> Any:
    """A value whose ``str`` is its text.

    Raises:
        TypeError, ValueError: It has none.
    """
    try:
        plain = base_value(value)
    except TypeMismatchError:
        raise
    except TypeError as error:
        raise TypeError(f"CSV cannot hold {type(value).__name__}") from error
    if isinstance(plain, datetime):
        return iso_text(plain)
    if type(plain) not in _CSV_TYPES:
        raise TypeError(f"CSV cannot hold {type(value).__name__}")
    return plain


def plain_columns(columns: Columns) -> Columns:
    """The columns with times as ISO text, None where there is none."""
    arrays = columns.arrays
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray) and str(array.type).startswith("timestamp"):
            arrays[name] = _iso_texts(array.to_numpy(zero_copy_only=False))
        elif isinstance(array, np.ndarray) and array.dtype.kind == "M" and not _holds_dates(array):
            arrays[name] = _iso_texts(array)
    return Columns(arrays)


def _holds_dates(array: npt.NDArray[Any]) -> bool:
    """Whole days, which are dates in rows too."""
    return np.datetime_data(array.dtype)[0] in _DATES


def arrow_arrays(columns: Columns) -> dict[str, Any]:
    """The columns for Arrow, with numpy's times as instants in UTC, which they are as objects, too."""
    import pyarrow as pa  # noqa: PLC0415 - an extra

    arrays = columns.arrays
    for name, array in arrays.items():
        if isinstance(array, np.ndarray) and array.dtype.kind == "M" and not _holds_dates(array):
            known = np.datetime_data(array.dtype)[0] in ("s", "ms", "us", "ns")
            times = pa.array(array if known else array.astype("M8[us]"))
            arrays[name] = times.cast(pa.timestamp(times.type.unit, "UTC"))
    return arrays


def _iso_texts(moments: npt.NDArray[np.datetime64]) -> Any:
    """Raises ``TypeMismatchError`` for times that Python does not have, as making objects of them does."""
    micros = moments.astype("M8[us]")
    known = ~np.isnat(moments)
    if not ((micros.astype(moments.dtype) == moments) & (micros >= _FIRST) & (micros <= _LAST))[known].all():
        to_list(moments)
    texts = np.datetime_as_string(micros, unit="us").tolist()
    plain = np.empty(len(texts), dtype=object)
    plain[:] = [None if text == "NaT" else text.removesuffix(".000000") + "Z" for text in texts]
    return plain
