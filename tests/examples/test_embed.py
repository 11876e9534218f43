"""The examples run, and end as they say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.mark.parametrize(
    ("name", "last_line"),
    [
        ("embed_aligner.py", "checkpoint 5: sum"),
        ("embed_backend.py", "12000 payments of 50 accounts, each counted once"),
        ("http_changes.py", "300 changes of 20 accounts, each booked once"),
    ],
)
def test_runs(name, last_line):
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)], check=False, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith(last_line)
    assert done.stderr == ""


@pytest.mark.usefixtures("postgres")
def test_views_are_counted_into_a_server_of_its_own():
    test_runs("log_to_postgres.py", "3000 views in 399 rows, each counted once")


def test_the_worker_was_killed_and_resumed():
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "embed_backend.py")], check=True, capture_output=True, text=True
    )
    lives = done.stdout.splitlines()[:-1]
    assert len(lives) == 4
    assert "exit code -9" in lives[0]
    assert "exit code 0" in lives[-1]
    places = [int(re.search(r"byte (\d+) of", line)[1]) for line in lives]
    assert places == sorted(places)
    assert 0 < places[-2] < places[-1]
