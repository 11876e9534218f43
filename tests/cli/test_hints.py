"""What the program says is of use to who sits before it: commands and options, no arguments of functions, no places in
our code."""

from __future__ import annotations

import pytest

WARNING = """
import warnings

import onceflow as of
from onceflow.connectors.stdout import StdoutSink
from onceflow.exceptions import SourceWaitingWarning
from onceflow.testing import TestingSource


def told(n):
    warnings.warn(SourceWaitingWarning(f"partition {n} waits"), stacklevel=1)
    return n


warnings.warn("old\\n  words", UserWarning, stacklevel=1)
flow = of.Dataflow("warned")
flow.source("rows", TestingSource([1, 2])).map(told).sink("out", StdoutSink())
"""


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        (("checkpoints", "ls", "nowhere"), "onceflow run TARGET --state DIR"),
        (("state", "dump", "nowhere", "table"), "onceflow run TARGET --state DIR"),
        (("log", "topics", "nowhere"), "onceflow log create DIR TOPIC"),
    ],
)
def test_what_is_missing_is_said_with_the_command_that_makes_it(onceflow, command, hint):
    """Kind: advice to give an argument, to who has no function to give it to."""
    ran = onceflow(*command)
    assert ran.returncode == 3
    first, second = ran.stderr.splitlines()
    assert first.startswith("error: ") and first.endswith("nowhere holds no store; check the path")
    assert hint in second


def test_each_warning_is_one_line(home, onceflow):
    """Kind: a warning comes with a line of our code, over several lines, or for the first record alone."""
    (home / "warned.py").write_text(WARNING)
    ran = onceflow("run", "warned.py:flow", "--state", "state", "--guarantee", "at_least_once")
    assert ran.returncode == 0, ran.stderr
    told = [line for line in ran.stderr.splitlines() if "warn" in line and line.startswith("warning")]
    assert told == [
        f"warning: old words (UserWarning, {home / 'warned.py'}:15)",
        "warning: partition 1 waits",
        "warning: partition 2 waits",
    ]
    assert "warnings.warn" not in ran.stderr


def test_a_command_warns_in_a_line_too(home, onceflow):
    """Kind: only ``run`` shows warnings as lines."""
    (home / "warned.py").write_text(WARNING)
    ran = onceflow("explain", "warned.py:flow", "--guarantee", "at_least_once")
    assert f"warning: old words (UserWarning, {home / 'warned.py'}:15)\n" in ran.stderr
