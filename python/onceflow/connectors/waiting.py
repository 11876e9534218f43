"""What a user hears while a connector waits for the other side to answer."""

from __future__ import annotations

import time
import warnings
from datetime import UTC, datetime, timedelta

from onceflow.exceptions import SinkWaitingWarning, SourceWaitingWarning

__all__ = ["Waiting"]

#: Who is away for less is not worth a word.
_PATIENCE_S = 5.0
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

    def missed(self, reason: object, since_s: float | None = None) -> None:
        """An attempt has come to nothing, and there will be another one.

        Args:
            reason: Without secrets.
            since_s: When nobody had answered yet, by the monotonic clock; None: now.
        """
        now_s = time.monotonic()
        if self._since_s is None:
            self._since_s = now_s if since_s is None else max(since_s, self._answered_s)
            self._due_s = self._since_s + _PATIENCE_S
            since = datetime.now(UTC) - timedelta(seconds=now_s - self._since_s)
            self._since = since.isoformat(" ", "seconds")
        if now_s < self._due_s:
            return
        away_s = now_s - self._since_s
        self._due_s = now_s + min(max(away_s, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
        self._is_told = True
        self._say(f"waits for {self._target} since {self._since}, {away_s:.0f} s: {reason}. The bound is {self._limit}")

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
        warnings.warn(self._warning(f"{self.who} {text}"), stacklevel=3)
