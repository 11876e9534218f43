"""How long does a recovery take: by the size of the state, and by how long the job had run?

A recovery is ``StateBackend.open``: find the newest checkpoint, check every chunk, rebuild the tables.
"""

from __future__ import annotations

import time

import numpy as np

from harness.figures import Goal, Table
from harness.rounds import best_time, interleave
from harness.workload import COLUMNS, fill, label, updates
from onceflow.embed import StateBackend

SIZE = Table(
    "restore_size",
    "Recovery by the number of entries",
    {"entries": "text", "recovery": "seconds", "entries a second": "rate", "time an entry, of the smallest": "times"},
    "Best of interleaved rounds; 24 bytes an entry; the file is in the page cache, as after a crash of the process.",
)

LENGTH = Table(
    "restore_length",
    "Recovery by the length of the run before",
    {"entries": "text", "checkpoints before": "count", "recovery": "seconds", "of the shortest run": "times"},
    "Each checkpoint holds changes of a tenth of the keys.",
)

SIZES = (1_000_000, 3_000_000, 10_000_000)
RATE_10M = 10e6
#: What still counts as "the same time": recoveries of one file differ by as much.
SAME = 1.25


def _open_s(path, rows: int) -> float:
    start = time.perf_counter()
    with StateBackend.open(path) as backend:
        took = time.perf_counter() - start
        assert backend.recovery.rows >= rows
    return took


def test_time_grows_with_the_entries(benchmark, record, scale, directory):
    sizes = SIZES if scale.name == "full" else (20_000, 60_000, 200_000)
    for size in sizes:
        with StateBackend.open(directory / str(size)) as backend:
            fill(backend.table("totals", key="i64", columns=COLUMNS), size)
            backend.checkpoint().wait()
    contenders = {str(size): (lambda size=size: _open_s(directory / str(size), size)) for size in sizes}
    seconds = interleave(benchmark, contenders, scale.rounds)
    first = best_time(seconds[str(sizes[0])]) / sizes[0]
    for size in sizes:
        took = best_time(seconds[str(size)])
        goals = [Goal("time an entry, of the smallest", SAME, at_most=True)] if size > sizes[0] else []
        if size == 10_000_000:
            goals.append(Goal("entries a second", RATE_10M))
        values = {
            "entries": label(size),
            "recovery": took,
            "entries a second": size / took,
            "time an entry, of the smallest": took / size / first,
        }
        record(SIZE, values, *goals)


def test_time_does_not_grow_with_the_run(benchmark, record, scale, directory):
    size, lengths = (1_000_000, (10, 100, 300)) if scale.name == "full" else (20_000, (3, 10))
    random = np.random.default_rng(1)
    for length in lengths:
        with StateBackend.open(directory / str(length)) as backend:
            table = backend.table("totals", key="i64", columns=COLUMNS)
            fill(table, size)
            for _ in range(length):
                some = random.integers(0, size, size // 10)
                table.update(some, updates(random.random(len(some))))
                backend.checkpoint().wait()
    contenders = {str(length): (lambda length=length: _open_s(directory / str(length), size)) for length in lengths}
    seconds = interleave(benchmark, contenders, scale.rounds)
    first = best_time(seconds[str(lengths[0])])
    for length in lengths:
        took = best_time(seconds[str(length)])
        values = {
            "entries": label(size),
            "checkpoints before": length,
            "recovery": took,
            "of the shortest run": took / first,
        }
        record(LENGTH, values, *([Goal("of the shortest run", SAME, at_most=True)] if length > lengths[0] else []))
