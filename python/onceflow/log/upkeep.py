"""The background thread that keeps a log in order."""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING

from onceflow.exceptions import BackendClosedError, LogTimeoutError
from onceflow.log.forgetting import when_forgotten

if TYPE_CHECKING:
    from onceflow import _native
    from onceflow.log.log_time import LogTime

__all__ = ["Upkeep"]

_LOGGER = logging.getLogger("onceflow.log")


class Upkeep:
    """Calls ``maintain`` at an interval. Every process may do so: each call is one slice of whatever is due.

    The thread ends with ``stop``, or when the object is forgotten. It goes on after an error, and warns of it; of one
    that stays the same, once.
    """

    def __init__(self, log: _native.Log, time: LogTime, interval_s: float) -> None:
        self._stop = threading.Event()
        self._pid = os.getpid()
        self._thread = threading.Thread(
            target=_run, args=(log, time, interval_s, self._stop), name="onceflow-log-upkeep", daemon=True
        )
        self._thread.start()
        when_forgotten(self, self._stop.set)

    def stop(self) -> None:
        """Ends the thread; a slice that is running is finished."""
        if self._pid == os.getpid():
            self._stop.set()
            self._thread.join()


def _run(log: _native.Log, time: LogTime, interval_s: float, stop: threading.Event) -> None:
    more = False
    warned = ""
    while not stop.wait(0 if more else interval_s):
        try:
            more = log.maintain(now_ms=time.now_ms()).more
        except LogTimeoutError:
            more = False
        except BackendClosedError:
            return
        except Exception as error:
            # Whatever it is: without upkeep a log grows, and nobody would know why.
            more = False
            told = f"{type(error).__name__}: {error}"
            if told != warned and not stop.is_set():
                warned = told
                _LOGGER.warning("the upkeep of %s failed and is tried again: %s", log.path, told)
