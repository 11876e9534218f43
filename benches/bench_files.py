"""How fast is a file counted, next to polars and to pyarrow's reader on the same file?

Count and sum by a string key over 100,000 keys, a checkpoint each second. Polars reads the file at once and groups it,
pyarrow's reader only reads it; both with one thread, as onceflow does. A second file has 19 columns.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onceflow as of
from harness.connectors import CountingSink
from harness.figures import Goal, Table
from harness.rounds import Rate, best_rate, interleave
from onceflow.connectors.files import CsvSource
from onceflow.sources import Source

# Read where polars is imported.
os.environ["POLARS_MAX_THREADS"] = "1"

TABLE = Table(
    "files",
    "Count and sum by a string key of a file, 100 k keys, a checkpoint each second",
    {"file": "text", "what": "text", "rate": "rate", "of polars": "times", "CPU time": "times"},
    "Best of interleaved rounds, from the start of the run to the last visible output. Polars and pyarrow use one "
    'thread, keep nothing and can resume nothing. "CPU time" compares records per second of CPU time with those of '
    "polars: other processes disturb it less.",
)

KEYS = 100_000
INTERVAL_S = 1.0
POLARS = "polars: read_csv, group_by"
OF_POLARS = 0.8
KINDS = {"2 columns": 2_000_000, "19 columns": 400_000}


def _two(rows: int, path: Path) -> None:
    random = np.random.default_rng(1)
    keys, values = random.integers(0, KEYS, rows).tolist(), random.integers(0, 1000, rows).tolist()
    with path.open("w") as file:
        file.write("key,value\n")
        file.writelines(f"user-{key},{value}\n" for key, value in zip(keys, values, strict=True))


def _wide(rows: int, path: Path) -> None:
    random = np.random.default_rng(1)
    keys = random.integers(0, KEYS, rows)
    numbers = [random.integers(0, 1000, rows).tolist() for _ in range(8)]
    numbers += [random.random(rows).round(3).tolist() for _ in range(4)]
    texts = [[f"name{number}" for number in random.integers(0, 1000, rows).tolist()] for _ in range(6)]
    columns = [[f"user-{key}" for key in keys.tolist()], *numbers, *texts]
    with path.open("w") as file:
        file.write(",".join(["key", "value", *(f"c{number}" for number in range(2, 19))]) + "\n")
        file.writelines(",".join(map(str, row)) + "\n" for row in zip(*columns, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_csv(kind, benchmark, record, scale, directory):
    import polars as pl  # noqa: PLC0415 - after the number of its threads is set
    import pyarrow.csv as pc  # noqa: PLC0415

    rows = KINDS[kind] if scale.name == "full" else 20_000
    path = directory / "in.csv"
    (_two if kind == "2 columns" else _wide)(rows, path)

    def job(source: Callable[[], Source], key: Any) -> Callable[[], Rate]:
        return lambda: _timed(rows, lambda: _count(source(), key, directory / "state"))

    contenders = {
        "columns": job(lambda: CsvSource(path, as_columns=True), "key"),
        "columns, those two": job(lambda: CsvSource(path, columns=["key", "value"], as_columns=True), "key"),
        "dicts": job(lambda: CsvSource(path), itemgetter("key")),
        POLARS: lambda: _timed(rows, lambda: pl.read_csv(path).group_by("key").agg(pl.len(), pl.col("value").sum())),
        "pyarrow: read_csv": lambda: _timed(
            rows, lambda: pc.read_csv(path, read_options=pc.ReadOptions(use_threads=False))
        ),
    }
    if kind == "2 columns":
        del contenders["columns, those two"]
    rates = {what: best_rate(found) for what, found in interleave(benchmark, contenders, min(scale.rounds, 3)).items()}
    for what, found in rates.items():
        values = {"file": f"CSV, {kind}", "what": what, "rate": found.rate}
        values |= {"of polars": found.rate / rates[POLARS].rate, "CPU time": found.of_cpu / rates[POLARS].of_cpu}
        record(TABLE, values, *([Goal("of polars", OF_POLARS)] if what == "columns" else []))


def _count(source: Source, key: Any, state: Path) -> None:
    shutil.rmtree(state, ignore_errors=True)
    flow = of.Dataflow("files")
    keyed = flow.source("in", source).key_by(key)
    keyed.aggregate("totals", emit="final", n=of.count(), total=of.sum("value")).sink("out", CountingSink())
    of.run(flow, state, checkpoint_interval_s=INTERVAL_S)


def _timed(rows: int, work: Callable[[], object]) -> Rate:
    begun, cpu = time.perf_counter(), time.process_time()
    work()
    return Rate(rows / (time.perf_counter() - begun), rows / (time.process_time() - cpu))
