"""Lives of processes that are killed: forked from the test, so that a life begins in milliseconds."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Life", "no_survivors"]

#: Those whose end nobody has seen yet.
_LIVING: set[Life] = set()


class Life:
    """A process that runs a function; the log must not be open in the one that forks.

    Args:
        function: What it does.
    """

    def __init__(self, function: Callable[[], object]) -> None:
        self.pid = os.fork()
        self._code: int | None = None
        if self.pid == 0:
            try:
                function()
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(1)
        _LIVING.add(self)

    def kill(self) -> bool:
        """Kills it, if it still lives; whether it did."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
        return self.wait() == -signal.SIGKILL

    def poll(self) -> int | None:
        """Its exit code, if it has ended."""
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._ended(pid, status)
        return self._code

    def wait(self) -> int:
        """Its exit code, when it has ended."""
        if self._code is None:
            self._ended(*os.waitpid(self.pid, 0))
        assert self._code is not None
        return self._code

    def _ended(self, pid: int, status: int) -> None:
        if pid:
            _LIVING.discard(self)
            self._code = os.waitstatus_to_exitcode(status)
            assert self._code in (0, -signal.SIGKILL), f"a process ended with {self._code}"


@contextmanager
def no_survivors() -> Iterator[None]:
    """When a test fails, its processes end with it."""
    try:
        yield
    finally:
        while _LIVING:
            life = _LIVING.pop()
            os.kill(life.pid, signal.SIGKILL)
            os.waitpid(life.pid, 0)
