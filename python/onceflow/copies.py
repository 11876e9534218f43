"""Copies of values that two sides hold, so that what one of them changes in place the other does not see.

Plain containers are copied to their depths, other mutable values by ``copy.deepcopy``; what cannot be changed is
shared.
"""

from __future__ import annotations

from copy import deepcopy
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

__all__ = ["is_fixed", "own_copy"]

#: Types of values that nobody can change.
_FIXED = frozenset(
    {type(None), bool, int, float, complex, str, bytes, Decimal, datetime, date, time, timedelta, UUID, type(...)}
)

_are_fixed = _FIXED.issuperset


def is_fixed(value: Any) -> bool:
    """True for a value of a type that cannot be changed and holds nothing that can; False where that is not known."""
    return type(value) in _FIXED


def own_copy(value: Any) -> Any:
    """The value, or a copy of it that shares with it nothing that can be changed.

    What cannot be copied, such as a lock or a list that contains itself, is returned as it is: no codec takes it.
    """
    kind = type(value)
    if kind in _FIXED:
        return value
    if kind is dict and _are_fixed(map(type, value.values())):
        # Most records are flat.
        return value.copy()
    try:
        return _copied(value)
    except Exception:
        # Whatever a user's class raises; the codec tells of it where it is state.
        return value


def _copied(value: Any) -> Any:
    kind = type(value)
    # The look at the types of items comes before the call: most of them are fixed.
    if kind is dict:
        return {name: item if type(item) in _FIXED else _copied(item) for name, item in value.items()}
    if kind is list:
        return [item if type(item) in _FIXED else _copied(item) for item in value]
    if kind is tuple:
        return tuple([item if type(item) in _FIXED else _copied(item) for item in value])
    if kind is set:
        return set(value)
    if kind is frozenset or kind in _FIXED:
        return value
    return deepcopy(value)
