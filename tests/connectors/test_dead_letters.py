"""Each record leaves once: as output, or as a dead letter, whenever the job is killed."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import tomllib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from lives import Life, killed_until_done
from poison_job import LINES, SOURCES, build, run_job, write_input

from onceflow import Columns, Dataflow, count, run
from onceflow.connectors.files import CsvSource, read_parts
from onceflow.exceptions import ConfigurationError, StateError, UserFunctionError
from onceflow.testing import TestingSource, TransactionalTestingSink
from onceflow.windows import Tumbling

POINTS = tomllib.loads((Path(__file__).parents[1] / "runner" / "crash_points.toml").read_text())
# The points of dead letters, and the ones around them that differ in what is durable.
CELLS = [
    *((name, nth) for name, times in POINTS["dead_letters"].items() for nth in times),
    ("task.post_snapshot", 2),
    ("file.post_prepare", 4),
    ("decide.pre", 2),
    ("decide.post_wait", 2),
    ("file.post_rename", 2),
    ("sink.post_commit", 3),
    ("recover.post_commit", 2),
]


def life(root: Path, *, crash_at: str | None = None) -> int:
    env = {name: value for name, value in os.environ.items() if name not in ("CRASH_AT", "STOP_AT")}
    if crash_at is not None:
        env["CRASH_AT"] = crash_at
    job = [sys.executable, str(Path(__file__).with_name("poison_job.py")), str(root), "2"]
    return subprocess.run(job, env=env, check=False, timeout=120).returncode


def check(root: Path) -> None:
    """Input = outputs and dead letters, each once, and everything in order."""
    for name in SOURCES:
        out = [int(line.split(",")[0]) for line in read_parts(root / "out" / name).decode().splitlines()[1:]]
        bad = [json.loads(line) for line in read_parts(root / "out" / f"{name}-bad").splitlines()]
        failed = [json.loads(line) for line in read_parts(root / "out" / f"{name}-failed").splitlines()]
        refused = [int(one["text"].strip('{"id: ').partition(",")[0].partition(" ")[0]) for one in bad]
        raised = [
            int(one["record"].split()[0]) if isinstance(one["record"], str) else one["record"]["id"] for one in failed
        ]
        assert sorted(out + refused + raised) == list(range(LINES)), name
        assert sorted(refused) == list(range(0, LINES, 7))
        assert sorted(raised) == [number for number in range(0, LINES, 11) if number % 7]
        assert {one["source"] for one in bad} == {name}
        assert {one["reason"] for one in failed} == {"ZeroDivisionError: division by zero"}
        for part in range(2):
            for numbers in (out, refused, raised):
                mine = [number for number in numbers if number % 2 == part]
                assert mine == sorted(mine)
        for one in bad:
            path, _, line = one["position"].rpartition(":")
            assert path == one["partition"]
            assert one["text"] == Path(path).read_bytes().split(b"\n")[int(line) - 1].decode(
                "utf-8", "backslashreplace"
            )
        staging = sorted(path.name.split("-")[0] for path in (root / "out" / name / ".onceflow").iterdir())
        assert staging == ["epoch", "newest", "owner"]


@pytest.mark.usefixtures("crash_points")
@pytest.mark.parametrize(("point", "nth"), CELLS)
def test_killed_at_a_crash_point(tmp_path, point, nth):
    write_input(tmp_path)
    assert life(tmp_path, crash_at=f"{point}:{nth}") == -signal.SIGKILL, "the job never came there"
    assert life(tmp_path, crash_at=f"{point}:{nth}") in (0, -signal.SIGKILL)
    assert life(tmp_path) == 0
    check(tmp_path)


def test_killed_at_random_moments(tmp_path):
    moments = random.Random(7)
    write_input(tmp_path / "timed")
    start = time.monotonic()
    assert Life(partial(run_job, tmp_path / "timed", 2)).wait() == "done"
    longest_s = time.monotonic() - start
    kills = 0
    for number in itertools.count(1):
        root = tmp_path / str(number)
        write_input(root)
        kills += killed_until_done(partial(run_job, root, 2), longest_s=longest_s, at_most=8, moments=moments)
        assert life(root) == 0
        check(root)
        if kills >= 12:
            break


def test_counts(tmp_path):
    write_input(tmp_path)
    result = run(build(tmp_path), tmp_path / "state", batch_size=20)
    refused, raised = len(range(0, LINES, 7)), len([number for number in range(0, LINES, 11) if number % 7])
    assert (result.rejected, result.raised) == (3 * refused, 3 * raised)
    assert result.records_in == 3 * (LINES - refused)
    assert result.records_out == 3 * LINES
    assert result.skipped == 0


# -- functions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("as_columns", [False, True])
def test_records_that_a_function_raises_for(state, as_columns):
    flow = Dataflow("functions")
    good, bad = TransactionalTestingSink(), TransactionalTestingSink()
    records = [{"n": number} for number in range(6)]
    stream = flow.source("in", TestingSource(records))
    if as_columns:
        stream = stream.map_batch(lambda batch: Columns({"n": np.array([row["n"] for row in batch])}))
    stream = stream.filter(lambda row: 6 / (row["n"] - 1) > 0, dead_letters="filtered")
    stream = stream.flat_map(lambda row: [row["n"], 1 / (row["n"] - 2)], dead_letters="doubled")
    stream.map(lambda number: 1 / (number - 1), dead_letters="inverted").sink("good", good)
    letters = [flow.dead_letters(name) for name in ("filtered", "doubled", "inverted")]
    letters[0].union(*letters[1:]).sink("bad", bad)
    result = run(flow, state)
    assert (result.raised, result.rejected) == (3, 0)
    assert [(one["step"], one["record"]) for one in bad.records] == [
        ("filtered", {"n": 1}),
        ("doubled", {"n": 2}),
        ("inverted", 1.0),
    ]
    assert {one["reason"] for one in bad.records} <= {
        "ZeroDivisionError: division by zero",
        "ZeroDivisionError: float division by zero",
    }
    assert good.records == pytest.approx(
        [1 / (value - 1) for n in (3, 4, 5) for value in (n, 1 / (n - 2)) if value != 1]
    )


def test_dead_letters_of_a_function_keep_their_event_times(state):
    flow = Dataflow("times")
    good, bad = TransactionalTestingSink(), TransactionalTestingSink()
    source = TestingSource([0, 1, 2, 3, 4, 5], event_time=lambda number: number * 1_000_000)
    stream = flow.source("in", source).map(lambda number: 1 / (number % 3), dead_letters="inverted")
    stream.key_by(lambda _: "all").window("good", Tumbling(seconds=2)).aggregate(n=count()).sink("good-out", good)
    letters = flow.dead_letters("inverted").key_by("step")
    letters.window("bad", Tumbling(seconds=2)).aggregate(n=count()).sink("bad-out", bad)
    run(flow, state)
    assert [row["n"] for row in good.records] == [1, 1, 2]
    assert [row["n"] for row in bad.records] == [1, 1]


def test_errors_that_are_not_about_a_record_end_the_run(state):
    def broken(_):
        raise StateError("the table is full")

    flow = Dataflow("fatal")
    flow.source("in", TestingSource([1])).map(broken, dead_letters="mapped").sink("out", TransactionalTestingSink())
    flow.dead_letters("mapped").sink("bad", TransactionalTestingSink())
    with pytest.raises(StateError, match="the table is full"):
        run(flow, state)


def test_without_dead_letters_an_exception_ends_the_run(state):
    flow = Dataflow("fails")
    flow.source("in", TestingSource([0])).map(lambda number: 1 / number).sink("out", TransactionalTestingSink())
    with pytest.raises(UserFunctionError):
        run(flow, state)


def test_dead_letters_that_nothing_takes(state, tmp_path):
    flow = Dataflow("untaken")
    flow.source("in", TestingSource([1])).map(str, dead_letters="mapped").sink("out", TransactionalTestingSink())
    with pytest.raises(ConfigurationError, match=r"'mapped' hands out dead letters and nothing takes them"):
        run(flow, state)
    flow = Dataflow("untaken")
    flow.source("in", CsvSource(tmp_path / "in.csv", on_malformed="dead_letter")).sink(
        "out", TransactionalTestingSink()
    )
    with pytest.raises(ConfigurationError, match=r"'in' hands out dead letters and nothing takes them"):
        run(flow, state)


def test_dead_letters_of_a_step_that_has_none():
    flow = Dataflow("none")
    stream = flow.source("in", TestingSource([1]))
    stream.map(str).sink("out", TransactionalTestingSink())
    with pytest.raises(
        ConfigurationError, match=r"'map-1' has no dead letters; they come from sources, and from steps"
    ):
        flow.dead_letters("map-1")
    with pytest.raises(ConfigurationError, match="'nowhere' has no dead letters"):
        flow.dead_letters("nowhere")


def test_explain_shows_the_path_of_dead_letters():
    flow = Dataflow("explained")
    flow.source("in", TestingSource([1])).map(str, dead_letters="mapped").sink("out", TransactionalTestingSink())
    flow.dead_letters("mapped").sink("bad", TransactionalTestingSink())
    assert re.search(r"in .* mapped .* \(dead_letters\) .* bad", flow.explain())
