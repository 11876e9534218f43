"""The directory: topics, groups, transactions, and its upkeep."""

from __future__ import annotations

import os
import threading
import weakref
from contextlib import ExitStack
from types import TracebackType
from typing import Literal, Protocol, TypedDict, Unpack

from onceflow import _native
from onceflow._native import LogGroup, LogMaintained, LogPartition, LogProducerInfo, LogTopic
from onceflow.clock import Clock, SystemClock
from onceflow.exceptions import TopicExistsError
from onceflow.log.log_time import LogTime
from onceflow.log.settings import check_clock, check_seconds
from onceflow.log.upkeep import Upkeep

__all__ = ["Log", "TopicSettings"]


class TopicSettings(TypedDict, total=False):
    """Settings of a topic; see ``Log.create_topic``."""

    partitions: int
    retention_ms: int | None
    retention_bytes: int | None
    cleanup_policy: Literal["delete", "compact"]
    delete_retention_ms: int
    max_record_bytes: int


class Topics(list[LogTopic]):
    """Topics, among which names can be looked for."""

    __slots__ = ()

    def __contains__(self, topic: object) -> bool:
        """Whether a topic of this name is there; or this topic."""
        return any(topic == known.name for known in self) if isinstance(topic, str) else super().__contains__(topic)


class _Client(Protocol):
    """A producer or consumer."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Bounds(TypedDict, total=False):
    """Bounds of a log; give every process the same. See ``Log.open``."""

    map_size_bytes: int
    commit_timeout_s: float
    producer_expiry_ms: int | None
    transactional_id_expiry_ms: int | None
    group_expiry_ms: int | None
    max_producers: int
    max_transaction_bytes: int
    max_transaction_timeout_ms: int


class Log:
    """A log that is open; made by ``Log.open``.

    Safe to use from several threads. Producers and consumers are made from it, and closed with it. A process that is
    forked off cannot use a log that was open before: what it inherited raises ``StoreForkedError``, and so does opening
    it. Open a log after the fork, or start processes by spawning them.

    Attributes:
        native: The log of the extension module, for what this class does not offer.
        clock: Where producers and consumers take the time from.
    """

    def __init__(self, native: _native.Log, clock: Clock, upkeep_interval_s: float | None) -> None:
        self.native = native
        self.clock = clock
        self._time = LogTime(native, clock)
        self._clients: weakref.WeakSet[_Client] = weakref.WeakSet()
        self._upkeep = None if upkeep_interval_s is None else Upkeep(native, self._time, upkeep_interval_s)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        create: bool = True,
        read_only: bool = False,
        upkeep_interval_s: float | None = 10.0,
        clock: Clock | None = None,
        **bounds: Unpack[Bounds],
    ) -> Log:
        """Opens or creates a log.

        Args:
            path: The directory.
            create: Whether to create what is missing.
            read_only: Only read: no producers, no members of groups.
            upkeep_interval_s: How often a background thread calls ``maintain``; None: never, you call it. Without
                upkeep nothing is retired, and transactions of programs that have died stay open (which delays nobody).
            clock: The system's by default.
            bounds: ``map_size_bytes`` (address space, default 256 GiB), ``commit_timeout_s`` (how long to wait for
                another process that commits, 10 s), ``producer_expiry_ms`` (1 day), ``transactional_id_expiry_ms``
                (7 days), ``group_expiry_ms`` (a group that has no members and commits nothing for so long is forgotten
                with its offsets; 7 days, None: never), ``max_producers`` (100,000), ``max_transaction_bytes`` (64 GiB),
                ``max_transaction_timeout_ms`` (1 hour).

        Raises:
            StoreError: Its subclasses say why the directory cannot be used.
            ConfigurationError: A bound that cannot be.
        """
        check_clock("clock", clock)
        if upkeep_interval_s is not None:
            check_seconds("upkeep_interval_s", upkeep_interval_s, above=True, most=threading.TIMEOUT_MAX)
        if "commit_timeout_s" in bounds:
            check_seconds("commit_timeout_s", bounds["commit_timeout_s"], most=threading.TIMEOUT_MAX)
        native = _native.Log.open(path, create=create, read_only=read_only, **bounds)
        return cls(native, clock or SystemClock(), None if read_only else upkeep_interval_s)

    @property
    def path(self) -> str:
        """The directory."""
        return self.native.path

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self.native.closed

    def create_topic(self, name: str, *, exist_ok: bool = False, **settings: Unpack[TopicSettings]) -> None:
        """Makes a topic.

        Args:
            name: ASCII letters, digits, ``.``, ``_``, ``-``; at most 249.
            exist_ok: Whether a topic of this name may be there; it stays as it is.
            settings: ``partitions`` (1); ``retention_ms`` and ``retention_bytes`` (of a partition): what is older, or
                lies beyond the newest so many bytes, is removed by the upkeep in whole batches (None: nothing is);
                ``cleanup_policy``: ``"delete"``, or ``"compact"`` to
                keep the newest record of each key; ``delete_retention_ms``: how long ``"compact"`` keeps a null value
                from when it saw it first (1 day); ``max_record_bytes`` (about 1 MiB).

        Raises:
            TopicExistsError: There is one of this name.
            ConfigurationError: A name or setting that cannot be.
        """
        try:
            self.native.create_topic(name, **settings)
        except TopicExistsError:
            if not exist_ok:
                raise

    def alter_topic(self, name: str, **changes: Unpack[TopicSettings]) -> None:
        """Changes the settings that are given. There can be more partitions, not fewer.

        New partitions change where keys go: records of one key may then be in two partitions.

        Raises:
            UnknownTopicOrPartitionError: No such topic.
            ConfigurationError: A setting that cannot be.
        """
        self.native.alter_topic(name, **changes)

    def delete_topic(self, name: str) -> None:
        """Removes a topic and its records at once; the upkeep frees their space.

        Raises:
            UnknownTopicOrPartitionError: No such topic.
        """
        self.native.delete_topic(name)

    def topics(self) -> Topics:
        """All topics, by name; ``"payments" in log.topics()`` tells whether there is one."""
        return Topics(self.native.topics())

    def topic(self, name: str) -> LogTopic:
        """One topic.

        Raises:
            UnknownTopicOrPartitionError: No such topic.
        """
        return self.native.topic(name)

    def partition(self, topic: str, partition: int) -> LogPartition:
        """Where a partition begins and ends, and how much it holds.

        Raises:
            UnknownTopicOrPartitionError: No such partition.
        """
        return self.native.partition(topic, partition)

    def groups(self) -> list[LogGroup]:
        """All consumer groups: members, their partitions, committed offsets."""
        return self.native.groups()

    def delete_group(self, group: str) -> None:
        """Forgets a group and its offsets.

        Raises:
            ConfigurationError: It has members.
        """
        self.native.delete_group(group)

    def transactions(self) -> list[LogProducerInfo]:
        """All transactional producers, by id: their epochs, and what they have open.

        A transaction is known here as soon as some of it has been staged on the disk; a small one never is.
        """
        return self.native.producers()

    def maintain(self) -> LogMaintained:
        """One bounded slice of upkeep, as the background thread of ``open`` does it; call it again while ``more``.

        Aborts transactions that are open for too long, removes what retention, compaction and deleted topics leave,
        declares members of groups dead whose heartbeats have stopped, forgets silent producers, and groups that have
        had no members and committed nothing for long.
        """
        return self.native.maintain(now_ms=self._time.now_ms())

    def now_ms(self) -> int:
        """What the log's clock shows, in milliseconds: what timeouts, retention and expiry are measured by.

        About those since 1970, but it goes on when the wall clock is set. The times of members, transactions and
        committed offsets (``last_heartbeat_ms`` and the like) are by this clock.
        """
        return self._time.now_ms()

    def size(self) -> tuple[int, int]:
        """Bytes of the file, and bytes of it that are in use; what is not is used again."""
        return self.native.size()

    def backup(self, target: str | os.PathLike[str]) -> None:
        """A consistent copy into a directory that does not exist yet, while everybody goes on."""
        self.native.backup(target)

    def close(self) -> None:
        """Closes this handle, and the producers and consumers that were made from it, as their own ``close`` does.

        The last handle of the process closes the file: then nothing of it is open or mapped any more.

        Raises:
            LogError: What a producer or consumer could not write. All is closed nevertheless.
        """
        self.__exit__(None, None, None)

    def add_client(self, client: _Client) -> None:
        """Has a producer or consumer closed with the log."""
        self._clients.add(client)

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._upkeep is not None:
            self._upkeep.stop()
        with ExitStack() as closing:
            closing.callback(self.native.close)
            for client in list(self._clients):
                closing.callback(client.__exit__, kind, error, trace)

    def __repr__(self) -> str:
        return f"Log({self.path!r}{', closed' if self.closed else ''})"
