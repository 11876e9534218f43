"""What a user's type checker says of the public API."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import onceflow
from onceflow import embed

ROOT = Path(__file__).resolve().parents[2]
FILES = ["tests/typing/api.py", "examples/embed_backend.py", "examples/embed_aligner.py"]


def test_the_public_api_is_typed_as_documented(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", f"--cache-dir={tmp_path}", *FILES],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_embedders_use_has_moved():
    """A hint that is followed: the old place still works, says so, and names the new one."""
    with pytest.warns(DeprecationWarning, match=r"from onceflow\.embed import StateBackend"):
        assert onceflow.StateBackend is embed.StateBackend
    with pytest.warns(DeprecationWarning, match=r"from onceflow\.embed import Rows"):
        assert onceflow.Batch is embed.Rows
