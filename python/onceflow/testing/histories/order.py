"""Orders that must agree: a client's sends with their offsets, transactions with each other, positions with commits."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from onceflow.testing.histories.cycles import cycles
from onceflow.testing.histories.facts import Facts, Fate, Place, Positions, Transaction, Write
from onceflow.testing.histories.operations import Assign, Operation, PartitionOffset, Rebalance
from onceflow.testing.histories.placement import Placement
from onceflow.testing.histories.report import Anomaly, AnomalyKind

__all__ = ["circular", "nonmonotonic_sends", "stale_positions"]


def nonmonotonic_sends(facts: Facts) -> Iterator[Anomaly]:
    """Records of one client that lie in another order than they were sent in."""
    for sends in facts.sends.values():
        highest: dict[Place, Write] = {}
        for write in sends:
            if write.place is None:
                continue
            before = highest.get(write.place)
            if before is None or write.offset > before.offset:
                highest[write.place] = write
            else:
                yield Anomaly.proven(
                    AnomalyKind.NONMONOTONIC_SEND,
                    f"{write} was sent after {before} and lies before it",
                    before.send,
                    before.placed_by,
                    write.send,
                    write.placed_by,
                )


@dataclass(frozen=True, slots=True)
class _Edge:
    explanation: str
    evidence: tuple[Operation | None, ...]


def circular(facts: Facts, placement: Placement, *, write_order: bool) -> Iterator[Anomaly]:
    """Transactions that precede each other.

    One precedes another if the other read what it wrote, and, with ``write_order``, if it wrote to a lower offset of
    the same partition. A log that writes records down before their transaction is decided mixes the records of several
    transactions, and there the order of offsets says nothing.
    """
    edges: dict[Transaction, dict[Transaction, _Edge]] = {}
    for reader in facts.transactions.values():
        if reader.committed:
            _add_reads(edges, facts, reader)
    if write_order:
        for offsets in placement.at.values():
            _add_writes(edges, offsets)
    for cycle in cycles(edges):
        steps = [edges[one][other] for one, other in zip(cycle, [*cycle[1:], cycle[0]], strict=True)]
        yield Anomaly.proven(
            AnomalyKind.CIRCULAR_INFORMATION_FLOW,
            "; ".join(step.explanation for step in steps),
            *(operation for step in steps for operation in step.evidence),
        )


def _add_reads(edges: dict[Transaction, dict[Transaction, _Edge]], facts: Facts, reader: Transaction) -> None:
    for poll in reader.polls:
        for record in poll.records:
            write = facts.writes[record.topic, record.value]
            writer = write.transaction
            if writer is None or writer is reader:
                continue
            following = edges.setdefault(writer, {})
            if reader not in following:
                text = f"{reader.name} read {write}, which {writer.name} wrote"
                following[reader] = _Edge(text, (write.send, poll))


def _add_writes(edges: dict[Transaction, dict[Transaction, _Edge]], offsets: dict[int, Write]) -> None:
    before: Write | None = None
    for offset in sorted(offsets):
        write = offsets[offset]
        if write.transaction is None or not write.transaction.committed or write.conflicting or write.offset != offset:
            continue
        if before is not None and before.transaction is not None and before.transaction is not write.transaction:
            following = edges.setdefault(before.transaction, {})
            if write.transaction not in following:
                text = f"{write.transaction.name} wrote {write} after {before}, which {before.transaction.name} wrote"
                following[write.transaction] = _Edge(text, (before.send, before.placed_by, write.send, write.placed_by))
        before = write


def stale_positions(facts: Facts) -> Iterator[Anomaly]:
    """Consumer groups that resumed from other positions than they had committed.

    A group that has surely committed nothing yet may begin anywhere.
    """
    committed: dict[tuple[str, str, int], list[tuple[Positions, int]]] = {}
    for positions in facts.positions:
        for each in positions.operation.positions:
            if each.offset is not None:
                key = (positions.operation.group, each.topic, each.partition)
                committed.setdefault(key, []).append((positions, each.offset))
    for entries in committed.values():
        entries.sort(key=_called)
    for readings in facts.readers.values():
        for operation, _ in readings:
            if isinstance(operation, Assign | Rebalance) and operation.group is not None:
                starts = operation.positions if isinstance(operation, Assign) else operation.assigned
                for start in starts:
                    entries = committed.get((operation.group, start.topic, start.partition), [])
                    yield from _judge_start(operation, start, entries)


def _called(entry: tuple[Positions, int]) -> float:
    return entry[0].called_ns


def _judge_start(
    operation: Assign | Rebalance, start: PartitionOffset, entries: list[tuple[Positions, int]]
) -> Iterator[Anomaly]:
    if start.offset is None:
        return
    asked_ns = operation.at_ns if operation.start_ns is None else operation.start_ns
    # Newest first, down to the newest that certainly counted: nothing that was surely replaced before it may come back.
    certain: tuple[Positions, int] | None = None
    for entry in reversed(entries[: bisect_right(entries, float(operation.at_ns), key=_called)]):
        positions, offset = entry
        if certain is not None and positions.done_ns < certain[0].called_ns:
            break
        if positions.fate in (Fate.COMMITTED, Fate.INDEFINITE):
            if offset == start.offset:
                return
            if certain is None and positions.done_ns < asked_ns:
                certain = entry
    if certain is not None:
        positions, offset = certain
        transaction = positions.transaction
        whose = "" if transaction is None else f" by transaction {transaction.name}"
        yield Anomaly.proven(
            AnomalyKind.STALE_POSITION,
            f"{operation.client} resumed from {start} as group {operation.group}, which had committed {offset}{whose}",
            positions.operation,
            None if transaction is None else transaction.ended,
            positions.answer,
            operation,
        )
