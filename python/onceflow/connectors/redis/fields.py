"""What of a record of the dataflow becomes a key, a value, a field of Redis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onceflow.connectors.redis.target import MARKERS
from onceflow.connectors.values import json_line
from onceflow.exceptions import ConfigurationError, SinkError

__all__ = ["check_field", "hash_words", "key_word", "value_word"]


def check_field(name: str, field: Any, *, optional: bool = True) -> Any:
    """The setting, if it is one."""
    if (field is None and optional) or isinstance(field, str) or callable(field):
        return field
    raise ConfigurationError(f"{name}={field!r}: give the name of a field, or a function of a record", setting=name)


def key_word(key: Any, prefix: bytes) -> bytes:
    """A key, with what all keys of the sink begin with.

    Raises:
        SinkError: It is none, or one that markers have.
    """
    if isinstance(key, bool) or not isinstance(key, (str, bytes, int)) or key in ("", b""):
        raise SinkError(f"key of a record is {key!r}: give a text, bytes or a whole number")
    word = prefix + (key if isinstance(key, bytes) else str(key).encode())
    if word.startswith(MARKERS.encode()):
        raise SinkError(
            f"key {word!r} is one of those that onceflow keeps markers under: give prefix= another beginning"
        )
    return word


def value_word(value: Any) -> bytes:
    """Bytes as they are, text as UTF-8, anything else as JSON.

    Raises:
        SinkError: JSON has no such value.
    """
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return str(value).encode()
    try:
        return json_line(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise SinkError(f"JSON cannot hold a value: {error}; map it to text or bytes first") from error


def hash_words(fields: Any, name: str) -> list[bytes]:
    """Names and values, in turn.

    Raises:
        SinkError: It is no mapping, or an empty one.
    """
    if not isinstance(fields, Mapping) or not fields:
        raise SinkError(
            f"{name} of a record is {fields!r}: give a mapping of names to values, with at least one of them"
        )
    words: list[bytes] = []
    for field, value in fields.items():
        if not isinstance(field, (str, bytes)):
            raise SinkError(f"{name} of a record has a field {field!r}: names are texts")
        words += (field if isinstance(field, bytes) else field.encode(), value_word(value))
    return words
