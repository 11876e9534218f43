"""What people use today to keep sums and counts by key durable, each in the fastest way we know.

All keep their totals in Python dicts, since a dict is faster than any of the stores: sums in a loop, counts by
``Counter``, whose loop is C. At the interval the changed keys are written, in one transaction or batch in the order of
keys, and synced. The input position is part of it, so that all could resume exactly.
"""

from __future__ import annotations

import os
import pickle
import sqlite3
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from operator import itemgetter
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
from rocksdict import Options, Rdict, WriteBatch, WriteOptions

__all__ = ["ALTERNATIVES", "Alternative"]

_VALUE = np.dtype([("sum", "<f8"), ("count", "<i8")])
_POSITION = b"position"


class Alternative(ABC):
    """Totals by key that are made durable now and then."""

    name: str

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._sums: defaultdict[int, float] = defaultdict(float)
        self._counts: Counter[int] = Counter()
        self._position = 0

    def update(self, keys: list[int], values: list[float]) -> None:
        """Adds a batch."""
        sums = self._sums
        for key, value in zip(keys, values, strict=True):
            sums[key] += value
        self._counts.update(keys)
        self._position += len(keys)

    @abstractmethod
    def persist(self) -> None:
        """Returns when everything so far is durable. There was an update since the last time."""

    @abstractmethod
    def stored(self) -> tuple[int, int]:
        """What the disk holds: the position, and the sum of all counts. They must be equal."""

    def close(self) -> None:  # noqa: B027 - optional
        """Closes the store."""


class PickledDict(Alternative):
    """The dicts as one pickle: a temporary file, synced, renamed; the directory synced."""

    name = "dict + pickle"

    def persist(self) -> None:
        temporary = self._directory / "snapshot.tmp"
        with temporary.open("wb") as file:
            pickle.dump((self._position, self._sums, self._counts), file, protocol=pickle.HIGHEST_PROTOCOL)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(self._directory / "snapshot")
        directory = os.open(self._directory, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)

    def stored(self) -> tuple[int, int]:
        with (self._directory / "snapshot").open("rb") as file:
            position, _, counts = pickle.load(file)
        return position, counts.total()


class _WriteBehind(Alternative):
    """Remembers which keys have changed."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._changed: set[int] = set()

    def update(self, keys: list[int], values: list[float]) -> None:
        super().update(keys, values)
        self._changed.update(keys)

    def _changes(self) -> tuple[list[int], tuple[float, ...], tuple[int, ...]]:
        keys = sorted(self._changed)
        self._changed.clear()
        pick = itemgetter(*keys)
        return keys, pick(self._sums), pick(self._counts)

    def _packed_changes(self) -> list[tuple[bytes, bytes]]:
        """Big-endian keys, whose order is that of the bytes, and both numbers as one value."""
        keys, sums, counts = self._changes()
        values = np.empty(len(keys), dtype=_VALUE)
        values["sum"], values["count"] = sums, counts
        return list(zip(np.array(keys, dtype=">i8").view("V8").tolist(), values.view("V16").tolist(), strict=True))


class Sqlite(_WriteBehind):
    """SQLite with a write-ahead log and synchronous=FULL; one transaction of upserts by ``executemany``."""

    name = "sqlite3"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._db = sqlite3.connect(directory / "totals.db", isolation_level=None)
        for pragma in ("journal_mode=wal", "synchronous=full", "cache_size=-262144", "wal_autocheckpoint=16384"):
            self._db.execute(f"pragma {pragma}")
        self._db.execute("create table totals (key integer primary key, sum real not null, count integer not null)")
        self._db.execute("create table position (id integer primary key, records integer not null)")

    def persist(self) -> None:
        self._db.execute("begin immediate")
        self._db.executemany(
            "insert into totals values (?, ?, ?) on conflict (key) do update set sum = excluded.sum,"
            " count = excluded.count",
            zip(*self._changes(), strict=True),
        )
        self._db.execute("replace into position values (1, ?)", (self._position,))
        self._db.execute("commit")

    def stored(self) -> tuple[int, int]:
        (found,) = self._db.execute("select (select records from position), (select sum(count) from totals)")
        return found

    def close(self) -> None:
        self._db.close()


class Lmdb(_WriteBehind):
    """py-lmdb: one write transaction, ``putmulti`` in the order of keys, default (durable) flags."""

    name = "py-lmdb"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._env = lmdb.open(str(directory / "lmdb"), map_size=1 << 36)

    def persist(self) -> None:
        changes = self._packed_changes()
        with self._env.begin(write=True) as transaction:
            transaction.cursor().putmulti(changes)
            transaction.put(_POSITION, str(self._position).encode())

    def stored(self) -> tuple[int, int]:
        with self._env.begin() as transaction:
            position = int(transaction.get(_POSITION))
            # The position's name is as long as a key, and sorts behind all of them.
            values = b"".join(value for key, value in transaction.cursor() if key != _POSITION)
        return position, int(np.frombuffer(values, dtype=_VALUE)["count"].sum())

    def close(self) -> None:
        self._env.close()


class Rocks(_WriteBehind):
    """rocksdict in raw mode: one write batch, synced with the write-ahead log."""

    name = "rocksdict"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        self._db = Rdict(str(directory / "rocks"), options)
        self._synced = WriteOptions()
        self._synced.sync = True

    def persist(self) -> None:
        batch = WriteBatch(raw_mode=True)
        put = batch.put
        for key, value in self._packed_changes():
            put(key, value)
        put(_POSITION, str(self._position).encode())
        self._db.write(batch, self._synced)

    def stored(self) -> tuple[int, int]:
        position = 0
        values: list[Any] = []
        for key, value in self._db.items():
            if key == _POSITION:
                position = int(value)
            else:
                values.append(value)
        return position, int(np.frombuffer(b"".join(values), dtype=_VALUE)["count"].sum())

    def close(self) -> None:
        self._db.close()


ALTERNATIVES: list[type[Alternative]] = [PickledDict, Sqlite, Lmdb, Rocks]
