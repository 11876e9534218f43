"""Each failure is one message, an exit code of its own, and no traceback of ours."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_job import QUICK, SLOW, finish, wait_for_checkpoint

import onceflow as package


def package_frames(text: str) -> list[str]:
    """Lines of a traceback that point into the package."""
    home = str(Path(package.__file__).parent)
    return [line for line in text.splitlines() if "File " in line and home in line]


def test_an_exception_of_the_user_names_step_and_record_and_keeps_its_traceback(home, onceflow):
    ran = onceflow("run", "job.py:failing", "--state", "state", "--batch-size", "100")
    assert ran.returncode == 1
    assert "error: step 'map-2': ZeroDivisionError" in ran.stderr
    assert "record 0 of the batch is {'id': 700, " in ran.stderr
    assert "step      map-2" in ran.stderr
    assert "in.csv, records 700 to 799" in ran.stderr
    assert "in helper" in ran.stderr
    assert ran.stderr.rstrip().endswith("ZeroDivisionError: integer division or modulo by zero")
    assert package_frames(ran.stderr) == []


def test_a_module_that_does_not_load_shows_where(home, onceflow):
    (home / "broken.py").write_text("secret = 'hunter2'\n\ndef deep():\n    return {}['key']\n\ndeep()\n")
    for target in ("broken:flow", "broken.py:flow"):
        ran = onceflow("explain", target)
        assert ran.returncode == 2
        assert "cannot be loaded" in ran.stderr
        assert "line 4, in deep" in ran.stderr
        assert "KeyError: 'key'" in ran.stderr
        assert package_frames(ran.stderr) == []
        assert "hunter2" not in ran.stderr


def test_a_guarantee_that_cannot_be_kept_is_refused_before_the_first_record(home, onceflow):
    ran = onceflow("run", "job.py:printing", "--state", "state")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "error: exactly_once cannot be kept on the path rows" in ran.stderr
    assert not (home / "state").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--checkpoint-interval", "5"), "is not a duration"),
        (("--batch-size", "0"), "--batch-size"),
        (("--guarantee", "always"), "--guarantee"),
        (("--codec", "json"), "--codec"),
    ],
)
def test_wrong_usage(home, onceflow, arguments, message):
    ran = onceflow("run", "job.py:flow", "--state", "state", *arguments)
    assert ran.returncode == 2
    assert message in ran.stderr
    assert not (home / "state").exists()


def test_settings_that_must_stay(home, onceflow):
    finish(home)
    ran = onceflow(*QUICK[:-1], "21")
    assert ran.returncode == 2
    assert "batch_size=20" in ran.stderr


def test_a_directory_that_is_none(home, onceflow):
    ran = onceflow("run", "job.py:flow", "--state", "in.csv")
    assert ran.returncode == 3
    assert "is a file, not a state directory" in ran.stderr


def test_a_running_job_is_not_disturbed_and_can_be_replaced(home, start, onceflow):
    first = start(*SLOW[:-1], "2")
    wait_for_checkpoint(home / "state")
    second = onceflow(*SLOW)
    assert second.returncode == 3
    assert str(first.pid) in second.stderr
    assert "--take-over" in second.stderr and "take_over" not in second.stderr
    assert first.poll() is None
    third = onceflow(*QUICK[:-1], "2", "--take-over")
    assert third.returncode == 0, third.stderr
    _, told = first.communicate(timeout=30)
    assert first.returncode == 4, told
    assert "epoch" in told
    assert package_frames(told) == []
