"""The background thread that keeps a log in order."""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING

from onceflow.exceptions import LogTimeoutError, OnceflowError
from onceflow.log.forgetting import when_forgotten

if TYPE_CHECKING:
    from onceflow import _native
    from onceflow.log.log_time import LogTime

__all__ = ["Upkeep"]

_LOGGER = logging.getLogger("onceflow.log")


class Upkeep:
    """Calls ``maintain`` at an interval. Every process may do so: each call is one slice of whatever is due.

    The thread ends with ``stop``, when the object is forgotten, or at an error other than a busy log: a log that cannot
    be written tells its producers.
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
    while not stop.wait(0 if more else interval_s):
        try:
            more = log.maintain(now_ms=time.now_ms()).more
        except LogTimeoutError:
            more = False
        except OnceflowError as error:
            if not stop.is_set():
                _LOGGER.warning("the upkeep of %s has stopped: %s", log.path, error)
            return
