"""Does the file stay bounded, and do checkpoints stay as fast, over ten minutes?

A million keys; a checkpoint every 100 ms, each with changes of a tenth of the keys, so that deltas pile up and must be
folded all the time. ``make bench-long``.
"""

from __future__ import annotations

import time

import numpy as np

from harness.figures import Goal, Table
from harness.rounds import median
from harness.workload import COLUMNS, fill, label, updates
from onceflow.embed import StateBackend

TABLE = Table(
    "long_run",
    "The file over a long run",
    {
        "keys": "text",
        "interval": "text",
        "time": "seconds",
        "checkpoints": "count",
        "written": "bytes",
        "live state": "bytes",
        "largest file": "bytes",
        "file / must hold": "times",
        "file / live state": "times",
        "time to durable, first tenth": "seconds",
        "last tenth": "seconds",
    },
    'Each checkpoint holds changes of a tenth of the keys. "Must hold": pages of the two newest checkpoints.',
)

KEY_BYTES = 24
INTERVAL_S = 0.1
TEN_MINUTES_S = 600.0
SAMPLE_S = 1.0
OF_MUST_HOLD, OF_LIVE = 1.6, 4.0


def test_the_file_stays_bounded(benchmark, record, scale, directory):
    keys, seconds = (1_000_000, TEN_MINUTES_S) if scale.name == "full" else (50_000, 3.0)
    random = np.random.default_rng(1)
    changes = [(random.integers(0, keys, keys // 10), random.random(keys // 10)) for _ in range(37)]
    samples: dict[str, list[float]] = {"seconds": [], "file": [], "must hold": []}
    checkpoints = []

    def run() -> None:
        with StateBackend.open(directory / "state") as backend:
            table = backend.table("totals", key="i64", columns=COLUMNS)
            fill(table, keys)
            backend.checkpoint().wait()
            begun = due = sampled = time.perf_counter()
            while due < begun + seconds:
                some, values = changes[len(checkpoints) % len(changes)]
                table.update(some, updates(values))
                checkpoints.append(backend.checkpoint({"input": len(checkpoints)}).wait())
                now = time.perf_counter()
                if now >= sampled:
                    file_bytes, used_bytes = backend.size()
                    samples["seconds"].append(now - begun)
                    samples["file"].append(file_bytes)
                    samples["must hold"].append(used_bytes)
                    sampled += SAMPLE_S if scale.name == "full" else 0.1
                due += INTERVAL_S
                time.sleep(max(0.0, due - now))

    benchmark.pedantic(run, rounds=1, iterations=1)
    live = keys * KEY_BYTES
    tenth = max(1, len(checkpoints) // 10)
    over = [file / held for file, held in zip(samples["file"], samples["must hold"], strict=True)]
    TABLE.series.update(samples | {"live state": [float(live)] * len(samples["seconds"])})
    record(
        TABLE,
        {
            "keys": label(keys),
            "interval": "100 ms",
            "time": seconds,
            "checkpoints": len(checkpoints),
            "written": sum(stats.bytes_written for stats in checkpoints),
            "live state": live,
            "largest file": max(samples["file"]),
            "file / must hold": median(over),
            "file / live state": max(samples["file"]) / live,
            "time to durable, first tenth": median([stats.durable_s for stats in checkpoints[:tenth]]),
            "last tenth": median([stats.durable_s for stats in checkpoints[-tenth:]]),
        },
        Goal("file / must hold", OF_MUST_HOLD, at_most=True),
        Goal("file / live state", OF_LIVE, at_most=True),
    )
