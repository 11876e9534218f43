"""Faults of a job that was edited between two runs: state that is lost without a word, and advice that is wrong."""

from __future__ import annotations

import re
import shlex
import signal

from cli_job import QUICK, SLOW, wait_for_checkpoint

from onceflow.connectors.files import read_parts


def test_the_advice_on_the_command_line_is_what_the_command_line_takes(home, start, onceflow):
    """An option that the program tells and does not know, or changes that it makes without telling."""
    process = start(*SLOW)
    wait_for_checkpoint(home / "state")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    text = (home / "job.py").read_text()
    edited = text.replace('amount=of.sum("amount")).sink("out"', 'most=of.max("amount")).sink("later"')
    (home / "job.py").write_text(edited.replace('CsvSink(HERE / "out")', 'CsvSink(HERE / "later")'))
    refused = onceflow(*QUICK)
    assert refused.returncode == 1
    said = " ".join(refused.stderr.split())
    advice = re.findall(r"--on-change \S+", said[said.index("on the command line:") :])
    assert sorted(advice) == [
        "--on-change later=empty",
        "--on-change out=drop",
        "--on-change totals/amount=drop",
        "--on-change totals/most=empty",
    ]
    resumed = onceflow(*QUICK, *shlex.split(" ".join(advice)))
    assert resumed.returncode == 0, resumed.stderr
    told = " ".join(resumed.stderr.split())
    assert "dropped: sink 'out' is gone" in told
    assert "dropped: the result 'amount' of aggregate 'totals' (sum) is gone" in told
    assert "begins empty: the result 'most' of aggregate 'totals' (max) is new" in told
    assert "begins empty: sink 'later' is new" in told
    assert read_parts(home / "later").startswith(b"user,n,most")


def test_an_option_that_says_nothing_is_refused(home, onceflow):
    """A typing error that is taken for a choice."""
    assert "give STEP=ACTION" in onceflow(*QUICK, "--on-change", "totals").stderr
    assert "'drop', 'empty' or" in " ".join(onceflow(*QUICK, "--on-change", "totals=keep").stderr.split())
    assert not (home / "out").exists()
