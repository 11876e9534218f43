"""What do several workers bring, and what does the exchange between them cost?

A count by key of records in files, as dicts, exactly once, with one worker and with two: of records as they are, and of
records that go through a function of some 10 µs first. One process reads two files, or two read one each; in front of
the count half of the records change to the other.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import onceflow as of
from harness.figures import Goal, Table
from harness.rounds import interleave
from onceflow.connectors.files import JsonLinesSink, JsonLinesSource
from onceflow.events import Recovered

TABLE = Table(
    "workers",
    "Count by key of two files, as dicts, exactly once, a checkpoint each second",
    {"function": "text", "workers": "text", "rate": "rate", "of one": "times"},
    "Best of interleaved rounds, from when all is opened to the last visible output: processes of workers take half a "
    "second to start. Two workers on two cores.",
)

KEYS = 10_000
GOALS = {"none": 1.7, "10 µs": 1.85}


def _spend(row: Any) -> Any:
    until = time.perf_counter() + 10e-6
    while time.perf_counter() < until:
        pass
    return row


FUNCTIONS: dict[str, Callable[[Any], Any]] = {"none": dict, "10 µs": _spend}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_workers(function, benchmark, record, scale, directory):
    rows = {"none": 400_000, "10 µs": 100_000}[function] if scale.name == "full" else 2_000
    for part in range(2):
        with (directory / f"in-{part}.jsonl").open("w") as file:
            file.writelines(json.dumps({"key": n * 7 % KEYS, "value": n % 10}) + "\n" for n in range(rows))

    def job(workers: int) -> Callable[[], float]:
        return lambda: _count(directory, FUNCTIONS[function], 2 * rows, workers)

    contenders = {f"{workers}": job(workers) for workers in (1, 2)}
    found = interleave(benchmark, contenders, min(scale.rounds, 3))
    rates = {workers: max(some) for workers, some in found.items()}
    for workers, rate in rates.items():
        values = {"function": function, "workers": workers, "rate": rate, "of one": rate / rates["1"]}
        record(TABLE, values, *([Goal("of one", GOALS[function])] if workers == "2" else []))


def _count(directory: Path, function: Callable[[Any], Any], rows: int, workers: int) -> float:
    """Records a second."""
    for name in ("state", "out"):
        shutil.rmtree(directory / name, ignore_errors=True)
    begun: list[float] = []

    def on_event(event: object) -> None:
        if isinstance(event, Recovered):
            begun.append(time.perf_counter())

    flow = of.Dataflow("workers")
    keyed = flow.source("in", JsonLinesSource(str(directory / "in-*.jsonl"))).map(function).key_by("key")
    keyed.aggregate("totals", emit="final", n=of.count()).sink("out", JsonLinesSink(directory / "out"))
    result = of.run(flow, directory / "state", workers=workers, checkpoint_interval_s=1.0, on_event=on_event)
    assert result.records_in == rows
    return rows / (time.perf_counter() - begun[0])
