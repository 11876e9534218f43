"""Named places where a test can kill the process; nothing at all in a release build."""

from __future__ import annotations

from collections.abc import Callable

from onceflow import _native

__all__ = ["crash_point"]


def _ignore(name: str) -> None:
    pass


#: Kills this process by SIGKILL if ``CRASH_AT`` names this point and this is the nth time.
crash_point: Callable[[str], None] = _native.crash_point if _native.CRASH_POINTS else _ignore
