"""Reads what is committed: alone, or sharing partitions with the other members of a group."""

from __future__ import annotations

import contextlib
import difflib
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Literal, TypeVar, get_args

from onceflow.clock import Clock
from onceflow.exceptions import (
    BackendClosedError,
    ConfigurationError,
    GroupFencedError,
    LogTimeoutError,
    UnknownMemberError,
    UnknownTopicOrPartitionError,
    UnknownTopicWarning,
)
from onceflow.log.committer import Committer, OnCommit, commit
from onceflow.log.forgetting import when_forgotten
from onceflow.log.log import Log
from onceflow.log.log_time import LogTime
from onceflow.log.membership import Assignor, ConsumerGroupMetadata, Membership
from onceflow.log.message import Message
from onceflow.log.reader import OffsetReset, Reader
from onceflow.log.records import Records
from onceflow.log.settings import (
    check_callback,
    check_clock,
    check_items,
    check_log,
    check_name,
    check_timeout,
    check_whole,
)
from onceflow.log.topic_partition import (
    OFFSET_END,
    OFFSET_INVALID,
    OFFSET_STORED,
    Place,
    Positions,
    TopicPartition,
)

__all__ = ["Consumer", "OnRebalance"]

_T = TypeVar("_T")

#: Called with the consumer and the partitions that it got or lost.
OnRebalance = Callable[["Consumer", list[TopicPartition]], object]

IsolationLevel = Literal["read_committed", "read_uncommitted"]

#: How soon a call that waits for records hears of a ``close`` or ``seek`` by another thread.
_LOOK_UP_EVERY_S = 0.5


class Consumer:
    """Reads records in the order of each partition, waiting for new ones without polling the disk.

    It reads partitions that it chose itself (``assign``), or shares those of topics with the other members of its group
    (``subscribe``). A member whose heartbeats stop, as when its process is paused, is declared dead: its partitions go
    to others, and what it commits afterwards is refused. It learns that in ``poll`` (and ``consume``,
    ``consume_batch``, ``commit``), which raises ``UnknownMemberError`` after ``on_lost``; the next one joins again.

    Safe to use from several threads, one call after the other; each record is given to one of them. Callbacks run in
    the thread that polls; a ``poll`` inside of one only reads.

    Args:
        log: An open log.
        group_id: Whose committed offsets to begin from, and whose partitions to share. None: only ``assign``.
        isolation_level: ``"read_uncommitted"`` is taken for compatibility and sees the same: records of a transaction
            are nowhere in a partition before it is committed, so nobody can see or wait for them.
        auto_offset_reset: Where to begin when the group has committed nothing, or when retention has removed the
            position: at the ``"earliest"`` or after the ``"latest"`` record, or raise ``OffsetOutOfRangeError``.
        enable_auto_commit: Whether ``poll`` commits now and then what earlier polls returned, and ``close`` all of it.
            Off, unlike in Kafka: it commits what was *returned*, not what was processed, so a crash loses or repeats
            records, and it would undermine offsets that are committed in a transaction with the results.
        auto_commit_interval_ms: How often.
        session_timeout_ms: A member whose heartbeats stop for so long is declared dead.
        max_poll_interval_ms: A member that has not polled for so long stops its heartbeats; so long it may also take to
            let go of partitions in a rebalance.
        partition_assignment_strategy: ``"sticky"``, ``"range"`` or ``"roundrobin"``; each lets members keep what stays
            theirs, and go on reading it meanwhile.
        fetch_max_bytes: Of keys, values and headers that are read at once; bounds the consumer's memory.
        on_commit: Called with the error, or None, and the offsets of asynchronous and automatic commits.
        clock: The log's by default.

    Raises:
        ConfigurationError: An argument that cannot be.
    """

    def __init__(
        self,
        log: Log,
        group_id: str | None = None,
        *,
        isolation_level: IsolationLevel = "read_committed",
        auto_offset_reset: OffsetReset = "earliest",
        enable_auto_commit: bool = False,
        auto_commit_interval_ms: int = 5_000,
        session_timeout_ms: int = 45_000,
        max_poll_interval_ms: int = 300_000,
        partition_assignment_strategy: Assignor = "sticky",
        fetch_max_bytes: int = 8 << 20,
        on_commit: OnCommit | None = None,
        clock: Clock | None = None,
    ) -> None:
        check_log("Consumer", log)
        _check_choice("isolation_level", isolation_level, IsolationLevel)
        _check_choice("auto_offset_reset", auto_offset_reset, OffsetReset)
        _check_choice("partition_assignment_strategy", partition_assignment_strategy, Assignor)
        check_name("group_id", group_id)
        check_whole("auto_commit_interval_ms", auto_commit_interval_ms)
        check_whole("session_timeout_ms", session_timeout_ms)
        check_whole("max_poll_interval_ms", max_poll_interval_ms)
        check_whole("fetch_max_bytes", fetch_max_bytes)
        check_callback("on_commit", on_commit)
        check_clock("clock", clock)
        if not isinstance(enable_auto_commit, bool):
            raise ConfigurationError(f"enable_auto_commit is {enable_auto_commit!r}; give True or False")
        if enable_auto_commit and group_id is None:
            raise ConfigurationError("enable_auto_commit needs a group_id to commit for")
        self._log_time = LogTime(log.native, clock or log.clock)
        self._log = log.native
        self._group_id = group_id
        self._auto_commit_s = auto_commit_interval_ms / 1000 if enable_auto_commit else None
        self._auto_committed_s = time.monotonic()
        self._session_timeout_ms = session_timeout_ms
        self._max_poll_interval_ms = max_poll_interval_ms
        self._assignor: Assignor = partition_assignment_strategy
        self._on_commit = on_commit
        self._reader = Reader(
            self._log, reset=auto_offset_reset, fetch_max_bytes=fetch_max_bytes, stored=self._stored_offset
        )
        #: Guards everything; callbacks may call the consumer.
        self._lock = threading.RLock()
        self._reset: OffsetReset = auto_offset_reset
        self._topics: list[str] = []
        #: Topics that there were when the consumer subscribed, with their numbers and partitions.
        self._before: dict[str, tuple[int, int]] = {}
        #: Topics that nobody was told yet do not exist.
        self._untold: set[str] = set()
        self._on_assign: OnRebalance | None = None
        self._on_revoke: OnRebalance | None = None
        self._on_lost: OnRebalance | None = None
        self._membership: Membership | None = None
        self._committer: Committer | None = None
        #: A callback is running: what it calls only reads.
        self._calling = False
        self._closed = False
        self._pid = os.getpid()
        log.add_client(self)

    # ---- what is read ----------------------------------------------------------------------------

    def subscribe(
        self,
        topics: Iterable[str],
        on_assign: OnRebalance | None = None,
        on_revoke: OnRebalance | None = None,
        on_lost: OnRebalance | None = None,
    ) -> None:
        """Shares the partitions of topics with the other members of the group; replaces what was read before.

        Rebalances are incremental: the callbacks get only what comes or goes. They run inside of ``poll``, which is
        also where the consumer joins. Partitions that come to be later than this call are read from their beginning,
        also with ``auto_offset_reset="latest"``.

        Args:
            topics: Names. They need not exist yet, but a name that nobody has made a topic of is warned of, once, when
                the consumer joins (``UnknownTopicWarning``).
            on_assign: After partitions came. It may ``seek`` them.
            on_revoke: Before partitions go. It may still ``commit`` their offsets.
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
        for name in names:
            if name.startswith("^"):
                raise ConfigurationError(f"{name!r} looks like a pattern; name the topics that you want")
        if not names:
            raise ConfigurationError("subscribe needs topics; unsubscribe is a call of its own")
        with self._lock:
            self._check_usable()
            self.unsubscribe()
            self._topics = names
            self._before = {each.name: (each.number, each.partitions) for each in self._log.topics()}
            self._untold = {*names} - {*self._before}
            self._on_assign, self._on_revoke, self._on_lost = on_assign, on_revoke, on_lost or on_revoke
            self._reader.skip_missing = True

    def unsubscribe(self) -> None:
        """Leaves the group and reads nothing."""
        with self._lock:
            self._leave()
            self._topics = []
            self._reader.assign({})
            self._reader.skip_missing = False

    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        """Reads these partitions and no others, without sharing.

        Args:
            partitions: From their offsets on; without one (or with ``OFFSET_STORED``) from what the group has
                committed, else from what ``auto_offset_reset`` says.

        Raises:
            UnknownTopicOrPartitionError: No such partition.
            ConfigurationError: The consumer has subscribed to topics.
        """
        partitions = _partitions("assign", partitions)
        with self._lock:
            self._check_usable()
            if self._topics:
                raise ConfigurationError("the group assigns this consumer's partitions; seek, or unsubscribe first")
            self._reader.assign({each.place: each.offset for each in partitions})

    def unassign(self) -> None:
        """Reads nothing."""
        self.assign([])

    def assignment(self) -> list[TopicPartition]:
        """The partitions that are read now."""
        with self._lock:
            return [TopicPartition(*place) for place in self._reader.positions]

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        """Does not read these partitions until ``resume``, and keeps them.

        Raises:
            ConfigurationError: Not one of this consumer's partitions.
        """
        partitions = _partitions("pause", partitions)
        with self._lock:
            for place in self._own(partitions):
                self._reader.pause(place)

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        """Reads paused partitions again.

        Raises:
            ConfigurationError: Not one of this consumer's partitions.
        """
        partitions = _partitions("resume", partitions)
        with self._lock:
            for place in self._own(partitions):
                self._reader.resume(place)

    def seek(self, partition: TopicPartition) -> None:
        """Reads a partition on from an offset, or from ``OFFSET_BEGINNING``, ``OFFSET_END`` or ``OFFSET_STORED``.

        Raises:
            ConfigurationError: Not one of this consumer's partitions.
        """
        _check_partition("seek", partition)
        with self._lock:
            self._check_usable()
            (place,) = self._own([partition])
            self._reader.seek(place, partition.offset)

    def positions(self) -> Positions:
        """The next offset to read of each partition: behind the last record that was returned.

        What to commit, also in a transaction (``Producer.send_offsets_to_transaction``).
        """
        with self._lock:
            known = [
                TopicPartition(*place, offset) for place, offset in self._reader.positions.items() if offset is not None
            ]
            return Positions(known, None if self._membership is None else self._membership.metadata)

    def position(self, partitions: Iterable[TopicPartition]) -> list[TopicPartition]:
        """The same partitions with their positions; ``OFFSET_INVALID`` where they are not read."""
        partitions = _partitions("position", partitions)
        with self._lock:
            found = []
            for each in partitions:
                offset = self._reader.positions.get(each.place)
                found.append(TopicPartition(*each.place, OFFSET_INVALID if offset is None else offset))
            return found

    # ---- reading ---------------------------------------------------------------------------------

    def poll(self, timeout: float | None = None) -> Message | None:
        """The next record.

        Args:
            timeout: How long to wait for it, in seconds; None or below 0: for ever.

        Returns:
            None if there was none in time.

        Raises:
            UnknownMemberError: The consumer was declared dead; its partitions are others' now. The next call joins
                again.
            OffsetOutOfRangeError: Retention has removed the position, and ``auto_offset_reset`` is ``"error"``.
            UnknownTopicOrPartitionError: A partition of ``assign`` has been deleted.
            StoreCorruptError: What lies at the position is damaged.
        """
        check_timeout("poll: timeout", timeout)
        with self._lock:
            self._attend()
            message = self._reader.message()
        return message or self._await(self._reader.message, timeout)

    def consume(self, num_messages: int = 1, timeout: float | None = None) -> list[Message]:
        """Several records at once: all that are there now, at most ``num_messages``; raises as ``poll``.

        Args:
            num_messages: At most so many.
            timeout: How long to wait for the first one, in seconds; None or below 0: for ever. For more than are there
                it does not wait.
        """
        check_whole("num_messages", num_messages)
        check_timeout("consume: timeout", timeout)
        return self._await(lambda: self._reader.messages(num_messages), timeout) or []

    def consume_batch(self, max_records: int = 100_000, timeout: float | None = None) -> Records | None:
        """Records of one partition as columns, without a Python object for each; raises as ``poll``.

        Partitions take turns. A batch ends where the partition does, at ``max_records`` or ``fetch_max_bytes``.

        Args:
            max_records: At most so many.
            timeout: How long to wait for the first one, in seconds; None or below 0: for ever.

        Returns:
            None if there was none in time.
        """
        check_whole("max_records", max_records)
        check_timeout("consume_batch: timeout", timeout)
        return self._await(lambda: self._reader.records(max_records), timeout)

    def _await(self, take: Callable[[], _T | None], timeout: float | None) -> _T | None:
        deadline = None if timeout is None or timeout < 0 else time.monotonic() + timeout
        while True:
            with self._lock:
                self._attend()
                found = take()
                if found:
                    return found
                awaited = self._reader.active()
                wait_s = _LOOK_UP_EVERY_S if self._membership is None else self._membership.heartbeat_interval_s
            if deadline is not None:
                wait_s = min(wait_s, deadline - time.monotonic())
                if wait_s <= 0:
                    return None
            self._wait(awaited, wait_s)

    def _wait(self, awaited: list[tuple[str, int, int]], wait_s: float) -> None:
        try:
            self._log.wait(awaited, wait_s)
        except UnknownTopicOrPartitionError:
            if not self._reader.skip_missing:
                raise
            # Of a topic that was deleted; the rebalance that follows takes it away.
            time.sleep(wait_s)

    def _attend(self) -> None:
        """What is due besides reading: callbacks, commits, the group."""
        self._check_usable()
        if self._calling:
            # A callback polls: whatever else is due would call it again.
            return
        if self._committer is not None and self._committer.results:
            self._report_commits(self._committer)
        if self._auto_commit_s is not None and time.monotonic() - self._auto_committed_s >= self._auto_commit_s:
            self._auto_commit(asynchronous=True)
        if self._topics:
            self._attend_to_group()

    # ---- the group -------------------------------------------------------------------------------

    def _attend_to_group(self) -> None:
        member = self._membership
        if member is None:
            self._join()
            return
        member.polled()
        if member.error is not None:
            self._lose(member)
        elif member.must_rebalance:
            try:
                self._rebalance(member)
            except GroupFencedError as error:
                member.error = error
                self._lose(member)

    def _join(self) -> None:
        assert self._group_id is not None
        member = Membership(
            self._log,
            self._group_id,
            self._topics,
            log_time=self._log_time,
            assignor=self._assignor,
            session_timeout_ms=self._session_timeout_ms,
            max_poll_interval_ms=self._max_poll_interval_ms,
        )
        self._membership = member
        self._take(member.partitions)
        self._warn_of_unknown_topics()

    def _warn_of_unknown_topics(self) -> None:
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
        self._take(member.take_up())

    def _take(self, places: Iterable[Place]) -> None:
        came = sorted(places)
        # The members that had them before have committed: their partitions were free only after that.
        self._reader.remove(came)
        self._reader.add(dict.fromkeys(came, OFFSET_STORED))
        if came and self._on_assign is not None:
            got = [TopicPartition(*place, self._reader.positions[place] or 0) for place in came]
            self._call(self._on_assign, self, got)

    def _give_up(self, places: Iterable[Place]) -> None:
        goes = sorted(places)
        if self._auto_commit_s is not None:
            self._commit(self._positions_of(goes))
        if self._on_revoke is not None:
            self._call(self._on_revoke, self, self._positions_of(goes))
        if self._committer is not None:
            self._committer.wait()
        self._reader.remove(goes)

    def _lose(self, member: Membership) -> None:
        """The group goes on without this consumer."""
        member.stop()
        error = member.error
        assert error is not None
        lost = self._positions_of(sorted(self._reader.positions))
        self._membership = None
        self._reader.assign({})
        if self._on_lost is not None:
            self._call(self._on_lost, self, lost)
        raise error

    def _call(self, callback: Callable[..., object], *arguments: object) -> None:
        """Calls a function of the user; the lock keeps out other threads."""
        calling, self._calling = self._calling, True
        try:
            callback(*arguments)
        finally:
            self._calling = calling

    def _leave(self) -> None:
        member, self._membership = self._membership, None
        if member is not None:
            member.leave()

    def _positions_of(self, places: Iterable[Place]) -> list[TopicPartition]:
        return [each for each in self.position([TopicPartition(*place) for place in places]) if each.offset >= 0]

    def consumer_group_metadata(self) -> ConsumerGroupMetadata:
        """Who commits: for ``Producer.send_offsets_to_transaction``.

        Raises:
            ConfigurationError: The consumer has no group.
        """
        with self._lock:
            return self._metadata()

    def _metadata(self) -> ConsumerGroupMetadata:
        if self._group_id is None:
            raise ConfigurationError("the consumer has no group: give group_id")
        return ConsumerGroupMetadata(self._group_id) if self._membership is None else self._membership.metadata

    # ---- offsets ---------------------------------------------------------------------------------

    def commit(
        self,
        message: Message | None = None,
        offsets: Iterable[TopicPartition] | None = None,
        asynchronous: bool = False,
    ) -> list[TopicPartition]:
        """Commits offsets of the group: where it resumes.

        Args:
            message: Its partition resumes behind it.
            offsets: The next ones to read. Without either: ``positions()``.
            asynchronous: Return at once; ``on_commit`` tells. Off, unlike in ``confluent_kafka``.

        Returns:
            What was committed, durably unless asynchronous.

        Raises:
            UnknownMemberError: The consumer was declared dead.
            IllegalGenerationError: Not one of this member's partitions.
            UnknownTopicOrPartitionError: No such partition.
            ConfigurationError: No group, or message and offsets.
        """
        if message is not None and offsets is not None:
            raise ConfigurationError("give message or offsets, not both")
        if message is not None and not isinstance(message, Message):
            raise ConfigurationError(f"commit: message is {message!r}; give a Message, or a list as offsets=")
        if offsets is not None:
            offsets = _partitions("commit", offsets, "offsets")
        with self._lock:
            self._check_usable()
            if message is not None:
                chosen = [TopicPartition(message.topic(), message.partition(), message._offset + 1)]
            else:
                chosen = list(self.positions() if offsets is None else offsets)
            for each in chosen:
                if each.offset < 0:
                    raise ConfigurationError(f"{each} has no offset that could be committed")
            if asynchronous:
                self._background_committer().submit(chosen, self._metadata())
            else:
                self._commit(chosen)
            return chosen

    def _commit(self, offsets: list[TopicPartition]) -> None:
        if self._committer is not None:
            # An older offset must not come after a newer one.
            self._committer.wait()
        try:
            commit(self._log, offsets, self._metadata(), self._log_time.now_ms())
        except UnknownMemberError as error:
            if self._membership is not None:
                self._membership.error = error
            raise

    def _background_committer(self) -> Committer:
        if self._committer is None:
            self._committer = Committer(self._log, self._log_time)
            # For a consumer that nobody closes.
            when_forgotten(self, self._committer.end)
        return self._committer

    def _auto_commit(self, *, asynchronous: bool) -> None:
        self._auto_committed_s = time.monotonic()
        offsets = list(self.positions())
        if offsets and asynchronous:
            self._background_committer().submit(offsets, self._metadata())
        elif offsets:
            self._commit(offsets)

    def _report_commits(self, committer: Committer) -> None:
        while committer.results:
            error, offsets = committer.results.popleft()
            if isinstance(error, UnknownMemberError) and self._membership is not None:
                self._membership.error = error
            if self._on_commit is not None:
                self._call(self._on_commit, error, offsets)

    def committed(self, partitions: Iterable[TopicPartition]) -> list[TopicPartition]:
        """The same partitions with the offsets that the group has committed; ``OFFSET_INVALID`` where none."""
        partitions = _partitions("committed", partitions)
        group = self._metadata().group_id
        found = []
        for each in partitions:
            stored = self._log.committed(group, *each.place)
            offset, metadata = (OFFSET_INVALID, "") if stored is None else stored[:2]
            found.append(TopicPartition(*each.place, offset, metadata))
        return found

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

    def get_watermark_offsets(self, partition: TopicPartition) -> tuple[int, int]:
        """The first offset of a partition, and the one that its next record gets.

        Raises:
            UnknownTopicOrPartitionError: No such partition.
        """
        _check_partition("get_watermark_offsets", partition)
        found = self._log.partition(*partition.place)
        return found.start, found.end

    def offsets_for_times(self, partitions: Iterable[TopicPartition]) -> list[TopicPartition]:
        """Where the first record lies that is not older than a time.

        Args:
            partitions: With milliseconds since 1970 as their offsets.

        Returns:
            The same partitions with offsets; ``OFFSET_END`` where all records are older.

        Raises:
            UnknownTopicOrPartitionError: No such partition.
        """
        partitions = _partitions("offsets_for_times", partitions)
        found = []
        for each in partitions:
            offset = self._log.offset_for_timestamp(*each.place, each.offset)
            found.append(TopicPartition(*each.place, OFFSET_END if offset is None else offset))
        return found

    # ---- the end ---------------------------------------------------------------------------------

    def close(self) -> None:
        """Leaves the group, so that others get the partitions at once.

        With ``enable_auto_commit`` it first commits what was returned; then ``on_revoke`` is called.
        """
        self._close(commit=True)

    def _close(self, *, commit: bool) -> None:
        if self._pid != os.getpid():
            # Its threads, locks and membership are those of another process.
            self._closed = True
            return
        with self._lock:
            if self._closed:
                return
            try:
                if self._membership is not None and self._membership.error is None:
                    if not commit:
                        self._auto_commit_s = None
                    self._give_up(list(self._reader.positions))
                elif commit and self._auto_commit_s is not None and self._membership is None:
                    self._auto_commit(asynchronous=False)
            finally:
                try:
                    if self._committer is not None:
                        self._committer.stop()
                        self._report_commits(self._committer)
                finally:
                    self._closed = True
                    self._leave()

    def __enter__(self) -> Consumer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # After an exception nobody knows which of the records that were returned were processed.
        self._close(commit=error is None)

    def _check_usable(self) -> None:
        if self._closed:
            raise BackendClosedError("the consumer was closed; make a new one")

    def _own(self, partitions: Iterable[TopicPartition]) -> list[Place]:
        places = [each.place for each in partitions]
        for topic, partition in places:
            if (topic, partition) not in self._reader.positions:
                raise ConfigurationError(f"partition {partition} of {topic!r} is not assigned to this consumer")
        return places

    def __repr__(self) -> str:
        return f"Consumer({self._log.path!r}, group_id={self._group_id!r}{', closed' if self._closed else ''})"


def _partitions(method: str, given: Iterable[TopicPartition], name: str = "partitions") -> list[TopicPartition]:
    return check_items(f"{method}: {name}", given, TopicPartition, "[TopicPartition('payments', 0)]")


def _check_partition(method: str, given: TopicPartition) -> None:
    if not isinstance(given, TopicPartition):
        raise ConfigurationError(f"{method}: partition is {given!r}; give one such as TopicPartition('payments', 0)")


def _check_choice(name: str, given: str, choices: object) -> None:
    if given not in get_args(choices):
        raise ConfigurationError(f"{name} is {given!r}; it can be {', '.join(map(repr, get_args(choices)))}")
