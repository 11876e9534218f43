"""How fast is a keyed count, record by record and by columns, through the whole dataflow?

100,000 keys, a checkpoint each second, exactly_once into a sink that drops its input. Next to it, in the same rounds,
what a script without a framework does: a loop over a dict with a pickled snapshot each second.
"""

from __future__ import annotations

import os
import pickle
import time
from collections import Counter
from itertools import cycle
from operator import itemgetter

import onceflow as of
from harness.connectors import CountingSink
from harness.figures import Goal, Table
from harness.jobs import rate_of
from harness.rounds import Rate, best_rate, interleave
from harness.workload import batches

TABLE = Table(
    "record_at_a_time",
    "Keyed count over 100 k keys, a checkpoint each second",
    {"records": "text", "what": "text", "rate": "rate", "of the bare loop": "times", "CPU time": "times"},
    "Best of interleaved rounds, from the first record to the last visible output. Records are in memory; onceflow's "
    "rows run a whole Dataflow, exactly once; the bare loops are single-threaded Python with a synced pickle. "
    '"CPU time" compares records per second of CPU time: other processes disturb it less.',
)

KEYS = 100_000
ROWS = 1_000_000
INTERVAL_S = 1.0
BUILT_IN, STATEFUL_MAP, COLUMNS = 1e6, 500e3, 15e6
#: A source that hands out columns is asked for more at once.
COLUMNS_BATCH = 65_536

LOOP = "loop over a dict + pickle"
COUNTER = "Counter + pickle"


def test_keyed_count(benchmark, record, scale, directory):
    seconds = scale.seconds(2.5, least=0.3)
    rows = ROWS if scale.name == "full" else 50_000
    ((keys, values),) = batches(KEYS, records=rows, batch=rows)
    tuples = list(zip(keys.tolist(), values.tolist(), strict=True))
    dicts = [{"user": key, "amount": value} for key, value in tuples]
    columns = of.Columns({"user": keys, "amount": values})

    def job(build, records, batch_size: int = 8192):
        return lambda: rate_of(build, records, directory / "job", seconds, interval_s=INTERVAL_S, batch_size=batch_size)

    def aggregate(key, emit):
        return lambda stream: stream.key_by(key).aggregate("seen", emit=emit, n=of.count()).sink("out", CountingSink())

    def stateful_map(key):
        def count(state, record):
            seen = (state or 0) + 1
            return seen, (key(record), seen)

        return lambda stream: stream.key_by(key).stateful_map("seen", count).sink("out", CountingSink())

    user, first = itemgetter("user"), itemgetter(0)
    contenders = {
        ("tuples", "aggregate, totals at the end"): (job(aggregate(first, "final"), tuples), BUILT_IN),
        ("tuples", "aggregate, changes of each batch"): (job(aggregate(first, "changes"), tuples), BUILT_IN),
        ("tuples", "stateful_map"): (job(stateful_map(first), tuples), STATEFUL_MAP),
        ("dicts", "aggregate, totals at the end"): (job(aggregate(user, "final"), dicts), BUILT_IN),
        ("dicts", "aggregate, changes of each batch"): (job(aggregate(user, "changes"), dicts), BUILT_IN),
        ("dicts", "stateful_map"): (job(stateful_map(user), dicts), STATEFUL_MAP),
        ("columns", "aggregate, totals at the end"): (
            job(aggregate("user", "final"), columns, COLUMNS_BATCH),
            COLUMNS,
        ),
        ("columns", "aggregate, changes of each batch"): (
            job(aggregate("user", "changes"), columns, COLUMNS_BATCH),
            COLUMNS,
        ),
        ("tuples", LOOP): (lambda: _bare(_loop, tuples, directory, seconds), None),
        ("tuples", COUNTER): (lambda: _bare(_counter, tuples, directory, seconds), None),
    }
    measured = interleave(benchmark, {name: run for name, (run, _) in contenders.items()}, min(scale.rounds, 3))
    rates = {name: best_rate(found) for name, found in measured.items()}
    bare = rates["tuples", LOOP]
    for (kind, what), (_, target) in contenders.items():
        found = rates[kind, what]
        values = {"records": kind, "what": what, "rate": found.rate}
        values |= {"of the bare loop": found.rate / bare.rate, "CPU time": found.of_cpu / bare.of_cpu}
        record(TABLE, values, *([] if target is None else [Goal("rate", target)]))


def _loop(counts, records):
    """What a script does that wants the new count of each record."""
    for key, _ in records:
        counts[key] = counts.get(key, 0) + 1


def _counter(counts, records):
    """The fastest count in the standard library: a loop in C."""
    counts.update(map(itemgetter(0), records))


def _bare(work, records, directory, seconds: float) -> Rate:
    counts = Counter(dict.fromkeys(range(KEYS), 0)) if work is _counter else dict.fromkeys(range(KEYS), 0)
    slices = cycle([records[start : start + 8192] for start in range(0, len(records), 8192)])
    done, begun, cpu = 0, time.perf_counter(), time.process_time()
    now, due = begun, begun + INTERVAL_S
    while now < begun + seconds:
        some = next(slices)
        work(counts, some)
        done += len(some)
        now = time.perf_counter()
        if now >= due:
            _pickled(counts, done, directory)
            due += INTERVAL_S
    _pickled(counts, done, directory)
    return Rate(done / (time.perf_counter() - begun), done / (time.process_time() - cpu))


def _pickled(counts, position: int, directory) -> None:
    temporary = directory / "snapshot.tmp"
    with temporary.open("wb") as file:
        pickle.dump((position, counts), file, protocol=pickle.HIGHEST_PROTOCOL)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(directory / "snapshot")
