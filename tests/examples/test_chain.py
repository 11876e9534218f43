"""The chain of jobs that several processes divide among them, killed again and again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "instances.py"


def play(on: str) -> list[str]:
    command = [sys.executable, str(EXAMPLE), on]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_on_the_embedded_log():
    """Kind: two jobs that are exact, and a chain of them that is not."""
    lines = play("log")
    assert sum(line.startswith("killed instance") for line in lines) == 9
    assert lines[-1] == "6000 visits of 40 users, each counted once"


def test_on_kafka(kafka):
    """Kind: the same, with all that a real broker does."""
    assert play(kafka.bootstrap)[-1] == "6000 visits of 40 users, each counted once"
