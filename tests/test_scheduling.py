"""Tests of a folder that stays together run in one process, the others where there is room."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from scheduling import TOGETHER

TESTS = """
import pytest

@pytest.mark.parametrize("number", range(4))
def test(number):
    pass
"""


@pytest.mark.parametrize("folder", TOGETHER)
def test_a_folder_that_stays_together(tmp_path, folder):
    for name in (folder, "other"):
        for module in ("one", "two"):
            path = tmp_path / "tests" / name / f"test_{name}_{module}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    env["PYTHONPATH"] = str(Path(__file__).parent)
    command = [sys.executable, "-m", "pytest", "-v", "-n", "2", "--dist", "loadgroup", "-p", "scheduling"]
    ran = subprocess.run(command, check=False, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    processes = defaultdict(list)
    for process, name in re.findall(r"^\[(gw\d)\].* PASSED tests/(\w+)/", ran.stdout, flags=re.MULTILINE):
        processes[name].append(process)
    assert {name: len(ran) for name, ran in processes.items()} == {folder: 8, "other": 8}
    assert len(set(processes[folder])) == 1
    assert set(processes["other"]) - set(processes[folder])
