"""What a check found, with the operations that show it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum

from onceflow.testing.histories.operations import Operation

__all__ = ["Anomaly", "AnomalyKind", "Report"]


class AnomalyKind(StrEnum):
    """What can be wrong with a log. Each wrong record is counted under one of them, the most telling.

    *Internal* is within one poll or one transaction of the reader, *external* across several.
    """

    #: Acknowledged (and committed), passed by a reader, and never seen by anybody.
    LOST_WRITE = "lost write"
    #: One record at two offsets, or given twice to a reader that did not seek back.
    DUPLICATE = "duplicate"
    #: Shown to a read_committed reader although its transaction was aborted or its send refused (G1a).
    ABORTED_READ = "aborted read"
    #: Shown to a read_committed reader before the commit of its transaction was asked for.
    PRECOMMITTED_READ = "pre-committed read"
    #: Some records of a transaction show, others of it do not, though a reader has read all there is.
    TORN_TRANSACTION = "torn transaction"
    #: Two values at one offset, or a value in another partition than it was sent to.
    INCONSISTENT_OFFSETS = "inconsistent offsets"
    #: A client's later record has the lower offset.
    NONMONOTONIC_SEND = "non-monotonic send"
    #: A record came after one of a higher offset.
    INTERNAL_NONMONOTONIC_POLL = "internal non-monotonic poll"
    EXTERNAL_NONMONOTONIC_POLL = "external non-monotonic poll"
    #: A reader went past a record that others saw.
    INTERNAL_SKIPPED_POLL = "internal skipped poll"
    EXTERNAL_SKIPPED_POLL = "external skipped poll"
    #: Transactions that each come before the other (G1c; G0 if only writes are involved).
    CIRCULAR_INFORMATION_FLOW = "circular information flow"
    #: A record that nobody sent.
    UNKNOWN_VALUE = "unknown value"
    #: A consumer group resumed from a position although it had committed a later one.
    STALE_POSITION = "stale position"


_SHOWN_OPERATIONS = 12


@dataclass(frozen=True, slots=True)
class Anomaly:
    """One thing that a correct log never does.

    Attributes:
        kind: Which.
        explanation: What happened, in a sentence or two.
        evidence: The operations that prove it, in the order in which the explanation needs them.
        records: How many records it concerns.
    """

    kind: AnomalyKind
    explanation: str
    evidence: tuple[Operation, ...]
    records: int = 1

    @classmethod
    def proven(cls, kind: AnomalyKind, explanation: str, *evidence: Operation | None, records: int = 1) -> Anomaly:
        """With the operations that there are, each once."""
        once = {id(operation): operation for operation in evidence if operation is not None}
        return cls(kind, explanation, tuple(once.values()), records)

    def __str__(self) -> str:
        lines = [f"{self.kind.upper()}: {self.explanation}"]
        lines.extend(f"    {operation}" for operation in self.evidence[:_SHOWN_OPERATIONS])
        if len(self.evidence) > _SHOWN_OPERATIONS:
            lines.append(f"    … and {len(self.evidence) - _SHOWN_OPERATIONS} more operations")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Report:
    """What a history says of a log.

    A history in which nobody read proves nothing, so look at the counts as well: ``unseen`` should be 0 at the end of a
    test that lets a reader come to the end.

    Attributes:
        anomalies: All that were found.
        operations: In the history.
        sent: Records sent.
        acknowledged: Records that the log must show: acknowledged, and their transaction, if any, committed.
        unseen: Of these, those that no reader saw. They are lost only if a reader went past them.
        read: Records given to readers, counted each time.
        committed: Transactions that committed.
        aborted: Transactions that aborted.
        indefinite: Transactions that may have committed; that they show, or do not show, is right.
        abandoned: Transactions whose commit was never asked for.
    """

    anomalies: tuple[Anomaly, ...]
    operations: int
    sent: int
    acknowledged: int
    unseen: int
    read: int
    committed: int
    aborted: int
    indefinite: int
    abandoned: int

    def kinds(self) -> Counter[AnomalyKind]:
        """How often each kind was found."""
        return Counter(anomaly.kind for anomaly in self.anomalies)

    def raise_anomalies(self) -> None:
        """Raises ``AssertionError`` with the whole report if there is any anomaly."""
        if self.anomalies:
            raise AssertionError(str(self))

    def __str__(self) -> str:
        lines = [
            f"{self.operations} operations: {self.sent} records sent, {self.acknowledged} acknowledged "
            f"({self.unseen} of them unseen), {self.read} read; transactions: {self.committed} committed, "
            f"{self.aborted} aborted, {self.indefinite} indefinite, {self.abandoned} abandoned"
        ]
        if not self.anomalies:
            lines.append("no anomalies")
        else:
            lines.append(", ".join(f"{number} {kind}" for kind, number in self.kinds().most_common()))
            lines.extend(str(anomaly) for anomaly in self.anomalies)
        return "\n".join(lines)
