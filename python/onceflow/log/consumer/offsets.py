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
from onceflow.log.metadata import Described
from onceflow.log.reader import Reader
from onceflow.log.settings import check_timeout
from onceflow.log.topic_partition import OFFSET_END, OFFSET_INVALID, Place, Positions, TopicPartition

if TYPE_CHECKING:
    from onceflow import _native
    from onceflow.log.log_time import LogTime

__all__ = ["Offsets"]


class Offsets(Described):
    """What a consumer can do with offsets; a part of ``Consumer``."""

    def __init__(
        self,
        log: _native.Log,
        log_time: LogTime,
        reader: Reader,
        *,
        group_id: str | None,
        auto_commit_s: float | None,
        auto_store: bool,
        on_commit: OnCommit | None,
    ) -> None:
        self._log = log
        self._log_time = log_time
        self._reader = reader
        self._group_id = group_id
        self._auto_commit_s = auto_commit_s
        self._auto_committed_s = time.monotonic()
        self._auto_store = auto_store
        #: What ``store_offsets`` was told of each partition.
        self._noted: dict[Place, TopicPartition] = {}
        self._on_commit = on_commit
        #: Guards everything; callbacks may call the consumer.
        self._lock = threading.RLock()
        self._membership: Membership | None = None
        self._committer: Committer | None = None
        #: Callbacks that are running: what they, and other threads meanwhile, call only reads.
        self._callbacks = 0
        self._closed = False
        self._pid = os.getpid()

    def _check_usable(self) -> None:
        if self._closed:
            raise BackendClosedError("the consumer was closed; make a new one")

    def _call(self, callback: Callable[..., object], *arguments: object) -> None:
        """Calls a function of the user, outside of the lock: other threads may use the consumer meanwhile.

        So whatever was true before the call has to be looked at again after it.
        """
        self._callbacks += 1
        self._lock.release()
        try:
            callback(*arguments)
        finally:
            self._lock.acquire()
            self._callbacks -= 1

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

    def memberid(self) -> str | None:
        """This member's id in its group; None while it is none."""
        with self._lock:
            self._check_usable()
            return None if self._membership is None else self._membership.member_id

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
            offsets: The next ones to read. Without either: ``positions()``, or with ``enable_auto_offset_store`` off
                what ``store_offsets`` was told.
            asynchronous: Return at once; ``on_commit`` tells. Off, unlike in ``confluent_kafka``.

        Returns:
            What was committed, durably unless asynchronous.

        Raises:
            UnknownMemberError: The consumer was declared dead.
            IllegalGenerationError: Not one of this member's partitions.
            UnknownTopicOrPartitionError: No such partition.
            ConfigurationError: No group, or message and offsets.
        """
        given = self._given("commit", message, offsets)
        with self._lock:
            self._check_usable()
            chosen = self._to_commit() if given is None else given
            if asynchronous:
                self._background_committer().submit(chosen, self._metadata())
            else:
                self._commit(chosen)
            return chosen

    def store_offsets(self, message: Message | None = None, offsets: Iterable[TopicPartition] | None = None) -> None:
        """Notes offsets for the next commit, automatic or without arguments; the consumer must have been made with
        ``enable_auto_offset_store=False``.

        Args:
            message: The one after it, in its partition.
            offsets: The next ones to read.

        Raises:
            ConfigurationError: Not one of this consumer's partitions, neither or both given, or it notes by itself what
                it returns.
        """
        given = self._given("store_offsets", message, offsets)
        if given is None:
            raise ConfigurationError("store_offsets: give message or offsets")
        with self._lock:
            self._check_usable()
            if self._auto_store:
                raise ConfigurationError("store_offsets: make the consumer with enable_auto_offset_store=False")
            for each in given:
                if each.place not in self._reader.positions:
                    raise ConfigurationError(
                        f"partition {each.partition} of {each.topic!r} is not assigned to this consumer"
                    )
            self._noted.update({each.place: each for each in given})

    @staticmethod
    def _given(
        method: str, message: Message | None, offsets: Iterable[TopicPartition] | None
    ) -> list[TopicPartition] | None:
        """Offsets that can be committed; None if none were given."""
        if message is not None and offsets is not None:
            raise ConfigurationError(f"{method}: give message or offsets, not both")
        if message is not None:
            if not isinstance(message, Message):
                raise ConfigurationError(
                    f"{method}: message is {message!r}; give a Message, or a list as offsets=", setting="message"
                )
            return [TopicPartition(message.topic(), message.partition(), message._offset + 1)]
        if offsets is None:
            return None
        chosen = checked_partitions(method, offsets, "offsets")
        for each in chosen:
            if each.offset < 0:
                raise ConfigurationError(f"{each} has no offset that could be committed")
        return chosen

    def _to_commit(self, places: Iterable[Place] | None = None) -> list[TopicPartition]:
        """What a commit is of that is not told: of some partitions, or of all."""
        if not self._auto_store:
            noted = self._noted if places is None else set(places) & {*self._noted}
            return [self._noted[place] for place in noted if place in self._reader.positions]
        return list(self.positions()) if places is None else self._positions_of(places)

    def _commit(self, offsets: list[TopicPartition]) -> None:
        if self._committer is not None:
            # An older offset must not come after a newer one.
            self._committer.wait()
        try:
            commit(self._log, offsets, self._metadata(), self._log_time.now_ms())
        except UnknownMemberError as error:
            if self._membership is not None:
                self._membership.ended(error)
            raise

    def _background_committer(self) -> Committer:
        if self._committer is None:
            self._committer = Committer(self._log, self._log_time)
            # For a consumer that nobody closes.
            when_forgotten(self, self._committer.end)
        return self._committer

    def _auto_commit(self, *, asynchronous: bool) -> None:
        self._auto_committed_s = time.monotonic()
        offsets = self._to_commit()
        if offsets and asynchronous:
            self._background_committer().submit(offsets, self._metadata())
        elif offsets:
            self._commit(offsets)

    def _report_commits(self, committer: Committer) -> None:
        while committer.results:
            error, offsets = committer.results.popleft()
            if isinstance(error, UnknownMemberError) and self._membership is not None:
                self._membership.ended(error)
            if self._on_commit is not None:
                self._call(self._on_commit, error, offsets)

    def committed(self, partitions: Iterable[TopicPartition], timeout: float | None = None) -> list[TopicPartition]:
        """The same partitions with the offsets that the group has committed; ``OFFSET_INVALID`` where none.

        Args:
            partitions: Their offsets are not looked at.
            timeout: For compatibility; nothing is waited for.
        """
        check_timeout("committed: timeout", timeout)
        partitions = checked_partitions("committed", partitions)
        group = self._metadata().group_id
        found = []
        for each in partitions:
            stored = self._log.committed(group, *each.place)
            offset, metadata = (OFFSET_INVALID, "") if stored is None else stored[:2]
            found.append(TopicPartition(*each.place, offset, metadata))
        return found

    def get_watermark_offsets(
        self, partition: TopicPartition, timeout: float | None = None, cached: bool = False
    ) -> tuple[int, int]:
        """The first offset of a partition, and the one that its next record gets.

        Args:
            partition: Its offset is not looked at.
            timeout: For compatibility; nothing is waited for.
            cached: For compatibility: what is true now is known without asking anybody.

        Raises:
            UnknownTopicOrPartitionError: No such partition.
        """
        check_partition("get_watermark_offsets", partition)
        check_timeout("get_watermark_offsets: timeout", timeout)
        found = self._log.partition(*partition.place)
        return found.start, found.end

    def offsets_for_times(
        self, partitions: Iterable[TopicPartition], timeout: float | None = None
    ) -> list[TopicPartition]:
        """Where the first record lies that is not older than a time.

        Args:
            partitions: With milliseconds since 1970 as their offsets.
            timeout: For compatibility; nothing is waited for.

        Returns:
            The same partitions with offsets; ``OFFSET_END`` where all records are older.

        Raises:
            UnknownTopicOrPartitionError: No such partition.
        """
        partitions = checked_partitions("offsets_for_times", partitions)
        check_timeout("offsets_for_times: timeout", timeout)
        found = []
        for each in partitions:
            offset = self._log.offset_for_timestamp(*each.place, each.offset)
            found.append(TopicPartition(*each.place, OFFSET_END if offset is None else offset))
        return found
