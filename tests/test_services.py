"""The servers of the tests as commands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("name", ["kafka", "postgres", "redis", "mariadb"])
@pytest.mark.parametrize(("argument", "code"), [("--help", 0), ("--port", 2)])
def test_a_question_starts_no_server(name, argument, code):
    """Kind: who asks how a command is used gets a server, and who gives what it does not know is not told."""
    command = [sys.executable, "-m", f"services.{name}", argument]
    found = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, cwd=Path(__file__).parents[1]
    )
    assert found.returncode == code
    assert f"usage: python -m services.{name} [-h]" in found.stdout + found.stderr
