"""Records as lines of text or JSON, and back."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from onceflow.exceptions import MalformedRecordError
from onceflow.log import Message

__all__ = ["json_line", "parsed_lines", "value_line"]


class _Base64(msgspec.Struct, forbid_unknown_fields=True):
    """Bytes that are no UTF-8."""

    base64: str


class _JsonRecord(msgspec.Struct, forbid_unknown_fields=True):
    """One line of JSON; what ``tail`` adds is accepted too, so that its output can be produced again."""

    value: Any = None
    value_base64: str | None = None
    key: Any = None
    key_base64: str | None = None
    headers: dict[str, str | None] | list[tuple[str, str | _Base64 | None]] | None = None
    timestamp_ms: int | None = None
    partition: int = -1
    topic: str | None = None
    offset: int | None = None


_DECODER = msgspec.json.Decoder(_JsonRecord)


def parsed_lines(lines: Iterable[bytes], as_json: bool, key_separator: str | None) -> Iterator[dict[str, Any]]:
    """Each line as arguments of ``Producer.produce``.

    Raises:
        MalformedRecordError: Names the line.
    """
    separator = None if key_separator is None else key_separator.encode()
    for number, line in enumerate(lines, 1):
        text = line.rstrip(b"\r\n") if as_json else line.removesuffix(b"\n")
        if as_json:
            if text:
                yield _parsed_json(number, text)
        elif separator is None:
            yield {"value": text}
        else:
            key, found, value = text.partition(separator)
            if not found:
                raise MalformedRecordError(
                    f"line {number} has no {key_separator!r} between key and value",
                    position=number,
                    text=text.decode("utf-8", "backslashreplace"),
                )
            yield {"key": key, "value": value}


def _parsed_json(number: int, text: bytes) -> dict[str, Any]:
    try:
        record = _DECODER.decode(text)
        return {
            "value": _as_bytes(record.value, record.value_base64),
            "key": _as_bytes(record.key, record.key_base64),
            "headers": _headers(record.headers),
            "timestamp": record.timestamp_ms,
            "partition": record.partition,
        }
    except (msgspec.MsgspecError, ValueError) as error:
        raise MalformedRecordError(
            f"line {number} is not a JSON record: {error}",
            position=number,
            text=text.decode("utf-8", "backslashreplace"),
        ) from error


def _as_bytes(given: Any, encoded: str | None) -> bytes | str | None:
    if encoded is not None:
        return _decoded(encoded)
    return given if given is None or isinstance(given, str) else msgspec.json.encode(given)


def _headers(given: Any) -> list[tuple[str, bytes | str | None]] | None:
    if given is None:
        return None
    pairs = given.items() if isinstance(given, dict) else given
    return [(name, _decoded(value.base64) if isinstance(value, _Base64) else value) for name, value in pairs]


def _decoded(encoded: str) -> bytes:
    return base64.b64decode(encoded, validate=True)


def value_line(message: Message) -> bytes:
    """The value alone; an empty line where it is null."""
    return (message.value() or b"") + b"\n"


def json_line(message: Message) -> bytes:
    """All that a record has, so that it can be produced again byte for byte. Bytes that are not UTF-8 are base64, under
    a name that says so. Headers are an object, or pairs where an object could not tell: a name comes again, or a value
    is not UTF-8.
    """
    record: dict[str, Any] = {
        "topic": message.topic(),
        "partition": message.partition(),
        "offset": message.offset(),
        "timestamp_ms": message.timestamp()[1],
        **_field("key", message.key()),
        **_field("value", message.value()),
    }
    if headers := message.headers():
        pairs = [(name, _header(value)) for name, value in headers]
        plain = len({name for name, _ in pairs}) == len(pairs) and not any(
            isinstance(value, dict) for _, value in pairs
        )
        record["headers"] = dict(pairs) if plain else pairs
    return msgspec.json.encode(record) + b"\n"


def _header(value: bytes | None) -> str | dict[str, str] | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value or b"").decode()}


def _field(name: str, value: bytes | None) -> dict[str, Any]:
    if value is None:
        return {name: None}
    try:
        return {name: value.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(value).decode()}
