"""A sample of the matrix of zombies: each point of a run that is replaced, with another point of its successor.

A process that was stopped, replaced and woken is the kind of fault that no kill shows: it goes on in the middle of what
its successor does. ``make zombies`` plays all pairs.
"""

from __future__ import annotations

import pytest
from matrix import Tally, play, prepare, sample_of

#: Kind of sink → one of so many pairs of its sample. JSON Lines and Parquet share their files' life with CSV.
SAMPLES = {"csv": 1, "log": 1, "outbox": 2, "sqlite": 2, "jsonl": 4, "parquet": 6}

pytestmark = pytest.mark.usefixtures("crash_points")


@pytest.mark.parametrize("kind", SAMPLES)
def test_a_run_that_is_woken_after_it_was_replaced_changes_nothing(tmp_path, kind):
    prepared = prepare(tmp_path, kind)
    tally = Tally()
    pairs = sample_of(kind, prepared, one_of=SAMPLES[kind])
    for pair in pairs:
        play(tmp_path, pair, prepared, tally)
    # Most pairs must have been pairs: a second run that is at its end before its point shows less.
    assert tally.pairs == len(pairs) > 3 * tally.early, tally
