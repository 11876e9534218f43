"""Queries of Nexmark, killed while they run, answer as DuckDB does over the same bids."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

NEXMARK = Path(__file__).resolve().parents[2] / "examples" / "nexmark"


@pytest.mark.parametrize(
    "queries", [("q0", "q1", "q2", "q7"), ("q12", "q14", "q15", "q16"), ("q17", "q18", "q21", "q22")], ids="-".join
)
def test_answers(queries):
    """Kind: an operator that loses, repeats or reorders across a restart, or counts otherwise than SQL does."""
    command = [sys.executable, str(NEXMARK), *queries, "--bids", "40000"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.fullmatch(r"4 queries over 40000 bids, (\d) kills: all as DuckDB's", done.stdout.splitlines()[-1])
    assert found
    # A quick machine is done before the second kill.
    assert int(found[1]) >= 1
