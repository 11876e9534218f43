"""What does each guarantee cost?

One flow (a running total by key, in rows) into a file, with a checkpoint every 100 ms. Every sink encodes the same CSV
with the same code; what differs is when it becomes visible and what is kept to make it exact.
"""

from __future__ import annotations

import onceflow as of
from harness.connectors import AppendSink, CountingSink, UpsertSink
from harness.figures import Table
from harness.jobs import rate_of
from harness.rounds import best_rate, interleave
from harness.workload import batches
from onceflow.connectors.files import CsvSink

TABLE = Table(
    "guarantees",
    "The same flow under each guarantee, a checkpoint every 100 ms",
    {"guarantee": "text", "sink": "text", "rate": "rate", "of at_least_once": "share", "CPU time": "share"},
    'Best of interleaved rounds. Every sink encodes the same CSV; "encodes, writes nothing" shows what the file itself '
    'costs. "CPU time" compares records per second of CPU time: other processes disturb it less.',
)

KEYS = 10_000
INTERVAL_S = 0.1
FIELDS = ("user", "total", "seen")


def test_cost_of_each_guarantee(benchmark, record, scale, directory):
    seconds = scale.seconds(2.0, least=0.3)
    rows = 200_000 if scale.name == "full" else 20_000
    ((keys, values),) = batches(KEYS, records=rows, batch=rows)
    records = [{"user": key, "amount": value} for key, value in zip(keys.tolist(), values.tolist(), strict=True)]
    job = directory / "job"
    cases = {
        ("at_most_once", "append to a file"): lambda: AppendSink(job / "out.csv", FIELDS),
        ("at_least_once", "append to a file"): lambda: AppendSink(job / "out.csv", FIELDS),
        ("effectively_once", "upserts into a file"): lambda: UpsertSink(job / "out.csv", FIELDS),
        ("exactly_once", "upserts into a file"): lambda: UpsertSink(job / "out.csv", FIELDS),
        ("exactly_once", "transactional CSV files"): lambda: CsvSink(job / "out", columns=FIELDS),
        ("exactly_once", "encodes, writes nothing"): lambda: CountingSink(FIELDS),
    }

    def contender(guarantee, sink):
        def build(stream):
            stream.key_by("user").aggregate("totals", total=of.sum("amount"), seen=of.count()).sink("out", sink())

        return lambda: rate_of(build, records, job, seconds, interval_s=INTERVAL_S, guarantee=guarantee)

    contenders = {name: contender(name[0], sink) for name, sink in cases.items()}
    rates = {name: best_rate(found) for name, found in interleave(benchmark, contenders, min(scale.rounds, 3)).items()}
    base = rates["at_least_once", "append to a file"]
    for (guarantee, sink), found in rates.items():
        values = {"guarantee": guarantee, "sink": sink, "rate": found.rate}
        values |= {"of at_least_once": found.rate / base.rate, "CPU time": found.of_cpu / base.of_cpu}
        record(TABLE, values)
