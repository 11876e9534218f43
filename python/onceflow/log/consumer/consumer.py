"""Reads what is committed: alone, or sharing partitions with the other members of a group."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Literal, TypeVar

from onceflow.clock import Clock
from onceflow.exceptions import ConfigurationError, UnknownTopicOrPartitionError
from onceflow.log.committer import OnCommit
from onceflow.log.consumer.arguments import check_choice, check_partition, checked_partitions
from onceflow.log.consumer.state import Call, check
from onceflow.log.consumer.subscription import Subscription
from onceflow.log.log import Log
from onceflow.log.log_time import LogTime
from onceflow.log.membership import Assignor
from onceflow.log.message import Message
from onceflow.log.reader import OffsetReset
from onceflow.log.records import Records
from onceflow.log.settings import check_callback, check_clock, check_log, check_name, check_timeout, check_whole
from onceflow.log.topic_partition import Place, TopicPartition

__all__ = ["Consumer", "IsolationLevel", "OnRebalance"]

_T = TypeVar("_T")

#: Called with the consumer and the partitions that it got or lost.
OnRebalance = Callable[["Consumer", list[TopicPartition]], object]

IsolationLevel = Literal["read_committed", "read_uncommitted"]

#: How soon a call that waits for records hears of a ``close`` or ``seek`` by another thread.
_LOOK_UP_EVERY_S = 0.5


class Consumer(Subscription):
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
        check_choice("isolation_level", isolation_level, IsolationLevel)
        check_choice("auto_offset_reset", auto_offset_reset, OffsetReset)
        check_choice("partition_assignment_strategy", partition_assignment_strategy, Assignor)
        check_name("group_id", group_id)
        check_whole("auto_commit_interval_ms", auto_commit_interval_ms)
        check_whole("session_timeout_ms", session_timeout_ms)
        check_whole("max_poll_interval_ms", max_poll_interval_ms)
        check_whole("fetch_max_bytes", fetch_max_bytes)
        check_callback("on_commit", on_commit)
        check_clock("clock", clock)
        if not isinstance(enable_auto_commit, bool):
            raise ConfigurationError(
                f"enable_auto_commit is {enable_auto_commit!r}; give True or False", setting="enable_auto_commit"
            )
        if enable_auto_commit and group_id is None:
            raise ConfigurationError("enable_auto_commit needs a group_id to commit for")
        super().__init__(
            log.native,
            LogTime(log.native, clock or log.clock),
            group_id=group_id,
            reset=auto_offset_reset,
            assignor=partition_assignment_strategy,
            session_timeout_ms=session_timeout_ms,
            max_poll_interval_ms=max_poll_interval_ms,
            fetch_max_bytes=fetch_max_bytes,
            auto_commit_s=auto_commit_interval_ms / 1000 if enable_auto_commit else None,
            on_commit=on_commit,
        )
        log.add_client(self)

    # ---- what is read ----------------------------------------------------------------------------

    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        """Reads these partitions and no others, without sharing.

        Args:
            partitions: From their offsets on; without one (or with ``OFFSET_STORED``) from what the group has
                committed, else from what ``auto_offset_reset`` says.

        Raises:
            UnknownTopicOrPartitionError: No such partition.
            ConfigurationError: The consumer has subscribed to topics.
        """
        partitions = checked_partitions("assign", partitions)
        with self._lock:
            self._check_usable()
            check(self.state, Call.ASSIGN)
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
        partitions = checked_partitions("pause", partitions)
        with self._lock:
            for place in self._own(partitions):
                self._reader.pause(place)

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        """Reads paused partitions again.

        Raises:
            ConfigurationError: Not one of this consumer's partitions.
        """
        partitions = checked_partitions("resume", partitions)
        with self._lock:
            for place in self._own(partitions):
                self._reader.resume(place)

    def seek(self, partition: TopicPartition) -> None:
        """Reads a partition on from an offset, or from ``OFFSET_BEGINNING``, ``OFFSET_END`` or ``OFFSET_STORED``.

        Raises:
            ConfigurationError: Not one of this consumer's partitions.
        """
        check_partition("seek", partition)
        with self._lock:
            self._check_usable()
            (place,) = self._own([partition])
            self._reader.seek(place, partition.offset)

    def _own(self, partitions: Iterable[TopicPartition]) -> list[Place]:
        places = [each.place for each in partitions]
        for topic, partition in places:
            if (topic, partition) not in self._reader.positions:
                raise ConfigurationError(f"partition {partition} of {topic!r} is not assigned to this consumer")
        return places

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

    def __repr__(self) -> str:
        return f"Consumer({self._log.path!r}, group_id={self._group_id!r}{', closed' if self._closed else ''})"
