"""What a client of a log did, call by call: the words of a history.

A call that may be cut off is two operations: the call, written down before it is made, and a ``Returned`` when it has
answered. A process that is killed in between leaves the call alone, and what it did is indefinite: perhaps done,
perhaps not. That is why nothing may be written down only afterwards.

Values identify records: within a topic each send has a value of its own. A program that sends something again, as after
an aborted transaction, puts the attempt into the value.

Times are nanoseconds of ``time.monotonic_ns()``, which all processes of one machine share. ``at_ns`` is when the
operation was written down: just before a call, just after an answer.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeAlias

import msgspec

__all__ = [
    "Abort",
    "Assign",
    "Begin",
    "Commit",
    "Isolation",
    "Operation",
    "Outcome",
    "PartitionOffset",
    "Poll",
    "Rebalance",
    "Record",
    "Returned",
    "Seek",
    "Send",
    "SendOffsets",
    "Value",
]

Value: TypeAlias = int | str


class Outcome(StrEnum):
    """How a call ended.

    ``failed`` says that it surely had no effect and never will; all that is less sure is ``indefinite``.
    """

    OK = "ok"
    FAILED = "failed"
    INDEFINITE = "indefinite"


class Isolation(StrEnum):
    """Which records a reader asked for."""

    READ_COMMITTED = "read_committed"
    READ_UNCOMMITTED = "read_uncommitted"


class PartitionOffset(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An offset in a partition; None if it is unknown. As a position: the offset of the next record to be read."""

    topic: str
    partition: int
    offset: int | None = None

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}@{'?' if self.offset is None else self.offset}"


class Record(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A record that a reader was given."""

    topic: str
    partition: int
    offset: int
    value: Value

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}@{self.offset}={self.value!r}"


class _Operation(msgspec.Struct, frozen=True, tag_field="op", tag=str.lower, omit_defaults=True, kw_only=True):
    """Attributes that all operations have.

    Attributes:
        client: Who did it; one producer, or one consumer, or a pair of them that reads and writes in turn.
        index: Number of the operation among those of the client, from 0.
        at_ns: When it was written down.
    """

    client: str
    index: int
    at_ns: int

    def __str__(self) -> str:
        return f"{self.client}#{self.index} at {self.at_ns / 1e9:.6f} s: {self._text()}"

    def _text(self) -> str:
        raise NotImplementedError


class Begin(_Operation, frozen=True):
    """A transaction began."""

    transaction: str

    def _text(self) -> str:
        return f"began transaction {self.transaction}"


class Send(_Operation, frozen=True):
    """A record is about to be sent.

    Attributes:
        partition: If the client chose it. If neither this nor an answer tells, nobody can say where the record is
            missing.
        transaction: In which it is sent.
    """

    topic: str
    value: Value
    partition: int | None = None
    transaction: str | None = None

    def _text(self) -> str:
        where = self.topic if self.partition is None else f"{self.topic}/{self.partition}"
        how = "" if self.transaction is None else f" in transaction {self.transaction}"
        return f"sends {self.value!r} to {where}{how}"


class SendOffsets(_Operation, frozen=True):
    """Positions of a consumer group are about to be committed, with a transaction or without."""

    group: str
    positions: tuple[PartitionOffset, ...]
    transaction: str | None = None

    def _text(self) -> str:
        how = "" if self.transaction is None else f" in transaction {self.transaction}"
        return f"commits positions of group {self.group}{how}: {_listed(self.positions)}"


class Commit(_Operation, frozen=True):
    """The commit of a transaction is about to be asked for."""

    transaction: str

    def _text(self) -> str:
        return f"commits transaction {self.transaction}"


class Abort(_Operation, frozen=True):
    """The abort of a transaction is about to be asked for."""

    transaction: str

    def _text(self) -> str:
        return f"aborts transaction {self.transaction}"


class Returned(_Operation, frozen=True):
    """A ``Send``, ``SendOffsets``, ``Commit`` or ``Abort`` of the same client has answered.

    Attributes:
        call: Index of that operation.
        partition: Of a sent record, if the log told.
        offset: Of a sent record, if the log told.
        error: What it raised, for people.
    """

    call: int
    outcome: Outcome
    partition: int | None = None
    offset: int | None = None
    error: str | None = None

    def _text(self) -> str:
        where = "" if self.offset is None else f", at offset {self.offset} of partition {self.partition}"
        why = "" if self.error is None else f": {self.error}"
        return f"#{self.call} answered {self.outcome}{where}{why}"


class Assign(_Operation, frozen=True):
    """The client reads these partitions from now on, and no others.

    Attributes:
        positions: Where reading starts. An unknown offset means: wherever the first record comes from.
        group: The positions are what this consumer group had committed.
        start_ns: When the client began to look them up.
    """

    positions: tuple[PartitionOffset, ...]
    group: str | None = None
    start_ns: int | None = None

    def _text(self) -> str:
        whose = "" if self.group is None else f" as group {self.group}"
        return f"reads from{whose} {_listed(self.positions)}"


class Rebalance(_Operation, frozen=True):
    """A consumer group took partitions from the client and gave it others; the rest it keeps."""

    group: str
    revoked: tuple[PartitionOffset, ...] = ()
    assigned: tuple[PartitionOffset, ...] = ()
    start_ns: int | None = None

    def _text(self) -> str:
        return f"group {self.group} revokes {_listed(self.revoked)}, assigns {_listed(self.assigned)}"


class Seek(_Operation, frozen=True):
    """The client goes on reading a partition from another position."""

    position: PartitionOffset

    def _text(self) -> str:
        return f"seeks {self.position}"


class Poll(_Operation, frozen=True):
    """The client was given records, or none.

    Attributes:
        records: In the order in which they came.
        start_ns: When the poll was called; ``at_ns`` is when it returned.
        reached: Positions up to which the log says that the client has now read everything there is: the end of the
            partition as its isolation level shows it.
    """

    start_ns: int
    records: tuple[Record, ...] = ()
    reached: tuple[PartitionOffset, ...] = ()
    isolation: Isolation = Isolation.READ_COMMITTED

    def _text(self) -> str:
        end = f", reached the end at {_listed(self.reached)}" if self.reached else ""
        level = "" if self.isolation is Isolation.READ_COMMITTED else f" ({self.isolation})"
        return f"polled {_listed(self.records) or 'nothing'}{level}{end}"


Operation: TypeAlias = Begin | Send | SendOffsets | Commit | Abort | Returned | Assign | Rebalance | Seek | Poll

_SHOWN = 8


def _listed(items: tuple[PartitionOffset, ...] | tuple[Record, ...]) -> str:
    text = ", ".join(str(item) for item in items[:_SHOWN])
    return text if len(items) <= _SHOWN else f"{text} … ({len(items)} in all)"
