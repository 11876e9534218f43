"""Whether a batch of results has records in each other's places.

The kind of fault: a record that has got the event time of another one is passed on.
"""

from __future__ import annotations

import random

from onceflow._native import _any_moved


def test_each_swap_is_seen():
    records = [{"n": n} for n in range(300)]
    for seed in range(50):
        one, other = random.Random(seed).sample(range(300), 2)
        results = [dict(record) if seed % 2 else record for record in records]
        results[one], results[other] = records[other], records[one]
        assert _any_moved(records, results)
        results[other] = {}
        assert _any_moved(records, results)


def test_records_at_their_places_new_ones_and_equal_values_are_no_moves():
    records = [{"n": n} for n in range(300)]
    assert not _any_moved(records, records)
    assert not _any_moved(records, [dict(record) for record in records])
    assert not _any_moved(records, [*records[:100], *({} for _ in range(200))])
    assert not _any_moved([1, "a", 2.5, None], [None, 2.5, "a", 1])
    assert not _any_moved([], [])
