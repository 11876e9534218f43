"""A file of records that a target has refused, each of them once, however often it was tried.

An SQLite database with one table: a letter has a key, which names the record of output that it is about, and a key that
is there is not added again. So it may be written before or after a crash, and by a run that was replaced. Any SQLite
client reads it too::

    sqlite3 refused.sqlite 'select sink, reason, text from dead_letters'
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from onceflow.codec import MsgpackCodec
from onceflow.connectors.values import json_line
from onceflow.exceptions import SerializationError, SinkError

__all__ = ["DeadLetter", "DeadLetters", "read_dead_letters"]

_TABLE = """
    create table if not exists dead_letters (
        number integer primary key autoincrement,
        key text not null unique,
        job text not null,
        sink text not null,
        reason text not null,
        record blob not null,
        text text
    )"""
_BUSY_S = 30.0
#: SQLite takes fewer parameters than 1,000 in old versions.
_ASKED_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that was refused.

    Attributes:
        key: Names the record of output.
        job: Name of the dataflow.
        sink: Step id of the sink.
        reason: What the target has said.
        record: The record.
    """

    key: str
    job: str
    sink: str
    reason: str
    record: Any


class DeadLetters:
    """The file, as one sink writes it. Nothing is made before the first letter.

    Args:
        path: Of the file; several sinks and jobs may share it.

    Raises:
        SinkError: It cannot be a file of dead letters.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self._path = Path(fspath(path))
        self._codec = MsgpackCodec()
        self._db: sqlite3.Connection | None = None
        if not self._path.absolute().parent.is_dir():
            raise SinkError(f"dead_letters={str(self._path)!r}: the directory that it lies in does not exist")
        with self._told():
            self._is_there()

    def known(self, keys: Sequence[str]) -> set[str]:
        """Those of the keys that are there."""
        found: set[str] = set()
        with self._told():
            if not self._is_there():
                return found
            db = self._open()
            for start in range(0, len(keys), _ASKED_AT_ONCE):
                some = keys[start : start + _ASKED_AT_ONCE]
                marks = ", ".join("?" * len(some))
                rows = db.execute(f"select key from dead_letters where key in ({marks})", some)  # noqa: S608
                found.update(key for (key,) in rows)
        return found

    def add(self, letters: Iterable[DeadLetter]) -> None:
        """Adds what is not there; durable when this returns.

        Raises:
            SinkError: The file cannot be written, or a record not be kept.
        """
        try:
            rows = [
                (letter.key, letter.job, letter.sink, letter.reason, self._codec.encode(letter.record), _text(letter))
                for letter in letters
            ]
        except SerializationError as error:
            raise SinkError(f"a record that was refused cannot be kept in {self._path}: {error}") from error
        with self._told(), self._open() as db:
            db.execute(_TABLE)
            db.executemany(
                "insert or ignore into dead_letters (key, job, sink, reason, record, text) values (?, ?, ?, ?, ?, ?)",
                rows,
            )

    def close(self) -> None:
        """Closes the file."""
        if self._db is not None:
            self._db.close()
            self._db = None

    def _open(self) -> sqlite3.Connection:
        if self._db is None:
            # Written on the checkpoint thread, closed on the job's thread, one at a time.
            self._db = sqlite3.connect(self._path, timeout=_BUSY_S, check_same_thread=False)
            # A commit is on the disk when it returns.
            self._db.execute("pragma synchronous = full")
        return self._db

    def _is_there(self) -> bool:
        """Whether there are letters, or may be; raises if the file is another one."""
        if self._db is None and not self._path.exists():
            return False
        tables = self._open().execute("select name from sqlite_master where name = 'dead_letters'").fetchall()
        if tables:
            self._open().execute("select key, job, sink, reason, record, text from dead_letters limit 0")
        return bool(tables)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            self.close()
            raise SinkError(f"dead letters cannot be kept in {self._path}: {error}") from error


def read_dead_letters(path: str | PathLike[str]) -> list[DeadLetter]:
    """The letters in a file, in the order in which they came; none if there is no file.

    Raises:
        SinkError: It is no file of dead letters.
    """
    if not Path(fspath(path)).exists():
        return []
    codec = MsgpackCodec()
    address = f"{Path(fspath(path)).absolute().as_uri()}?mode=ro"
    try:
        with contextlib.closing(sqlite3.connect(address, uri=True, timeout=_BUSY_S)) as db:
            rows = db.execute("select key, job, sink, reason, record from dead_letters order by number").fetchall()
    except sqlite3.Error as error:
        raise SinkError(f"{fspath(path)} is not a file of dead letters: {error}") from error
    return [DeadLetter(key, job, sink, reason, codec.decode(record)) for key, job, sink, reason, record in rows]


def _text(letter: DeadLetter) -> str | None:
    """For people; the record itself is beside it."""
    try:
        return json_line(letter.record).decode()
    except (TypeError, ValueError, OverflowError, RecursionError):
        return None
