"""Records that must show and do not: lost writes and torn transactions."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import accumulate

from onceflow.testing.histories.facts import Facts, Transaction, Write
from onceflow.testing.histories.operations import Poll
from onceflow.testing.histories.reading import End, Reading
from onceflow.testing.histories.report import Anomaly, AnomalyKind

__all__ = ["incomplete", "torn_in_time"]

_NAMED = 5


def incomplete(facts: Facts, reading: Reading) -> Iterator[Anomaly]:
    """Records that nobody was shown though a reader must have come past them."""
    torn: dict[Transaction, list[tuple[Write, Poll]]] = {}
    for write, poll in _unseen(facts, reading):
        transaction = write.transaction
        if transaction is not None and transaction.seen is not None:
            torn.setdefault(transaction, []).append((write, poll))
        else:
            yield Anomaly.proven(
                AnomalyKind.LOST_WRITE,
                f"{write} was acknowledged{'' if transaction is None else ' and committed'}, {poll.client} went past "
                "it, and nobody was ever shown it",
                write.send,
                write.answer,
                None if transaction is None else transaction.ended,
                poll,
            )
    for transaction, missing in torn.items():
        write, poll = missing[0]
        shown = [each for each in transaction.writes if each.seen is not None]
        names = ", ".join(str(each) for each, _ in missing[:_NAMED]) + (" …" if len(missing) > _NAMED else "")
        yield Anomaly.proven(
            AnomalyKind.TORN_TRANSACTION,
            f"of the {len(transaction.writes)} records of transaction {transaction.name} {len(shown)} were shown, such "
            f"as {shown[0]}; never shown, though {poll.client} went past: {names}",
            shown[0].send,
            shown[0].seen,
            write.send,
            poll,
            transaction.commit,
            transaction.ended,
            records=len(missing),
        )


def _unseen(facts: Facts, reading: Reading) -> Iterator[tuple[Write, Poll]]:
    for write, gap in reading.passed.items():
        yield write, gap.after
    # Without an offset there is no past: what counts is that a reader came to the end after the record had to show.
    last = {place: _last_ends(ends) for place, ends in reading.ends.items()}
    for write in facts.writes.values():
        send = write.send
        if send is None or send.partition is None or write.place is not None or write.conflicting:
            continue
        if write.required and (poll := _came_past(last.get((write.topic, send.partition), []), write)) is not None:
            yield write, poll


def _last_ends(ends: Iterable[End]) -> list[End]:
    """The last end of each stretch of reading without a seek."""
    last: dict[tuple[str, float], End] = {}
    for end in ends:
        last[end.poll.client, end.since_ns] = end
    return list(last.values())


def _came_past(ends: Iterable[End], write: Write) -> Poll | None:
    send_ns = -math.inf if write.send is None else write.send.at_ns
    for end in ends:
        if end.since_ns <= send_ns and end.poll.start_ns > write.required_ns:
            return end.poll
    return None


def torn_in_time(facts: Facts, reading: Reading) -> Iterator[Anomaly]:
    """Transactions of which one record was shown while another was not there yet.

    Only a log whose commits take effect at once promises that this never happens.
    """
    lowest: dict[tuple[str, int], list[End]] = {
        # The lowest end that any later poll came to.
        place: list(accumulate(reversed(ends), _lower))[::-1]
        for place, ends in reading.ends.items()
    }
    for transaction in facts.transactions.values():
        first = transaction.seen
        if first is None or transaction.exposed:
            continue
        for write in transaction.writes:
            if write.place is None or not write.expected:
                continue
            ends = reading.ends.get(write.place, [])
            later = bisect_right(ends, first.at_ns, key=lambda end: end.poll.start_ns)
            if later == len(ends) or (end := lowest[write.place][later]).position > write.offset:
                continue
            shown = next(each for each in transaction.writes if each.seen is first)
            yield Anomaly.proven(
                AnomalyKind.TORN_TRANSACTION,
                f"after {shown} of transaction {transaction.name} had been shown, {end.poll.client} found the end of "
                f"{write.place[0]}/{write.place[1]} at {end.position}, without {write} of the same transaction",
                shown.send,
                first,
                end.poll,
                write.send,
                write.placed_by,
                transaction.commit,
            )
            break


def _lower(one: End, other: End) -> End:
    return one if one.position < other.position else other
