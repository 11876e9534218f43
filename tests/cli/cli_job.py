"""A job for the program to run, and what becomes of its state directory: helpers that tests import by name."""

from __future__ import annotations

import runpy
import sys
import time
from pathlib import Path

from onceflow import run
from onceflow._native import verify
from onceflow.clock import ManualClock
from onceflow.connectors.files import read_parts
from onceflow.embed import CheckpointInfo, StateBackend
from onceflow.exceptions import StoreMissingError

PROGRAM = [sys.executable, "-m", "onceflow"]

JOB = '''
"""A job over in.csv beside this file: totals by user, and the rows seen."""

import time
from pathlib import Path

import onceflow as of
from onceflow.connectors.files import CsvSink, CsvSource
from onceflow.connectors.stdout import StdoutSink

HERE = Path(__file__).parent


def build(pause_s=0.0, bad=None, on_batch=lambda: None):
    flow = of.Dataflow("totals", deterministic=True)

    def slowly(batch):
        on_batch()
        time.sleep(pause_s)
        return batch

    rows = flow.source("rows", CsvSource(HERE / "in.csv")).map_batch(slowly)
    if bad is not None:
        rows = rows.map(lambda row: helper(row, bad))
    keyed = rows.key_by("user")
    keyed.aggregate("totals", n=of.count(), amount=of.sum("amount")).sink("out", CsvSink(HERE / "out"))
    return flow


def helper(row, bad):
    return {**row, "amount": row["amount"] // (row["id"] - bad)}


flow = build()


def slow():
    return build(0.01)


def failing():
    return build(bad=700)


def printing():
    flow = of.Dataflow("printing")
    flow.source("rows", CsvSource(HERE / "in.csv")).map(lambda row: row["id"]).sink("out", StdoutSink())
    return flow


number = 3


def with_argument(path):
    return build()
'''

ROWS = 2000
SLOW = ("run", "job.py:slow", "--state", "state", "--checkpoint-interval", "50ms", "--batch-size", "20")
QUICK = ("run", "job.py:flow", "--state", "state", "--checkpoint-interval", "50ms", "--batch-size", "20")


def furnish(home: Path) -> Path:
    """Puts the job and its input there."""
    (home / "job.py").write_text(JOB)
    rows = [f"{number},u{number * 7919 % 23},{number % 100}" for number in range(ROWS)]
    (home / "in.csv").write_text("\n".join(["id,user,amount", *rows]) + "\n")
    return home


def checkpoints(state: Path) -> list[CheckpointInfo]:
    """Those of a state directory, oldest first."""
    try:
        with StateBackend.open(state, read_only=True, resume_from="none") as backend:
            return backend.checkpoints()
    except StoreMissingError:
        return []


def wait_for_checkpoint(state: Path) -> None:
    """Until a running job has completed one."""
    until = time.monotonic() + 30
    while not checkpoints(state):
        assert time.monotonic() < until, f"no checkpoint in {state}"
        time.sleep(0.02)


def finish(home: Path) -> bytes:
    """Runs the job as ``QUICK`` does, but in this process; returns its output.

    There are two checkpoints: in the middle, and at the end; no chunk belongs to both.
    """
    # Time goes by batch, so that the checkpoints fall at the same records every time.
    clock = ManualClock()
    flow = runpy.run_path(str(home / "job.py"))["build"](on_batch=lambda: clock.advance(1))
    run(flow, home / "state", checkpoint_interval_s=ROWS / 20 * 0.6, batch_size=20, clock=clock)
    return read_parts(home / "out")


def damage_chunk(state: Path, checkpoint: int) -> None:
    """Flips a bit in a chunk that only this checkpoint refers to; its record stays sound."""

    def wanted(damage) -> bool:
        return [number for number, _ in damage] == [checkpoint] and "of table" in damage[0][1]

    _damage(state, wanted)


def damage_record(state: Path, checkpoint: int) -> None:
    """Flips a bit in the decision record of this checkpoint."""

    def wanted(damage) -> bool:
        return [number for number, _ in damage] == [checkpoint] and "record" in damage[0][1]

    _damage(state, wanted)


def _damage(state: Path, wanted) -> None:
    """Flips one bit at one place after the other until it makes the damage that is wanted."""
    path = state / "data" / "data.mdb"
    sound = path.read_bytes()
    for place in reversed(range(2 * 4096, len(sound), 200)):
        data = bytearray(sound)
        data[place] ^= 1
        path.write_bytes(data)
        if wanted(verify(state).damage):
            return
    raise AssertionError("no place makes the damage that is wanted")
