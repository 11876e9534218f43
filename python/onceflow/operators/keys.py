"""Keys of records: how they are read, what type they are of, and how those of any type are kept.

The keys of a step are all of one type, which its first keys decide and its state keeps; any of them, and any element of
a tuple, may also be None. Integers of 64 bits, strings and bytes are native to the state tables. All other keys (None,
bools, dates, datetimes, integers beyond 64 bits) are written as bytes that say themselves what they are and have the
order of the keys, None first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from operator import itemgetter
from typing import Any

import numpy as np

from onceflow._native import _uncommon
from onceflow.columns import Columns, to_list
from onceflow.exceptions import TypeMismatchError
from onceflow.graph.partitioning import KeySelector
from onceflow.operators.calls import each
from onceflow.types import Batch

__all__ = [
    "AgreedType",
    "agree",
    "all_fit",
    "as_instants",
    "can_be_written",
    "decode_key",
    "encode_key",
    "first_type",
    "fits",
    "holds_other_keys",
    "is_finer",
    "is_native",
    "is_text",
    "key_list",
    "key_order",
    "key_type_name",
    "key_type_of",
    "other_keys",
    "plain_key",
    "plain_keys",
    "same_kind",
    "select_keys",
]

#: A key type as far as it is known: None stands for an element that has been None so far.
AgreedType = str | None | tuple[str | None, ...]

_INTEGERS = {"i64": (-(1 << 63), (1 << 63) - 1), "u64": (0, (1 << 64) - 1)}
_NATIVE = frozenset({*_INTEGERS, "str", "bytes"})

_TOO_FAR = "a key is a time that in UTC is outside of the years 1 to 9999"
_KEYS_ARE = "keys are int, str, bytes, bool, date, datetime, None, or tuples of two or more of these"


def select_keys(selector: KeySelector, step_id: str, records: Batch) -> Any:
    """One key a record, in a form that ``Table`` takes: a list, an array, or a tuple of arrays."""
    names = selector.names
    if isinstance(records, Columns):
        if len(names) == 1:
            return records[names[0]]
        if names:
            return tuple(records[name] for name in names)
        records = records.to_rows()
    return each(step_id, selector.function or itemgetter(*names), records)


def is_native(key_type: AgreedType) -> bool:
    """True if the state tables have this type for keys."""
    return all(element in _NATIVE for element in (key_type if isinstance(key_type, tuple) else (key_type,)))


def key_type_name(key_type: AgreedType) -> str:
    """For people."""
    if isinstance(key_type, tuple):
        return f"({', '.join(map(key_type_name, key_type))})"
    return "None" if key_type is None else key_type


def key_type_of(key: Any) -> AgreedType:
    """The type of a key; None where it is None.

    Raises:
        TypeMismatchError: A float, or anything else that is not a key.
    """
    if isinstance(key, tuple):
        if len(key) > 1 and not any(isinstance(element, tuple) for element in key):
            return tuple(_kind(element) for element in key)
        raise _no_key(key)
    return _kind(key)


def _kind(value: Any) -> str | None:  # noqa: PLR0911 - one a kind
    if value is None:
        return None
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "i64"
    if isinstance(value, str):
        return "str"
    if isinstance(value, bytes):
        return "bytes"
    if isinstance(value, datetime):
        return "naive datetime" if _offset(value) is None else "datetime"
    if isinstance(value, date):
        return "date"
    raise _no_key(value)


def is_finer(key: Any) -> bool:
    """True for a time with parts below a microsecond, such as pandas has; of NaT they are NaN."""
    return bool(getattr(key, "nanosecond", 0) > 0)


def _offset(moment: datetime) -> timedelta | None:
    """What it is away from UTC; None: it has no zone.

    Raises:
        TypeMismatchError: It is not a moment, as pandas' NaT is none, or one below a microsecond, which would be cut.
    """
    if is_finer(moment):
        raise _no_key(moment)
    try:
        return moment.utcoffset()
    except Exception as error:
        raise _no_key(moment) from error


def _no_key(key: Any) -> TypeMismatchError:
    return TypeMismatchError(f"{key!r} cannot be a key; {_KEYS_ARE}. Filter such records out")


def plain_keys(keys: Any) -> Any:
    """The keys of a batch, in a form that ``Table`` takes if all of them are native to it, else as a list.

    Args:
        keys: A list, an array, or a tuple of one array for each element.

    Raises:
        TypeMismatchError: An array of a type that has no keys.
    """
    if isinstance(keys, list):
        return keys
    if isinstance(keys, tuple):
        plain = tuple(map(plain_keys, keys))
        return list(zip(*map(key_list, plain), strict=True)) if any(isinstance(part, list) for part in plain) else plain
    if isinstance(keys, np.ndarray):
        is_masked = isinstance(keys, np.ma.MaskedArray)
        return keys if keys.dtype.kind in "iu" and not is_masked else _listed(keys)
    kind = str(keys.type.value_type if str(keys.type).startswith("dictionary") else keys.type)
    is_native = kind.startswith(("int", "uint", "string", "large_string", "binary", "large_binary"))
    return keys if is_native and not keys.null_count else _listed(keys)


def _listed(array: Any) -> list[Any]:
    if isinstance(array, np.ndarray) and array.dtype.kind in "fc":
        raise TypeMismatchError(f"an array of {array.dtype} holds no keys; {_KEYS_ARE}. Convert it first")
    listed = to_list(array)
    # Only objects may still be numpy's.
    return list(map(plain_key, listed)) if isinstance(array, np.ndarray) and array.dtype.kind == "O" else listed


def plain_key(key: Any) -> Any:
    """The key as a Python object, where it is one of numpy."""
    if isinstance(key, tuple):
        return tuple(map(plain_key, key))
    if isinstance(key, (np.datetime64, np.timedelta64)):
        return to_list(np.asarray([key]))[0]
    return key.item() if isinstance(key, np.generic) else key


def as_instants(keys: list[Any]) -> list[Any]:
    """The keys, with datetimes that have a zone in UTC.

    Python compares datetimes of one zone by what the clock shows: of the hour that it shows twice, when summer time
    ends, two instants would be one key until a restart tells them apart.

    Raises:
        TypeMismatchError: A datetime that is not a key.
    """
    others = _uncommon(keys)
    if others is None or any(issubclass(kind, (datetime, tuple)) for kind in set(map(type, others))):
        return list(map(_as_instant, keys))
    return keys


def _as_instant(key: Any) -> Any:
    if isinstance(key, tuple):
        return tuple(map(_as_instant, key))
    if not isinstance(key, datetime) or (type(key) is datetime and (key.tzinfo is None or key.tzinfo is UTC)):
        return key
    try:
        moment = key.replace(tzinfo=None) if _offset(key) is None else key.astimezone(UTC)
    except OverflowError:
        raise TypeMismatchError(_TOO_FAR) from None
    day = (moment.year, moment.month, moment.day)
    # Of a subclass, too, only the moment is the key.
    return datetime(*day, moment.hour, moment.minute, moment.second, moment.microsecond, moment.tzinfo)


def first_type(keys: Any) -> AgreedType:
    """The type that the first key of a batch asks for, of keys that ``plain_keys`` made.

    Raises:
        TypeMismatchError: It is not a key.
    """
    if isinstance(keys, tuple):
        kinds = tuple(map(first_type, keys))
        return tuple(kind if isinstance(kind, str) else None for kind in kinds)
    if isinstance(keys, list):
        return key_type_of(plain_key(keys[0]))
    if isinstance(keys, np.ndarray):
        return "u64" if keys.dtype == np.uint64 else "i64"
    kind = str(keys.type)
    if "string" in kind:
        return "str"
    return "bytes" if "binary" in kind else "u64" if kind == "uint64" else "i64"


def fits(key_type: AgreedType, key: Any) -> bool:
    """True if a key is of this type, which is native to the state tables; of no other type any key is."""
    if isinstance(key_type, tuple):
        return isinstance(key, tuple) and len(key) == len(key_type) and all(map(fits, key_type, key))
    bounds = _INTEGERS.get(key_type or "")
    if bounds is not None:
        return isinstance(key, (int, np.integer)) and not isinstance(key, bool) and bounds[0] <= int(key) <= bounds[1]
    return is_text(key) if key_type == "str" else key_type == "bytes" and isinstance(key, bytes)


def is_text(key: Any) -> bool:
    """True for a str that can be written as UTF-8: lone surrogates cannot."""
    return isinstance(key, str) and can_be_written([key])


def can_be_written(texts: Sequence[str]) -> bool:
    """True if all of them can be written as UTF-8."""
    text = "".join(texts)
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def all_fit(key_type: AgreedType, keys: Sequence[Any]) -> bool:
    """True if all keys are of this native type; a dict would take 1, 1.0 and True for one key."""
    kinds = set(map(type, keys))
    if isinstance(key_type, tuple):
        return (
            all(issubclass(kind, tuple) for kind in kinds)
            and set(map(len, keys)) <= {len(key_type)}
            and all(map(all_fit, key_type, zip(*keys, strict=True)))
        )
    bounds = _INTEGERS.get(key_type or "")
    if bounds is not None:
        return (
            bool not in kinds
            and all(issubclass(kind, (int, np.integer)) for kind in kinds)
            and (not keys or (bounds[0] <= int(min(keys)) and int(max(keys)) <= bounds[1]))
        )
    if key_type == "str":
        return all(issubclass(kind, str) for kind in kinds) and can_be_written(keys)
    return all(issubclass(kind, bytes) for kind in kinds)


def same_kind(known: AgreedType, other: AgreedType) -> bool:
    """True if keys of type ``other`` may be keys of type ``known``.

    None is of any type, and of integers only the table knows the type.
    """
    if isinstance(known, tuple) or isinstance(other, tuple):
        return (
            isinstance(known, tuple)
            and isinstance(other, tuple)
            and len(known) == len(other)
            and all(map(same_kind, known, other))
        )
    return known is None or other is None or known == other or (known in _INTEGERS and other in _INTEGERS)


def agree(known: AgreedType, other: AgreedType) -> AgreedType:
    """What is known of a type once a key of type ``other`` has come, which is of the same kind."""
    if isinstance(known, tuple) and isinstance(other, tuple):
        return tuple(old if old is not None else new for old, new in zip(known, other, strict=True))
    return other if known is None else known


def key_order(key: Any) -> Any:
    """What to sort keys by, some of which are None or have an element that is: these come first."""
    if isinstance(key, tuple):
        return tuple(map(key_order, key))
    return (key is not None, key)


def key_list(keys: Any) -> list[Any]:
    """The keys as Python objects, hashable and sortable."""
    if isinstance(keys, tuple):
        return list(zip(*(key_list(array) for array in keys), strict=True))
    return keys if isinstance(keys, list) else to_list(keys)


_OTHERS = ":keys"


def other_keys(step_id: str) -> str:
    """Name of the table of a step's keys that no native key type holds, beside the one that is called like the step."""
    return f"{step_id}{_OTHERS}"


def holds_other_keys(table: str) -> bool:
    """True of the name of such a table, or of one that lies beside it: its keys, or their last element, are encoded."""
    return table.partition("/")[0].endswith(_OTHERS)


_TUPLE, _NONE, _BOOL, _INT, _STR, _BYTES, _DATE, _NAIVE, _DATETIME = range(9)
#: Integers are written in so many bytes: those of 64 bits and then some.
_INT_BYTES = 9
_INT_OFFSET = 1 << (8 * _INT_BYTES - 1)
_TIME_BYTES = 8
_TIME_OFFSET = 1 << (8 * _TIME_BYTES - 1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NAIVE_EPOCH = datetime(1970, 1, 1)
_MICROSECOND = timedelta(microseconds=1)


def encode_key(key: Any) -> bytes:
    """The key as bytes that have its order; equal keys of one type have equal bytes.

    Raises:
        TypeMismatchError: It is not a key, or an integer of more than 71 bits.
    """
    if isinstance(key, tuple):
        return bytes([_TUPLE]) + b"".join(map(encode_key, key))
    kind = _kind(key)
    return bytes([_NONE]) if kind is None else _ENCODERS[kind](key)


def _encode_int(key: int) -> bytes:
    try:
        return bytes([_INT]) + (key + _INT_OFFSET).to_bytes(_INT_BYTES, "big")
    except OverflowError:
        raise TypeMismatchError(f"{key} cannot be a key: it has more than {8 * _INT_BYTES - 1} bits") from None


def _encode_text(key: str) -> bytes:
    if not is_text(key):
        raise TypeMismatchError(f"{key!r} cannot be a key: its lone surrogates cannot be written as UTF-8")
    return _escaped(_STR, key.encode())


def _encode_time(tag: int, since: timedelta) -> bytes:
    try:
        _EPOCH + since
    except OverflowError:
        raise TypeMismatchError(_TOO_FAR) from None
    return bytes([tag]) + (since // _MICROSECOND + _TIME_OFFSET).to_bytes(_TIME_BYTES, "big")


def _escaped(tag: int, data: bytes) -> bytes:
    return bytes([tag]) + data.replace(b"\0", b"\0\xff") + b"\0\0"


_ENCODERS: dict[str, Callable[[Any], bytes]] = {
    "bool": lambda key: bytes([_BOOL, key]),
    "i64": _encode_int,
    "str": _encode_text,
    "bytes": lambda key: _escaped(_BYTES, key),
    "date": lambda key: bytes([_DATE]) + key.toordinal().to_bytes(4, "big"),
    "naive datetime": lambda key: _encode_time(_NAIVE, key - _NAIVE_EPOCH),
    "datetime": lambda key: _encode_time(_DATETIME, key - _EPOCH),
}


def decode_key(data: bytes) -> Any:
    """The key that ``encode_key`` wrote; times with a zone come back in UTC."""
    if data[0] == _TUPLE:
        elements, place = [], 1
        while place < len(data):
            element, place = _decode(data, place)
            elements.append(element)
        return tuple(elements)
    return _decode(data, 0)[0]


def _decode(data: bytes, place: int) -> tuple[Any, int]:
    tag, start = data[place], place + 1
    if tag == _NONE:
        return None, start
    if tag == _BOOL:
        return bool(data[start]), start + 1
    if tag == _INT:
        return int.from_bytes(data[start : start + _INT_BYTES], "big") - _INT_OFFSET, start + _INT_BYTES
    if tag == _DATE:
        return date.fromordinal(int.from_bytes(data[start : start + 4], "big")), start + 4
    if tag in (_NAIVE, _DATETIME):
        micros = int.from_bytes(data[start : start + _TIME_BYTES], "big") - _TIME_OFFSET
        epoch = _NAIVE_EPOCH if tag == _NAIVE else _EPOCH
        return epoch + micros * _MICROSECOND, start + _TIME_BYTES
    # A zero byte of the text is followed by 0xff.
    end = data.index(b"\0\0", start)
    raw = data[start:end].replace(b"\0\xff", b"\0")
    return raw.decode() if tag == _STR else raw, end + 2
