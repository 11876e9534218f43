"""Lives of processes that tests kill, stop and wake: forked from the test, so that a life begins in milliseconds.

A process that is stopped for good would outlive the test run, so a life ends with the process that began it.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator

__all__ = ["Life", "killed_until_done", "no_survivors"]

_PR_SET_PDEATHSIG = 1
_OUR_VARIABLES = ("CRASH_AT", "STOP_AT", "HOLD_AT", "HOLD_IN", "TRACE_POINTS")
#: Those whose end nobody has seen yet.
_LIVING: set[Life] = set()


class Life:
    """A process that runs a function.

    Args:
        function: What it does.
        environment: Variables of the module ``crash``, such as ``STOP_AT``.
    """

    def __init__(self, function: Callable[[], object], **environment: object) -> None:
        #: How it ended, once it has: "done", "killed", or the name of the exception.
        self.end: str | None = None
        #: The exception as text, if it ended by one.
        self.error = ""
        self._said, write = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _live(function, environment, write)
        os.close(write)
        _LIVING.add(self)

    def step(self, timeout_s: float) -> str | None:
        """Waits until it ends, and says how, or until it is stopped: "stopped"; None if neither happens for so long."""
        until = time.monotonic() + timeout_s
        pause_s = 0.0002
        while self.end is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG | os.WUNTRACED)
            if pid and os.WIFSTOPPED(status):
                return "stopped"
            if pid:
                self._ended(status)
            elif time.monotonic() > until:
                return None
            else:
                time.sleep(pause_s)
                pause_s = min(pause_s * 1.5, 0.005)
        return self.end

    def wake(self) -> None:
        """Lets it go on where it was stopped."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> str:
        """Kills it, if it still lives; how it ended."""
        if self.end is None:
            os.kill(self.pid, signal.SIGKILL)
            self._ended(os.waitpid(self.pid, 0)[1])
        assert self.end is not None
        return self.end

    def wait(self, timeout_s: float = 60.0) -> str:
        """How it ended. Raises TimeoutError."""
        end = self.step(timeout_s)
        if end is None or end == "stopped":
            raise TimeoutError(f"the process {'is stopped' if end else 'has not ended'} after {timeout_s} s")
        return end

    def _ended(self, status: int) -> None:
        _LIVING.discard(self)
        with os.fdopen(self._said, errors="replace") as said:
            name, _, self.error = said.read().partition("\n")
        self.end = name or ("killed" if os.WIFSIGNALED(status) else f"exit code {os.waitstatus_to_exitcode(status)}")
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) != signal.SIGKILL:
            self.end = signal.Signals(os.WTERMSIG(status)).name


def _live(function: Callable[[], object], environment: dict[str, object], said: int) -> None:
    """The process's whole life; never returns."""
    try:
        # Clients that a test has left in cycles have no threads here, and letting go of them ends the process.
        gc.freeze()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        for variable in _OUR_VARIABLES:
            os.environ.pop(variable, None)
        os.environ |= {name: str(value) for name, value in environment.items() if value is not None}
        function()
        os.write(said, b"done\n")
        os._exit(0)
    except BaseException as error:
        trace = "".join(traceback.format_exception(error)).encode(errors="replace")
        # As much as a pipe surely takes.
        os.write(said, f"{type(error).__name__}\n".encode() + trace[-16_000:])
        os._exit(1)


@contextlib.contextmanager
def no_survivors() -> Iterator[None]:
    """When a test fails, its processes end with it."""
    try:
        yield
    finally:
        for life in list(_LIVING):
            life.kill()


def killed_until_done(function: Callable[[], object], *, longest_s: float, at_most: int, moments: random.Random) -> int:
    """Kills one life after another at a random moment, until one gets through; how many were killed.

    Args:
        function: What a life does.
        longest_s: A life is killed after so long at most: about as long as an undisturbed one takes on this machine,
            so that neither all of them are through nor all of them have hardly begun.
        at_most: So many are killed at most.
        moments: Of the kills. The first one comes early: on a fast machine all of a life might be through before it.
    """
    for kills in range(at_most):
        life = Life(function)
        if life.step(moments.uniform(0, longest_s if kills else longest_s / 10)) is None and life.kill() == "killed":
            continue
        assert life.end == "done", life.error
        return kills
    return at_most
