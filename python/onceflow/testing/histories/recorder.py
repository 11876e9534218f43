"""Writes down what one client does, so that a kill at any moment loses nothing that matters."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TypedDict

import msgspec

from onceflow.exceptions import ConfigurationError
from onceflow.testing.histories.history import SUFFIX
from onceflow.testing.histories.operations import (
    Abort,
    Assign,
    Begin,
    Commit,
    Isolation,
    Operation,
    Outcome,
    PartitionOffset,
    Poll,
    Rebalance,
    Record,
    Returned,
    Seek,
    Send,
    SendOffsets,
    Value,
)

__all__ = ["Recorder"]


class _Stamp(TypedDict):
    client: str
    index: int
    at_ns: int


def _never(error: BaseException) -> bool:
    return False


class Recorder:
    """Appends the operations of one client to a file of its own; ``History.load`` merges the files of a directory.

    Each operation is one ``write`` to the file before the next one begins: a killed process loses none, a machine that
    loses power may. Threads of one client (a delivery callback, say) may share a recorder. Write down every call before
    it is made::

        recorder = Recorder(directory, f"producer-{os.getpid()}", definite=lambda e: isinstance(e, ProducerFencedError))
        recorder.begin()
        call = recorder.send("payments", "p-1")
        producer.produce("payments", b"p-1", on_delivery=...)  # which calls recorder.sent(call, partition, offset)
        with recorder.commit():
            producer.commit_transaction()

    Args:
        directory: Made when it is missing.
        client: Unique in the directory, also among processes that follow each other.
        definite: Says of an exception whether the call that raised it surely had no effect and never will. Without it,
            every failed call counts as indefinite, which finds less but is never wrong.

    Raises:
        ConfigurationError: A client of this name has written here.
    """

    def __init__(
        self,
        directory: str | Path,
        client: str,
        *,
        definite: Callable[[BaseException], bool] = _never,
    ) -> None:
        self.client = client
        self._definite = definite
        self._lock = threading.Lock()
        self._encoder = msgspec.json.Encoder()
        self._index = 0
        self._transactions = 0
        self._transaction: str | None = None
        root = Path(directory)
        root.mkdir(parents=True, exist_ok=True)
        if not client or "/" in client:
            raise ConfigurationError(f"a client's name is also a file's name; {client!r} cannot be one")
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
            self._file = os.open(root / f"{client}{SUFFIX}", flags, 0o644)
        except FileExistsError:
            raise ConfigurationError(
                f"client {client!r} has already written to {root}; give each client a name of its own, for instance "
                "with the process id in it"
            ) from None

    def close(self) -> None:
        """Closes the file; nothing depends on it."""
        os.close(self._file)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @staticmethod
    def now() -> int:
        """The time for ``start_ns`` of ``polled``, ``assigned`` and ``rebalanced``."""
        return time.monotonic_ns()

    def begin(self) -> str:
        """A transaction began; returns the name that it has in the history."""
        with self._lock:
            self._transaction = f"{self.client}:{self._transactions}"
            self._transactions += 1
            self._write(Begin(**self._stamp(), transaction=self._transaction))
            return self._transaction

    def send(self, topic: str, value: Value, partition: int | None = None) -> int:
        """A record is about to be sent, in the open transaction if there is one; returns the number for ``sent``."""
        with self._lock:
            return self._write(
                Send(**self._stamp(), topic=topic, value=value, partition=partition, transaction=self._transaction)
            )

    def sent(self, call: int, partition: int | None = None, offset: int | None = None) -> None:
        """The log acknowledged a record."""
        with self._lock:
            stamp = self._stamp()
            self._write(Returned(**stamp, call=call, outcome=Outcome.OK, partition=partition, offset=offset))

    def not_sent(self, call: int, error: BaseException | str, *, definite: bool | None = None) -> None:
        """The log did not acknowledge a record.

        Args:
            call: What ``send`` returned.
            error: Why.
            definite: The record surely never appears; by default what the recorder's ``definite`` says of the error.
        """
        self._failed(call, error, definite)

    @contextmanager
    def send_offsets(self, group: str, positions: Iterable[PartitionOffset]) -> Iterator[None]:
        """Around the call that commits positions of a group, in the open transaction if there is one."""
        with self._lock:
            operation = SendOffsets(
                **self._stamp(), group=group, positions=tuple(positions), transaction=self._transaction
            )
            call = self._write(operation)
        with self._answer(call):
            yield

    @contextmanager
    def commit(self) -> Iterator[None]:
        """Around the call that commits the open transaction; if that raises it stays open, to commit again or abort."""
        with self._lock:
            call = self._write(Commit(**self._stamp(), transaction=self._open()))
        with self._answer(call):
            yield
        self._transaction = None

    @contextmanager
    def abort(self) -> Iterator[None]:
        """Around the call that aborts the open transaction."""
        with self._lock:
            call = self._write(Abort(**self._stamp(), transaction=self._open()))
        with self._answer(call):
            yield
        self._transaction = None

    def abandon(self) -> None:
        """The open transaction is given up without an answer, as when its producer is thrown away."""
        self._transaction = None

    def assigned(
        self, positions: Iterable[PartitionOffset], *, group: str | None = None, start_ns: int | None = None
    ) -> None:
        """See ``Assign``."""
        with self._lock:
            self._write(Assign(**self._stamp(), positions=tuple(positions), group=group, start_ns=start_ns))

    def rebalanced(
        self,
        group: str,
        *,
        revoked: Iterable[PartitionOffset] = (),
        assigned: Iterable[PartitionOffset] = (),
        start_ns: int | None = None,
    ) -> None:
        """See ``Rebalance``."""
        with self._lock:
            self._write(
                Rebalance(
                    **self._stamp(), group=group, revoked=tuple(revoked), assigned=tuple(assigned), start_ns=start_ns
                )
            )

    def sought(self, topic: str, partition: int, offset: int | None) -> None:
        """See ``Seek``."""
        with self._lock:
            self._write(Seek(**self._stamp(), position=PartitionOffset(topic, partition, offset)))

    def polled(
        self,
        records: Iterable[Record],
        *,
        start_ns: int,
        reached: Iterable[PartitionOffset] = (),
        isolation: Isolation = Isolation.READ_COMMITTED,
    ) -> None:
        """See ``Poll``; take ``start_ns`` from ``now()`` before the call."""
        with self._lock:
            self._write(
                Poll(
                    **self._stamp(),
                    start_ns=start_ns,
                    records=tuple(records),
                    reached=tuple(reached),
                    isolation=isolation,
                )
            )

    @contextmanager
    def _answer(self, call: int) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self._failed(call, error, None)
            raise
        with self._lock:
            self._write(Returned(**self._stamp(), call=call, outcome=Outcome.OK))

    def _failed(self, call: int, error: BaseException | str, definite: bool | None) -> None:
        if definite is None:
            definite = isinstance(error, BaseException) and self._definite(error)
        outcome = Outcome.FAILED if definite else Outcome.INDEFINITE
        text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
        with self._lock:
            self._write(Returned(**self._stamp(), call=call, outcome=outcome, error=text))

    def _open(self) -> str:
        if self._transaction is None:
            raise ConfigurationError(f"client {self.client!r} has no open transaction; call begin() first")
        return self._transaction

    def _stamp(self) -> _Stamp:
        return {"client": self.client, "index": self._index, "at_ns": time.monotonic_ns()}

    def _write(self, operation: Operation) -> int:
        line = self._encoder.encode(operation) + b"\n"
        while line:
            line = line[os.write(self._file, line) :]
        self._index += 1
        return operation.index
