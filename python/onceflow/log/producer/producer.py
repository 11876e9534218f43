"""Writes records: one by one through a buffer, or whole batches; in transactions or without."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TypeVar

import numpy as np

from onceflow import _native
from onceflow.clock import Clock
from onceflow.exceptions import (
    BackendClosedError,
    BufferFullError,
    ConfigurationError,
    InvalidTransactionStateError,
    LogError,
    LogTimeoutError,
    OnceflowError,
    ProducerFencedError,
    RecordTooLargeError,
    StoreForkedError,
    StoreIOError,
    TransactionAbortedError,
    TypeMismatchError,
    UnknownTopicOrPartitionError,
)
from onceflow.log.buffer import Batch, OnDelivery, Pending, Places, Produced, Report
from onceflow.log.forgetting import when_forgotten
from onceflow.log.log import Log
from onceflow.log.log_time import LogTime
from onceflow.log.membership import ConsumerGroupMetadata
from onceflow.log.message import Headers
from onceflow.log.settings import (
    check_callback,
    check_clock,
    check_items,
    check_log,
    check_name,
    check_number,
    check_seconds,
    check_timeout,
    check_whole,
    told,
)
from onceflow.log.topic_partition import Positions, TopicPartition
from onceflow.types import FIRST_MICROS, LAST_MICROS

__all__ = ["Producer"]

_T = TypeVar("_T")

#: Errors after which nobody knows whether the call was applied; the native producer keeps and repeats it.
_UNANSWERED = (LogTimeoutError, StoreIOError)
#: What a record costs besides its bytes, at least.
_OVERHEAD_BYTES = 100
#: How long to wait between repetitions of a call that got no answer because of the disk.
_REPEAT_AFTER_S = 0.05
#: How columns can be read, by what they have.
_COLUMN = ("__iter__", "__arrow_c_array__", "__arrow_c_stream__", "__array__")


class Producer:
    """An idempotent producer or, with a transactional id, a transactional one.

    ``produce`` puts a record into a buffer, and a background thread writes what is there: while one batch is being
    synced to the disk the next one grows. A record is acknowledged when it is durable; then its ``on_delivery`` is
    called, by ``poll``, ``flush`` or the end of the transaction, in the thread that calls them. A callback may produce,
    and poll: what is due is called after it. ``produce_many`` writes a whole batch, and outside of transactions it is
    durable when it returns.

    Records of one partition are in the log in the order in which they were produced, each exactly once, whatever had to
    be repeated. Safe to use from several threads; a transaction is one for all of them.

    Close it, or use it as a context manager: what is still in the buffer when the program ends is lost.

    Args:
        log: An open log.
        transactional_id: Names this producer beyond its life: a newer producer with the same id fences this one.
        transaction_timeout_ms: A transaction that is open for longer is aborted, and its producer fenced.
        linger_s: How long the first record of a batch waits for more.
        max_buffered_records: Records that are not acknowledged yet, and reports that nobody has asked for.
        max_buffered_bytes: The same in bytes. A transaction takes as much again before it goes to the disk.
        max_block_s: How long ``produce`` waits for room in the buffer before it raises ``BufferFullError``.
        delivery_timeout_s: How long a write is repeated that gets no answer, as while another process holds the log.
        clock: The log's by default.

    Raises:
        StoreReadOnlyError: The log was opened for reading.
        ConfigurationError: An argument that cannot be.
    """

    def __init__(
        self,
        log: Log,
        *,
        transactional_id: str | None = None,
        transaction_timeout_ms: int = 60_000,
        linger_s: float = 0.001,
        max_buffered_records: int = 100_000,
        max_buffered_bytes: int = 16 << 20,
        max_block_s: float = 60.0,
        delivery_timeout_s: float = 120.0,
        clock: Clock | None = None,
    ) -> None:
        check_log("Producer", log)
        check_name("transactional_id", transactional_id)
        check_whole("transaction_timeout_ms", transaction_timeout_ms)
        check_whole("max_buffered_records", max_buffered_records)
        check_whole("max_buffered_bytes", max_buffered_bytes)
        check_seconds("linger_s", linger_s)
        check_seconds("max_block_s", max_block_s)
        check_seconds("delivery_timeout_s", delivery_timeout_s)
        check_clock("clock", clock)
        self._log_time = LogTime(log.native, clock or log.clock)
        self._log = log.native
        self._native = _native.LogProducer(
            log.native,
            now_ms=self._now_ms(),
            transactional_id=transactional_id,
            transaction_timeout_ms=transaction_timeout_ms,
            max_buffered_bytes=max_buffered_bytes,
        )
        self._transactional_id = transactional_id
        self._linger_s = min(linger_s, threading.TIMEOUT_MAX)
        self._max_records = max_buffered_records
        self._max_bytes = max_buffered_bytes
        self._max_block_s = max_block_s
        self._delivery_timeout_s = delivery_timeout_s
        self._transaction_timeout_s = transaction_timeout_ms / 1000
        self._topics: dict[str, _native.LogTopic] = {}
        self._names: dict[int, str] = {}
        #: Set: ``produce`` has to look at ``_closed``, ``_pid`` and ``_failure`` before it takes a record.
        self._halted = False
        self._closed = False
        self._pid = os.getpid()
        #: What became of records without a callback, until somebody can be told.
        self._failure: OnceflowError | None = None
        #: Whether records are taken: always, or while a transaction is open whose end nobody has asked for.
        self._accepting = transactional_id is None
        #: Why the open transaction can only be aborted.
        self._refused: OnceflowError | None = None
        #: The native producer has a write that got no answer.
        self._unanswered = False
        self._turn = 0
        self._reset_threads()
        log.add_client(self)

    def _reset_threads(self) -> None:
        #: Guards everything below. Held for moments.
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._reported = threading.Condition(self._lock)
        self._pending: dict[str, Pending] = {}
        self._records = 0
        self._bytes = 0
        self._reports: deque[Report] = deque()
        #: Threads that are calling callbacks.
        self._serving: set[int] = set()
        #: Batches of the open transaction whose records have callbacks.
        self._held: list[Batch] = []
        #: Held while batches go to the native producer: keeps their order. Taken before ``_lock``.
        self._sending = threading.RLock()
        self._wake = threading.Event()
        self._full = threading.Event()
        self._flusher: threading.Thread | None = None

    # ---- what it is ----------------------------------------------------------------------------

    @property
    def transactional_id(self) -> str | None:
        """As given."""
        return self._transactional_id

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open, or its end has not been answered."""
        return not self._closed and self._native.in_transaction

    def __len__(self) -> int:
        """Records that are not acknowledged yet, and reports that nobody has asked for."""
        return self._records

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        who = "idempotent" if self._transactional_id is None else f"transactional_id={self._transactional_id!r}"
        return f"Producer({self._log.path!r}, {who}{', closed' if self._closed else ''})"

    # ---- records ---------------------------------------------------------------------------------

    def produce(
        self,
        topic: str,
        value: bytes | str | None = None,
        key: bytes | str | None = None,
        partition: int = -1,
        on_delivery: OnDelivery | None = None,
        timestamp: int | None = None,
        headers: Mapping[str, bytes | str | None] | Iterable[tuple[str, bytes | str | None]] | None = None,
    ) -> None:
        """Takes a record into the buffer.

        Args:
            topic: Must exist.
            value: Strings become UTF-8. None deletes the key of a compacted topic.
            key: Chooses the partition, unless ``partition`` does; records without a key are spread evenly.
            partition: -1: by key.
            on_delivery: Called with ``(error, message)``: error None when the record is durable, in a transaction when
                it is committed.
            timestamp: Milliseconds since 1970, in the years 1 to 9999; None: now.
            headers: A dict, or pairs of a name and a value.

        Raises:
            UnknownTopicOrPartitionError, RecordTooLargeError, TypeMismatchError: The record cannot be written.
            ConfigurationError: A timestamp outside of those years.
            BufferFullError: There was no room for ``max_block_s``; the record was not taken.
            InvalidTransactionStateError: A transactional producer outside of a transaction.
            LogError: What became of earlier records that nobody was told about.
        """
        if type(value) is not bytes:
            value = _as_bytes("value", value)
        if type(key) is not bytes and key is not None:
            key = _as_bytes("key", key)
        if headers is not None:
            headers = _checked_headers(headers)
        if timestamp is not None:
            timestamp = _checked_timestamp(timestamp)
        size = _OVERHEAD_BYTES + (0 if value is None else len(value)) + (0 if key is None else len(key))
        if type(topic) is not str or type(partition) is not int or on_delivery is not None:
            _check_topic("produce", topic)
            partition = check_number("produce: partition", partition)
            check_callback("produce: on_delivery", on_delivery)
        known = self._topics.get(topic)
        if known is None or partition >= known.partitions or partition < -1 or size > known.max_record_bytes:
            self._check_record(topic, partition, size - _OVERHEAD_BYTES)
        with self._lock:
            if self._halted or self._records >= self._max_records or self._bytes + size > self._max_bytes:
                self._make_room(size)
            pending = self._pending.get(topic)
            if pending is None:
                pending = self._first_of(topic)
            if partition != -1 or on_delivery is not None or timestamp is not None or headers is not None:
                pending.extras[len(pending.values)] = (partition, timestamp, headers, on_delivery)
            pending.values.append(value)
            pending.keys.append(key)
            pending.nbytes += size
            self._bytes += size
            self._records += 1

    def produce_many(
        self,
        topic: str,
        values: Any = None,
        keys: Any = None,
        *,
        partition: Any = -1,
        timestamps: Any = None,
        headers: Sequence[Any] | None = None,
    ) -> list[Produced]:
        """Writes a batch of records, all or none, after those that were produced before.

        Outside of transactions they are durable when it returns; inside, when the transaction is committed.

        Args:
            topic: Must exist.
            values: One a record: a list of bytes, str and None, an Arrow column of binary or strings (through the
                PyCapsule interface), or a numpy array of uint8 with one row a record. None: all null.
            keys: The same. Without ``partition`` the key chooses it; all records without a key go to one partition.
            partition: -1: by key. An int for all, or one a record.
            timestamps: Milliseconds since 1970, in the years 1 to 9999: an int for all, or one a record (integers,
                numpy, an Arrow column of integers, or of timestamps, which are cut to milliseconds); None: now.
            headers: One a record: a dict, a list of pairs, or None.

        Returns:
            Where the records are, by partition; nothing inside of a transaction.

        Raises:
            UnknownTopicOrPartitionError, RecordTooLargeError, LengthMismatchError, TypeMismatchError: None was written.
            ConfigurationError: A timestamp outside of those years; none was written.
            InvalidTransactionStateError, ProducerFencedError: None was written.
            LogTimeoutError, StoreIOError: Nobody knows yet; ``flush`` finds out. Do not produce them again.
            BufferFullError: An earlier batch still has no answer; none of these was taken. ``flush``, then produce
                them again.
        """
        _check_topic("produce_many", topic)
        for name, column in (("values", values), ("keys", keys), ("headers", headers)):
            if column is not None and not any(hasattr(column, way) for way in _COLUMN):
                raise TypeMismatchError(f"produce_many: {name} is {column!r}; give a list or a column, one a record")
        one_for_all = isinstance(partition, int)
        with self._sending:
            self._check_usable()
            self._drain()
            self._settle_before()
            try:
                places = self._native.produce(
                    topic,
                    values,
                    now_ms=self._now_ms(),
                    wall_ms=self._log_time.wall_ms(),
                    keys=keys,
                    timestamps=timestamps,
                    headers=headers,
                    partition=None if one_for_all and partition == -1 else partition,
                )
            except _UNANSWERED:
                self._unanswered = True
                raise
            except (UnicodeEncodeError, TypeError, OverflowError) as error:
                if isinstance(error, OnceflowError):
                    raise
                raise TypeMismatchError(f"produce_many takes none of these records: {error}") from error
            return self._produced(places)

    def poll(self, timeout: float = 0.0) -> int:
        """Calls the ``on_delivery`` of records that are acknowledged.

        Args:
            timeout: How long to wait for the first of them, in seconds.

        Returns:
            How many were called.

        Raises:
            LogError: What became of earlier records without a callback.
        """
        check_timeout("poll: timeout", timeout)
        if timeout is None:
            raise ConfigurationError("poll: timeout is None; give seconds, such as 1.0")
        if timeout > 0:
            with self._lock:
                timeout = min(timeout, threading.TIMEOUT_MAX)
                self._reported.wait_for(lambda: self._reports or self._failure or not self._records, timeout)
        served = self._serve()
        self._raise_failure()
        return served

    def flush(self, timeout: float | None = -1) -> int:
        """Waits until all records are acknowledged, and calls what their ``on_delivery`` says.

        In a transaction records are acknowledged by its end; there it only empties the buffer.

        Args:
            timeout: At most so many seconds; -1 or None: as long as it takes.

        Returns:
            Records that are still waiting.

        Raises:
            LogError: What became of records without a callback.
            LogTimeoutError, StoreIOError: A batch of ``produce_many`` still has no answer; call it again.
        """
        check_timeout("flush: timeout", timeout)
        self._check_usable()
        if timeout is None or timeout < 0:
            with self._sending:
                self._drain()
                self._settle(self._delivery_timeout_s)
        else:
            self._flush_within(time.monotonic() + timeout)
        self._serve()
        self._raise_failure()
        with self._lock:
            return self._unwritten()

    def _flush_within(self, deadline: float) -> None:
        """Leaves the writing to the background thread, which may take longer than the caller wants to wait."""
        with self._lock:
            self._full.set()
            left = min(deadline - time.monotonic(), threading.TIMEOUT_MAX)
            self._room.wait_for(lambda: not self._unwritten(), left)
            if self._unwritten():
                return
        # What is left is a batch without an answer.
        left = min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX)
        if self._unanswered and self._sending.acquire(timeout=left):
            try:
                self._settle(max(0.0, deadline - time.monotonic()))
            finally:
                self._sending.release()

    def _unwritten(self) -> int:
        """Called with the lock held: records that are neither acknowledged nor kept for the end of a transaction."""
        return self._records - len(self._reports) - sum(len(batch) for batch in self._held)

    # ---- transactions ----------------------------------------------------------------------------

    def init_transactions(self, timeout: float | None = None) -> None:
        """Fences every older producer of this transactional id and aborts what it left open; call it once, first.

        Raises:
            ProducerFencedError: A newer producer has taken over.
            LogTimeoutError: Another process held the log for too long; call it again.
        """
        check_timeout("init_transactions: timeout", timeout)
        self._repeated(lambda: self._native.init_transactions(now_ms=self._now_ms()), timeout)

    def begin_transaction(self) -> None:
        """Begins a transaction; what is produced from now on belongs to it.

        Raises:
            InvalidTransactionStateError: ``init_transactions`` was not called, or a transaction is open.
            ProducerFencedError: A newer producer has taken over.
        """
        with self._sending:
            self._check_usable()
            self._native.begin_transaction(now_ms=self._now_ms())
            if self._held:
                self._end(
                    None, LogTimeoutError("the end of the transaction was interrupted: nobody knows which it was")
                )
            self._refused = None
            self._accepting = True

    def send_offsets_to_transaction(
        self,
        positions: Iterable[TopicPartition],
        group_metadata: ConsumerGroupMetadata | None = None,
        timeout: float | None = None,
        *,
        group_id: str | None = None,
    ) -> None:
        """Commits positions of a consumer group with the transaction, or not at all.

        Args:
            positions: ``Consumer.positions()``: the next offset to read of each partition.
            group_metadata: ``Consumer.consumer_group_metadata()``. Not needed with what ``Consumer.positions``
                returned, which knows it.
            timeout: For compatibility; nothing is waited for.
            group_id: Instead of ``group_metadata``: the group.

        Raises:
            InvalidTransactionStateError: No transaction is open.
            ConfigurationError: Not clear which group.
        """
        check_name("send_offsets_to_transaction: group_id", group_id)
        if group_metadata is not None and not isinstance(group_metadata, ConsumerGroupMetadata):
            raise ConfigurationError(
                f"send_offsets_to_transaction: group_metadata is {group_metadata!r}; give what "
                "Consumer.consumer_group_metadata() returns"
            )
        chosen = check_items(
            "send_offsets_to_transaction: positions", positions, TopicPartition, "consumer.positions()"
        )
        if group_metadata is None and isinstance(positions, Positions):
            group_metadata = positions.group_metadata
        if group_metadata is None and group_id is None:
            raise ConfigurationError("whose offsets are these? give group_metadata or group_id")
        if group_metadata is not None and group_id not in (None, group_metadata.group_id):
            raise ConfigurationError(
                f"these are positions of group {group_metadata.group_id!r}; they cannot be committed for {group_id!r}"
            )
        metadata = group_metadata or ConsumerGroupMetadata(str(group_id))
        offsets = [(each.topic, each.partition, _real_offset(each), each.metadata) for each in chosen]
        with self._sending:
            self._check_usable()
            self._native.send_offsets(
                metadata.group_id,
                offsets,
                now_ms=self._now_ms(),
                member=metadata.member_id,
                generation=metadata.generation,
            )

    def commit_transaction(self, timeout: float | None = None) -> None:
        """Makes all of the transaction visible at once, durably; then calls its records' ``on_delivery``.

        Args:
            timeout: How long to repeat it while there is no answer; None: the transaction's timeout.

        Raises:
            ProducerFencedError, TransactionTimedOutError: Nothing of it is there.
            InvalidTransactionStateError: Part of it was refused; abort it. Or no transaction is open.
            GroupFencedError: The consumer whose offsets it has is no member any more; abort it.
            LogTimeoutError, StoreIOError: Nobody knows; only ``commit_transaction`` may be called, again.
        """
        check_timeout("commit_transaction: timeout", timeout)
        with self._sending:
            self._check_usable()
            self._accepting = False
            self._drain()
            if self._refused is not None and not isinstance(self._refused, ProducerFencedError):
                raise InvalidTransactionStateError(
                    f"part of the transaction was refused, so abort it: {self._refused}"
                ) from self._refused
            try:
                places = self._repeated(lambda: self._native.commit_transaction(now_ms=self._now_ms()), timeout)
            except _UNANSWERED:
                raise
            except OnceflowError as error:
                self._end(None, error)
                raise
            self._end(places, None)
        self._serve()

    def abort_transaction(self, timeout: float | None = None) -> None:
        """Ends the transaction without a trace; its records' ``on_delivery`` get ``TransactionAbortedError``.

        Args:
            timeout: How long to repeat it while there is no answer; None: the transaction's timeout.

        Raises:
            InvalidTransactionStateError: No transaction is open.
            ProducerFencedError: A newer producer has taken over, which has aborted it.
            LogTimeoutError, StoreIOError: Nobody knows; only ``abort_transaction`` may be called, again. The
                transaction will not appear.
        """
        check_timeout("abort_transaction: timeout", timeout)
        with self._sending:
            self._check_usable()
            self._accepting = False
            self._drop_pending()
            aborted = TransactionAbortedError("the transaction of this record was aborted")
            try:
                self._repeated(lambda: self._native.abort_transaction(now_ms=self._now_ms()), timeout)
            except (*_UNANSWERED, ProducerFencedError):
                # It will not appear, whoever aborts it in the end.
                self._end(None, aborted)
                raise
            self._refused = None
            self._end(None, aborted)
        self._serve()

    @contextmanager
    def transaction(self) -> Iterator[Producer]:
        """A transaction around a block: committed at its end, aborted if it raises.

        What the block raised is raised on, also if the abort fails: a producer that was fenced has nothing left to
        abort, and an abort without an answer must be repeated (``abort_transaction``), which a note on the exception
        says. A commit that is refused is aborted; one without an answer stays open for another
        ``commit_transaction``. If the block ends the transaction itself, nothing more is done.
        """
        self.begin_transaction()
        try:
            yield self
        except BaseException as error:
            self._abort_because_of(error)
            raise
        if not self.in_transaction:
            return
        try:
            self.commit_transaction()
        except _UNANSWERED:
            raise
        except OnceflowError as error:
            self._abort_because_of(error)
            raise

    def _abort_because_of(self, error: BaseException) -> None:
        if not self.in_transaction:
            return
        try:
            self.abort_transaction()
        except OnceflowError as failed:
            error.add_note(f"The transaction could not be aborted either; it will not appear. {failed}")

    # ---- the end -----------------------------------------------------------------------------------

    def close(self, timeout: float | None = -1) -> None:
        """Writes what is in the buffer and ends the background thread. An open transaction is aborted.

        Args:
            timeout: How long to wait for what is in the buffer, in seconds; -1 or None: as long as it takes.

        Raises:
            LogError: What became of records without a callback. The producer is closed nevertheless.
        """
        check_timeout("close: timeout", timeout)
        if self._closed:
            return
        if self._pid != os.getpid():
            # What is in the buffer, and the log, belong to another process.
            self._closed = self._halted = True
            return
        try:
            if self._transactional_id is None:
                left = self.flush(timeout)
                if left:
                    raise LogTimeoutError(f"{left} records were not acknowledged before the producer was closed")
            elif self.in_transaction:
                self.abort_transaction()
        finally:
            with self._lock:
                self._closed = self._halted = True
                self._wake.set()
                self._full.set()
            if self._flusher is not None and self._flusher is not threading.current_thread():
                self._flusher.join()
            self._native.close()

    def __enter__(self) -> Producer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            return
        try:
            self.close()
        except OnceflowError as failed:
            error.add_note(f"Closing the producer failed too: {failed}")

    # ---- the way to the log ------------------------------------------------------------------------

    def _now_ms(self) -> int:
        return self._log_time.now_ms()

    def _check_usable(self) -> None:
        if self._pid != os.getpid():
            raise StoreForkedError(
                f"the producer was made by process {self._pid} and is used in process {os.getpid()}, forked from it: "
                "fork before the log is opened, or start the process by spawning it"
            )
        if self._closed:
            raise BackendClosedError("the producer was closed; make a new one")

    def _check_record(self, topic: str, partition: int, size: int) -> None:
        """Refuses a record that cannot be written, by what the log says now."""
        self._check_usable()
        known = self._topics[topic] = self._log.topic(topic)
        self._names[known.number] = topic
        if not -1 <= partition < known.partitions:
            raise UnknownTopicOrPartitionError(
                f"topic {topic!r} has {known.partitions} partitions, from 0; there is no {partition}"
            )
        if size > known.max_record_bytes:
            raise RecordTooLargeError(
                f"key and value have {size} bytes; topic {topic!r} takes {known.max_record_bytes} (max_record_bytes)"
            )

    def _make_room(self, size: int) -> None:
        """Called with the lock held: waits until a record of this size may be taken."""
        deadline = time.monotonic() + self._max_block_s
        while True:
            self._check_usable()
            if self._failure is not None:
                failure, self._failure, self._halted = self._failure, None, False
                raise failure
            # One record is always taken, however large.
            if self._records < self._max_records and (self._bytes + size <= self._max_bytes or not self._bytes):
                return
            held = sum(len(batch) for batch in self._held)
            if held >= self._max_records:
                raise BufferFullError(
                    f"{held} records of the transaction wait to report their delivery; commit it, raise "
                    "max_buffered_records, or produce without on_delivery"
                )
            self._full.set()
            if self._reports and threading.get_ident() not in self._serving:
                self._lock.release()
                try:
                    self._serve()
                finally:
                    self._lock.acquire()
                continue
            left = deadline - time.monotonic()
            if left <= 0:
                raise BufferFullError(
                    f"{self._records} records of {self._bytes} bytes wait to be written, and none was within "
                    f"{self._max_block_s} s; produce more slowly, or raise max_buffered_records and max_buffered_bytes"
                )
            self._room.wait(min(left, threading.TIMEOUT_MAX))

    def _first_of(self, topic: str) -> Pending:
        """Called with the lock held: where records of a topic go that has none waiting."""
        if not self._accepting:
            raise InvalidTransactionStateError(
                "produce: no transaction is open that takes records; end the one that failed, if there is one, and "
                "call begin_transaction"
            )
        if self._flusher is None:
            _PRODUCERS.add(self)
            self._flusher = threading.Thread(
                target=_flush_in_background,
                args=(weakref.ref(self), self._wake, self._full, self._linger_s),
                name="onceflow-producer",
                daemon=True,
            )
            when_forgotten(self, self._wake.set)
            self._flusher.start()
        pending = self._pending[topic] = Pending(topic)
        self._wake.set()
        return pending

    def _take_pending(self) -> list[Pending]:
        with self._lock:
            if not self._closed:
                self._wake.clear()
                self._full.clear()
            pending, self._pending = self._pending, {}
            return list(pending.values())

    def _drain(self) -> None:
        """Gives all that is in the buffer to the native producer."""
        with self._sending:
            for pending in self._take_pending():
                self._send(pending)

    def _drop_pending(self) -> None:
        """Forgets what is in the buffer: its transaction is aborted."""
        error = TransactionAbortedError("the transaction of this record was aborted")
        for pending in self._take_pending():
            self._acknowledge(self._batch(pending), None, error, tell=False)

    def _batch(self, pending: Pending) -> Batch:
        self._turn += 1
        return Batch(pending, self._topics[pending.topic].partitions, self._turn, self._log_time.wall_ms())

    def _send(self, pending: Pending) -> None:
        batch = self._batch(pending)
        try:
            self._settle_before()
            places = self._append(batch)
        except Exception as failed:
            # Whatever it is: the records are counted as waiting, and who flushes would wait for ever.
            error = told(failed)
            if self._transactional_id is not None:
                # The commit will tell.
                self._refused = self._refused or error
                self._acknowledge(batch, None, error, tell=not self._native.in_transaction)
            elif (
                len(pending) > 1
                and isinstance(error, LogError)
                and not isinstance(error, (*_UNANSWERED, BufferFullError))
            ):
                # One record may have spoiled it for all, if the topic was changed in between.
                for one in pending.one_by_one():
                    self._send(one)
            else:
                self._acknowledge(batch, None, error)
            return
        if self._transactional_id is not None:
            self._hold(batch)
        else:
            self._acknowledge(batch, places, None)

    def _append(self, batch: Batch) -> Places | None:
        """Writes a batch; None: it belongs to a transaction, which it is kept for."""
        try:
            places = self._native.produce(
                batch.topic,
                batch.values,
                now_ms=self._now_ms(),
                wall_ms=self._log_time.wall_ms(),
                keys=batch.keys,
                timestamps=batch.timestamps,
                headers=batch.headers,
                partition=batch.partitions,
            )
        except _UNANSWERED:
            self._unanswered = True
            if self._transactional_id is not None:
                # It is repeated before the commit.
                return None
            places = self._settle(self._delivery_timeout_s)
        return Places(self._produced(places))

    def _settle(self, timeout: float) -> list[tuple[int, int, int, int]]:
        """Repeats a write that got no answer, until it has one or the time is over; says where its records are."""
        if not self._unanswered:
            return []
        places = self._repeated(lambda: self._native.flush(now_ms=self._now_ms()), timeout)
        self._unanswered = False
        return places

    def _settle_before(self) -> None:
        """The same before other records are written; an error says that those were not taken."""
        try:
            self._settle(self._delivery_timeout_s)
        except _UNANSWERED as error:
            raise BufferFullError(
                f"an earlier batch still has no answer, so these records were not taken: {error}; "
                "call flush until it succeeds, then produce them again"
            ) from error

    def _repeated(self, call: Callable[[], _T], timeout: float | None) -> _T:
        """Makes a call until it has an answer."""
        deadline = time.monotonic() + (self._transaction_timeout_s if timeout is None or timeout < 0 else timeout)
        while True:
            self._check_usable()
            try:
                return call()
            except _UNANSWERED:
                if time.monotonic() + _REPEAT_AFTER_S >= deadline:
                    raise
                time.sleep(_REPEAT_AFTER_S)

    def _produced(self, places: Iterable[tuple[int, int, int, int]]) -> list[Produced]:
        return [Produced(self._name(topic), partition, first, count) for topic, partition, first, count in places]

    def _name(self, number: int) -> str:
        name = self._names.get(number)
        if name is None:
            self._names = {topic.number: topic.name for topic in self._log.topics()}
            # A topic that was deleted a moment ago has none.
            name = self._names.get(number, "")
        return name

    # ---- and back ------------------------------------------------------------------------------------

    def _hold(self, batch: Batch) -> None:
        """The transaction's end will tell what becomes of the batch."""
        with self._lock:
            self._bytes -= batch.nbytes
            if batch.callbacks is None:
                self._records -= len(batch)
            else:
                self._held.append(batch)
            self._room.notify_all()

    def _end(self, native_places: Iterable[tuple[int, int, int, int]] | None, error: OnceflowError | None) -> None:
        """The transaction has ended: its records have a place, or an error."""
        with self._lock:
            held, self._held = self._held, []
        places = Places(self._produced(native_places)) if held and native_places is not None else None
        for batch in held:
            reports = batch.reports(places, error)
            with self._lock:
                self._records -= len(batch) - len(reports)
                self._reports.extend(reports)
                self._room.notify_all()
                self._reported.notify_all()

    def _acknowledge(
        self, batch: Batch, places: Places | None, error: OnceflowError | None, *, tell: bool = True
    ) -> None:
        """Records outside of transactions have a place, or an error; without a callback, somebody must be told it."""
        reports = batch.reports(places, error)
        with self._lock:
            self._bytes -= batch.nbytes
            self._records -= len(batch) - len(reports)
            self._reports.extend(reports)
            if error is not None and len(reports) < len(batch) and tell and self._failure is None:
                self._failure = error
                self._halted = True
            self._room.notify_all()
            self._reported.notify_all()

    def _serve(self) -> int:
        """Calls the callbacks that are due; one that raises stops it, and the rest stay due."""
        thread = threading.get_ident()
        if thread in self._serving:
            # A callback polls: the call that it is in goes on with the others.
            return 0
        served = 0
        self._serving.add(thread)
        try:
            while True:
                with self._lock:
                    if not self._reports:
                        return served
                    report = self._reports.popleft()
                    self._records -= 1
                    self._room.notify_all()
                served += 1
                report.on_delivery(report.error, report.message)
        finally:
            self._serving.discard(thread)

    def _raise_failure(self) -> None:
        with self._lock:
            if self._failure is None:
                return
            failure, self._failure = self._failure, None
            self._halted = self._closed
        raise failure


def _real_offset(position: TopicPartition) -> int:
    if position.offset < 0:
        raise ConfigurationError(f"{position} has no offset that could be committed")
    return position.offset


def _check_topic(method: str, given: object) -> None:
    if not isinstance(given, str):
        raise ConfigurationError(f"{method}: topic is {given!r}; give the name of a topic, a str")


def _as_bytes(what: str, given: object) -> bytes | None:
    if given is None or isinstance(given, bytes):
        return given
    if isinstance(given, str):
        try:
            return given.encode()
        except UnicodeEncodeError as error:
            raise TypeMismatchError(f"the {what} cannot be UTF-8, give bytes: {error}") from error
    if isinstance(given, (bytearray, memoryview)):
        return bytes(given)
    raise TypeMismatchError(f"the {what} is a {type(given).__name__}, not bytes, str or None; encode it first")


def _checked_timestamp(timestamp: object) -> int:
    if isinstance(timestamp, bool) or not isinstance(timestamp, (int, np.integer)):
        raise TypeMismatchError(f"the timestamp is a {type(timestamp).__name__}, not milliseconds since 1970 as an int")
    if not FIRST_MICROS <= int(timestamp) * 1000 <= LAST_MICROS:
        raise ConfigurationError(
            f"the timestamp {timestamp} lies outside of the years 1 to 9999: it is milliseconds since 1970"
        )
    return int(timestamp)


def _checked_headers(headers: object) -> Headers | None:
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    try:
        checked = [(name, _as_bytes("value of a header", value)) for name, value in pairs]  # type: ignore[attr-defined]
    except (TypeError, ValueError) as error:
        raise TypeMismatchError(f"headers are a dict, or pairs of a name and a value: {error}") from error
    for name, _ in checked:
        if not isinstance(name, str):
            raise TypeMismatchError(f"the name of a header is a {type(name).__name__}, not a str")
    return checked or None


def _flush_in_background(
    producer: weakref.ref[Producer], wake: threading.Event, full: threading.Event, linger_s: float
) -> None:
    """The background thread: ends with ``close``, or when the producer is forgotten."""
    while True:
        wake.wait()
        full.wait(linger_s)
        alive = producer()
        if alive is None or alive._closed:
            return
        alive._drain()
        del alive


#: Producers with a background thread.
_PRODUCERS: weakref.WeakSet[Producer] = weakref.WeakSet()


def _halt_in_child() -> None:
    """A forked child has the buffers, perhaps locked, but not the threads: nothing may seem to work there."""
    for producer in _PRODUCERS:
        producer._halted = True
        producer._reset_threads()


os.register_at_fork(after_in_child=_halt_in_child)
