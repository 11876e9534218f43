"""How far is a keyed update from the least it can cost?

Sum and count by int64 key through ``Table.update``, next to a bare Rust loop that does a random read-modify-write in an
array of that many cells: no hashing, no growing, no dirty tracking, no check for overflow.
"""

from __future__ import annotations

import time

import numpy as np
import pytest

from harness.figures import Goal, Table
from harness.rounds import best_time, interleave
from harness.workload import BATCH, COLUMNS, batches, fill, label, updates
from onceflow._native import _bare_update_loop
from onceflow.embed import StateBackend

HOT_PATH = Table(
    "hot_path",
    "Sum and count by int64 key, one core: a table next to a bare array",
    {
        "keys": "text",
        "distribution": "text",
        "table": "rate",
        "bare loop": "rate",
        "share": "share",
    },
    f"Best of several interleaved rounds; batches of {BATCH:,} records as numpy arrays. The bare loop is Rust too.",
)

SIZES = (100_000, 1_000_000, 10_000_000)
#: At least this share of the bare loop.
SHARES = {100_000: 0.3, 1_000_000: 0.6, 10_000_000: 1.0}
RATE_100K = 50e6


@pytest.mark.parametrize("distribution", ["uniform", "zipf"])
def test_share_of_a_bare_loop(keys, distribution, benchmark, record, scale, directory):
    made = batches(keys, records=int(20_000_000 * max(scale.time, 0.1)), distribution=distribution)
    records = len(made) * BATCH
    cells = np.zeros(2 * keys, dtype=np.uint64)
    with StateBackend.open(directory / "state") as backend:
        table = backend.table("totals", key="i64", columns=COLUMNS)
        fill(table, keys)

        def ours() -> float:
            start = time.perf_counter()
            for some, values in made:
                table.update(some, updates(values))
            return time.perf_counter() - start

        def bare() -> float:
            start = time.perf_counter()
            for some, values in made:
                _bare_update_loop(some, values, cells)
            return time.perf_counter() - start

        seconds = interleave(benchmark, {"ours": ours, "bare": bare}, scale.rounds)
        ours_s, bare_s = best_time(seconds["ours"]), best_time(seconds["bare"])
        # Both have done the same work, so both hold the same totals (``fill`` has counted each key once).
        found = table.get(np.arange(1000))
        assert np.array_equal(found.columns["count"] - 1, cells[1:2000:2].astype(np.int64))
    goals = [Goal("share", SHARES[keys])]
    if keys == 100_000:
        goals.append(Goal("table", RATE_100K))
    record(
        HOT_PATH,
        {
            "keys": label(keys),
            "distribution": distribution,
            "table": records / ours_s,
            "bare loop": records / bare_s,
            "share": bare_s / ours_s,
        },
        *goals,
    )
