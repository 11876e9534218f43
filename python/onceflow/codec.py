"""How values of user state become bytes.

msgpack is the default: compact, safe to read from anywhere, the same on every machine. It knows None, bool, int, float,
str, bytes, lists, tuples, dicts, sets, datetimes (naive, of a ``ZoneInfo`` or a ``timezone``), dates, times of day,
timedeltas, Decimals and UUIDs, and each comes back as what it was; anything else, subclasses of these too, is refused
when it is written, since a job whose state changes its type by a restart is not exact. Pickle can run code when it is
read, so it is used only where it is asked for by name.
"""

from __future__ import annotations

import dataclasses
import enum
import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any, ClassVar, Literal, TypeAlias
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
import numpy as np

from onceflow._native import _is_plain
from onceflow.exceptions import ConfigurationError, SerializationError

__all__ = ["Codec", "MsgpackCodec", "PickleCodec", "codec_by_name"]

_TUPLE = 1
_SET = 2
_BIG_INT = 3
_FROZENSET = 4
_DATETIME = 5
_DATE = 6
_TIMEDELTA = 7
_DECIMAL = 8
_DICT = 9
_ZONED = 10
_TIME = 11
_UUID = 12

#: What msgpack writes and reads as it is; and integers in between.
_PLAIN = frozenset({type(None), bool, float, str, bytes})
_PLAIN_KEYS = _PLAIN - {float}
_LEAST, _MOST = -(1 << 63), (1 << 64) - 1

_ENCODER = msgspec.msgpack.Encoder()


class Codec(ABC):
    """Turns a value into bytes and back; ``decode(encode(x)) == x``."""

    #: Recorded in the checkpoint: a job must resume with the codec that it began with.
    name: ClassVar[str]

    @abstractmethod
    def encode(self, value: Any) -> bytes:
        """Raises ``SerializationError``, naming the type, if the value is not supported."""

    def encode_all(self, values: list[Any]) -> list[bytes]:
        """``encode`` of each value; quicker where a codec can do that."""
        return list(map(self.encode, values))

    @abstractmethod
    def decode(self, data: bytes | memoryview) -> Any:
        """Raises ``SerializationError`` if the bytes do not decode."""


class MsgpackCodec(Codec):
    """The default."""

    name = "msgpack"

    def __init__(self) -> None:
        self._decoder = msgspec.msgpack.Decoder(ext_hook=self._from_extension, strict=True)

    def encode(self, value: Any) -> bytes:
        """See ``Codec``."""
        if _is_plain(value):
            try:
                return _ENCODER.encode(value)
            except (ValueError, OverflowError, RecursionError):
                # An integer of more than 64 bits, or a text that cannot be written.
                pass
        try:
            return _ENCODER.encode(_mark(value))
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            advice = error.advice if isinstance(error, _UnsupportedError) else _ADVICE
            raise SerializationError(
                f"the msgpack codec cannot write a {type(value).__qualname__}: {error}. {advice}"
            ) from error

    def encode_all(self, values: list[Any]) -> list[bytes]:
        """See ``Codec``: plain values need no look at each."""
        if _is_plain(values):
            try:
                return list(map(_ENCODER.encode, values))
            except (ValueError, OverflowError, RecursionError):
                pass
        return super().encode_all(values)

    def decode(self, data: bytes | memoryview) -> Any:
        """See ``Codec``."""
        try:
            return self._decoder.decode(data)
        except ZoneInfoNotFoundError as error:
            raise SerializationError(
                f"the msgpack codec cannot read a datetime: this machine does not know its time zone: {error.args[0]}. "
                "Install the package tzdata, or the system's time zones"
            ) from error
        except (msgspec.MsgspecError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
            raise SerializationError(f"the msgpack codec cannot read {len(data)} bytes: {error}") from error

    def _from_extension(self, code: int, data: memoryview) -> Any:
        build = _PARTS.get(code)
        if build is not None:
            return build(self._decoder.decode(data))
        if code == _BIG_INT:
            return int.from_bytes(data, "big", signed=True)
        read = _TEXTS.get(code)
        if read is not None:
            return read(str(data, "ascii"))
        raise ValueError(f"unknown extension {code}")


_ADVICE = (
    "Keep state in plain values (numbers, strings, bytes, lists, tuples, dicts, sets, dates), or ask for codec='pickle'"
)


class _UnsupportedError(TypeError):
    """A value that would not come back as what it is.

    Attributes:
        advice: What to write instead.
    """

    def __init__(self, reason: str, advice: str = _ADVICE) -> None:
        super().__init__(reason)
        self.advice = advice


def _mark(value: Any) -> Any:
    """The value with an extension for each thing that msgpack does not know or would confuse with something else."""
    kind = type(value)
    if kind is list:
        # Without a call for what is most common.
        return [
            item if (kind := type(item)) in _PLAIN or (kind is int and _LEAST <= item <= _MOST) else _mark(item)
            for item in value
        ]
    if kind is dict:
        if not _plain_keys(value):
            return msgspec.msgpack.Ext(_DICT, _ENCODER.encode([_mark(part) for pair in value.items() for part in pair]))
        return {
            key: item if (kind := type(item)) in _PLAIN or (kind is int and _LEAST <= item <= _MOST) else _mark(item)
            for key, item in value.items()
        }
    if kind in _PLAIN or (kind is int and _LEAST <= value <= _MOST):
        return value
    write = _EXTENSIONS.get(kind)
    if write is None:
        raise _UnsupportedError(f"a {kind.__qualname__} would not come back as one", _instead(value))
    code, data = write(value)
    return msgspec.msgpack.Ext(code, data)


def _plain_keys(value: dict[Any, Any]) -> bool:
    """True if msgpack itself writes these keys."""
    kinds = set(map(type, value))
    if kinds <= _PLAIN_KEYS:
        return True
    for key in value:
        _refuse_nan(key)
    return kinds <= _PLAIN_KEYS | {int, float} and all(type(key) is not int or _LEAST <= key <= _MOST for key in value)


def _refuse_nan(key: Any) -> None:
    """A NaN as a key of a dict or an item of a set is found by its identity, which it would lose."""
    if type(key) in (tuple, frozenset):
        for part in key:
            _refuse_nan(part)
    elif type(key) in (float, Decimal) and key != key:  # noqa: PLR0124 - true of NaN alone
        raise _UnsupportedError(f"{key!r} as a key would not be found again", "Use None or a text in its place")


def _tuple(value: tuple[Any, ...]) -> tuple[int, bytes]:
    return _TUPLE, _ENCODER.encode([_mark(item) for item in value])


def _set(value: set[Any] | frozenset[Any]) -> tuple[int, bytes]:
    # Sorted by their bytes, so that equal sets have equal bytes.
    for item in value:
        _refuse_nan(item)
    items = sorted(_ENCODER.encode(_mark(item)) for item in value)
    return _SET if type(value) is set else _FROZENSET, _ENCODER.encode([msgspec.Raw(item) for item in items])


def _datetime(value: datetime) -> tuple[int, bytes]:
    zone = value.tzinfo
    # A ``timezone`` is equal to another one of the same offset, but may have a name.
    nameless = zone is None or (type(zone) is timezone and repr(zone) == repr(timezone(zone.utcoffset(None))))
    # Python does not read every offset back that has parts of a second.
    offset = None if zone is None else value.utcoffset()
    if nameless and not value.fold and not (offset and offset.microseconds):
        return _DATETIME, value.isoformat().encode()
    return _ZONED, _ENCODER.encode([value.replace(tzinfo=None).isoformat(), value.fold, _zone_mark(zone)])


def _time(value: time) -> tuple[int, bytes]:
    zone = value.tzinfo
    mark = None if zone is None else _zone_mark(zone)
    return _TIME, _ENCODER.encode([value.replace(tzinfo=None).isoformat(), value.fold, mark])


def _timed(parts: list[Any]) -> time:
    text, fold, zone = parts
    return time.fromisoformat(text).replace(fold=fold, tzinfo=_zone(zone))


def _zone_mark(zone: tzinfo | None) -> Any:
    if zone is None:
        return None
    if type(zone) is timezone:
        offset = zone.utcoffset(None)
        name = zone.tzname(None)
        own = timezone(offset).tzname(None) != name
        return [offset.days, offset.seconds, offset.microseconds, name if own else None]
    # Another object than the one that comes back would make other datetimes equal.
    if type(zone) is ZoneInfo and zone.key is not None and ZoneInfo(zone.key) is zone:
        return zone.key
    raise _UnsupportedError(
        f"the time zone {zone!r} would not come back as what it is",
        "Use zoneinfo.ZoneInfo('Area/City') or datetime.timezone, or convert to UTC: value.astimezone(datetime.UTC)",
    )


def _zoned(parts: list[Any]) -> datetime:
    text, fold, zone = parts
    return datetime.fromisoformat(text).replace(fold=fold, tzinfo=_zone(zone))


def _zone(mark: Any) -> tzinfo | None:
    if mark is None:
        return None
    if isinstance(mark, str):
        return ZoneInfo(mark)
    days, seconds, micros, name = mark
    offset = timedelta(days, seconds, micros)
    return timezone(offset) if name is None else timezone(offset, name)


#: How a value of a subclass becomes a plain one; a datetime is a date, too.
_PLAIN_TIMES: dict[type, str] = {
    datetime: "datetime.combine(x.date(), x.timetz())",
    date: "date(x.year, x.month, x.day)",
    timedelta: "timedelta(x.days, x.seconds, x.microseconds)",
}


def _instead(value: Any) -> str:  # noqa: PLR0911 - one a kind
    """What to keep instead of a value of a kind that is not supported."""
    kind = type(value)
    if isinstance(value, enum.Enum):
        return "Keep its value: x.value, or ask for codec='pickle'"
    if isinstance(value, np.generic):
        return "Keep the Python number or text: x.item(), or ask for codec='pickle'"
    if isinstance(value, np.ndarray):
        return "Keep a list: x.tolist(), or ask for codec='pickle'"
    if isinstance(value, memoryview):
        return "Keep bytes: bytes(x)"
    if isinstance(value, bytearray):
        return "Keep bytes: bytes(x), or ask for codec='pickle'"
    if dataclasses.is_dataclass(kind):
        return "Keep a dict: dataclasses.asdict(x), or ask for codec='pickle'"
    if isinstance(value, msgspec.Struct):
        return "Keep a dict: msgspec.structs.asdict(x), or ask for codec='pickle'"
    if getattr(value, "nanosecond", 0) or getattr(value, "nanoseconds", 0):
        # Of pandas; those of NaT are NaN.
        return "A time has whole microseconds here: round it, keep None for NaT, or ask for codec='pickle'"
    for base, plain in _PLAIN_TIMES.items():
        if isinstance(value, base):
            return f"It is a subclass of {base.__name__}: keep {plain}, or ask for codec='pickle'"
    for base in (bool, int, float, str, bytes, tuple, list, dict, set, frozenset, Decimal):
        if isinstance(value, base):
            return f"It is a subclass of {base.__name__}: keep {base.__name__}(x), or ask for codec='pickle'"
    return _ADVICE


_EXTENSIONS: dict[type, Callable[[Any], tuple[int, bytes]]] = {
    tuple: _tuple,
    set: _set,
    frozenset: _set,
    int: lambda value: (_BIG_INT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)),
    datetime: _datetime,
    date: lambda value: (_DATE, value.isoformat().encode()),
    time: _time,
    UUID: lambda value: (_UUID, value.hex.encode()),
    timedelta: lambda value: (_TIMEDELTA, _ENCODER.encode([value.days, value.seconds, value.microseconds])),
    Decimal: lambda value: (_DECIMAL, str(value).encode()),
}

#: Extensions whose data is a list in msgpack, and what makes a value of it.
_PARTS: dict[int, Callable[[list[Any]], Any]] = {
    _TUPLE: tuple,
    _SET: set,
    _FROZENSET: frozenset,
    _TIMEDELTA: lambda parts: timedelta(*parts),
    _DICT: lambda parts: dict(zip(parts[::2], parts[1::2], strict=True)),
    _ZONED: _zoned,
    _TIME: _timed,
}

#: Extensions whose data is text, and what reads it.
_TEXTS: dict[int, Callable[[str], Any]] = {
    _DATETIME: datetime.fromisoformat,
    _DATE: date.fromisoformat,
    _DECIMAL: Decimal,
    _UUID: UUID,
}


class PickleCodec(Codec):
    """Any Python object. Only for state directories that nobody else can write: reading runs code."""

    name = "pickle"

    def encode(self, value: Any) -> bytes:
        """See ``Codec``."""
        try:
            return pickle.dumps(value, protocol=5)
        except Exception as error:
            raise SerializationError(f"pickle cannot write a {type(value).__qualname__}: {error}") from error

    def decode(self, data: bytes | memoryview) -> Any:
        """See ``Codec``."""
        try:
            return pickle.loads(data)  # noqa: S301 - asked for by name
        except Exception as error:
            raise SerializationError(f"pickle cannot read {len(data)} bytes: {error}") from error


#: The codecs by their names.
CodecName: TypeAlias = Literal["msgpack", "pickle"]


def codec_by_name(name: str) -> Codec:
    """``msgpack`` or ``pickle``."""
    if name == MsgpackCodec.name:
        return MsgpackCodec()
    if name == PickleCodec.name:
        return PickleCodec()
    raise ConfigurationError(f"unknown codec {name!r}: msgpack or pickle")
