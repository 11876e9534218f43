"""What a run changes of its process for as long as it lasts, and how it lets go of what it holds.

A function of a dataflow may fork. The child has a copy of the whole run, down to open files whose positions it shares
with its parent, and may leave in any way: by ``os._exit``, by an exception or ``sys.exit`` that unwinds the run, or by
returning into it. The run is the parent's: ``HomeProcess`` tells the child apart, and nothing that is cleaned up, read
or written on behalf of the run happens there.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from onceflow.exceptions import StoreForkedError, described

__all__ = ["HomeProcess", "closing", "quick_switches", "stop_on_signals"]

_SWITCH_S = 0.001


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
                "its own with subprocess, or with multiprocessing's method 'spawn'"
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


@contextmanager
def quick_switches() -> Iterator[None]:
    """While a job runs, a thread that wants the GIL waits 1 ms for it at most.

    By default it waits 5 ms, and the checkpoint thread would do so after each of its dozen system calls.
    """
    before = sys.getswitchinterval()
    quick = min(before, _SWITCH_S)
    sys.setswitchinterval(quick)
    try:
        yield
    finally:
        # Another run that ends meanwhile, or a user's function, may have set something else.
        if sys.getswitchinterval() == quick:
            sys.setswitchinterval(before)


@contextmanager
def stop_on_signals(stop: Callable[[], None]) -> Iterator[None]:
    """SIGINT and SIGTERM stop the job; a second SIGINT interrupts it.

    One that the process ignores stays ignored: whoever started it wants so, as ``nohup`` and shells do.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # None: a handler that Python cannot put back.
    before = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    home = HomeProcess()

    def handle(number: int, _frame: FrameType | None) -> None:
        if home.is_left:
            # A child does what it would do without the job.
            signal.signal(number, before[signal.Signals(number)])
            signal.raise_signal(number)
            return
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        stop()

    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
