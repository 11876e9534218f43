"""A consumer as a member of its group: joining, heartbeats, rebalances, the end."""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
import uuid
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from onceflow.exceptions import (
    GroupFencedError,
    LogTimeoutError,
    MaxPollExceededError,
    OnceflowError,
    StoreError,
    UnknownMemberError,
)
from onceflow.log.forgetting import when_forgotten
from onceflow.log.settings import told
from onceflow.log.topic_partition import Place

if TYPE_CHECKING:
    from onceflow import _native
    from onceflow.log.log_time import LogTime

__all__ = ["Assignor", "ConsumerGroupMetadata", "Membership"]

Assignor = Literal["sticky", "range", "roundrobin"]

#: A member says so often within its session timeout that it is alive, and at least twice a second: that is also how
#: soon it hears of a rebalance. A heartbeat costs no commit.
_HEARTBEATS_PER_SESSION = 10
_MAX_HEARTBEAT_INTERVAL_S = 0.5


@dataclass(frozen=True, slots=True)
class ConsumerGroupMetadata:
    """Who commits offsets of a group: with the member and its generation the log refuses one that was declared dead.

    Attributes:
        group_id: The group.
        member_id: None: not a member, which the log takes only while the group has none.
        generation: The one that the member has taken up.
    """

    group_id: str
    member_id: str | None = None
    generation: int | None = None


class Membership:
    """One membership, from joining to leaving or being declared dead; to join again takes a new one.

    A background thread sends heartbeats and notes what they say; the consumer's thread acts on it in ``poll``. It
    leaves the group when the consumer has not polled for ``max_poll_interval_ms``: one that hangs must not keep its
    partitions, whether or not there are others to take them.

    Attributes:
        member_id: Unique for ever.
        generation: The one that was taken up.
        partitions: What the member may read in it.
        error: Why the membership has ended, if it has.
    """

    def __init__(
        self,
        log: _native.Log,
        group_id: str,
        topics: Sequence[str],
        *,
        log_time: LogTime,
        assignor: Assignor,
        session_timeout_ms: int,
        max_poll_interval_ms: int,
    ) -> None:
        self._log = log
        self._log_time = log_time
        self.group_id = group_id
        self.member_id = f"{os.getpid()}-{uuid.uuid4().hex}"
        self.error: OnceflowError | None = None
        self._session_s = session_timeout_ms / 1000
        self._max_poll_s = max_poll_interval_ms / 1000
        self._rebalance = False
        self._leaving = threading.Lock()
        self._beaten_s = self._polled_s = time.monotonic()
        self.generation, partitions = log.join_group(
            group_id,
            self.member_id,
            topics,
            now_ms=self._now_ms(),
            strategy=assignor,
            session_timeout_ms=session_timeout_ms,
            rebalance_timeout_ms=max_poll_interval_ms,
        )
        self.partitions: set[Place] = set(partitions)
        self._numbers = self._topic_numbers()
        self.heartbeat_interval_s = min(_MAX_HEARTBEAT_INTERVAL_S, self._session_s / _HEARTBEATS_PER_SESSION)
        self._stop = threading.Event()
        when_forgotten(self, self._stop.set)
        self._thread = threading.Thread(
            target=_beat,
            args=(weakref.ref(self), self._stop, self.heartbeat_interval_s),
            name="onceflow-heartbeat",
            daemon=True,
        )
        self._thread.start()

    @property
    def metadata(self) -> ConsumerGroupMetadata:
        """For commits."""
        return ConsumerGroupMetadata(self.group_id, self.member_id, self.generation)

    def waits(self) -> None:
        """The consumer waits within a call, for however long; ``polled`` ends it."""
        self._polled_s = math.inf

    def polled(self) -> None:
        """The consumer is alive. Whoever slept through its session asks first whether it still is a member."""
        now_s = time.monotonic()
        if now_s - self._polled_s > self._max_poll_s:
            self.leave_if_hung()
        self._polled_s = now_s
        if now_s - self._beaten_s > self._session_s and self.error is None:
            self.beat()

    @property
    def must_rebalance(self) -> bool:
        """Whether the group wants to give partitions to this member or take some away."""
        return self._rebalance

    def revoked(self) -> set[Place]:
        """What the member must stop reading before it calls ``take_up``.

        Raises:
            GroupFencedError: It is not a member any more.
        """
        return self.partitions - set(self._log.group_target(self.group_id, self.member_id))

    def take_up(self) -> set[Place]:
        """Takes up the group's newest generation; returns what is new to read, also under a name that was there before.

        Raises:
            GroupFencedError: It is not a member any more.
        """
        # Before the call: what changes after it must be heard of.
        self._rebalance = False
        generation, partitions = self._log.sync_group(
            self.group_id, self.member_id, self.generation, now_ms=self._now_ms()
        )
        before, self.partitions, self.generation = self.partitions, set(partitions), generation
        known, self._numbers = self._numbers, self._topic_numbers()
        # A topic that was deleted and made again is another one.
        return {
            place
            for place in self.partitions
            if place not in before or known.get(place[0]) != self._numbers.get(place[0])
        }

    def deleted(self, places: Iterable[Place]) -> set[Place]:
        """Which of these partitions are of topics that were deleted, also if others have their names now."""
        numbers = self._topic_numbers()
        return {place for place in places if numbers.get(place[0]) != self._numbers.get(place[0])}

    def _topic_numbers(self) -> dict[str, int]:
        return {topic.name: topic.number for topic in self._log.topics()}

    def beat(self) -> None:
        """One heartbeat; what it says is noted."""
        # Not after the call: the process may stand still in it.
        beaten_s = time.monotonic()
        try:
            _, rebalance = self._log.heartbeat(self.group_id, self.member_id, now_ms=self._now_ms())
        except (GroupFencedError, StoreError) as error:
            self.ended(error)
        except OnceflowError:
            # A busy log: the next heartbeat is soon enough.
            return
        except Exception as error:
            self.ended(told(error))
        else:
            self._beaten_s = beaten_s
            self._rebalance = self._rebalance or rebalance

    def ended(self, error: OnceflowError) -> None:
        """It is not a member any more; what was known first is why."""
        self.error = self.error or error

    def leave_if_hung(self) -> None:
        """Leaves the group if the consumer has not polled for too long; its next poll is told."""
        with self._leaving:
            if self.error is not None or time.monotonic() - self._polled_s <= self._max_poll_s:
                return
            self.error = MaxPollExceededError(
                f"the consumer has not polled for more than {self._max_poll_s} s (max_poll_interval_ms), so it has "
                f"left group {self.group_id!r}; poll joins again",
                group=self.group_id,
                member=self.member_id,
            )
        # Without an answer its session ends by itself: there are no more heartbeats.
        with contextlib.suppress(UnknownMemberError, LogTimeoutError, StoreError):
            self._log.leave_group(self.group_id, self.member_id, now_ms=self._now_ms())

    def leave(self) -> None:
        """Leaves the group: its partitions go to others at once."""
        self.stop()
        if self.error is None:
            with contextlib.suppress(UnknownMemberError):
                self._log.leave_group(self.group_id, self.member_id, now_ms=self._now_ms())

    def stop(self) -> None:
        """Ends the heartbeats."""
        self._stop.set()
        self._thread.join()

    def _now_ms(self) -> int:
        return self._log_time.now_ms()


def _beat(membership: weakref.ref[Membership], stop: threading.Event, interval_s: float) -> None:
    """The background thread."""
    while not stop.wait(interval_s):
        alive = membership()
        if alive is None or alive.error is not None:
            return
        alive.leave_if_hung()
        if alive.error is None:
            alive.beat()
        del alive
