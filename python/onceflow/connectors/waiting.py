"""What a user hears while a connector waits for the other side to answer."""

from __future__ import annotations

import functools
import threading
import time
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from onceflow.exceptions import SinkWaitingWarning, SourceWaitingWarning

__all__ = ["Waiting"]

#: Who is away for less is not worth a word.
_PATIENCE_S = 5.0
#: What takes so long is no slow answer any more: a large checkpoint is written in less.
_UNANSWERED_S = 30.0
_UNANSWERED = (
    "it was asked and has not answered. It may be stopped or cut off, be slow, or wait for a lock; only an answer ends "
    "this, or the end of the connection"
)
_LOOK_S = 1.0
#: Between two words: a minute, and twice as long each time.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 60.0, 600.0


class Waiting:
    """Tells when an other side does not answer for a while, now and then while that lasts, and when it is back.

    Whoever repeats what has failed says so by ``missed``, and by ``answered`` when it has not. Where warnings are
    errors, ``missed`` raises.

    Args:
        who: Who waits, such as ``sink 'counts/out'``.
        target: For whom, without secrets.
        limit: What ends it, such as ``retry_for_s=300``.
        warning: What is said.
    """

    def __init__(
        self,
        who: str,
        target: str,
        limit: str,
        warning: type[SinkWaitingWarning] | type[SourceWaitingWarning] = SinkWaitingWarning,
    ) -> None:
        self.who = who
        self._target = target
        self._limit = limit
        self._warning = warning
        self._since_s: float | None = None
        self._answered_s = 0.0
        self._since = ""
        self._due_s = 0.0
        self._is_told = False
        #: When the call that is watched has begun.
        self._asked_s: float | None = None
        self._error: Warning | None = None
        self._lock = threading.Lock()
        self._watcher: threading.Thread | None = None
        self._is_closed = threading.Event()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Around a call of a driver that has no bound of its own: tells of it, too, while it gives no answer.

        A thread does, since the call is at it: one for all calls, one at a time, until ``close``. What becomes an error
        there, as warnings may, is raised when the call has come back.
        """
        if self._watcher is None:
            look = functools.partial(_watch, weakref.ref(self), self._is_closed)
            self._watcher = threading.Thread(target=look, name=f"onceflow: {self.who}", daemon=True)
            self._watcher.start()
        self._asked_s = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self._asked_s = None
                error, self._error = self._error, None
        if error is not None:
            raise error

    def look(self) -> None:
        """Tells of a call that is watched, where it is time to."""
        with self._lock:
            if self._asked_s is None or time.monotonic() - self._asked_s < _UNANSWERED_S:
                return
            text = self._due(_UNANSWERED, self._asked_s)
        try:
            self._say(text)
        except Warning as error:
            self._error = error

    def close(self) -> None:
        """Ends the thread."""
        self._is_closed.set()
        if self._watcher is not None:
            self._watcher.join()

    def missed(self, reason: object, since_s: float | None = None) -> None:
        """An attempt has come to nothing, and there will be another one.

        Args:
            reason: Without secrets.
            since_s: When nobody had answered yet, by the monotonic clock; None: now.
        """
        with self._lock:
            text = self._due(f"{reason}. The bound is {self._limit}", since_s)
        self._say(text)

    def _due(self, reason: str, since_s: float | None) -> str:
        """What is to be said now; nothing where it is too early."""
        now_s = time.monotonic()
        if self._since_s is None:
            self._since_s = now_s if since_s is None else max(since_s, self._answered_s)
            self._due_s = self._since_s + _PATIENCE_S
            since = datetime.now(UTC) - timedelta(seconds=now_s - self._since_s)
            self._since = since.isoformat(" ", "seconds")
        if now_s < self._due_s:
            return ""
        away_s = now_s - self._since_s
        self._due_s = now_s + min(max(away_s, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
        self._is_told = True
        return f"waits for {self._target} since {self._since}, {away_s:.0f} s: {reason}"

    def answered(self) -> None:
        """The other side has done what was asked."""
        self._answered_s = time.monotonic()
        if self._since_s is None:
            return
        away_s, self._since_s = self._answered_s - self._since_s, None
        if self._is_told:
            self._is_told = False
            self._say(f"goes on: {self._target} answers again, after {away_s:.0f} s")

    def __deepcopy__(self, memo: object) -> Waiting:
        # A client that copies its settings for each connection still waits for one other side.
        return self

    def _say(self, text: str) -> None:
        if text:
            warnings.warn(self._warning(f"{self.who} {text}"), stacklevel=3)


def _watch(waiting: weakref.ref[Waiting], is_closed: threading.Event) -> None:
    while not is_closed.wait(_LOOK_S) and (mine := waiting()) is not None:
        mine.look()
        # Nor does the thread keep it.
        del mine
