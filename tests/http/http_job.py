"""A job that sends each row of a file to a server, with a number of its own that differs each time it is computed."""

from __future__ import annotations

import itertools
import random
import time
import warnings
from pathlib import Path
from typing import Any

import onceflow as of
from onceflow.connectors.files import CsvSource
from onceflow.connectors.http import HttpSink
from onceflow.exceptions import FinishedJobWarning
from onceflow.runtime.run import run as run_flow

__all__ = ["ROWS", "run", "write_input"]

ROWS = 90
BATCH = 15


def write_input(top: Path, rows: int = ROWS) -> None:
    """Rows of a few users."""
    (top / "in.csv").write_text("id,user\n" + "".join(f"{number},u{number * 7919 % 5}\n" for number in range(rows)))


def run(
    top: Path,
    url: str,
    *,
    guarantee: str = "exactly_once",
    take_over: bool = False,
    resume_from: int | str = "newest",
    pace_s: float = 0.002,
    batch_size: int = BATCH,
    interval_s: float = 1e-6,
    sent: Any = None,
    **settings: Any,
) -> of.JobResult:
    """One life of the job, in this process."""
    batches = itertools.count()

    def slowly(batch):
        time.sleep(pace_s)
        if sent is not None:
            sent(next(batches))
        return batch

    flow = of.Dataflow("orders")
    rows = flow.source("rows", CsvSource(top / "in.csv")).map_batch(slowly)
    # Whatever is sent must be what was decided, since it will never be computed again.
    rows.map(lambda row: {**row, "random": random.random()}).sink(
        "out", HttpSink(url, **{"timeout_s": 20, "backoff_s": 0.01, "max_backoff_s": 0.2, **settings})
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FinishedJobWarning)
        return run_flow(
            flow,
            top / "state",
            guarantee=guarantee,
            checkpoint_interval_s=interval_s,
            batch_size=batch_size,
            take_over=take_over,
            resume_from=resume_from,
        )
