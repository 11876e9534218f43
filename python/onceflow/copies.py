"""Copies of values that two sides hold, so that what one of them changes in place the other does not see.

Plain containers are copied to their depths, other mutable values by ``copy.deepcopy``; what cannot be changed is
shared. ``onceflow.operators.own_copies`` does the same, faster.
"""

from __future__ import annotations

from copy import deepcopy
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

__all__ = ["FIXED", "own_copy"]

#: Types of values that nobody can change, and that hold nothing that can be changed.
FIXED = frozenset(
    {type(None), bool, int, float, complex, str, bytes, Decimal, datetime, date, time, timedelta, UUID, type(...)}
)


def own_copy(value: Any) -> Any:
    """The value, or a copy of it that shares with it nothing that can be changed.

    What cannot be copied, such as a lock or a list that contains itself, is returned as it is: no codec takes it.
    """
    if type(value) in FIXED:
        return value
    try:
        return _copied(value)
    except Exception:
        # Whatever a user's class raises; the codec tells of it where it is state.
        return value


def _copied(value: Any) -> Any:
    kind = type(value)
    # The look at the types of items comes before the call: most of them are fixed.
    if kind is dict:
        return {name: item if type(item) in FIXED else _copied(item) for name, item in value.items()}
    if kind is list:
        return [item if type(item) in FIXED else _copied(item) for item in value]
    if kind is tuple:
        return tuple([item if type(item) in FIXED else _copied(item) for item in value])
    if kind is set:
        return set(value)
    if kind is frozenset or kind in FIXED:
        return value
    return deepcopy(value)
