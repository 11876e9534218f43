"""How contracts say which promise is broken."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, get_args

import msgspec

from onceflow.checks import Finding, Level
from onceflow.types import Plain

__all__ = ["check_findings", "check_plain", "must", "same"]


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


def check_findings(look: Callable[[], Iterable[Finding]], directory: Path) -> None:
    """What a ``check`` finds can be shown, and it has made, removed and renamed nothing in a directory."""
    before = sorted(directory.rglob("*"))
    for found in list(look()):
        must(
            isinstance(found, Finding) and found.level in get_args(Level) and bool(found.subject and found.text),
            "check() gives Findings, each with a level, a subject and a text",
            found,
        )
    must(sorted(directory.rglob("*")) == before, "check() changes nothing", before, sorted(directory.rglob("*")))
