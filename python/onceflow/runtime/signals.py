"""What a run changes of its process for as long as it lasts: handlers of signals, and how threads take turns."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from onceflow.process import HomeProcess

__all__ = ["quick_switches", "stop_on_signals"]

_SWITCH_S = 0.001


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
