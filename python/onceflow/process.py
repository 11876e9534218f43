"""The process that a run belongs to, and how the run lets go of what it holds.

A function of a dataflow may fork. The child has a copy of the whole run, down to open files whose positions it shares
with its parent, and may leave in any way: by ``os._exit``, by an exception or ``sys.exit`` that unwinds the run, or by
returning into it. The run is the parent's: ``HomeProcess`` tells the child apart, and nothing that is cleaned up, read
or written on behalf of the run happens there.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from onceflow.exceptions import StoreForkedError, described

__all__ = ["HomeProcess", "closing"]


class HomeProcess:
    """The process that this was made in."""

    __slots__ = ("_pid",)

    def __init__(self) -> None:
        self._pid = os.getpid()

    @property
    def is_left(self) -> bool:
        """True in a child that was forked off since."""
        return os.getpid() != self._pid

    def check(self) -> None:
        """Raises ``StoreForkedError`` in a child: what follows is the parent's to do."""
        if self.is_left:
            raise StoreForkedError(
                f"process {os.getpid()} was forked from process {self._pid} while that ran a job, and has come back "
                "into the run, which is the parent's alone. End such a child with os._exit(), or start a process of "
                "its own with subprocess, or with multiprocessing's method 'spawn'",
                pid=self._pid,
            )


def closing(close: Callable[[], None]) -> Callable[..., None]:
    """Closes at the end of a run, in the process that it began in.

    An error of it does not take the place of the one that ended the run.
    """
    home = HomeProcess()

    def leave(_kind: object, error: BaseException | None, _trace: object) -> None:
        if home.is_left:
            return
        try:
            close()
        except Exception as failure:
            if error is None:
                raise
            error.add_note(f"and closing failed: {described(failure)}")

    return leave
