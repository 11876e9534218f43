"""Sharing partitions with the other members of a group: joining, giving and taking partitions, leaving."""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import time
import warnings
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NoReturn, Self, TypeAlias, TypeVar

from onceflow.exceptions import (
    ConfigurationError,
    GroupFencedError,
    LogTimeoutError,
    OnceflowError,
    UnknownTopicWarning,
)
from onceflow.log.committer import OnCommit
from onceflow.log.consumer.offsets import Offsets
from onceflow.log.consumer.state import ConsumerState
from onceflow.log.membership import Assignor, Membership
from onceflow.log.reader import OffsetReset, Reader
from onceflow.log.settings import check_callback, check_items
from onceflow.log.topic_partition import OFFSET_STORED, Place, TopicPartition

if TYPE_CHECKING:
    from onceflow import _native
    from onceflow.log.log_time import LogTime

__all__ = ["Rebalanced", "Subscription"]

_C = TypeVar("_C")

#: Called with the consumer and the partitions that it got or lost.
Rebalanced: TypeAlias = Callable[[_C, list[TopicPartition]], object]


class Subscription(Offsets):
    """What a consumer that shares partitions with others does; a part of ``Consumer``."""

    def __init__(
        self,
        log: _native.Log,
        log_time: LogTime,
        *,
        group_id: str | None,
        reset: OffsetReset,
        assignor: Assignor,
        session_timeout_ms: int,
        max_poll_interval_ms: int,
        fetch_max_bytes: int,
        auto_commit_s: float | None,
        auto_store: bool,
        on_commit: OnCommit | None,
    ) -> None:
        reader = Reader(log, reset=reset, fetch_max_bytes=fetch_max_bytes, stored=self._stored_offset)
        super().__init__(
            log,
            log_time,
            reader,
            group_id=group_id,
            auto_commit_s=auto_commit_s,
            auto_store=auto_store,
            on_commit=on_commit,
        )
        self._reset: OffsetReset = reset
        self._assignor: Assignor = assignor
        self._session_timeout_ms = session_timeout_ms
        self._max_poll_interval_ms = max_poll_interval_ms
        #: Names, and patterns that begin with ``^``.
        self._topics: list[str] = []
        self._patterns: list[re.Pattern[str]] = []
        #: The topics that the consumer joined for, and when to look for more that match.
        self._joined: list[str] = []
        self._look_s = 0.0
        #: The partitions that a callback is about.
        self._moving: frozenset[Place] | None = None
        #: Topics that there were when the consumer subscribed, with their numbers and partitions.
        self._before: dict[str, tuple[int, int]] = {}
        #: Topics that nobody was told yet do not exist.
        self._untold: set[str] = set()
        self._on_assign: Rebalanced[Self] | None = None
        self._on_revoke: Rebalanced[Self] | None = None
        self._on_lost: Rebalanced[Self] | None = None

    @property
    def state(self) -> ConsumerState:
        """In which state the consumer is, by what it has heard from its group so far."""
        if self._closed or self._pid != os.getpid():
            return ConsumerState.CLOSED
        with self._lock:
            member = self._membership
            if not self._topics:
                return ConsumerState.ASSIGNED if self._reader.positions else ConsumerState.IDLE
            if member is None:
                return ConsumerState.JOINING
            if member.error is not None:
                return ConsumerState.LOST
            return ConsumerState.REBALANCING if member.must_rebalance else ConsumerState.MEMBER

    def subscribe(
        self,
        topics: Iterable[str],
        on_assign: Rebalanced[Self] | None = None,
        on_revoke: Rebalanced[Self] | None = None,
        on_lost: Rebalanced[Self] | None = None,
    ) -> None:
        """Shares the partitions of topics with the other members of the group; replaces what was read before.

        Rebalances are incremental: the callbacks get only what comes or goes. They run inside of ``poll``, which is
        also where the consumer joins, and of ``unsubscribe`` and ``close``. Partitions that come to be later than this
        call are read from their beginning, also with ``auto_offset_reset="latest"``.

        Args:
            topics: Names, or patterns of them (of ``re``) that begin with ``^``. They need not exist yet, but a name
                that nobody has made a topic of is warned of, once, when the consumer joins (``UnknownTopicWarning``).
                When topics come or go that match, the consumer gives up its partitions and joins again.
            on_assign: After partitions came, and before they are read. It may ``seek`` them, or ``assign`` them (also
                ``incremental_assign``) with other offsets.
            on_revoke: Before partitions go, while they are not read any more. It may still ``commit`` their offsets. Of
                a topic that was deleted there is nothing to commit: that is warned of instead.
            on_lost: After partitions have gone, because the consumer was declared dead; by default ``on_revoke``.

        Raises:
            ConfigurationError: No group, or no topics.
        """
        given = [topics] if isinstance(topics, str) else check_items("subscribe: topics", topics, str, "['payments']")
        names = list(dict.fromkeys(given))
        for what, callback in (("on_assign", on_assign), ("on_revoke", on_revoke), ("on_lost", on_lost)):
            check_callback(f"subscribe: {what}", callback)
        if self._group_id is None:
            raise ConfigurationError("subscribe shares partitions within a group: give group_id, or use assign")
        patterns = [_pattern(name) for name in names if name.startswith("^")]
        if not names:
            raise ConfigurationError("subscribe needs topics; unsubscribe is a call of its own")
        with self._lock:
            self._check_usable()
            self._unsubscribe()
            self._topics, self._patterns = names, patterns
            self._before = {each.name: (each.number, each.partitions) for each in self._log.topics()}
            self._untold = {name for name in names if not name.startswith("^")} - {*self._before}
            self._on_assign, self._on_revoke, self._on_lost = on_assign, on_revoke, on_lost or on_revoke
            self._reader.skip_missing = True

    def unsubscribe(self) -> None:
        """Leaves the group, after ``on_revoke``, and reads nothing."""
        with self._lock:
            self._unsubscribe()

    def _unsubscribe(self) -> None:
        if self._membership is not None and self._membership.error is None and not self._callbacks:
            self._give_up(list(self._reader.positions))
        self._leave()
        self._topics, self._patterns = [], []
        self._reader.assign({})
        self._reader.skip_missing = False

    def _group_is_due(self, member: Membership | None) -> bool:
        """Whether there is something to do for the group."""
        return member is None or member.error is not None or member.must_rebalance or self._matches_others()

    def _attend_to_group(self) -> None:
        """Acts on what the consumer has heard from its group."""
        member = self._membership
        if member is None:
            self._join()
            return
        member.polled()
        if self._patterns and member.error is None and self._matches_others():
            self._give_up(list(self._reader.positions))
            if self._membership is member:
                self._leave()
                self._reader.assign({})
                self._join()
            return
        if member.error is None and member.must_rebalance:
            try:
                self._rebalance(member)
            except GroupFencedError as error:
                member.ended(error)
        if member.error is not None and self._membership is member:
            self._lose(member, member.error)

    def _matches_others(self) -> bool:
        """Whether the patterns match other topics than those that the consumer has joined for; looks now and then."""
        member = self._membership
        if not self._patterns or member is None or time.monotonic() < self._look_s:
            return False
        self._look_s = time.monotonic() + member.heartbeat_interval_s
        return self._matching() != self._joined

    def _matching(self) -> list[str]:
        """The topics to join for."""
        if not self._patterns:
            return self._topics
        names = {name for name in self._topics if not name.startswith("^")}
        names |= {topic.name for topic in self._log.topics() if any(each.search(topic.name) for each in self._patterns)}
        return sorted(names)

    def _join(self) -> None:
        assert self._group_id is not None
        self._joined = self._matching()
        member = Membership(
            self._log,
            self._group_id,
            self._joined,
            log_time=self._log_time,
            assignor=self._assignor,
            session_timeout_ms=self._session_timeout_ms,
            max_poll_interval_ms=self._max_poll_interval_ms,
        )
        self._membership = member
        self._take(member.partitions)
        self._warn_of_unknown_topics()

    def _warn_of_unknown_topics(self) -> None:
        """Says once of each topic that there is none of its name, or none any more."""
        if not self._untold:
            return
        untold, self._untold = self._untold, set()
        names = [topic.name for topic in self._log.topics()]
        for name in sorted(untold - {*names}):
            alike = difflib.get_close_matches(name, names)
            warnings.warn(
                f"there is no topic {name!r} in {self._log.path}, so nothing is read from it until somebody creates it"
                + (f". Did you mean {' or '.join(map(repr, alike))}?" if alike else ""),
                UnknownTopicWarning,
                stacklevel=2,
            )

    def _rebalance(self, member: Membership) -> None:
        """In this order: stop reading what goes, let the user commit it, let go of it, take what came."""
        revoked = member.revoked()
        if revoked:
            self._give_up(revoked)
        if self._membership is member:
            self._take(member.take_up())
            self._warn_of_unknown_topics()

    def _take(self, places: Iterable[Place]) -> None:
        came = sorted(places)
        # The members that had them before have committed: their partitions were free only after that.
        self._reader.remove(came)
        self._reader.add(dict.fromkeys(came, OFFSET_STORED))
        if came and self._on_assign is not None:
            got = [TopicPartition(*place, self._reader.positions[place] or 0) for place in came]
            self._call_about(came, self._on_assign, got)

    def _give_up(self, places: Iterable[Place]) -> None:
        member = self._membership
        # Of topics that were deleted there is nothing to commit, and whoever tried would never get beyond it.
        deleted = set() if member is None else member.deleted(places)
        self._reader.remove(deleted)
        self._untold |= {topic for topic, _ in deleted}
        goes = sorted({*places} - deleted)
        if self._auto_commit_s is not None:
            self._commit(self._to_commit(goes))
        if goes and self._on_revoke is not None:
            self._call_about(goes, self._on_revoke, self._positions_of(goes))
        if self._membership is not member:
            # The callback, or another thread meanwhile, has left the group.
            return
        if self._committer is not None:
            self._committer.wait()
        self._reader.remove(goes)

    def _lose(self, member: Membership, error: OnceflowError) -> NoReturn:
        """The group goes on without this consumer."""
        member.stop()
        lost = self._positions_of(sorted(self._reader.positions))
        self._membership = None
        self._reader.assign({})
        if self._on_lost is not None:
            self._call_about([each.place for each in lost], self._on_lost, lost)
            self._reader.remove(each.place for each in lost)
        raise error

    def _call_about(
        self, places: list[Place], callback: Callable[..., object], partitions: list[TopicPartition]
    ) -> None:
        """Calls a callback of ``subscribe``; until it returns nothing is read of its partitions."""
        self._moving = frozenset(places)
        self._reader.hold(places)
        try:
            self._call(callback, self, partitions)
        finally:
            self._moving = None
            self._reader.hold(())

    def _leave(self) -> None:
        member, self._membership = self._membership, None
        if member is not None:
            member.leave()

    def _stored_offset(self, place: Place) -> int | None:
        if self._group_id is None:
            return None
        stored = self._log.committed(self._group_id, *place)
        if stored is not None:
            return stored[0]
        if not self._is_new(place):
            return None
        start = self._log.partition(*place).start
        # For the whole group: to a member that joins later, and gets the partition, it is not new.
        with contextlib.suppress(GroupFencedError, LogTimeoutError):
            self._commit([TopicPartition(*place, start)])
        return start

    def _is_new(self, place: Place) -> bool:
        """Whether a partition came after the consumer had subscribed, and so did all that it holds."""
        if not self._topics or self._reset != "latest":
            return False
        number, partitions = self._before.get(place[0], (None, 0))
        return place[1] >= partitions or self._log.topic(place[0]).number != number


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise ConfigurationError(f"{text!r} is no pattern: {error}") from error
