"""A job that is killed anywhere writes what an undisturbed one writes, byte for byte."""

from __future__ import annotations

import itertools
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

import pytest
from killed_job import run_job
from lives import Life, killed_until_done
from support import JOB, ROWS, ids, life, outputs, write_input

POINTS = tomllib.loads(Path(__file__).with_name("crash_points.toml").read_text())
SOURCES = Path(__file__).resolve().parents[2] / "python" / "onceflow"
CELLS = [(name, nth) for section in ("points", "core") for name, times in POINTS[section].items() for nth in times]

pytestmark = pytest.mark.usefixtures("crash_points")


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """Output of the job that nobody disturbs."""
    root = tmp_path_factory.mktemp("calm")
    write_input(root)
    assert life(root, "exactly_once", "transactional") == 0
    return outputs(root)


def test_the_list_of_crash_points_is_complete():
    named = set()
    for path in SOURCES.rglob("*.py"):
        named |= set(re.findall(r'crash_point\("([a-z_.]+)"\)', path.read_text()))
    sections = (
        "points",
        "elsewhere",
        "growth",
        "dead_letters",
        "log",
        "outbox",
        "http",
        "kafka",
        "postgres",
        "sql",
        "redis",
        "workers",
    )
    assert named == {name for section in sections for name in POINTS[section]}


@pytest.mark.parametrize(("point", "nth"), CELLS)
def test_killed_at_a_crash_point(tmp_path, calm, point, nth):
    write_input(tmp_path)
    crash_at = f"{point}:{nth}"
    killed = life(tmp_path, "exactly_once", "transactional", crash_at=crash_at)
    if killed != -signal.SIGKILL:
        # Points of a recovery are passed only after another kill.
        assert killed == 0
        pytest.fail(f"the job never came to {crash_at}")
    # Killed there once more, during or after the recovery, if it comes that far.
    again = life(tmp_path, "exactly_once", "transactional", crash_at=crash_at)
    assert again in (0, -signal.SIGKILL)
    assert life(tmp_path, "exactly_once", "transactional") == 0
    assert outputs(tmp_path) == calm


def test_killed_at_random_moments(tmp_path, calm):
    """200 kills in all, spread over jobs that each are killed until they get through."""
    moments = random.Random(20_240_101)
    write_input(tmp_path / "timed")
    start = time.monotonic()
    assert Life(partial(run_job, tmp_path / "timed", "exactly_once", "transactional", 1)).wait() == "done"
    longest_s = time.monotonic() - start
    kills = 0
    for number in itertools.count():
        root = tmp_path / str(number)
        write_input(root)
        job = partial(run_job, root, "exactly_once", "transactional", 1)
        kills += killed_until_done(job, longest_s=longest_s, at_most=25, moments=moments)
        assert Life(job).wait() == "done"
        assert outputs(root) == calm
        if kills >= 200:
            break


def take_over(root, kind):
    script = (
        "import sys; sys.path.insert(0, sys.argv[2]); import killed_job, onceflow as of; "
        "from pathlib import Path; root = Path(sys.argv[1]); "
        "r = of.run(killed_job.build(root, sys.argv[3]), root / 'state', checkpoint_interval_s=0.002, batch_size=50, "
        "take_over=True); assert r.finished"
    )
    command = [sys.executable, "-c", script, str(root), str(JOB.parent), kind]
    assert subprocess.run(command, check=False, timeout=120).returncode == 0


def paused(root, kind, point):
    process = subprocess.Popen(
        [sys.executable, str(JOB), str(root), "exactly_once", kind, "2"],
        env={**os.environ, "STOP_AT": point},
        stderr=subprocess.PIPE,
    )
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status), f"the job never came to {point}"
    return process


def woken(process):
    process.send_signal(signal.SIGCONT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode not in (0, None)
    assert b"FencedError" in errors


@pytest.mark.parametrize("point", ["sink.pre_commit:3", "decide.pre:1", "file.pre_rename:1", "job.end:1"])
def test_a_paused_process_that_was_replaced_changes_nothing(tmp_path, calm, point):
    write_input(tmp_path)
    with paused(tmp_path, "transactional", point) as zombie:
        take_over(tmp_path, "transactional")
        after = outputs(tmp_path)
        assert after == calm
        woken(zombie)
    assert outputs(tmp_path) == after


def test_a_paused_process_does_not_write_over_its_successor_s_output(tmp_path):
    """An idempotent sink takes whatever it is given: older values over newer ones too."""
    write_input(tmp_path)
    with paused(tmp_path, "idempotent", "sink.pre_commit:3") as zombie:
        take_over(tmp_path, "idempotent")
        after = ids(tmp_path)
        assert set(after) == set(range(ROWS))
        woken(zombie)
    assert ids(tmp_path) == after
