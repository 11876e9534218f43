"""What the quotas of brokers cost a client: told, or it looks like a job that is slow for no reason.

A broker that has a quota answers, says for how long it will take nothing more of this client, and takes nothing for so
long. So nothing fails, and all is late.
"""

from __future__ import annotations

import threading
import time
import warnings
from typing import TYPE_CHECKING

from onceflow.exceptions import SinkWaitingWarning, SourceWaitingWarning

if TYPE_CHECKING:
    from confluent_kafka import ThrottleEvent

__all__ = ["Quota"]

#: What is less, or a smaller share of the time, is not worth a word.
_PATIENCE_S, _SHARE = 5.0, 0.1
#: After so long without any it begins anew.
_OVER_S = 60.0
#: Between two words: a minute, and twice as long each time.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 60.0, 3_600.0


class Quota:
    """Adds up for how long brokers have held a client back, and says so now and then.

    The client calls ``heard`` within its polls, on any thread; who uses the client calls ``tell`` where a warning may
    be raised.

    Args:
        who: Is held back, such as ``sink 'counts/out'``.
        setting: The quota by which, such as ``producer_byte_rate``.
        warning: What is said.
    """

    def __init__(self, who: str, setting: str, warning: type[SinkWaitingWarning] | type[SourceWaitingWarning]) -> None:
        self._who = who
        self._setting = setting
        self._warning = warning
        self._lock = threading.Lock()
        self._since_s = self._last_s = self._due_s = 0.0
        self._held_s = 0.0
        self._pause_s = _FIRST_PAUSE_S

    def heard(self, event: ThrottleEvent) -> None:
        """A broker has answered, and takes nothing for a while; or nothing holds back any more, which is no time."""
        now_s = time.monotonic()
        with self._lock:
            if event.throttle_time <= 0:
                return
            if now_s - self._last_s > _OVER_S:
                self._since_s, self._held_s = now_s, 0.0
            self._last_s = now_s
            self._held_s += event.throttle_time

    def hint(self) -> str:
        """Behind a text of something that is late: that it may be for a quota; empty if it is not."""
        is_held = self._last_s and time.monotonic() - self._last_s < _OVER_S
        return f"; a quota of the brokers holds this client back ({self._setting})" if is_held else ""

    def tell(self) -> None:
        """Warns, where it is worth a word and the last one was a while ago."""
        with self._lock:
            now_s = time.monotonic()
            lasts_s = now_s - self._since_s
            if self._held_s < _PATIENCE_S or lasts_s < _PATIENCE_S or now_s < self._due_s:
                return
            # Several brokers may hold back at once.
            held_s, self._held_s, self._since_s = min(self._held_s, lasts_s), 0.0, now_s
            if held_s < _SHARE * lasts_s:
                return
            self._due_s, self._pause_s = now_s + self._pause_s, min(2 * self._pause_s, _LONGEST_PAUSE_S)
        warnings.warn(
            self._warning(
                f"{self._who} is held back by a quota of the brokers: for {held_s:.0f} of the last {lasts_s:.0f} s "
                f"they took nothing of it. Nothing is lost, and nothing goes faster than the quota allows: raise "
                f"{self._setting} or request_percentage of this user or client.id"
            ),
            stacklevel=3,
        )
