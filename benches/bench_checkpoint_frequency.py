"""What do checkpoints cost, the more often they come?

A working thread updates random keys as fast as it can, so that nearly the whole state has changed at each checkpoint:
the worst case. Every stretch with checkpoints lies between two stretches without, on the same table, and is compared
with those.
"""

from __future__ import annotations

import time

import numpy as np

from harness.checkpointing import drive, pauses_without
from harness.figures import Goal, Table
from harness.rounds import median
from harness.workload import COLUMNS, batches, endless, fill, label
from onceflow.embed import StateBackend

KEPT = Table(
    "checkpoint_frequency",
    "Throughput kept at a checkpoint interval, of the rate without checkpoints",
    {
        "keys": "text",
        "interval": "text",
        "rate": "rate",
        "kept": "share",
        "kept, CPU time": "share",
        "checkpoints": "count",
        "time to durable": "seconds",
        "bytes a checkpoint": "bytes",
        "file": "bytes",
        "file / must hold": "times",
        "recovery": "seconds",
    },
    "Uniform keys at full speed. Median of stretches, each between two without checkpoints on the same table. "
    '"CPU time" compares records per second of the working thread\'s CPU time: other processes disturb it less.',
)

PAUSES = Table(
    "pauses",
    "How long a checkpoint holds the working thread at once",
    {
        "keys": "text",
        "interval": "text",
        "checkpoints": "count",
        "pause p50": "seconds",
        "pause p99": "seconds",
        "without checkpoints p99": "seconds",
        "p99 with waits for a CPU": "seconds",
    },
    "Measured around every call: the call that starts the checkpoint, or what the longest update call took beyond the "
    'usual, without the time in which the thread could have run and had no CPU; the last column includes it. "Without '
    'checkpoints" is the same statistic of the work alone: what the machine does by itself.',
)

SIZES = (100_000, 1_000_000, 10_000_000)
INTERVALS = {"10 s": 10.0, "1 s": 1.0, "100 ms": 0.1, "10 ms": 0.01}
#: Seconds of a stretch, and how many of them.
STRETCHES = {"10 s": (20.0, 1), "1 s": (3.0, 3), "100 ms": (3.0, 4), "10 ms": (2.0, 3)}
OFF_S = 1.0
GOALS = {
    100_000: {"1 s": 0.99, "100 ms": 0.97, "10 ms": 0.90},
    1_000_000: {"1 s": 0.97, "100 ms": 0.85, "10 ms": 0.60},
}
PAUSE_P99_S = 0.002


def test_what_checkpoints_cost(keys, benchmark, record, scale, directory):
    work = endless(batches(keys, records=16_000_000 if scale.name == "full" else 2_000_000))

    def measure(interval: str) -> None:
        stretch_s, rounds = STRETCHES[interval]
        interval_s = INTERVALS[interval]
        if scale.name == "quick":
            stretch_s, rounds = max(0.2, 2.5 * interval_s), 1
        path = directory / f"state-{interval.replace(' ', '-')}"
        with StateBackend.open(path) as backend:
            table = backend.table("totals", key="i64", columns=COLUMNS)
            fill(table, keys)
            backend.checkpoint().wait()
            off = [drive(backend, table, work, scale.seconds(OFF_S, least=0.1), None)]
            on = []
            for _ in range(rounds):
                # The first checkpoint of a stretch would also hold what changed without checkpoints.
                backend.checkpoint().wait()
                on.append(drive(backend, table, work, stretch_s, interval_s))
                off.append(drive(backend, table, work, scale.seconds(OFF_S, least=0.1), None))
            pairs = list(zip(on, off, off[1:], strict=False))
            kept = [2 * one.rate / (before.rate + after.rate) for one, before, after in pairs]
            of_cpu = [2 * one.rate_of_cpu / (before.rate_of_cpu + after.rate_of_cpu) for one, before, after in pairs]
            checkpoints = [stats for one in on for stats in one.checkpoints]
            file_bytes, used_bytes = backend.size()
        start = time.perf_counter()
        with StateBackend.open(path) as backend:
            recovery_s = time.perf_counter() - start
            assert len(backend.table("totals", key="i64", columns=COLUMNS)) == keys
        goal = GOALS.get(keys, {}).get(interval)
        record(
            KEPT,
            {
                "keys": label(keys),
                "interval": interval,
                "rate": median([one.rate for one in on]),
                "kept": median(kept),
                "kept, CPU time": median(of_cpu),
                "checkpoints": len(checkpoints),
                "time to durable": median([stats.durable_s for stats in checkpoints]),
                "bytes a checkpoint": median([stats.bytes_written for stats in checkpoints]),
                "file": file_bytes,
                "file / must hold": file_bytes / used_bytes,
                "recovery": recovery_s,
            },
            *([] if goal is None else [Goal("kept", goal)]),
        )
        usual_s = median([call.held_s for one in off for call in one.undisturbed])
        held = [pause for one in on for pause in one.pauses(usual_s, waits=False)]
        waited = [pause for one in on for pause in one.pauses(usual_s, waits=True)]
        without = pauses_without(off, median([stats.durable_s for stats in checkpoints]), usual_s)
        record(
            PAUSES,
            {
                "keys": label(keys),
                "interval": interval,
                "checkpoints": len(held),
                "pause p50": np.quantile(held, 0.5),
                "pause p99": np.quantile(held, 0.99),
                "without checkpoints p99": np.quantile(without, 0.99),
                "p99 with waits for a CPU": np.quantile(waited, 0.99),
            },
            *([Goal("pause p99", PAUSE_P99_S, at_most=True)] if interval == "100 ms" else []),
        )

    wanted = [name for name in INTERVALS if keys < 10_000_000 or name in ("1 s", "100 ms")]
    if scale.name == "quick":
        wanted = ["100 ms", "10 ms"]

    def all_intervals() -> None:
        for interval in wanted:
            measure(interval)

    benchmark.pedantic(all_intervals, rounds=1, iterations=1)
