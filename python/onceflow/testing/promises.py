"""How contracts say which promise is broken."""

from __future__ import annotations

from typing import Any

import msgspec

from onceflow.types import Plain

__all__ = ["check_plain", "must", "same"]


def must(holds: bool, promise: str, *found: Any) -> None:
    """Raises AssertionError, with the promise and what was found instead, unless it holds."""
    if not holds:
        shown = "".join(f"\n  {one!r}" for one in found)
        raise AssertionError(f"broken promise: {promise}{shown}")


def check_plain(what: str, value: Plain) -> Plain:
    """The value as a checkpoint gives it back."""
    try:
        again: Plain = msgspec.msgpack.decode(msgspec.msgpack.encode(value))
    except (TypeError, ValueError, OverflowError) as error:
        raise AssertionError(f"broken promise: {what} is plain, which is what msgpack can write: {error}") from error
    must(same(again, value), f"{what} is plain: msgpack gives back what it was given", value, again)
    return again


def same(one: Any, other: Any) -> bool:
    """Equal, with equal types."""
    return bool(one == other) and repr(one) == repr(other)
