"""Which offsets a consumer's group has committed, and committing them: at once, in the background, by itself."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from onceflow.exceptions import BackendClosedError, ConfigurationError, UnknownMemberError
from onceflow.log.committer import Committer, OnCommit, commit
from onceflow.log.consumer.arguments import check_partition, checked_partitions
from onceflow.log.forgetting import when_forgotten
from onceflow.log.membership import ConsumerGroupMetadata, Membership
from onceflow.log.message import Message
from onceflow.log.reader import Reader
from onceflow.log.topic_partition import OFFSET_END, OFFSET_INVALID, Place, Positions, TopicPartition

if TYPE_CHECKING:
    from onceflow import _native
    from onceflow.log.log_time import LogTime

__all__ = ["Offsets"]


class Offsets:
    """What a consumer can do with offsets; a part of ``Consumer``."""

    def __init__(
        self,
        log: _native.Log,
        log_time: LogTime,
        reader: Reader,
        *,
        group_id: str | None,
        auto_commit_s: float | None,
        on_commit: OnCommit | None,
    ) -> None:
        self._log = log
        self._log_time = log_time
        self._reader = reader
        self._group_id = group_id
        self._auto_commit_s = auto_commit_s
        self._auto_committed_s = time.monotonic()
        self._on_commit = on_commit
        #: Guards everything; callbacks may call the consumer.
        self._lock = threading.RLock()
        self._membership: Membership | None = None
        self._committer: Committer | None = None
        #: A callback is running: what it calls only reads.
        self._calling = False
        self._closed = False
        self._pid = os.getpid()

    def _check_usable(self) -> None:
        if self._closed:
            raise BackendClosedError("the consumer was closed; make a new one")

    def _call(self, callback: Callable[..., object], *arguments: object) -> None:
        """Calls a function of the user; the lock keeps out other threads."""
        calling, self._calling = self._calling, True
        try:
            callback(*arguments)
        finally:
            self._calling = calling

    def positions(self) -> Positions:
        """The next offset to read of each partition: after the last record that was returned.

        What to commit, also in a transaction (``Producer.send_offsets_to_transaction``).
        """
        with self._lock:
            known = [
                TopicPartition(*place, offset) for place, offset in self._reader.positions.items() if offset is not None
            ]
            return Positions(known, None if self._membership is None else self._membership.metadata)

    def position(self, partitions: Iterable[TopicPartition]) -> list[TopicPartition]:
        """The same partitions with their positions; ``OFFSET_INVALID`` where they are not read."""
        partitions = checked_partitions("position", partitions)
        with self._lock:
            found = []
            for each in partitions:
                offset = self._reader.positions.get(each.place)
                found.append(TopicPartition(*each.place, OFFSET_INVALID if offset is None else offset))
            return found

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

    def commit(
        self,
        message: Message | None = None,
        offsets: Iterable[TopicPartition] | None = None,
        asynchronous: bool = False,
    ) -> list[TopicPartition]:
        """Commits offsets of the group: where it resumes.

        Args:
            message: Its partition resumes after it.
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
            raise ConfigurationError(
                f"commit: message is {message!r}; give a Message, or a list as offsets=", setting="message"
            )
        if offsets is not None:
            offsets = checked_partitions("commit", offsets, "offsets")
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
        partitions = checked_partitions("committed", partitions)
        group = self._metadata().group_id
        found = []
        for each in partitions:
            stored = self._log.committed(group, *each.place)
            offset, metadata = (OFFSET_INVALID, "") if stored is None else stored[:2]
            found.append(TopicPartition(*each.place, offset, metadata))
        return found

    def get_watermark_offsets(self, partition: TopicPartition) -> tuple[int, int]:
        """The first offset of a partition, and the one that its next record gets.

        Raises:
            UnknownTopicOrPartitionError: No such partition.
        """
        check_partition("get_watermark_offsets", partition)
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
        partitions = checked_partitions("offsets_for_times", partitions)
        found = []
        for each in partitions:
            offset = self._log.offset_for_timestamp(*each.place, each.offset)
            found.append(TopicPartition(*each.place, OFFSET_END if offset is None else offset))
        return found
