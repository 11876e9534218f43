"""One producer and one consumer for many transactions; ``make soak-transactions`` has as many as an epoch can count."""

from __future__ import annotations

from many_transactions import run_many


def test_k16_many_transactions_of_one_producer_and_one_consumer(kafka):
    """Kind (K16): a producer that goes on by an epoch that it has kept, and a reader that has as many markers and
    aborted transactions to pass by as records."""
    count, taken = 300, 20
    found = run_many(kafka, count, taken)
    for partition, numbers in found.read.items():
        assert numbers == list(range(partition, count, 2))
    # A record and its control record each, of both.
    assert found.end == 2 * (count + found.aborted)
    assert found.last.producer == found.first.producer
    # Of some that come at the same time one may be refused.
    assert found.last.epoch > found.first.epoch + taken // 2
