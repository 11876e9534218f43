"""Reads what is committed: alone, or sharing partitions with the other members of a group."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from types import TracebackType
from typing import Literal, TypeVar

from onceflow.clock import Clock
from onceflow.exceptions import ConfigurationError, UnknownTopicOrPartitionError
from onceflow.log.committer import OnCommit
from onceflow.log.consumer.arguments import check_choice
from onceflow.log.consumer.assignment import Assignment
from onceflow.log.log import Log
from onceflow.log.log_time import LogTime
from onceflow.log.membership import Assignor
from onceflow.log.message import Message
from onceflow.log.reader import OffsetReset
from onceflow.log.records import Records
from onceflow.log.settings import (
    check_callback,
    check_clock,
    check_flag,
    check_log,
    check_name,
    check_timeout,
    check_whole,
)
from onceflow.log.topic_partition import TopicPartition

__all__ = ["Consumer", "IsolationLevel", "OnRebalance"]

_T = TypeVar("_T")

#: Called with the consumer and the partitions that it got or lost.
OnRebalance = Callable[["Consumer", list[TopicPartition]], object]

IsolationLevel = Literal["read_committed", "read_uncommitted"]

#: How soon a call that waits for records hears of a ``close`` or ``seek`` by another thread.
_LOOK_UP_EVERY_S = 0.5


class Consumer(Assignment):
    """Reads records in the order of each partition, waiting for new ones without polling the disk.

    It reads partitions that it chose itself (``assign``), or shares those of topics with the other members of its group
    (``subscribe``). A member whose heartbeats stop, as when its process is paused, is declared dead: its partitions go
    to others, and what it commits afterwards is refused. It learns that in ``poll`` (and ``consume``,
    ``consume_batch``, ``commit``), which raises ``UnknownMemberError`` after ``on_lost``; the next one joins again.

    Safe to use from several threads, one call after the other; each record is given to one of them. Callbacks run in
    the thread that polls, outside of all locks: they, and other threads meanwhile, may call the consumer. A ``poll``
    while one runs only reads, and nothing of the partitions that it is about.

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
        enable_auto_offset_store: Whether what is returned is what is committed; else it is what ``store_offsets`` is
            told.
        session_timeout_ms: A member whose heartbeats stop for so long is declared dead.
        max_poll_interval_ms: A member that has not polled for so long leaves its group, and its next poll raises
            ``MaxPollExceededError``; so long it may also take to let go of partitions in a rebalance.
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
        enable_auto_offset_store: bool = True,
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
        check_flag("enable_auto_commit", enable_auto_commit)
        check_flag("enable_auto_offset_store", enable_auto_offset_store)
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
            auto_store=enable_auto_offset_store,
            on_commit=on_commit,
        )
        log.add_client(self)

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

    def consume(self, num_messages: int = 1, timeout: float | None = None, *, min_messages: int = 1) -> list[Message]:
        """Several records at once: all that are there now, at most ``num_messages``; raises as ``poll``.

        Args:
            num_messages: At most so many.
            timeout: How long to wait for the first ones, in seconds; None or below 0: for ever.
            min_messages: How many to wait for; ``confluent_kafka`` waits for all ``num_messages``. Fewer come when the
                time is over, or when something else is due, such as a rebalance.
        """
        check_whole("num_messages", num_messages)
        check_whole("min_messages", min_messages)
        check_timeout("consume: timeout", timeout)
        deadline = None if timeout is None or timeout < 0 else time.monotonic() + timeout
        taken = self._await(lambda: self._reader.messages(num_messages), timeout) or []
        while taken and len(taken) < min(min_messages, num_messages):
            left = math.inf if deadline is None else deadline - time.monotonic()
            try:
                if left <= 0 or not self._take_more(taken, num_messages, left):
                    break
            except BaseException:
                # Whoever called has none of them.
                with self._lock:
                    self._reader.give_back(taken)
                raise
        return taken

    def _take_more(self, taken: list[Message], limit: int, wait_s: float) -> bool:
        """Waits for records and takes them, up to so many in all; False: something is due that only the next call does.

        A rebalance must not come between records that were taken and their user.
        """
        with self._lock:
            if self._closed or self._callbacks or self._is_due():
                return False
            awaited, interval_s = self._reader.active(), self._look_up_every_s()
        self._wait(awaited, min(wait_s, interval_s))
        with self._lock:
            if self._closed or self._callbacks or self._is_due():
                return False
            taken += self._reader.messages(limit - len(taken))
        return True

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
                wait_s = self._look_up_every_s()
            if deadline is not None:
                wait_s = min(wait_s, deadline - time.monotonic())
                if wait_s <= 0:
                    return None
            self._wait(awaited, wait_s)

    def _look_up_every_s(self) -> float:
        return _LOOK_UP_EVERY_S if self._membership is None else self._membership.heartbeat_interval_s

    def _wait(self, awaited: list[tuple[str, int, int]], wait_s: float) -> None:
        member = self._membership
        if member is not None:
            member.waits()
        try:
            self._log.wait(awaited, wait_s)
        except UnknownTopicOrPartitionError:
            if not self._reader.skip_missing:
                raise
            # Of a topic that was deleted; the rebalance that follows takes it away.
            time.sleep(wait_s)
        finally:
            if member is not None:
                member.polled()

    def _attend(self) -> None:
        """What is due besides reading: callbacks, commits, the group."""
        self._check_usable()
        if self._callbacks:
            # A callback polls, or another thread while one is running: whatever else is due is left to the call that it
            # runs in.
            return
        if self._committer is not None and self._committer.results:
            self._report_commits(self._committer)
        if self._auto_commit_s is not None and self._auto_commit_is_due():
            self._auto_commit(asynchronous=True)
        if self._topics:
            self._attend_to_group()

    def _is_due(self) -> bool:
        """Whether there is something to attend to."""
        member = self._membership
        if member is not None:
            member.polled()
        reports = self._committer is not None and bool(self._committer.results)
        return reports or self._auto_commit_is_due() or bool(self._topics and self._group_is_due(member))

    def _auto_commit_is_due(self) -> bool:
        return self._auto_commit_s is not None and time.monotonic() - self._auto_committed_s >= self._auto_commit_s

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
