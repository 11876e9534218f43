"""What each reader was given, in order: records it skipped, was given late, or twice.

A reader's *sequence* in a partition begins where it is assigned or seeks, and should then give every record that shows,
once, by offset. Of a record that does not come in its place, what happens later decides what it is: given after a later
one it came out of order; given again it is a duplicate; never given it was skipped, or is lost if no reader has it.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field

from onceflow.testing.histories.facts import Facts, Place, Transaction, Write
from onceflow.testing.histories.operations import Assign, Operation, PartitionOffset, Poll, Rebalance, Seek
from onceflow.testing.histories.placement import Placement
from onceflow.testing.histories.report import Anomaly, AnomalyKind

__all__ = ["End", "Gap", "Reading"]


@dataclass(frozen=True, slots=True)
class End:
    """A reader had read everything up to the end of a partition.

    Attributes:
        position: The end.
        poll: The poll that found it.
        since_ns: Since when the reader read on without a seek; minus infinity if it read from offset 0.
    """

    position: int
    poll: Poll
    since_ns: float


@dataclass(frozen=True, slots=True, eq=False)
class Gap:
    """A reader went from one record to another past some that should have been between them.

    Attributes:
        before: The operation before the gap.
        after: The poll behind it.
        internal: Both are one poll or belong to one transaction.
    """

    before: Operation | None
    after: Poll
    internal: bool


@dataclass(slots=True)
class _Sequence:
    place: Place
    #: Visible offsets of the partition, ascending, and the first of them that is still to come.
    expected: list[int]
    next_expected: int
    #: The highest offset passed so far, the operation that came to it and the transaction that was part of.
    high: int
    last: Operation
    transaction: Transaction | None
    since_ns: float
    given: dict[int, Poll] = field(default_factory=dict)
    missing: dict[int, Gap] = field(default_factory=dict)


class Reading:
    """Follows all readers.

    Attributes:
        anomalies: Duplicates, skipped and non-monotonic polls.
        passed: Records that must show, that nobody was ever shown, and that a reader went past: with the gap.
        ends: By partition: the ends that readers came to, in the order in which those polls began.
    """

    def __init__(self, facts: Facts, placement: Placement) -> None:
        self.anomalies: list[Anomaly] = []
        self.passed: dict[Write, Gap] = {}
        self.ends: dict[Place, list[End]] = {}
        self._at = placement.at
        self._expected: dict[Place, list[int]] = {
            place: sorted(offset for offset, write in offsets.items() if write.expected)
            for place, offsets in placement.at.items()
        }
        for readings in facts.readers.values():
            self._follow(readings)
        for ends in self.ends.values():
            ends.sort(key=lambda end: end.poll.start_ns)

    def _follow(self, readings: list[tuple[Poll | Assign | Rebalance | Seek, Transaction | None]]) -> None:
        sequences: dict[Place, _Sequence] = {}
        for operation, transaction in readings:
            match operation:
                case Poll():
                    self._poll(sequences, operation, transaction)
                case Assign():
                    for place in list(sequences):
                        self._end(sequences, place)
                    self._begin_all(sequences, operation, operation.positions)
                case Rebalance():
                    for revoked in operation.revoked:
                        self._end(sequences, (revoked.topic, revoked.partition))
                    self._begin_all(sequences, operation, operation.assigned)
                case Seek():
                    self._begin_all(sequences, operation, (operation.position,))
        for place in list(sequences):
            self._end(sequences, place)

    def _begin_all(
        self, sequences: dict[Place, _Sequence], operation: Operation, positions: tuple[PartitionOffset, ...]
    ) -> None:
        for position in positions:
            place = (position.topic, position.partition)
            self._end(sequences, place)
            # An unknown start begins with the first record: until then there is nothing to compare with.
            if position.offset is not None:
                self._begin(sequences, place, position.offset, operation)

    def _begin(self, sequences: dict[Place, _Sequence], place: Place, offset: int, operation: Operation) -> _Sequence:
        expected = self._expected.get(place, [])
        since_ns = -math.inf if offset == 0 else operation.at_ns
        sequence = _Sequence(place, expected, bisect_left(expected, offset), offset - 1, operation, None, since_ns)
        sequences[place] = sequence
        return sequence

    def _poll(self, sequences: dict[Place, _Sequence], poll: Poll, transaction: Transaction | None) -> None:
        again: dict[Place, list[int]] = {}
        for record in poll.records:
            place = (record.topic, record.partition)
            offset = record.offset
            sequence = sequences.get(place) or self._begin(sequences, place, offset, poll)
            if offset > sequence.high:
                expected, index = sequence.expected, sequence.next_expected
                if index < len(expected) and expected[index] < offset:
                    index = _miss(sequence, offset, poll, transaction)
                if index < len(expected) and expected[index] == offset:
                    index += 1
                sequence.next_expected = index
                sequence.high = offset
                sequence.last = poll
                sequence.transaction = transaction
            elif offset in sequence.given:
                again.setdefault(place, []).append(offset)
                continue
            else:
                self._late(sequence, offset, poll, transaction)
            sequence.given[offset] = poll
        for place, offsets in again.items():
            self._again(sequences[place], offsets, poll)
        for end in poll.reached:
            self._reach(sequences, end, poll, transaction)

    def _reach(
        self, sequences: dict[Place, _Sequence], end: PartitionOffset, poll: Poll, transaction: Transaction | None
    ) -> None:
        if end.offset is None:
            return
        place = (end.topic, end.partition)
        sequence = sequences.get(place) or self._begin(sequences, place, end.offset, poll)
        if end.offset > sequence.high + 1:
            sequence.next_expected = _miss(sequence, end.offset, poll, transaction)
            sequence.high = end.offset - 1
            sequence.last = poll
            sequence.transaction = transaction
        self.ends.setdefault(place, []).append(End(end.offset, poll, sequence.since_ns))

    def _late(self, sequence: _Sequence, offset: int, poll: Poll, transaction: Transaction | None) -> None:
        sequence.missing.pop(offset, None)
        internal = _together(sequence, poll, transaction)
        self.anomalies.append(
            Anomaly.proven(
                AnomalyKind.INTERNAL_NONMONOTONIC_POLL if internal else AnomalyKind.EXTERNAL_NONMONOTONIC_POLL,
                f"{poll.client} was given {self._named(sequence.place, offset)} after it had come to offset "
                f"{sequence.high}",
                sequence.last,
                poll,
            )
        )

    def _again(self, sequence: _Sequence, offsets: list[int], poll: Poll) -> None:
        self.anomalies.append(
            Anomaly.proven(
                AnomalyKind.DUPLICATE,
                f"{poll.client} was given {len(offsets)} record(s) again without a seek, the first of them "
                f"{self._named(sequence.place, offsets[0])}",
                sequence.given[offsets[0]],
                poll,
                records=len(offsets),
            )
        )

    def _end(self, sequences: dict[Place, _Sequence], place: Place) -> None:
        """What has not come by the end of a sequence will not come."""
        sequence = sequences.pop(place, None)
        if sequence is None or not sequence.missing:
            return
        skipped: dict[Gap, list[int]] = {}
        for offset, gap in sequence.missing.items():
            write = self._at[place][offset]
            if write.read is None:
                self.passed.setdefault(write, gap)
            else:
                skipped.setdefault(gap, []).append(offset)
        for gap, offsets in skipped.items():
            write = self._at[place][offsets[0]]
            self.anomalies.append(
                Anomaly.proven(
                    AnomalyKind.INTERNAL_SKIPPED_POLL if gap.internal else AnomalyKind.EXTERNAL_SKIPPED_POLL,
                    f"{gap.after.client} went past {len(offsets)} record(s) that others were given, the first of them "
                    f"{self._named(place, offsets[0])}",
                    gap.before,
                    gap.after,
                    write.read,
                    records=len(offsets),
                )
            )

    def _named(self, place: Place, offset: int) -> str:
        return f"{place[0]}/{place[1]}@{offset} ({self._at[place][offset].value!r})"


def _miss(sequence: _Sequence, offset: int, poll: Poll, transaction: Transaction | None) -> int:
    """Notes what lies between the highest offset so far and this one; returns the place of what is expected next."""
    first = sequence.next_expected
    last = bisect_right(sequence.expected, offset - 1, lo=first)
    if last > first:
        gap = Gap(sequence.last, poll, _together(sequence, poll, transaction))
        sequence.missing.update((missed, gap) for missed in sequence.expected[first:last])
    return last


def _together(sequence: _Sequence, poll: Poll, transaction: Transaction | None) -> bool:
    return sequence.last is poll or (transaction is not None and sequence.transaction is transaction)
