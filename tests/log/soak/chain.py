"""The jobs that the tests of chains kill: ``python chain.py STAGE ROOT INTERVAL_MS [--follow] [--take-over]``.

``first`` reads ROOT/in.csv and writes to the topic ``events`` of ROOT/log; ``second`` reads that topic, counts by user,
and writes part files to ROOT/out. With ``--follow`` the second one goes on when it has read everything.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import time
from collections import Counter
from pathlib import Path

import onceflow as of
from onceflow.connectors.files import CsvSink, CsvSource, read_parts
from onceflow.connectors.log import LogSink, LogSource

PARTITIONS = 3


def write_input(root: Path, rows: int) -> None:
    """Rows of some users."""
    root.mkdir(parents=True, exist_ok=True)
    lines = "".join(f"{number},u{number * 7919 % 23}\n" for number in range(rows))
    (root / "in.csv").write_text(f"id,user\n{lines}")


def first(root: Path, *, pause_s: float) -> of.Dataflow:
    """CSV → log."""
    flow = of.Dataflow("first")
    rows = flow.source("rows", CsvSource(root / "in.csv"))
    sink = LogSink(root / "log", "events", key="user", partitions=PARTITIONS)
    rows.map_batch(_slowly(pause_s)).sink("events-out", sink)
    return flow


def second(root: Path, *, pause_s: float, follow: bool) -> of.Dataflow:
    """Log → CSV, with how manyth of its user each row is."""
    flow = of.Dataflow("second")
    source = LogSource(root / "log", "events", decode="json", event_time="timestamp", stop_at_end=not follow)
    rows = flow.source("events", source).map_batch(_slowly(pause_s))
    rows.key_by("user").stateful_map(
        "counts", lambda count, row: ((count or 0) + 1, {"id": row["id"], "user": row["user"], "nth": (count or 0) + 1})
    ).sink("out", CsvSink(root / "out"))
    return flow


def _slowly(pause_s: float):
    def pause(batch):
        if pause_s and len(batch):
            # So that a few checkpoints fall within a run.
            time.sleep(pause_s)
        return batch

    return pause


def run(
    stage: str,
    root: Path,
    *,
    interval_s: float,
    pause_s: float,
    batch: int = 50,
    follow: bool = False,
    take_over: bool = False,
) -> of.JobResult:
    """One life of a job."""
    flow = first(root, pause_s=pause_s) if stage == "first" else second(root, pause_s=pause_s, follow=follow)
    return of.run(
        flow, root / f"state-{stage}", checkpoint_interval_s=interval_s, batch_size=batch, take_over=take_over
    )


def wrong(root: Path, rows: int) -> str | None:
    """What is wrong with the output of the whole chain; None if it is what an undisturbed one writes.

    Rows of a user keep their order, since they share a partition; so each row's output is known.
    """
    seen: Counter[str] = Counter()
    expected = {}
    for number in range(rows):
        user = f"u{number * 7919 % 23}"
        seen[user] += 1
        expected[number] = (user, seen[user])
    found = list(csv.DictReader(io.StringIO(read_parts(root / "out").decode())))
    if len(found) != rows:
        return f"{len(found)} rows came out of {rows}"
    got = {int(row["id"]): (row["user"], int(row["nth"])) for row in found}
    if got != expected:
        different = [number for number in expected if got.get(number) != expected[number]]
        return f"{len(different)} rows are wrong, the first is {different[0]}: {got.get(different[0])}"
    left = [path for path in root.glob("out/.onceflow/*") if path.name.startswith(("open-", "staged-"))]
    return f"staged files were left behind: {left}" if left else None


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("stage", choices=["first", "second"])
    parser.add_argument("root", type=Path)
    parser.add_argument("interval_ms", type=float)
    parser.add_argument("--pause-ms", type=float, default=4)
    parser.add_argument("--follow", action="store_true")
    parser.add_argument("--take-over", action="store_true")
    given = parser.parse_args()
    done = run(
        given.stage,
        given.root,
        interval_s=given.interval_ms / 1000,
        pause_s=given.pause_ms / 1000,
        follow=given.follow,
        take_over=given.take_over,
    )
    os._exit(0 if done.finished else 3)
