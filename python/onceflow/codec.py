"""How values of user state become bytes.

msgpack is the default: compact, safe to read from anywhere, the same on every machine. It knows None, bool, int, float,
str, bytes, lists, tuples, dicts, sets, datetimes, dates, timedeltas and Decimals, and each comes back as what it was;
anything else is refused when it is written, since a job whose state changes its type by a restart is not exact.
Pickle can run code when it is read, so it is used only where it is asked for by name.
"""

from __future__ import annotations

import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, ClassVar

import msgspec

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

#: What msgpack writes and reads as it is; and integers in between.
_PLAIN = frozenset({type(None), bool, float, str, bytes})
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
        try:
            return _ENCODER.encode(_mark(value))
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise SerializationError(
                f"the msgpack codec cannot write a {type(value).__qualname__}: {error}. Keep state in plain values "
                "(numbers, strings, bytes, lists, tuples, dicts, sets, dates), or ask for codec='pickle'"
            ) from error

    def encode_all(self, values: list[Any]) -> list[bytes]:
        """See ``Codec``: plain values need no look at each."""
        if set(map(type, values)) <= _PLAIN:
            try:
                return list(map(_ENCODER.encode, values))
            except (ValueError, OverflowError):
                # An integer of more than 64 bits, or a text that cannot be written.
                pass
        return super().encode_all(values)

    def decode(self, data: bytes | memoryview) -> Any:
        """See ``Codec``."""
        try:
            return self._decoder.decode(data)
        except (msgspec.MsgspecError, TypeError, ValueError, ArithmeticError) as error:
            raise SerializationError(f"the msgpack codec cannot read {len(data)} bytes: {error}") from error

    def _from_extension(self, code: int, data: memoryview) -> Any:
        if code == _TUPLE:
            return tuple(self._decoder.decode(data))
        if code == _SET:
            return set(self._decoder.decode(data))
        if code == _FROZENSET:
            return frozenset(self._decoder.decode(data))
        if code == _BIG_INT:
            return int.from_bytes(data, "big", signed=True)
        if code == _TIMEDELTA:
            return timedelta(*self._decoder.decode(data))
        read = _TEXTS.get(code)
        if read is not None:
            return read(str(data, "ascii"))
        raise ValueError(f"unknown extension {code}")


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
        return {_dict_key(key): _mark(item) for key, item in value.items()}
    if kind in _PLAIN or (kind is int and _LEAST <= value <= _MOST):
        return value
    write = _EXTENSIONS.get(kind)
    if write is None:
        raise TypeError(f"a {kind.__qualname__} would not come back as one")
    code, data = write(value)
    return msgspec.msgpack.Ext(code, data)


def _tuple(value: tuple[Any, ...]) -> tuple[int, bytes]:
    return _TUPLE, _ENCODER.encode([_mark(item) for item in value])


def _set(value: set[Any] | frozenset[Any]) -> tuple[int, bytes]:
    # Sorted by their bytes, so that equal sets have equal bytes.
    items = sorted(_ENCODER.encode(_mark(item)) for item in value)
    return _SET if type(value) is set else _FROZENSET, _ENCODER.encode([msgspec.Raw(item) for item in items])


_EXTENSIONS: dict[type, Callable[[Any], tuple[int, bytes]]] = {
    tuple: _tuple,
    set: _set,
    frozenset: _set,
    int: lambda value: (_BIG_INT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)),
    datetime: lambda value: (_DATETIME, value.isoformat().encode()),
    date: lambda value: (_DATE, value.isoformat().encode()),
    timedelta: lambda value: (_TIMEDELTA, _ENCODER.encode([value.days, value.seconds, value.microseconds])),
    Decimal: lambda value: (_DECIMAL, str(value).encode()),
}

#: Extensions whose data is text, and what reads it.
_TEXTS: dict[int, Callable[[str], Any]] = {
    _DATETIME: datetime.fromisoformat,
    _DATE: date.fromisoformat,
    _DECIMAL: Decimal,
}


def _dict_key(key: Any) -> Any:
    if type(key) in _PLAIN or type(key) is int:
        return key
    raise TypeError(f"a dict key must be a str, bytes, number or None, not {type(key).__qualname__}")


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


def codec_by_name(name: str) -> Codec:
    """``msgpack`` or ``pickle``."""
    if name == MsgpackCodec.name:
        return MsgpackCodec()
    if name == PickleCodec.name:
        return PickleCodec()
    raise ConfigurationError(f"unknown codec {name!r}: msgpack or pickle")
