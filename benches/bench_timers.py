"""What does it cost when a hundred windows close, by how many stay open?

A watermark closes windows with ``Table.drain_below``, which knows by an index which rows are due. Beside it: to walk
over all rows, take those that are due, and delete them.
"""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt
import pytest

from harness.figures import Goal, Table
from harness.rounds import best_time, interleave
from harness.workload import COLUMNS, label, updates
from onceflow.embed import StateBackend

TIMERS = Table(
    "timers",
    "A hundred windows close while others stay open",
    {"open": "text", "index": "seconds", "walk": "seconds", "share of the walk": "share"},
    "Best of interleaved rounds, a firing's mean; as many windows open anew between firings. Keys are (i64, i64).",
)

SIZES = (10_000, 100_000, 1_000_000)
#: Windows that share a start, and so close together.
DUE = 100
#: Of what a walk costs, at the largest size.
SHARE = 0.05


def _starting(start: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    return np.full(DUE, start), np.arange(DUE)


@pytest.mark.parametrize("rows", SIZES, ids=label)
def test_a_firing_costs_what_closes(rows, benchmark, record, scale, directory):
    if rows > scale.largest:
        pytest.skip("only at full scale")
    starts = rows // DUE
    firings = {"index": 200 if scale.name == "full" else 20, "walk": 10 if scale.name == "full" else 3}
    ones = np.ones(DUE)
    with StateBackend.open(directory / "state") as backend:
        tables = {name: backend.table(name, key=("i64", "i64"), columns=COLUMNS) for name in firings}
        for table in tables.values():
            for start in range(starts):
                table.update(_starting(start), updates(ones))
            # The first drain builds the index, as after every restart.
            assert len(table.drain_below(1)) == DUE
        reached = dict.fromkeys(tables, 1)

        def fire(name: str) -> float:
            table, took = tables[name], 0.0
            for _ in range(firings[name]):
                table.update(_starting(reached[name] + starts - 1), updates(ones))
                reached[name] += 1
                start = time.perf_counter()
                if name == "index":
                    due = table.drain_below(reached[name])
                else:
                    found = table.scan()
                    [times, numbers] = found.key_columns()
                    rows = np.flatnonzero(times < reached[name])
                    due = table.get((times[rows], numbers[rows]))
                    table.delete((times[rows], numbers[rows]))
                took += time.perf_counter() - start
                assert len(due) == DUE
            return took / firings[name]

        seconds = interleave(benchmark, {name: (lambda name=name: fire(name)) for name in firings}, scale.rounds)
        assert all(len(table) == rows - DUE for table in tables.values())
    index, walk = best_time(seconds["index"]), best_time(seconds["walk"])
    values = {"open": label(rows), "index": index, "walk": walk, "share of the walk": index / walk}
    record(TIMERS, values, *([Goal("share of the walk", SHARE, at_most=True)] if rows == SIZES[-1] else []))
