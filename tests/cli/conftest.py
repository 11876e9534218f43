"""The program in a child process, and a job for it to run."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_job import PROGRAM, furnish
from terminal import Terminal


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A directory with job.py and its input."""
    return furnish(tmp_path)


@pytest.fixture
def onceflow(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the program in ``tmp_path`` to its end, without a terminal."""

    def run(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
        options = {"text": True, "stdin": subprocess.DEVNULL, "cwd": tmp_path, "timeout": 60, **options}
        return subprocess.run([*PROGRAM, *arguments], capture_output=True, check=False, **options)

    return run


@pytest.fixture
def start(tmp_path: Path):
    """Starts the program in ``tmp_path``; it is killed when the test ends."""
    running = []

    def run(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*PROGRAM, *arguments], cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        running.append(process)
        return process

    yield run
    for process in running:
        process.kill()
        process.communicate()


@pytest.fixture
def terminal(tmp_path: Path):
    """Starts the program in a terminal."""
    opened = []

    def run(*arguments: str, columns: int = 100) -> Terminal:
        env = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
        opened.append(Terminal([*PROGRAM, *arguments], tmp_path, {**env, "TERM": "xterm-256color"}, columns))
        return opened[-1]

    yield run
    for one in opened:
        one.close()
