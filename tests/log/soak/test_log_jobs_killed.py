"""Jobs that write to the log and read from it, killed anywhere, leave what undisturbed ones leave."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import chain
import pytest
from killed_chain import run_killed_chain

from onceflow._native import Log

ROWS = 3000
POINTS = tomllib.loads((Path(__file__).parents[2] / "runner" / "crash_points.toml").read_text())
CELLS = [(name, nth) for section in ("log", "log_core") for name, times in POINTS[section].items() for nth in times]
#: Points of any job, on the way of this one's output.
CELLS += [
    (name, 2) for name in ("sink.post_prepare", "decide.pre", "decide.post_wait", "sink.pre_commit", "sink.post_commit")
]
CELLS += [("recover.pre_commit", 1), ("recover.post_commit", 1), ("decide.post", 2), ("decide.pre_sync", 2)]

pytestmark = pytest.mark.usefixtures("crash_points")


def command(root: Path, *more: str) -> list[str]:
    return [sys.executable, chain.__file__, "first", str(root), "2", *more]


def life(root: Path, crash_at: str | None = None) -> int:
    """One life of the job that writes."""
    env = {name: value for name, value in os.environ.items() if name not in ("CRASH_AT", "STOP_AT")}
    if crash_at is not None:
        env["CRASH_AT"] = crash_at
    return subprocess.run(command(root), env=env, check=False, timeout=60).returncode


def topic(root: Path) -> list[tuple[list, list]]:
    """Keys and values of each partition; that nothing else is left in the log, is checked."""
    with Log.open(root / "log", create=False) as log:
        assert [producer.staged_bytes for producer in log.producers()] == [0]
        found = [log.fetch("events", partition, 0) for partition in range(log.topic("events").partitions)]
        return [(records.keys, records.values) for records in found]


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """What the job writes that nobody disturbs."""
    root = tmp_path_factory.mktemp("calm")
    chain.write_input(root, ROWS)
    assert life(root) == 0
    written = topic(root)
    assert sum(len(values) for _, values in written) == ROWS
    return written


@pytest.mark.parametrize(("point", "nth"), CELLS)
def test_killed_at_a_crash_point(tmp_path, calm, point, nth):
    chain.write_input(tmp_path, ROWS)
    crash_at = f"{point}:{nth}"
    assert life(tmp_path, crash_at) == -signal.SIGKILL, f"the job never came to {crash_at}"
    # Killed there once more, in the recovery or after it, if it comes that far.
    assert life(tmp_path, crash_at) in (0, -signal.SIGKILL)
    assert life(tmp_path) == 0
    assert topic(tmp_path) == calm


@pytest.mark.parametrize("stop_at", ["log.pre_append:3", "sink.pre_commit:2", "decide.pre:2"])
def test_a_paused_job_that_was_replaced_writes_nothing(tmp_path, calm, stop_at):
    chain.write_input(tmp_path, ROWS)
    check_replaced(tmp_path, calm, stop_at)


@pytest.mark.parametrize("stop_at", ["log.pre_fence:1", "log.post_fence:1"])
def test_a_job_that_was_paused_in_its_recovery_and_replaced_writes_nothing(tmp_path, calm, stop_at):
    chain.write_input(tmp_path, ROWS)
    assert life(tmp_path, "log.pre_append:3") == -signal.SIGKILL
    check_replaced(tmp_path, calm, stop_at)


def check_replaced(root: Path, calm: list, stop_at: str) -> None:
    env = {**os.environ, "STOP_AT": stop_at}
    with subprocess.Popen(command(root), env=env, stderr=subprocess.PIPE) as zombie:
        os.waitpid(zombie.pid, os.WUNTRACED)
        assert subprocess.run(command(root, "--take-over"), check=False, timeout=60).returncode == 0
        assert topic(root) == calm
        zombie.send_signal(signal.SIGCONT)
        _, errors = zombie.communicate(timeout=60)
        assert zombie.returncode not in (0, None)
        assert b"FencedError" in errors
    assert topic(root) == calm


def test_two_jobs_in_a_chain_each_killed_at_random(tmp_path):
    """16 kills in all or a few more, spread over chains that each come to their end."""
    moments = random.Random(20_240_301)
    kills = chains = 0
    while kills < 16:
        chains += 1
        kills += run_killed_chain(tmp_path / str(chains), rows=3000, kills=12, longest_s=0.4, moments=moments)
