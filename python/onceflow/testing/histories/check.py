"""Checks a history for everything that a log may not do."""

from __future__ import annotations

from collections import Counter

from onceflow.testing.histories.completeness import incomplete, torn_in_time
from onceflow.testing.histories.facts import Facts, Fate
from onceflow.testing.histories.history import History
from onceflow.testing.histories.order import circular, nonmonotonic_sends, stale_positions
from onceflow.testing.histories.placement import Placement
from onceflow.testing.histories.reading import Reading
from onceflow.testing.histories.report import Report

__all__ = ["check"]


def check(history: History, *, atomic_commits: bool) -> Report:
    """Finds every anomaly of a history that can be proven; time and memory grow linearly with it.

    Operations without a certain outcome count for the log: it may show them or not, but not in part.

    Args:
        history: Of all clients of the log; of records that others wrote it would say that nobody sent them. All clients
            ran on one machine, since times are compared.
        atomic_commits: The log promises that a transaction takes its offsets and becomes visible in one step, as the
            embedded log does. Kafka writes records down when they are sent and makes them visible partition by
            partition; for it this must be false, or correct behaviour is reported.

    Raises:
        HistoryError: The history contradicts itself.
    """
    facts = Facts(history)
    placement = Placement(facts)
    reading = Reading(facts, placement)
    anomalies = [
        *placement.anomalies,
        *incomplete(facts, reading),
        *(torn_in_time(facts, reading) if atomic_commits else ()),
        *reading.anomalies,
        *nonmonotonic_sends(facts),
        *circular(facts, placement, write_order=atomic_commits),
        *stale_positions(facts),
    ]
    writes = [write for write in facts.writes.values() if write.send is not None]
    required = [write for write in writes if write.required]
    fates = Counter(transaction.fate for transaction in facts.transactions.values())
    return Report(
        anomalies=tuple(anomalies),
        operations=len(history),
        sent=len(writes),
        acknowledged=len(required),
        unseen=sum(write.read is None for write in required),
        read=sum(len(poll.records) for poll in facts.polls),
        committed=fates[Fate.COMMITTED],
        aborted=fates[Fate.ABORTED],
        indefinite=fates[Fate.INDEFINITE],
        abandoned=fates[Fate.ABANDONED],
    )
