"""What a run changes of its process for as long as it lasts, and how it lets go of what it holds."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["closing", "quick_switches", "stop_on_signals"]

_SWITCH_S = 0.001


def closing(close: Callable[[], None]) -> Callable[..., None]:
    """Closes at the end of a run. An error of it does not take the place of the one that ended the run."""

    def leave(_kind: object, error: BaseException | None, _trace: object) -> None:
        try:
            close()
        except Exception as failure:
            if error is None:
                raise
            error.add_note(f"and closing failed: {type(failure).__name__}: {failure}")

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
    """SIGINT and SIGTERM stop the job; a second SIGINT interrupts it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, _: object) -> None:
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        stop()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
