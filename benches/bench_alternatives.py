"""How much faster than what people use today, at the same durability?

Sums and counts over 100,000 keys: the same updates, made durable at the same interval, on the same disk, in turns. Each
gets its input in the form it likes best (numpy arrays here, lists there), made before the clock starts. For the
alternatives, which hold the working thread while they write, the interval counts from the end of the last write to the
start of the next; ours counts from start to start.
"""

from __future__ import annotations

import time
from itertools import cycle

import pytest

from harness.alternatives import ALTERNATIVES
from harness.checkpointing import drive
from harness.figures import Goal, Table
from harness.rounds import interleave
from harness.workload import COLUMNS, batches, endless, fill
from onceflow.embed import StateBackend

TABLE = Table(
    "alternatives",
    "Sum and count by key over 100 k keys, durable at the interval",
    {"interval": "text", "what": "text", "rate": "rate", "onceflow is faster by": "times"},
    "Best of interleaved rounds. The alternatives keep totals in dicts and write the changed keys in one synced "
    "transaction (pickle: everything in one file), in the fastest way we know.",
)

KEYS = 100_000
INTERVALS = {"100 ms": 0.1, "1 s": 1.0}
FASTER = 20.0


@pytest.mark.parametrize("interval", INTERVALS)
def test_rate_at_the_same_durability(interval, benchmark, record, scale, directory):
    interval_s = INTERVALS[interval]
    seconds = scale.seconds(max(2.0, 3.0 * interval_s), least=0.3)
    made = batches(KEYS, records=4_000_000 if scale.name == "full" else 500_000)
    lists = [(keys.tolist(), values.tolist()) for keys, values in made]
    work, listed = endless(made), cycle(lists)
    backend = StateBackend.open(directory / "onceflow")
    table = backend.table("totals", key="i64", columns=COLUMNS)
    fill(table, KEYS)
    backend.checkpoint().wait()
    others = []
    for kind in ALTERNATIVES:
        home = directory / kind.name.replace(" ", "")
        home.mkdir()
        other = kind(home)
        other.update(list(range(KEYS)), [0.0] * KEYS)
        other.persist()
        others.append(other)

    def blocking(other) -> float:
        records, begun = 0, time.perf_counter()
        now, due, durable = begun, begun + interval_s, False
        while now < begun + seconds:
            keys, values = next(listed)
            other.update(keys, values)
            records += len(keys)
            now = time.perf_counter()
            durable = now >= due
            if durable:
                other.persist()
                now = time.perf_counter()
                due = now + interval_s
        if not durable:
            other.persist()
        return records / (time.perf_counter() - begun)

    contenders = {"onceflow": lambda: drive(backend, table, work, seconds, interval_s).rate}
    contenders |= {other.name: (lambda other=other: blocking(other)) for other in others}
    rates = {name: max(found) for name, found in interleave(benchmark, contenders, min(scale.rounds, 3)).items()}
    for other in others:
        position, counted = other.stored()
        assert position == counted, f"{other.name} has not stored what it was given"
        other.close()
    backend.close()
    record(TABLE, {"interval": interval, "what": "onceflow", "rate": rates["onceflow"]})
    fastest = max(rates[other.name] for other in others)
    for other in sorted(others, key=lambda other: -rates[other.name]):
        rate = rates[other.name]
        faster = rates["onceflow"] / rate
        goal = [Goal("onceflow is faster by", FASTER)] if rate == fastest and interval == "100 ms" else []
        record(TABLE, {"interval": interval, "what": other.name, "rate": rate, "onceflow is faster by": faster}, *goal)
