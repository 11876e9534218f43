"""A history: the operations of all clients, each client's in its own order."""

from __future__ import annotations

import contextlib
import heapq
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path

import msgspec

from onceflow.exceptions import OnceflowError
from onceflow.testing.histories.operations import Operation

__all__ = ["History", "HistoryError"]

SUFFIX = ".history.jsonl"

_DECODER: msgspec.json.Decoder[Operation] = msgspec.json.Decoder(Operation)


class HistoryError(OnceflowError, ValueError):
    """A history that contradicts itself, so that nothing can be said of the log; the text names the operations."""

    kind = "testing_history"


class History:
    """Operations by client.

    Args:
        operations: Of any clients; each client's must be in its order.

    Raises:
        HistoryError: A client's operations have gaps, are out of order, or go back in time.
    """

    def __init__(self, operations: Iterable[Operation]) -> None:
        clients: dict[str, list[Operation]] = {}
        for operation in operations:
            clients.setdefault(operation.client, []).append(operation)
        for own in clients.values():
            _check_order(own)
        self.clients: Mapping[str, list[Operation]] = clients

    @classmethod
    def load(cls, directory: str | Path) -> History:
        """Reads what the ``Recorder``s of a test wrote into a directory.

        The last line of a file may be cut off, as by a kill; the operation was then not yet made, or is indefinite.

        Raises:
            HistoryError: A file holds something else.
        """
        operations: list[Operation] = []
        for path in sorted(Path(directory).glob(f"*{SUFFIX}")):
            operations.extend(_read(path))
        return cls(operations)

    def __len__(self) -> int:
        return sum(len(own) for own in self.clients.values())

    def __iter__(self) -> Iterator[Operation]:
        """All operations by time; those of one client in its own order."""
        return heapq.merge(*self.clients.values(), key=lambda operation: operation.at_ns)


def _read(path: Path) -> list[Operation]:
    *lines, last = path.read_bytes().split(b"\n")
    operations = []
    for number, line in enumerate(lines, 1):
        try:
            operations.append(_DECODER.decode(line))
        except msgspec.DecodeError as error:
            raise HistoryError(f"line {number} of {path} is not an operation: {error}") from error
    if last:
        with contextlib.suppress(msgspec.DecodeError):
            operations.append(_DECODER.decode(last))
    return operations


def _check_order(operations: list[Operation]) -> None:
    if operations[0].index != 0:
        raise HistoryError(f"the history of a client begins with 0, not with: {operations[0]}")
    for before, after in pairwise(operations):
        if after.index != before.index + 1 or after.at_ns < before.at_ns:
            raise HistoryError(f"operations of a client must follow each other. First: {before}. Then: {after}")
