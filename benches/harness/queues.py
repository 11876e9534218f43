"""What people embed today as a log or a queue on the disk, each in the fastest durable way we know.

A thousand records at a time are handed over; as soon as a megabyte has gathered, as with the other logs, it is written
in one transaction and synced. None of them knows producers that retry, or transactions over several queues.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import numpy.typing as npt
from persistqueue import SQLiteQueue

__all__ = ["QUEUES", "Queue"]

_PIECE_BYTES = 1_000_000


@dataclass(frozen=True)
class Queue:
    """See ``LogUnderTest``; each topic is a directory of its own, one process at a time uses it."""

    kind: str
    directory: str

    @property
    def name(self) -> str:
        """In tables."""
        return self.kind

    def create_topic(self, topic: str) -> None:
        """A directory."""
        (Path(self.directory) / topic).mkdir()

    def delete_topic(self, topic: str) -> None:
        """The directory stays until the benchmark's end: space is not what is measured."""

    def batch(self, values: Sequence[bytes]) -> Sequence[bytes]:
        """As it is."""
        return values

    def producer(self, topic: str, *, transactional: bool) -> _Client:
        """See ``LogUnderTest``."""
        return QUEUES[self.kind](Path(self.directory) / topic)

    def consumer(self, topic: str) -> _Client:
        """See ``LogUnderTest``."""
        return QUEUES[self.kind](Path(self.directory) / topic)


class _Client:
    """See ``ProducerUnderTest`` and ``ConsumerUnderTest``."""

    def __init__(self) -> None:
        self._gathered: list[bytes] = []
        self._bytes = 0
        self._next = 0

    def produce_many(self, batch: Sequence[bytes]) -> None:
        """See ``ProducerUnderTest``."""
        self._gathered += batch
        self._bytes += len(batch) * len(batch[0])
        if self._bytes >= _PIECE_BYTES:
            self.flush()

    def flush(self) -> None:
        """See ``ProducerUnderTest``."""
        if self._gathered:
            self.append(self._gathered)
        self._gathered, self._bytes = [], 0

    def begin(self) -> None:
        """See ``ProducerUnderTest``."""

    def commit(self) -> None:
        """See ``ProducerUnderTest``."""

    def poll(self, max_records: int, timeout_s: float) -> list[bytes]:
        """See ``ConsumerUnderTest``."""
        found = self.read(self._next, max_records)
        self._next += len(found)
        return found

    def stamps(self, records: list[bytes]) -> npt.NDArray[np.int64]:
        """See ``ConsumerUnderTest``."""
        return np.frombuffer(b"".join(value[:8] for value in records), dtype="<i8")

    def append(self, values: list[bytes]) -> None:
        """Durable when it returns."""
        raise NotImplementedError

    def read(self, first: int, number: int) -> list[bytes]:
        """Records from a position on; a queue gives them out and forgets them."""
        raise NotImplementedError

    def close(self) -> None:
        """Gives up what it holds."""


class _Sqlite(_Client):
    """A table, read by its row id; write-ahead log, synced at each commit."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._connection = sqlite3.connect(directory / "queue.db", isolation_level=None)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        self._connection.execute("CREATE TABLE IF NOT EXISTS log (id INTEGER PRIMARY KEY, value BLOB)")

    def append(self, values: list[bytes]) -> None:
        self._connection.execute("BEGIN")
        self._connection.executemany("INSERT INTO log (value) VALUES (?)", zip(values))
        self._connection.execute("COMMIT")

    def read(self, first: int, number: int) -> list[bytes]:
        rows = self._connection.execute("SELECT value FROM log WHERE id > ? ORDER BY id LIMIT ?", (first, number))
        return [value for (value,) in rows]

    def close(self) -> None:
        self._connection.close()


class _PersistQueue(_Client):
    """persist-queue's fastest durable kind, with its own serialisation left out: values are bytes already."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._queue = SQLiteQueue(str(directory), auto_commit=False, serializer=_AsIs)

    def append(self, values: list[bytes]) -> None:
        for value in values:
            self._queue.put(value)
        self._queue.task_done()

    def read(self, first: int, number: int) -> list[bytes]:
        found = []
        while len(found) < number and self._queue.size:
            found.append(self._queue.get(block=False))
        self._queue.task_done()
        return found

    def close(self) -> None:
        self._queue.close()


class _AsIs:
    @staticmethod
    def dumps(value: bytes) -> bytes:
        return value

    @staticmethod
    def loads(value: bytes) -> bytes:
        return value


class _Lmdb(_Client):
    """py-lmdb by hand: ascending keys, appended."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._environment = lmdb.open(str(directory), map_size=64 << 30)
        with self._environment.begin() as transaction:
            self._end = transaction.stat()["entries"]

    def append(self, values: list[bytes]) -> None:
        items = [(number.to_bytes(8, "big"), value) for number, value in enumerate(values, self._end)]
        with self._environment.begin(write=True) as transaction:
            transaction.cursor().putmulti(items, append=True)
        self._end += len(values)

    def read(self, first: int, number: int) -> list[bytes]:
        found: list[Any] = []
        with self._environment.begin() as transaction:
            cursor = transaction.cursor()
            if cursor.set_range(first.to_bytes(8, "big")):
                for value in cursor.iternext(keys=False, values=True):
                    found.append(value)
                    if len(found) == number:
                        break
        return found

    def close(self) -> None:
        self._environment.close()


class _File(_Client):
    """A file that grows by one write and one sync a piece, without a checksum or an index: what the disk allows.

    Records are of one length, noted once beside it.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._file = os.open(directory / "records", os.O_RDWR | os.O_CREAT | os.O_APPEND)
        self._length = directory / "length"

    def append(self, values: list[bytes]) -> None:
        if not self._length.exists():
            self._length.write_text(str(len(values[0])))
        os.write(self._file, b"".join(values))
        os.fdatasync(self._file)

    def read(self, first: int, number: int) -> list[bytes]:
        length = int(self._length.read_text())
        found = os.pread(self._file, number * length, first * length)
        return [found[at : at + length] for at in range(0, len(found), length)]

    def close(self) -> None:
        os.close(self._file)


QUEUES = {
    "sqlite3 as a queue": _Sqlite,
    "persist-queue": _PersistQueue,
    "py-lmdb by hand": _Lmdb,
    "a bare file": _File,
}
