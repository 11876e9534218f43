"""The parts within somebody else's loop or engine: killed, and each record counted once.

The engines want other versions of libraries than our tests do, so each lies in a directory of its own.
"""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / "target" / "peers"


def installed(requirement: str) -> Path:
    """A directory for PYTHONPATH with a package and what it needs, fetched if it is not there."""
    directory = PEERS / re.sub(r"\W+", "-", requirement).strip("-")
    PEERS.mkdir(parents=True, exist_ok=True)
    with (PEERS / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory / "complete").exists():
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(directory), requirement]
            done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=280)
            if done.returncode:
                pytest.skip(f"pip could not install {requirement}: {done.stderr.strip().splitlines()[-1]}")
            (directory / "complete").touch()
    return directory


def run(name: str, *arguments: str, path: Path | None = None) -> list[str]:
    """What an example prints; it must succeed."""
    command = [sys.executable, str(ROOT / "examples" / name), *arguments]
    env = os.environ if path is None else {**os.environ, "PYTHONPATH": str(path)}
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=280, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_a_plain_loop_of_confluent_kafka(kafka):
    lines = run("kafka_loop.py", kafka.bootstrap)
    assert [line.split(",")[0] for line in lines[:-1]] == [
        *(f"life {life}: exit code -9" for life in (1, 2, 3)),
        "life 4: exit code 0",
    ]
    assert lines[-1] == "24000 payments of 50 accounts, each counted once; 6600 came again"


def test_a_store_of_quix_streams(kafka):
    lines = run("quix_store.py", kafka.bootstrap, path=installed("quixstreams==3.28.*"))
    lives, counts = zip(
        *(re.fullmatch(r"life \d: exit code (-?\d), (\d+) counts in .*", line).groups() for line in lines[:-1]),
        strict=True,
    )
    assert lives == ("-9", "-9", "0")
    assert int(counts[-1]) > 200
    assert lines[-1] == "6000 words, each counted once"


def test_a_step_of_bytewax():
    lines = run("bytewax_step.py", path=installed("bytewax==0.21.*"))
    places = [int(re.fullmatch(r"life \d: exit code -?\d, byte (\d+) of \d+", line)[1]) for line in lines[:-1]]
    assert places == sorted(set(places))
    assert lines[-1] == "60000 lines of 914 words, each counted once"
