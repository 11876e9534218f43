"""What happens when an object is forgotten that has a thread."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable

__all__ = ["when_forgotten"]


def when_forgotten(owner: object, call: Callable[[], object]) -> None:
    """Makes a call when ``owner`` is forgotten: in the process of now, and not when that ends.

    In a forked child there is no such thread, and its locks may be held for ever by those of the parent; at the end of
    a process threads end by themselves.
    """
    pid = os.getpid()

    def made() -> None:
        if os.getpid() == pid:
            call()

    weakref.finalize(owner, made).atexit = False
