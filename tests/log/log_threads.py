"""Threads of the embedded log in this process."""

from __future__ import annotations

import threading

__all__ = ["names"]

_OURS = ("onceflow-producer", "onceflow-commits", "onceflow-heartbeat", "onceflow-log-upkeep")


def names() -> list[str]:
    """Of those that run now, in order; other tests of the process may have left some of other things."""
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith(_OURS))
