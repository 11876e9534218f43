"""Writes records: one by one through a buffer, or whole batches; in transactions or without."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, NoReturn

from onceflow import _native
from onceflow.clock import Clock
from onceflow.exceptions import (
    ConfigurationError,
    InvalidTransactionStateError,
    LogTimeoutError,
    OnceflowError,
    RecordTooLargeError,
    TypeMismatchError,
    UnknownTopicOrPartitionError,
)
from onceflow.log.log import Log
from onceflow.log.log_time import LogTime
from onceflow.log.producer.acknowledgements import Acknowledgements
from onceflow.log.producer.arguments import as_bytes, check_topic, checked_headers, checked_timestamp
from onceflow.log.producer.batches import OnDelivery, Pending, Produced
from onceflow.log.producer.buffer import Buffer
from onceflow.log.producer.sender import UNANSWERED, Sender
from onceflow.log.producer.state import Call, Lifecycle
from onceflow.log.producer.topics import TopicCache
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
)

__all__ = ["Producer"]

#: What a record costs besides its bytes, at least.
_OVERHEAD_BYTES = 100
#: How columns can be read, by what they have.
_COLUMN = ("__iter__", "__arrow_c_array__", "__arrow_c_stream__", "__array__")


class Producer(Acknowledgements):
    """An idempotent producer or, with a transactional id, a transactional one.

    ``produce`` puts a record into a buffer, and a background thread writes what is there: while one batch is being
    synced to the disk the next one grows. A record is acknowledged when it is durable, or in a transaction when that
    has it; then its ``on_delivery`` is called, by ``poll``, ``flush`` or the end of the transaction, in the thread that
    calls them and outside of all locks. A callback may call its producer: what is due is called after it.
    ``produce_many`` writes a whole batch, and outside of transactions it is durable when it returns.

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
        log_time = LogTime(log.native, clock or log.clock)
        native = _native.LogProducer(
            log.native,
            now_ms=log_time.now_ms(),
            transactional_id=transactional_id,
            transaction_timeout_ms=transaction_timeout_ms,
            max_buffered_bytes=max_buffered_bytes,
        )
        lifecycle = Lifecycle(native, transactional=transactional_id is not None)
        buffer = Buffer(
            lifecycle, max_records=max_buffered_records, max_bytes=max_buffered_bytes, max_block_s=max_block_s
        )
        self._topic_cache = TopicCache(log.native)
        self._topics = self._topic_cache.known
        sender = Sender(
            native,
            lifecycle,
            buffer,
            self._topic_cache,
            log_time,
            linger_s=linger_s,
            delivery_timeout_s=delivery_timeout_s,
        )
        super().__init__(
            log.native, native, lifecycle, buffer, sender, log_time, timeout_s=transaction_timeout_ms / 1000
        )
        self._transactional_id = transactional_id
        log.add_client(self)

    # ---- what it is ----------------------------------------------------------------------------

    @property
    def transactional_id(self) -> str | None:
        """As given."""
        return self._transactional_id

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        who = "idempotent" if self._transactional_id is None else f"transactional_id={self._transactional_id!r}"
        return f"Producer({self._log.path!r}, {who}{', closed' if self._lifecycle.closed else ''})"

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
        *,
        callback: OnDelivery | None = None,
    ) -> None:
        """Takes a record into the buffer.

        Args:
            topic: Must exist.
            value: Strings become UTF-8. None deletes the key of a compacted topic.
            key: Chooses the partition, unless ``partition`` does; records without a key are spread evenly.
            partition: -1: by key.
            on_delivery: Called with ``(error, message)``: error None when the record is durable, in a transaction when
                that has it. ``message.offset()`` is None before the commit.
            timestamp: Milliseconds since 1970, in the years 1 to 9999; None: now.
            headers: A dict, or pairs of a name and a value.
            callback: Another name of ``on_delivery``.

        Raises:
            UnknownTopicOrPartitionError, RecordTooLargeError, TypeMismatchError: The record cannot be written.
            ConfigurationError: A timestamp outside of those years.
            BufferFullError: There was no room for ``max_block_s``; the record was not taken.
            InvalidTransactionStateError: A transactional producer outside of a transaction, or in one that was refused
                in part.
            ProducerFencedError: A newer producer has taken over.
            LogError: What became of earlier records that nobody was told about.
        """
        if type(value) is not bytes:
            value = as_bytes("value", value)
        if type(key) is not bytes and key is not None:
            key = as_bytes("key", key)
        if headers is not None:
            headers = checked_headers(headers)
        if timestamp is not None:
            timestamp = checked_timestamp(timestamp)
        if callback is not None:
            on_delivery = callback
        size = _OVERHEAD_BYTES + (0 if value is None else len(value)) + (0 if key is None else len(key))
        if type(topic) is not str or type(partition) is not int or on_delivery is not None:
            check_topic("produce", topic)
            partition = check_number("produce: partition", partition)
            check_callback("produce: on_delivery", on_delivery)
        known = self._topics.get(topic)
        if known is None or partition >= known.partitions or partition < -1 or size > known.max_record_bytes:
            self._lifecycle.check_usable()
            self._topic_cache.check(topic, partition, size - _OVERHEAD_BYTES)
        buffer = self._buffer
        with buffer.lock:
            if buffer.halted or buffer.records >= buffer.max_records or buffer.nbytes + size > buffer.max_bytes:
                buffer.make_room(size)
            pending = buffer.pending.get(topic)
            if pending is None:
                pending = self._first_of(topic)
            if partition != -1 or on_delivery is not None or timestamp is not None or headers is not None:
                pending.extras[len(pending.values)] = (partition, timestamp, headers, on_delivery)
            pending.values.append(value)
            pending.keys.append(key)
            pending.nbytes += size
            buffer.nbytes += size
            buffer.records += 1

    def _first_of(self, topic: str) -> Pending:
        """Called with the buffer's lock held: where records of a topic go that has none waiting."""
        if not self._lifecycle.takes_records:
            self._buffer.lock.release()
            try:
                self._refuse_record()
            finally:
                self._buffer.lock.acquire()
        self._sender.start()
        return self._buffer.first_of(topic)

    def _refuse_record(self) -> NoReturn:
        self._lifecycle.check(Call.PRODUCE)
        # Fenced: the native producer says by whom.
        self._native.flush(now_ms=self._time.now_ms())
        raise InvalidTransactionStateError(
            "produce: the transaction was ended while this record was produced; call begin_transaction, and produce it "
            "again"
        )

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
        check_topic("produce_many", topic)
        for name, column in (("values", values), ("keys", keys), ("headers", headers)):
            if column is not None and not any(hasattr(column, way) for way in _COLUMN):
                raise TypeMismatchError(f"produce_many: {name} is {column!r}; give a list or a column, one a record")
        one_for_all = isinstance(partition, int)
        with self._sender.order:
            self._lifecycle.check_usable()
            self._sender.drain()
            self._lifecycle.check(Call.PRODUCE)
            self._sender.settle_before()
            try:
                places = self._native.produce(
                    topic,
                    values,
                    now_ms=self._time.now_ms(),
                    wall_ms=self._time.wall_ms(),
                    keys=keys,
                    timestamps=timestamps,
                    headers=headers,
                    partition=None if one_for_all and partition == -1 else partition,
                )
            except UNANSWERED:
                self._sender.unanswered = True
                raise
            except OnceflowError as error:
                self._lifecycle.failed(error)
                raise
            except (UnicodeEncodeError, TypeError, OverflowError) as error:
                raise TypeMismatchError(f"produce_many takes none of these records: {error}") from error
            return self._sender.produced(places)

    def produce_batch(
        self,
        topic: str,
        messages: Iterable[dict[str, Any]],
        partition: int = -1,
        on_delivery: OnDelivery | None = None,
        *,
        callback: OnDelivery | None = None,
    ) -> int:
        """Calls ``produce`` for each message, as ``confluent_kafka`` has it; ``produce_many`` is for columns.

        Args:
            topic: Must exist.
            messages: Dicts with what ``produce`` takes: ``value``, ``key``, ``partition``, ``timestamp``, ``headers``
                and ``callback``. Of a record that cannot be written, ``_error`` says why.
            partition: Of messages that do not say.
            on_delivery: Of messages that have no callback.
            callback: Another name of ``on_delivery``.

        Returns:
            How many were taken.

        Raises:
            ConfigurationError: Messages that are no dicts.
            OnceflowError: As ``produce``, of what does not concern one record alone.
        """
        taken = 0
        for message in check_items("produce_batch: messages", messages, dict, "[{'value': b'a'}]"):
            try:
                self.produce(
                    topic,
                    message.get("value"),
                    message.get("key"),
                    message.get("partition", partition),
                    message.get("callback", on_delivery if callback is None else callback),
                    message.get("timestamp"),
                    message.get("headers"),
                )
                taken += 1
            except (UnknownTopicOrPartitionError, RecordTooLargeError, TypeMismatchError, ConfigurationError) as error:
                message["_error"] = error
        return taken

    # ---- the end -----------------------------------------------------------------------------------

    def close(self, timeout: float | None = -1) -> None:
        """Writes what is in the buffer and ends the background thread. An open transaction is aborted.

        Args:
            timeout: How long to wait for what is in the buffer, in seconds; -1 or None: as long as it takes.

        Raises:
            LogError: What became of records without a callback. The producer is closed nevertheless.
        """
        check_timeout("close: timeout", timeout)
        if self._lifecycle.closed:
            return
        if self._lifecycle.forked:
            # What is in the buffer, and the log, belong to another process.
            self._lifecycle.closed = self._buffer.halted = True
            return
        try:
            if self._transactional_id is None:
                left = self.flush(timeout)
                if left:
                    raise LogTimeoutError(f"{left} records were not acknowledged before the producer was closed")
            elif self.in_transaction:
                self.abort_transaction()
        finally:
            self._buffer.close()
            self._sender.join()
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
