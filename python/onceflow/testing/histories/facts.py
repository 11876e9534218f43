"""What became of each record and each transaction, as far as a history tells."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TypeAlias

from onceflow.testing.histories.history import History, HistoryError
from onceflow.testing.histories.operations import (
    Abort,
    Assign,
    Begin,
    Commit,
    Operation,
    Outcome,
    Poll,
    Rebalance,
    Returned,
    Seek,
    Send,
    SendOffsets,
    Value,
)

__all__ = ["Facts", "Fate", "Place", "Positions", "Transaction", "Write"]

#: Topic and partition.
Place: TypeAlias = tuple[str, int]


class Fate(Enum):
    """How a transaction ended."""

    COMMITTED = auto()
    ABORTED = auto()
    #: Its commit was asked for, and no answer tells whether it took place.
    INDEFINITE = auto()
    #: Its commit was never asked for.
    ABANDONED = auto()


@dataclass(slots=True, eq=False)
class Transaction:
    """A transaction of one client.

    Attributes:
        polls: Made by the client between its begin and its end.
        commit: The first operation that asked for its commit.
        abort: The first operation that asked for its abort.
        doubtful: A commit was asked for, and its answer left open whether it took place.
        fate: How it ended.
        ended: The operation that decided its fate; None if it is not known.
        ended_ns: When the answer came that decided it; infinite if none did.
        seen: First read_committed poll that showed one of its records as it should.
        exposed: Records showed that should not have.
    """

    name: str
    begin: Begin
    writes: list[Write] = field(default_factory=list)
    polls: list[Poll] = field(default_factory=list)
    commit: Commit | None = None
    abort: Abort | None = None
    doubtful: bool = False
    fate: Fate = Fate.ABANDONED
    ended: Commit | Abort | None = None
    ended_ns: float = math.inf
    seen: Poll | None = None
    exposed: bool = False

    def ask(self, call: Commit | Abort) -> None:
        """Takes in that a commit or abort was asked for."""
        if isinstance(call, Abort):
            self.abort = self.abort or call
        elif self.fate is not Fate.COMMITTED:
            self.commit = self.commit or call
            self.fate, self.ended, self.ended_ns = Fate.INDEFINITE, None, math.inf

    def settle(self, call: Commit | Abort, answer: Returned) -> None:
        """Takes in the answer.

        A refused commit says nothing of one before it that is in doubt: that one may be why it was refused.
        """
        if self.fate in (Fate.COMMITTED, Fate.ABORTED):
            return
        if isinstance(call, Abort):
            if answer.outcome is not Outcome.OK:
                return
            self.fate = Fate.ABORTED
        elif answer.outcome is Outcome.OK:
            self.fate = Fate.COMMITTED
        elif answer.outcome is Outcome.FAILED and not self.doubtful:
            self.fate = Fate.ABORTED
        else:
            self.doubtful = True
            return
        self.ended, self.ended_ns = call, answer.at_ns

    @property
    def committed(self) -> bool:
        """It did commit: its client was told so, or a reader saw it."""
        return self.fate is Fate.COMMITTED or self.seen is not None


@dataclass(slots=True, eq=False)
class Write:
    """A record that was sent, or that was read without having been sent.

    Attributes:
        send: None if nobody sent it.
        answer: What the log said.
        place: Where it is.
        offset: Where it is.
        placed_by: The operation that told its offset.
        seen: First read_committed poll that showed it.
        read: First poll of any kind that showed it.
        exposed: It was shown when it should not have been, and is not to be expected of others.
        conflicting: Another value is at its offset.
    """

    topic: str
    value: Value
    send: Send | None
    transaction: Transaction | None = None
    answer: Returned | None = None
    place: Place | None = None
    offset: int = -1
    placed_by: Operation | None = None
    seen: Poll | None = None
    read: Poll | None = None
    exposed: bool = False
    conflicting: bool = False

    @property
    def outcome(self) -> Outcome | None:
        """How its send ended; None without an answer."""
        return None if self.answer is None else self.answer.outcome

    @property
    def required(self) -> bool:
        """The log must show it.

        A transaction stands or falls as a whole, so its commit answers for sends that have no answer of their own.
        """
        if self.transaction is None:
            return self.outcome is Outcome.OK
        return self.transaction.committed and self.outcome in (Outcome.OK, None)

    @property
    def required_ns(self) -> float:
        """Since when."""
        if self.transaction is None:
            return math.inf if self.answer is None else self.answer.at_ns
        seen_ns = math.inf if self.transaction.seen is None else self.transaction.seen.at_ns
        committed_ns = self.transaction.ended_ns if self.transaction.fate is Fate.COMMITTED else math.inf
        return min(seen_ns, committed_ns)

    @property
    def expected(self) -> bool:
        """A read_committed reader that goes past it must have been given it."""
        return not self.exposed and (self.seen is not None or self.required)

    def __str__(self) -> str:
        where = self.topic if self.place is None else f"{self.place[0]}/{self.place[1]}@{self.offset}"
        return f"{self.value!r} ({where})"


@dataclass(slots=True, eq=False)
class Positions:
    """Positions that a group committed."""

    operation: SendOffsets
    transaction: Transaction | None
    answer: Returned | None = None

    @property
    def fate(self) -> Fate:
        """Whether they count."""
        outcome = None if self.answer is None else self.answer.outcome
        if outcome is Outcome.FAILED:
            return Fate.ABORTED
        if self.transaction is not None:
            return self.transaction.fate
        return Fate.COMMITTED if outcome is Outcome.OK else Fate.INDEFINITE

    @property
    def called_ns(self) -> float:
        """They cannot count before."""
        if self.transaction is None:
            return self.operation.at_ns
        return math.inf if self.transaction.commit is None else self.transaction.commit.at_ns

    @property
    def done_ns(self) -> float:
        """They must count from then on; infinite if they need not."""
        if self.fate is not Fate.COMMITTED:
            return math.inf
        if self.transaction is not None:
            return self.transaction.ended_ns
        return math.inf if self.answer is None else self.answer.at_ns


class Facts:
    """Everything that follows from single operations and their answers.

    Attributes:
        writes: By topic and value.
        transactions: By name.
        polls: By the time of their return.
        readers: Of each client, what changes its reading or shows it: with the transaction it is part of.
        sends: Of each client, in its order.
        positions: Committed by groups.

    Raises:
        HistoryError: A value was sent twice to a topic, or an operation refers to one that is not there.
    """

    def __init__(self, history: History) -> None:
        self.writes: dict[tuple[str, Value], Write] = {}
        self.transactions: dict[str, Transaction] = {}
        self.polls: list[Poll] = []
        self.readers: dict[str, list[tuple[Poll | Assign | Rebalance | Seek, Transaction | None]]] = {}
        self.sends: dict[str, list[Write]] = {}
        self.positions: list[Positions] = []
        for client, operations in history.clients.items():
            self._follow(client, operations)
        self.polls.sort(key=lambda poll: poll.at_ns)

    def _follow(self, client: str, operations: list[Operation]) -> None:
        calls: dict[int, Write | Positions | Commit | Abort] = {}
        current: Transaction | None = None
        readers = self.readers.setdefault(client, [])
        sends = self.sends.setdefault(client, [])
        for operation in operations:
            match operation:
                case Send():
                    calls[operation.index] = write = self._write(operation)
                    sends.append(write)
                case Returned():
                    self._answer(operation, calls.pop(operation.call, None))
                case Poll():
                    self.polls.append(operation)
                    readers.append((operation, current))
                    if current is not None:
                        current.polls.append(operation)
                case Begin():
                    if operation.transaction in self.transactions:
                        raise HistoryError(f"this transaction began before: {operation}")
                    current = Transaction(operation.transaction, operation)
                    self.transactions[current.name] = current
                case Commit() | Abort():
                    calls[operation.index] = operation
                    current = None
                    self._named(operation, operation.transaction).ask(operation)
                case SendOffsets():
                    positions = Positions(operation, self._transaction(operation, operation.transaction))
                    calls[operation.index] = positions
                    self.positions.append(positions)
                case _:
                    readers.append((operation, current))

    def _write(self, send: Send) -> Write:
        write = Write(send.topic, send.value, send, self._transaction(send, send.transaction))
        before = self.writes.setdefault((send.topic, send.value), write)
        if before is not write:
            raise HistoryError(
                "a value may be sent only once to a topic, or nobody can tell its records apart. "
                f"First: {before.send}. Then: {send}"
            )
        if write.transaction is not None:
            write.transaction.writes.append(write)
        return write

    def _answer(self, answer: Returned, call: Write | Positions | Commit | Abort | None) -> None:
        match call:
            case None:
                raise HistoryError(f"there is no such call, or it has answered before: {answer}")
            case Write() | Positions():
                call.answer = answer
            case _:
                self.transactions[call.transaction].settle(call, answer)

    def _transaction(self, operation: Operation, name: str | None) -> Transaction | None:
        return None if name is None else self._named(operation, name)

    def _named(self, operation: Operation, name: str) -> Transaction:
        try:
            return self.transactions[name]
        except KeyError:
            raise HistoryError(f"this transaction never began: {operation}") from None
