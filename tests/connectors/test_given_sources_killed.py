"""Jobs that read what is given in memory, by a function, or by polls: killed at random moments, all comes once."""

from __future__ import annotations

import random
import time
import warnings
from datetime import timedelta
from functools import partial

import pyarrow as pa
import pytest
from lives import Life, killed_until_done
from outbox_table import rows_sink, shown_rows

import onceflow as of
from onceflow.connectors.arrow import ArrowSource
from onceflow.connectors.iterable import IterableSource
from onceflow.connectors.polling import Polled, PollingSource
from onceflow.exceptions import FinishedJobWarning

ROWS = [{"user": f"u{number * 7919 % 7}", "id": number} for number in range(300)]
BATCH = 20


def function(position):
    yield from ROWS[position:]


def poll(position):
    """Answers that end within batches and beyond them, and sometimes nothing."""
    start, nothing = position or (0, 0)
    if start >= len(ROWS):
        return None
    if nothing == 0 and start % 3 == 0:
        return Polled([], [start, 1])
    end = min(start + 37, len(ROWS))
    return Polled(ROWS[start:end], [end, 0], more=start % 2 == 0)


SOURCES = {
    "list": lambda: IterableSource(ROWS),
    "function": lambda: IterableSource(function),
    "poll": lambda: PollingSource(poll, every=timedelta(milliseconds=2)),
    "arrow": lambda: ArrowSource(pa.Table.from_pylist(ROWS)),
}


def run(root, kind):
    def slowly(batch):
        time.sleep(0.002)
        return batch

    flow = of.Dataflow("counting")
    rows = flow.source("rows", SOURCES[kind]()).map_batch(slowly)
    rows.key_by("user").stateful_map(
        "counts", lambda nth, row: ((nth or 0) + 1, {"user": row["user"], "id": row["id"], "nth": (nth or 0) + 1})
    ).sink("out", rows_sink(root / "out", ("user", "id", "nth")))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FinishedJobWarning)
        of.run(flow, root / "state", checkpoint_interval_s=1e-6, batch_size=BATCH)


@pytest.mark.parametrize("kind", SOURCES)
def test_killed_at_random_moments(tmp_path, kind):
    """Kind: a position that names another place than the one up to which records were handed out."""
    moments, expected, seen = random.Random(kind), [], {}
    for row in ROWS:
        seen[row["user"]] = nth = seen.get(row["user"], 0) + 1
        expected.append((row["user"], row["id"], nth))
    kills = number = 0
    while kills < 10:
        number += 1
        job = tmp_path / str(number)
        job.mkdir()
        kills += killed_until_done(partial(run, job, kind), longest_s=0.25, at_most=6, moments=moments)
        life = Life(partial(run, job, kind))
        assert life.wait() == "done", life.error
        assert shown_rows(job / "out") == expected
