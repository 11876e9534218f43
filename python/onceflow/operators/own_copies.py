"""Copies as ``onceflow.copies`` makes them, with the help of the extension, which dataflows as data do without."""

from __future__ import annotations

from typing import Any

from onceflow import copies
from onceflow._native import _plain_copy
from onceflow.copies import FIXED

__all__ = ["own_copies", "own_copy"]


def own_copy(value: Any) -> Any:
    """See ``copies.own_copy``."""
    if type(value) in FIXED:
        return value
    copy = _plain_copy(value)
    return copies.own_copy(value) if copy is None else copy


def own_copies(values: list[Any]) -> list[Any]:
    """Of each value what ``own_copy`` gives."""
    copied: list[Any] | None = _plain_copy(values)
    return list(map(own_copy, values)) if copied is None else copied
