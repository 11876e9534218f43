"""What ``produce`` takes of a record, checked."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onceflow.exceptions import ConfigurationError, TypeMismatchError
from onceflow.log.message import Headers
from onceflow.log.settings import check_number
from onceflow.log.topic_partition import TopicPartition
from onceflow.types import FIRST_MICROS, LAST_MICROS

__all__ = ["as_bytes", "check_topic", "checked_headers", "checked_timestamp", "real_offset"]


def check_topic(method: str, given: object) -> None:
    """Refuses what is not the name of a topic."""
    if not isinstance(given, str):
        raise ConfigurationError(f"{method}: topic is {given!r}; give the name of a topic, a str")


def as_bytes(what: str, given: object) -> bytes | None:
    """A key or value as the log keeps it; ``what`` it is."""
    if given is None or isinstance(given, bytes):
        return given
    if isinstance(given, str):
        try:
            return given.encode()
        except UnicodeEncodeError as error:
            raise TypeMismatchError(f"the {what} cannot be UTF-8, give bytes: {error}") from error
    if isinstance(given, (bytearray, memoryview)):
        return bytes(given)
    raise TypeMismatchError(f"the {what} is a {type(given).__name__}, not bytes, str or None; encode it first")


def checked_timestamp(timestamp: object) -> int:
    """Milliseconds since 1970."""
    if isinstance(timestamp, bool) or not isinstance(timestamp, (int, np.integer)):
        raise TypeMismatchError(f"the timestamp is a {type(timestamp).__name__}, not milliseconds since 1970 as an int")
    if not FIRST_MICROS <= int(timestamp) * 1000 <= LAST_MICROS:
        raise ConfigurationError(
            f"the timestamp {timestamp} lies outside of the years 1 to 9999: it is milliseconds since 1970"
        )
    return int(timestamp)


def checked_headers(headers: object) -> Headers | None:
    """Pairs of a name and a value; None if there are none."""
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    try:
        checked = [(name, as_bytes("value of a header", value)) for name, value in pairs]  # type: ignore[attr-defined]
    except (TypeError, ValueError) as error:
        raise TypeMismatchError(f"headers are a dict, or pairs of a name and a value: {error}") from error
    for name, _ in checked:
        if not isinstance(name, str):
            raise TypeMismatchError(f"the name of a header is a {type(name).__name__}, not a str")
    return checked or None


def real_offset(position: TopicPartition) -> int:
    """The offset of a position that can be committed."""
    if check_number("send_offsets_to_transaction: offset", position.offset) < 0:
        raise ConfigurationError(f"{position} has no offset that could be committed")
    return position.offset
