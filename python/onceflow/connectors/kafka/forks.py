"""Clients of Kafka in a forked child.

A client has threads, which a child does not have. To let go of it there waits for them, or dies of it. So a child keeps
the clients of its parent until it is over, however it ends.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any
from weakref import WeakSet

__all__ = ["made"]

_LIVING: WeakSet[Any] = WeakSet()


def made(kind: Callable[[dict[str, Any]], Any], settings: Mapping[str, Any]) -> Any:
    """A client of a kind, which is not let go of in a child."""
    client = _referable(kind)(dict(settings))
    _LIVING.add(client)
    return client


@cache
def _referable(kind: Any) -> Any:
    """The client's own classes take no weak references."""
    return type(kind.__name__, (kind,), {})


def _keep() -> None:
    for client in list(_LIVING):
        # A reference that nobody gives back, not even the end of the interpreter.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(client))


os.register_at_fork(after_in_child=_keep)
