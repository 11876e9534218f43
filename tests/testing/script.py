"""Histories written by hand: one line an operation, each a millisecond after the one before it."""

from __future__ import annotations

from collections import Counter

from onceflow.testing.histories import (
    Abort,
    Assign,
    Begin,
    Commit,
    History,
    Isolation,
    Operation,
    Outcome,
    PartitionOffset,
    Poll,
    Rebalance,
    Record,
    Report,
    Returned,
    Seek,
    Send,
    SendOffsets,
    check,
)

OK, FAILED, INDEFINITE = Outcome.OK, Outcome.FAILED, Outcome.INDEFINITE


class Script:
    """Collects operations of any clients, in the order in which they happen. The topic is always ``t``."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self._indexes: Counter[str] = Counter()
        self._now = 0

    def _add(self, kind, client, **fields) -> int:
        self._now += 1_000_000
        index = self._indexes[client]
        self._indexes[client] += 1
        self.operations.append(kind(client=client, index=index, at_ns=self._now, **fields))
        return index

    def begin(self, client, name):
        self._add(Begin, client, transaction=name)

    def send(self, client, value, offset=None, *, outcome=OK, transaction=None, partition=0):
        """A send and its answer; with an outcome of None without one."""
        call = self._add(Send, client, topic="t", value=value, partition=partition, transaction=transaction)
        if outcome is not None:
            self._add(Returned, client, call=call, outcome=outcome, partition=partition, offset=offset)

    def stage(self, client, name, *values, partition=0):
        """Sends in a transaction, without answers of their own."""
        for value in values:
            self.send(client, value, outcome=None, transaction=name, partition=partition)

    def offsets(self, client, group, position, *, name=None, outcome=OK):
        call = self._add(
            SendOffsets, client, group=group, positions=(PartitionOffset("t", 0, position),), transaction=name
        )
        if outcome is not None:
            self.answer(client, call, outcome)
        return call

    def answer(self, client, call, outcome=OK):
        self._add(Returned, client, call=call, outcome=outcome)

    def end(self, kind, client, name, outcome=OK):
        call = self._add(kind, client, transaction=name)
        if outcome is not None:
            self._add(Returned, client, call=call, outcome=outcome)

    def commit(self, client, name, outcome=OK):
        self.end(Commit, client, name, outcome)

    def abort(self, client, name, outcome=OK):
        self.end(Abort, client, name, outcome)

    def assign(self, client, position=0, *, partition=0, group=None):
        self._add(Assign, client, positions=(PartitionOffset("t", partition, position),), group=group)

    def rebalance(self, client, *, revoked=(), assigned=()):
        self._add(
            Rebalance,
            client,
            group="g",
            revoked=tuple(PartitionOffset("t", partition) for partition in revoked),
            assigned=tuple(PartitionOffset("t", partition, offset) for partition, offset in assigned),
        )

    def seek(self, client, position, *, partition=0):
        self._add(Seek, client, position=PartitionOffset("t", partition, position))

    def poll(self, client, *records, partition=0, end=None, uncommitted=False):
        """Records are (offset, value)."""
        self._add(
            Poll,
            client,
            start_ns=self._now + 1,
            records=tuple(Record("t", partition, offset, value) for offset, value in records),
            reached=() if end is None else (PartitionOffset("t", partition, end),),
            isolation=Isolation.READ_UNCOMMITTED if uncommitted else Isolation.READ_COMMITTED,
        )

    def check(self, *, atomic=True) -> Report:
        return check(History(self.operations), atomic_commits=atomic)

    def kinds(self, *, atomic=True) -> dict[str, int]:
        return dict(self.check(atomic=atomic).kinds())
