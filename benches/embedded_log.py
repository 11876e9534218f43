"""The embedded log as a log under test, through lists and through columns.

Batches are as large as Kafka's in ``kafka_log``: what was handed over goes to the log in pieces of a megabyte, in the
background, and each piece is synced to the disk before it counts as acknowledged.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from onceflow._native import Log, LogProducer

__all__ = ["EmbeddedLog"]

_PIECE_BYTES = 1_000_000
_IN_FLIGHT_BYTES = 16 * _PIECE_BYTES


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(frozen=True)
class EmbeddedLog:
    """See ``LogUnderTest``.

    Attributes:
        directory: Of the log.
        columns: Records are handed over as a numpy array of bytes, and read as an Arrow array, instead of lists.
    """

    directory: str
    columns: bool = False

    @property
    def name(self) -> str:
        """In tables."""
        return "onceflow, columns" if self.columns else "onceflow, lists"

    def create_topic(self, topic: str) -> None:
        """With one partition."""
        with Log.open(self.directory) as log:
            log.create_topic(topic)

    def delete_topic(self, topic: str) -> None:
        """With its data, so that the next round finds the file as this one did."""
        with Log.open(self.directory) as log:
            log.delete_topic(topic)
            while log.maintain(now_ms=_now_ms()).more:
                pass

    def batch(self, values: Sequence[bytes]) -> Any:
        """A list, or an array with one row a record."""
        if not self.columns:
            return list(values)
        return np.frombuffer(b"".join(values), dtype=np.uint8).reshape(len(values), -1)

    def producer(self, topic: str, *, transactional: bool) -> _Producer:
        """See ``LogUnderTest``."""
        return _TransactionalProducer(self, topic) if transactional else _Producer(self, topic)

    def consumer(self, topic: str) -> _Consumer:
        """See ``LogUnderTest``."""
        return _Consumer(self, topic)


class _Producer:
    """See ``ProducerUnderTest``: while one piece is synced, the next one gathers."""

    def __init__(self, log: EmbeddedLog, topic: str) -> None:
        self._topic = topic
        self._columns = log.columns
        self._log = Log.open(log.directory)
        self._producer = self._open()
        self._changed = threading.Condition()
        self._waiting: deque[Any] = deque()
        self._in_flight = 0
        self._closing = False
        self._failure: BaseException | None = None
        self._sender = threading.Thread(target=self._send, daemon=True)
        self._sender.start()

    def _open(self) -> LogProducer:
        return LogProducer(self._log, now_ms=_now_ms())

    def produce_many(self, batch: Any) -> None:
        """See ``ProducerUnderTest``."""
        size = self._size(batch)
        with self._changed:
            self._changed.wait_for(lambda: self._in_flight < _IN_FLIGHT_BYTES or self._failure)
            self._waiting.append(batch)
            self._in_flight += size
            self._changed.notify_all()

    @staticmethod
    def _size(batch: Any) -> int:
        """All records of a benchmark have one size."""
        return batch.nbytes if isinstance(batch, np.ndarray) else len(batch) * len(batch[0])

    def _send(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return
                piece = [self._waiting.popleft()]
                size = self._size(piece[0])
                while self._waiting and size < _PIECE_BYTES:
                    size += self._size(self._waiting[0])
                    piece.append(self._waiting.popleft())
            try:
                self._produce(piece)
            except BaseException as error:
                self._failure = error
            with self._changed:
                self._in_flight -= size
                self._changed.notify_all()

    def _produce(self, piece: list[Any]) -> None:
        if self._columns:
            records = piece[0] if len(piece) == 1 else np.concatenate(piece)
        else:
            records = [value for batch in piece for value in batch]
        self._producer.produce(self._topic, records, now_ms=_now_ms())

    def flush(self) -> None:
        """See ``ProducerUnderTest``."""
        with self._changed:
            self._changed.wait_for(lambda: not self._in_flight or self._failure)
            if self._failure:
                raise self._failure

    def begin(self) -> None:
        """See ``ProducerUnderTest``."""

    def commit(self) -> None:
        """See ``ProducerUnderTest``."""

    def close(self) -> None:
        """See ``ProducerUnderTest``."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._sender.join()
        del self._producer
        self._log.close()


class _TransactionalProducer(_Producer):
    def _open(self) -> LogProducer:
        producer = LogProducer(self._log, now_ms=_now_ms(), transactional_id=f"bench-{uuid.uuid4()}")
        producer.init_transactions(now_ms=_now_ms())
        return producer

    def begin(self) -> None:
        self._producer.begin_transaction(now_ms=_now_ms())

    def commit(self) -> None:
        self.flush()
        self._producer.commit_transaction(now_ms=_now_ms())


class _Consumer:
    """See ``ConsumerUnderTest``."""

    def __init__(self, log: EmbeddedLog, topic: str) -> None:
        self._columns = log.columns
        self._topic = topic
        self._log = Log.open(log.directory)
        self._offset = 0

    def poll(self, max_records: int, timeout_s: float) -> Any:
        """See ``ConsumerUnderTest``."""
        if not self._log.wait([(self._topic, 0, self._offset)], timeout_s):
            return []
        found = self._log.fetch(self._topic, 0, self._offset, max_records=max_records)
        self._offset = found.next_offset
        return pa.record_batch(found).column("value") if self._columns else found.values

    def stamps(self, records: Any) -> npt.NDArray[np.int64]:
        """See ``ConsumerUnderTest``."""
        if not self._columns:
            return np.frombuffer(b"".join(value[:8] for value in records), dtype="<i8")
        _, offsets, data = records.buffers()
        starts = np.frombuffer(offsets, dtype=np.int64)[: len(records)]
        return np.frombuffer(data, dtype=np.uint8)[starts[:, None] + np.arange(8)].view("<i8")[:, 0]

    def close(self) -> None:
        """See ``ConsumerUnderTest``."""
        self._log.close()
