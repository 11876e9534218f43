"""Places of records: what acknowledgements and polls say of offsets, and where they contradict each other."""

from __future__ import annotations

from onceflow.testing.histories.facts import Facts, Fate, Place, Transaction, Write
from onceflow.testing.histories.operations import Isolation, Operation, Outcome, Poll
from onceflow.testing.histories.report import Anomaly, AnomalyKind

__all__ = ["Placement"]

_NAMED = 5


class Placement:
    """Gives each write its place and its first readers, and finds what no reader may be shown.

    Attributes:
        at: By topic and partition: what is at an offset.
        anomalies: Contradictions about offsets, and reads of records that must not show.
    """

    def __init__(self, facts: Facts) -> None:
        self.at: dict[Place, dict[int, Write]] = {}
        self.anomalies: list[Anomaly] = []
        self._writes = facts.writes
        self._conflicts: set[tuple[Place, int, str | int]] = set()
        #: (kind, transaction or else the write) → the writes that were shown and the polls that did it first.
        self._exposed: dict[tuple[AnomalyKind, Transaction | Write], list[tuple[Write, Poll]]] = {}
        for write in facts.writes.values():
            answer = write.answer
            if answer is not None and answer.partition is not None and answer.offset is not None:
                self._place(write, (write.topic, answer.partition), answer.offset, answer)
        for poll in facts.polls:
            self._read(poll)
        self.anomalies.extend(_exposure(kind, shown) for (kind, _), shown in self._exposed.items())

    def _place(self, write: Write, place: Place, offset: int, operation: Operation) -> None:
        offsets = self.at.get(place)
        if offsets is None:
            offsets = self.at[place] = {}
        there = offsets.setdefault(offset, write)
        if there is not write:
            self._conflict(write, there, place, offset, operation)
        elif write.placed_by is None:
            write.place, write.offset, write.placed_by = place, offset, operation
            send = write.send
            if send is not None and send.partition is not None and send.partition != place[1]:
                self._found(
                    AnomalyKind.INCONSISTENT_OFFSETS,
                    f"{write.value!r} was sent to partition {send.partition} of {place[0]} and is in {place[1]}",
                    send,
                    operation,
                )
        elif (write.offset, write.place) != (offset, place) and (place, offset, write.value) not in self._conflicts:
            self._conflicts.add((place, offset, write.value))
            self._found(
                AnomalyKind.DUPLICATE,
                f"{write} is also at {place[0]}/{place[1]}@{offset}",
                write.send,
                write.placed_by,
                operation,
            )

    def _conflict(self, write: Write, there: Write, place: Place, offset: int, operation: Operation) -> None:
        write.conflicting = there.conflicting = True
        if (place, offset, write.value) in self._conflicts:
            return
        self._conflicts.add((place, offset, write.value))
        self._found(
            AnomalyKind.INCONSISTENT_OFFSETS,
            f"two values are at {place[0]}/{place[1]}@{offset}: {there.value!r} and {write.value!r}",
            there.send,
            there.placed_by,
            write.send,
            operation,
        )

    def _read(self, poll: Poll) -> None:
        writes = self._writes
        committed_only = poll.isolation is Isolation.READ_COMMITTED
        for record in poll.records:
            write = writes.get((record.topic, record.value))
            if write is None:
                write = writes[record.topic, record.value] = Write(record.topic, record.value, None)
                self._found(AnomalyKind.UNKNOWN_VALUE, f"nobody sent {record}", poll)
            self._place(write, (record.topic, record.partition), record.offset, poll)
            if write.read is None:
                write.read = poll
                if write.outcome is Outcome.FAILED and not committed_only:
                    self._expose(AnomalyKind.ABORTED_READ, write, poll)
            if committed_only and write.seen is None:
                write.seen = poll
                self._judge(write, poll)

    def _judge(self, write: Write, poll: Poll) -> None:
        """The first time that a read_committed reader is shown a record."""
        transaction = write.transaction
        if write.outcome is Outcome.FAILED:
            self._expose(AnomalyKind.ABORTED_READ, write, poll)
        elif transaction is None:
            return
        elif (kind := _forbidden(transaction, poll)) is not None:
            self._expose(kind, write, poll)
        elif transaction.seen is None:
            transaction.seen = poll

    def _expose(self, kind: AnomalyKind, write: Write, poll: Poll) -> None:
        if write.exposed:
            return
        transaction = write.transaction
        write.exposed = True
        if transaction is not None:
            transaction.exposed = True
        self._exposed.setdefault((kind, transaction or write), []).append((write, poll))

    def _found(self, kind: AnomalyKind, explanation: str, *evidence: Operation | None) -> None:
        self.anomalies.append(Anomaly.proven(kind, explanation, *evidence))


def _forbidden(transaction: Transaction, poll: Poll) -> AnomalyKind | None:
    """What a poll did wrong that showed a record of the transaction, if anything.

    Only what had returned before the commit was even asked for is certain to have been too early.
    """
    match transaction.fate:
        case Fate.COMMITTED | Fate.INDEFINITE:
            commit = transaction.commit
            return AnomalyKind.PRECOMMITTED_READ if commit is None or poll.at_ns < commit.at_ns else None
        case Fate.ABORTED:
            decided = transaction.ended
        case Fate.ABANDONED:
            decided = transaction.abort
    too_early = decided is None or poll.at_ns < decided.at_ns
    return AnomalyKind.PRECOMMITTED_READ if too_early else AnomalyKind.ABORTED_READ


def _exposure(kind: AnomalyKind, shown: list[tuple[Write, Poll]]) -> Anomaly:
    write, poll = shown[0]
    transaction = write.transaction
    values = ", ".join(str(each) for each, _ in shown[:_NAMED]) + (" …" if len(shown) > _NAMED else "")
    if write.outcome is Outcome.FAILED:
        why = "whose send had failed for good"
    elif transaction is None:
        why = "out of nothing"
    elif kind is AnomalyKind.ABORTED_READ:
        why = f"of transaction {transaction.name}, which was aborted"
    elif transaction.fate is Fate.ABORTED:
        why = f"of transaction {transaction.name} before its end, which was an abort"
    elif transaction.commit is None:
        why = f"of transaction {transaction.name}, whose commit was never asked for"
    else:
        why = f"of transaction {transaction.name} before its commit was asked for"
    evidence: list[Operation | None] = [write.send, poll, write.answer if write.outcome is Outcome.FAILED else None]
    if transaction is not None:
        evidence += [transaction.begin, transaction.ended or transaction.commit or transaction.abort]
    return Anomaly.proven(
        kind,
        f"{poll.client} ({poll.isolation}) was shown {len(shown)} record(s) {why}: {values}",
        *evidence,
        records=len(shown),
    )
