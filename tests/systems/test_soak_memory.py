"""The soak of ``make soak-memory``: what it says of sizes, and a short one."""

from __future__ import annotations

import math
import random

import pytest
from steady import growth, run_steady


def sizes(of, seconds=3600):
    chance = random.Random(4)
    return [(second, of(second) + chance.uniform(-0.5, 0.5)) for second in range(seconds)]


@pytest.mark.parametrize("mib_per_hour", [0.0, 5.0, 60.0])
def test_growth_is_told_whatever_comes_and_goes(mib_per_hour):
    """Kind: a leak that goes under in what a checkpoint needs for a moment, or a warm-up that is taken for one."""

    def size(second):
        warm_up = 30 * (1 - math.exp(-second / 100))
        return 60 + warm_up + mib_per_hour * second / 3600 + (40 if second % 97 == 0 else 0)

    memory = growth(sizes(size))
    assert memory.mib_per_hour == pytest.approx(mib_per_hour, abs=0.5)
    # From the middle of the first tenth of three quarters of an hour to that of the last.
    assert memory.end_mib - memory.start_mib == pytest.approx(mib_per_hour * 3 / 4 * 9 / 10, abs=1)
    assert memory.most_mib > 120


def test_a_job_counts_into_table_and_topic_while_it_is_looked_at(tmp_path, kafka, postgres_dsn):
    """Kind: a soak that measures a job which does not work."""
    found = run_steady(tmp_path, kafka.bootstrap, postgres_dsn, seconds=6, rate=300)
    assert found.wrong == ""
    assert found.records > 1000
    assert found.windows >= 100
    assert len(found.resident_mib) >= 3
    assert all(own < resident for (_, own), (_, resident) in zip(found.own_mib, found.resident_mib, strict=True))
