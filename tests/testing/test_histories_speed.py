"""A large history is checked in a time that grows with its length, not its square."""

from __future__ import annotations

import time

from onceflow.testing.histories import (
    Assign,
    Begin,
    Commit,
    History,
    Outcome,
    PartitionOffset,
    Poll,
    Record,
    Returned,
    Send,
    check,
)


def _history(records: int) -> History:
    """Transactions of ten records to two partitions, and two readers of all, one of which reads in transactions."""
    operations = []
    writes = [(number % 2, number // 2, f"value-{number}") for number in range(records)]
    index = 0
    for first in range(0, records, 10):
        name = f"t{first}"
        group = [Begin(client="p", index=index, at_ns=index, transaction=name)]
        for partition, _, value in writes[first : first + 10]:
            now = index + len(group)
            group.append(
                Send(client="p", index=now, at_ns=now, topic="t", value=value, partition=partition, transaction=name)
            )
        now = index + len(group)
        group.append(Commit(client="p", index=now, at_ns=now, transaction=name))
        group.append(Returned(client="p", index=now + 1, at_ns=now + 1, call=now, outcome=Outcome.OK))
        operations.extend(group)
        index += len(group)
    for client in ("r", "q"):
        positions = (PartitionOffset("t", 0, 0), PartitionOffset("t", 1, 0))
        operations.append(Assign(client=client, index=0, at_ns=index, positions=positions))
        for number, first in enumerate(range(0, records, 500), 1):
            read = tuple(Record("t", *write) for write in writes[first : first + 500])
            now = index + number
            operations.append(Poll(client=client, index=number, at_ns=now, start_ns=now, records=read))
    return History(operations)


def _seconds(records: int) -> float:
    history = _history(records)
    # Of this process alone, whatever else the machine does.
    start = time.process_time()
    report = check(history, atomic_commits=True)
    spent = time.process_time() - start
    assert (report.acknowledged, report.unseen, report.read) == (records, 0, 2 * records)
    report.raise_anomalies()
    return spent


def test_eight_times_the_records_take_about_eight_times_as_long():
    _seconds(5_000)
    small = min(_seconds(10_000) for _ in range(3))
    large = _seconds(80_000)
    assert large < 8 * small * 4, f"{small:.3f} s for 10,000 records, {large:.3f} s for 80,000"
