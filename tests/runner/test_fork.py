"""A function of a dataflow may fork: whatever the child does, it changes nothing of its parent's work.

The kind of fault: a child has a copy of the run, so that leaving by an exception or ``sys.exit`` unwinds it, and
cleanups remove, abort or write what is the parent's; going on inside the run reads and writes through shared files.
"""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from onceflow.connectors.files import read_parts
from onceflow.connectors.log import LogSource
from onceflow.embed import StateBackend

SCRIPT = Path(__file__).with_name("fork_job.py")
ROWS = 3000
WAYS = ["_exit", "exception", "exec", "exit", "outlive", "return"]


def life(root, place):
    return subprocess.run(
        [sys.executable, str(SCRIPT), str(root), place], check=False, timeout=120, capture_output=True, text=True
    )


def prepared(tmp_path):
    (tmp_path / "in.csv").write_text("id\n" + "".join(f"{number}\n" for number in range(ROWS)))
    return tmp_path


def log_values(directory):
    reader = LogSource(directory, "ids", decode="value").open("0", None)
    values = []
    while (batch := reader.read(ROWS)) is not None:
        values += map(int, batch.records)
    reader.close()
    return values


def children(root):
    """The ways in which children left, once the last one has gone."""
    for _ in range(2000):
        lines = (root / "children").read_text().split("\n")[:-1]
        if len(lines) >= len(WAYS):
            break
        time.sleep(0.01)
    return sorted(lines)


@pytest.mark.parametrize("place", ["map", "state", "read", "event", "write", "flush"])
def test_children_that_leave_in_any_way_change_nothing(tmp_path, place):
    root = prepared(tmp_path)
    done = life(root, place)
    assert done.returncode == 0, done.stderr
    assert children(root) == WAYS
    numbers = list(range(ROWS))
    assert [int(row["id"]) for row in csv.DictReader(io.StringIO(read_parts(root / "csv").decode()))] == numbers
    assert [json.loads(line)["id"] for line in read_parts(root / "jsonl").splitlines()] == numbers
    parts = sorted((root / "parquet").glob("part-*"))
    assert [number for part in parts for number in pq.read_table(part)["id"].to_pylist()] == numbers
    assert [int(line) for line in (root / "append.txt").read_text().split()] == numbers
    assert log_values(root / "log") == numbers
    # The state is as the parent left it: the job has finished, and its directory opens.
    with StateBackend.open(root / "state", job="fork") as backend:
        assert backend.recovery.restored is not None and not backend.recovery.damage


def test_what_was_printed_is_printed_once(tmp_path):
    """A buffer that is inherited must not be written by the child as well."""
    done = life(prepared(tmp_path), "stdout")
    assert done.returncode == 0, done.stderr
    assert [int(line) for line in done.stdout.split()] == list(range(ROWS))


def test_a_child_that_comes_back_into_the_run_is_told_what_to_do(tmp_path):
    done = life(prepared(tmp_path), "stdout")
    assert "End such a child with os._exit(), or start a process of its own with subprocess" in done.stderr
    assert "Traceback" in done.stderr and "StoreForkedError" in done.stderr
