"""Types of columns that are agreed once: settled by the first value, and never bent to (extra ``arrow``).

A column's type is that of its first value; what later values are, and where batches end, changes nothing about it. A
type is open (null) as long as all values were None, in lists and structs too. Values are converted to the agreed type
only where that is exact: ints to wider numbers, times to a finer unit or another zone, dates to midnight. Anything
else is a ``MisfitError``, or makes the type wider where that was asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from itertools import chain
from types import NoneType
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pyarrow as pa
from pyarrow import types as kinds_of

from onceflow.connectors.values import base_value

__all__ = ["MisfitError", "convert", "fit", "is_open", "settle", "widen", "wider"]

_SCALARS = (bool, int, float, str, bytes, datetime, date, time, timedelta, Decimal, UUID)
_KINDS: dict[type, type | None] = {}
_UNITS = ("s", "ms", "us", "ns")
_DIGITS_OF_INT = 20


class MisfitError(Exception):
    """A value does not fit the type of its column.

    Attributes:
        found: The value's own type, or what it is.
        agreed: The type of the column, or of the part of it where the value is.
    """

    def __init__(self, found: object, agreed: object) -> None:
        super().__init__(f"{found} does not fit {agreed}")
        self.found = found
        self.agreed = agreed


# -- values ------------------------------------------------------------------------------------


def _kind_of(kind: type) -> type | None:
    """Which of the kinds that Arrow has values of a type are; None if they must be made plain first."""
    try:
        return _KINDS[kind]
    except KeyError:
        pass
    found: type | None = None
    if issubclass(kind, Mapping):
        found = dict
    elif issubclass(kind, (list, tuple, set, frozenset)):
        found = list
    elif kind in _SCALARS:
        found = kind
    _KINDS[kind] = found
    return found


def _plain(value: Any) -> Any:
    try:
        return base_value(value)
    except TypeError:
        if isinstance(value, np.ndarray):
            return list(value)
        return msgspec.to_builtins(value, builtin_types=(*_SCALARS[4:], bytearray, memoryview), enc_hook=base_value)


def _readable(value: datetime) -> datetime:
    """A datetime that Arrow reads as its instant, in a zone that Arrow knows.

    That is the value's own one, if it has a name by which others find it. Arrow would write what any other one calls
    itself (``BRST``), which nobody can read: such a value has its offset from UTC as its zone.

    Raises:
        OverflowError: It lies outside of the years 1 to 9999.
    """
    zone = value.tzinfo
    if zone is None or zone is UTC:
        return value
    moment = value.astimezone(UTC)
    offset = value.utcoffset()
    if offset is None:
        return value
    if _has_name(zone):
        # Arrow does not know offsets with parts of a second.
        return moment if offset.microseconds else value
    return value.astimezone(timezone(offset)) if offset and not offset % timedelta(minutes=1) else moment


def _has_name(zone: tzinfo) -> bool:
    """Whether it is a zone of the IANA database: the standard library's, or pytz's."""
    name = zone.key if isinstance(zone, ZoneInfo) else getattr(zone, "zone", None)
    return isinstance(name, str)


def _without_zone(value: time) -> time:
    if value.tzinfo is not None:
        raise ValueError(
            f"{value!r} has a zone, and times of day in Parquet have none: map it to text, or to a datetime"
        )
    return value


_CHECKED: dict[type, Callable[[Any], Any]] = {datetime: _readable, time: _without_zone}


def _normal(values: Sequence[Any]) -> tuple[Sequence[Any], set[type | None], bool]:
    """Values that Arrow knows, which kinds there are of them besides None, and whether there is None."""
    found = set(map(type, values))
    has_none = NoneType in found
    found.discard(NoneType)
    if any(_kind_of(kind) is None for kind in found):
        values = [_plain(value) if _kind_of(type(value)) is None and value is not None else value for value in values]
        found = set(map(type, values))
        has_none = NoneType in found
        found.discard(NoneType)
    for kind, checked in _CHECKED.items():
        if kind in found:
            values = [checked(value) if type(value) is kind else value for value in values]
    return values, {_kind_of(kind) for kind in found}, has_none


def _natural(values: Sequence[Any]) -> Any:
    """Scalars of one kind, and None, as the array that they are by themselves."""
    try:
        return pa.array(values)
    except OverflowError:
        return pa.array(values, pa.uint64())


def _type_of(value: Any) -> Any:
    """The type that a column gets by its first value: of decimals their scale, with all digits before it."""
    found = _natural([value]).type
    if kinds_of.is_decimal128(found):
        return pa.decimal128(38, found.scale)
    return pa.decimal256(76, found.scale) if kinds_of.is_decimal256(found) else found


# -- agreeing ----------------------------------------------------------------------------------


def is_open(agreed: Any) -> bool:
    """Whether a part of a type is not settled, because all values were None so far."""
    if kinds_of.is_struct(agreed):
        return any(is_open(member.type) for member in agreed)
    return is_open(agreed.value_type) if _is_list(agreed) else bool(kinds_of.is_null(agreed))


def settle(agreed: Any, values: Sequence[Any]) -> Any:
    """The type with what is open in it settled by the first values that are not None."""
    if not is_open(agreed):
        return agreed
    values, kinds, _ = _normal(values)
    if kinds_of.is_null(agreed):
        first = next((value for value in values if value is not None), None)
        if first is None:
            return agreed
        kind = _kind_of(type(first))
        if kind is dict:
            members = next((value for value in values if isinstance(value, Mapping) and value), first)
            agreed = pa.struct([pa.field(_name(name), pa.null()) for name in members])
        elif kind is list:
            agreed = pa.list_(pa.null())
        else:
            return _type_of(first)
    if kinds_of.is_struct(agreed):
        # What is no dict does not fit, which is found when it is converted.
        only_dicts = kinds == {dict}
        records = [value for value in values if value is not None and (only_dicts or _kind_of(type(value)) is dict)]
        return pa.struct(
            [
                member.with_type(settle(member.type, [row.get(member.name) for row in records]))
                if is_open(member.type)
                else member
                for member in agreed
            ]
        )
    return pa.list_(settle(agreed.value_type, list(_items(values))))


def widen(agreed: Any, values: Sequence[Any]) -> Any:
    """The type that holds what it held before and these values too; raises ``MisfitError`` if there is none."""
    values, kinds, _ = _normal(values)
    if not kinds:
        return agreed
    if kinds == {dict} and (kinds_of.is_struct(agreed) or kinds_of.is_null(agreed)):
        records = [value for value in values if value is not None]
        members = {} if kinds_of.is_null(agreed) else {member.name: member.type for member in agreed}
        members.update((_name(name), pa.null()) for row in records for name in row if name not in members)
        return pa.struct([(name, widen(kind, [row.get(name) for row in records])) for name, kind in members.items()])
    if kinds == {list} and (_is_list(agreed) or kinds_of.is_null(agreed)):
        return pa.list_(widen(agreed.value_type if _is_list(agreed) else pa.null(), list(_items(values))))
    for kind in sorted(kinds, key=str):
        if kind in (dict, list):
            raise MisfitError(kind.__name__, agreed)
        some = [value for value in values if _kind_of(type(value)) is kind]
        if not (kind is int and kinds_of.is_integer(agreed) and _holds(agreed, some)):
            agreed = wider(agreed, _natural(some).type)
    return agreed


def _holds(agreed: Any, ints: Sequence[int]) -> bool:
    try:
        pa.array(ints, agreed)
    except (pa.ArrowInvalid, OverflowError):
        return False
    return True


def wider(agreed: Any, found: Any) -> Any:
    """A type that holds all values of two; raises ``MisfitError`` if there is none."""
    for one, other in ((agreed, found), (found, agreed)):
        if kinds_of.is_null(one) or one == other or (kinds_of.is_date(one) and kinds_of.is_timestamp(other)):
            return other
    for belongs, make in _FAMILIES:
        if belongs(agreed) and belongs(found):
            made = make(agreed, found)
            if made is not None:
                return made
    raise MisfitError(found, agreed)


def _wider_int(agreed: Any, found: Any) -> Any:
    if kinds_of.is_signed_integer(agreed) == kinds_of.is_signed_integer(found):
        return _wider_float(agreed, found)
    return None if pa.uint64() in (agreed, found) else pa.int64()


def _wider_float(agreed: Any, found: Any) -> Any:
    return max(agreed, found, key=lambda kind: kind.bit_width)


def _wider_number(agreed: Any, found: Any) -> Any:
    kinds = (agreed, found)
    if not any(map(kinds_of.is_decimal, kinds)):
        # No integer of 64 bits holds both uint64 and a negative one, and a float would not hold them exactly.
        return None if all(map(kinds_of.is_integer, kinds)) else pa.float64()
    if any(map(kinds_of.is_floating, kinds)):
        return None
    pairs = [
        (kind.precision - kind.scale, kind.scale) if kinds_of.is_decimal(kind) else (_DIGITS_OF_INT, 0)
        for kind in kinds
    ]
    whole, scale = (max(column) for column in zip(*pairs, strict=True))
    fitting = [make(most, scale) for make, most in ((pa.decimal128, 38), (pa.decimal256, 76)) if whole + scale <= most]
    return fitting[0] if fitting else None


def _wider_time(agreed: Any, found: Any) -> Any:
    unit = _finer(agreed, found)
    return (pa.time32 if unit in ("s", "ms") else pa.time64)(unit)


# -- converting --------------------------------------------------------------------------------


def convert(values: Sequence[Any], agreed: Any) -> Any:  # noqa: PLR0911 - one a kind
    """Python's values as an array of the agreed type, exactly.

    Raises:
        MisfitError: A value does not fit.
        pyarrow.ArrowException, and what it raises for values that it does not know.
    """
    values, kinds, has_none = _normal(values)
    if not kinds:
        return pa.nulls(len(values), agreed)
    for made, belongs in ((dict, kinds_of.is_struct), (list, _is_list)):
        if belongs(agreed):
            for value in values if kinds != {made} else ():
                if value is not None and _kind_of(type(value)) is not made:
                    raise MisfitError(type(value).__name__, agreed)
            return (_structs if made is dict else _lists)(values, has_none, agreed)
    if kinds_of.is_nested(agreed):
        if kinds_of.is_map(agreed):
            return _maps(values, agreed)
        if kinds_of.is_fixed_size_list(agreed):
            return _tuples(values, agreed)
        # Unions and the like, of which Arrow itself converts the values.
        return pa.array(list(map(_deeply_plain, values)), agreed)
    for kind in (dict, list):
        if kind in kinds:
            raise MisfitError(kind.__name__, agreed)
    if len(kinds) == 1:
        return fit(_natural(values), agreed)
    # Arrow would bend one to the other: a datetime after a date to a date, text after bytes to bytes.
    parts = [
        fit(_natural([value if _kind_of(type(value)) is kind else None for value in values]), agreed) for kind in kinds
    ]
    owner = np.array([next((n for n, part in enumerate(parts) if part[row].is_valid), 0) for row in range(len(values))])
    return pa.concat_arrays(parts).take(pa.array(owner * len(values) + np.arange(len(values))))


def _maps(values: Sequence[Any], agreed: Any) -> Any:
    pairs = [
        () if value is None else list(value.items()) if isinstance(value, Mapping) else _sized(value, agreed)
        for value in values
    ]
    flat = list(chain.from_iterable(pairs))
    if any(_kind_of(type(pair)) is not list or len(pair) != 2 for pair in flat):
        raise MisfitError("what is not a pair", agreed)
    missing = np.array([*(value is None for value in values), False])
    offsets = pa.array(np.cumsum([0, *map(len, pairs)]), pa.int32(), mask=missing)
    names = convert([name for name, _ in flat], agreed.key_type)
    items = convert([item for _, item in flat], agreed.item_type)
    if names.null_count:
        raise MisfitError("None as a key", agreed)
    return pa.MapArray.from_arrays(offsets, names, items).cast(agreed)


def _tuples(values: Sequence[Any], agreed: Any) -> Any:
    size = agreed.list_size
    rows = [(None,) * size if value is None else _sized(value, agreed, size) for value in values]
    children = convert(list(chain.from_iterable(rows)), agreed.value_type)
    missing = pa.array([value is None for value in values], pa.bool_())
    return pa.FixedSizeListArray.from_arrays(children, type=agreed, mask=missing)


def _sized(value: Any, agreed: Any, size: int | None = None) -> Sequence[Any]:
    if _kind_of(type(value)) is not list or (size is not None and len(value) != size):
        raise MisfitError(type(value).__name__ if size is None else f"what has not {size} items", agreed)
    return list(value)


def _deeply_plain(value: Any) -> Any:
    (value,), _, _ = _normal([value])
    kind = _kind_of(type(value))
    if kind is dict:
        return {_deeply_plain(name): _deeply_plain(item) for name, item in value.items()}
    return tuple(map(_deeply_plain, value)) if kind is list else value


def _structs(values: Sequence[Any], has_none: bool, agreed: Any) -> Any:
    records = [value for value in values if value is not None] if has_none else values
    new = set(chain.from_iterable(records)) - {member.name for member in agreed}
    if new:
        first = next(name for record in records for name in record if name in new)
        raise MisfitError(f"the new member {first!r}", agreed)
    rows: Sequence[Any] = [value or {} for value in values] if has_none else values
    children = [convert([row.get(member.name) for row in rows], member.type) for member in agreed]
    mask = pa.array([value is None for value in values], pa.bool_()) if has_none or not children else None
    return pa.StructArray.from_arrays(children, fields=list(agreed), mask=mask)


def _lists(values: Sequence[Any], has_none: bool, agreed: Any) -> Any:
    large = kinds_of.is_large_list(agreed)
    lists: Sequence[Any] = [() if value is None else value for value in values] if has_none else values
    ends = np.cumsum([0, *map(len, lists)])
    missing = np.array([*(value is None for value in values), False]) if has_none else None
    offsets = pa.array(ends, pa.int64() if large else pa.int32(), mask=missing)
    children = convert(list(chain.from_iterable(lists)), agreed.value_type)
    return (pa.LargeListArray if large else pa.ListArray).from_arrays(offsets, children, type=agreed)


def fit(array: Any, agreed: Any) -> Any:
    """An array as one of the agreed type, exactly; raises ``MisfitError``."""
    if kinds_of.is_dictionary(array.type) and not kinds_of.is_dictionary(agreed):
        array = array.dictionary_decode()
    found = array.type
    if found == agreed:
        return array
    if kinds_of.is_null(found):
        return pa.nulls(len(array), agreed)
    if kinds_of.is_dictionary(agreed):
        return fit(array, agreed.value_type).dictionary_encode().cast(agreed)
    if kinds_of.is_nested(found):
        return convert(array.to_pylist(), agreed)
    if not _is_convertible(found, agreed):
        raise MisfitError(found, agreed)
    try:
        made = array.cast(agreed)
    except pa.ArrowInvalid as error:
        raise MisfitError(found, agreed) from error
    if kinds_of.is_floating(found) and agreed.bit_width < found.bit_width:
        before, after = (one.to_numpy(zero_copy_only=False).astype(np.float64) for one in (array, made))
        if not np.array_equal(before, after, equal_nan=True):
            raise MisfitError(found, agreed)
    return made


def _is_convertible(found: Any, agreed: Any) -> bool:
    """Whether values of a type may be exact in another one."""
    if kinds_of.is_integer(found):
        return _is_number(agreed)
    for belongs in (
        kinds_of.is_floating,
        kinds_of.is_decimal,
        kinds_of.is_timestamp,
        kinds_of.is_time,
        kinds_of.is_duration,
        _is_text,
        _is_bytes,
    ):
        if belongs(found):
            return bool(belongs(agreed))
    return bool(kinds_of.is_date(found) and (kinds_of.is_date(agreed) or kinds_of.is_timestamp(agreed)))


def _items(values: Iterable[Any]) -> Iterable[Any]:
    return chain.from_iterable(value for value in values if _kind_of(type(value)) is list)


def _name(name: object) -> str:
    if not isinstance(name, str):
        raise MisfitError(f"the member {name!r}, whose name is not a text,", "a struct")
    return name


def _finer(one: Any, other: Any) -> str:
    return _UNITS[max(_UNITS.index(one.unit), _UNITS.index(other.unit))]


def _is_number(kind: Any) -> bool:
    return bool(kinds_of.is_integer(kind) or kinds_of.is_floating(kind) or kinds_of.is_decimal(kind))


def _is_list(kind: Any) -> bool:
    return bool(kinds_of.is_list(kind) or kinds_of.is_large_list(kind))


def _is_text(kind: Any) -> bool:
    return bool(kinds_of.is_string(kind) or kinds_of.is_large_string(kind) or str(kind) == "string_view")


def _is_bytes(kind: Any) -> bool:
    return bool(
        kinds_of.is_binary(kind)
        or kinds_of.is_large_binary(kind)
        or kinds_of.is_fixed_size_binary(kind)
        or str(kind) == "binary_view"
    )


#: Of each family of types, what holds two of them; the first that has something counts.
_FAMILIES: list[tuple[Callable[[Any], bool], Callable[[Any, Any], Any]]] = [
    (kinds_of.is_integer, _wider_int),
    (kinds_of.is_floating, _wider_float),
    (_is_number, _wider_number),
    (kinds_of.is_timestamp, lambda agreed, found: pa.timestamp(_finer(agreed, found), agreed.tz)),
    (kinds_of.is_duration, lambda agreed, found: pa.duration(_finer(agreed, found))),
    (kinds_of.is_time, _wider_time),
    (_is_text, lambda *_: pa.large_string()),
    (_is_bytes, lambda *_: pa.large_binary()),
]
