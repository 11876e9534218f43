"""Named places where a test can kill, stop or hold the process; nothing at all in a release build."""

from __future__ import annotations

from collections.abc import Callable

from onceflow import _native

__all__ = ["crash_point"]


def _ignore(name: str) -> None:
    pass


#: Does at this point what the environment asks for: ``CRASH_AT=name:nth`` kills the process there, ``STOP_AT`` stops
#: it, ``HOLD_AT`` holds the thread. The module ``crash`` of the core has the whole list.
crash_point: Callable[[str], None] = _native.crash_point if _native.CRASH_POINTS else _ignore
