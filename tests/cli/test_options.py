"""What run() can be told, the command line can be told too, and hands on as it was said."""

import inspect
import sys

import pytest
from typer.testing import CliRunner

import onceflow.cli.run as command
import onceflow.runtime.run
from onceflow.cli.app import app
from onceflow.events import JobResult
from onceflow.restart import FixedDelay

#: What a command line has no word for, and old names.
ELSEWHERE = {"flow", "on_event", "clock", "from_checkpoint", "fresh"}
SAID = {
    "checkpoint_interval_s": ("--checkpoint-interval", "2m", 120.0),
    "guarantee": ("--guarantee", "at_least_once", "at_least_once"),
    "batch_size": ("--batch-size", "7", 7),
    "codec": ("--codec", "pickle", "pickle"),
    "retain": ("--retain", "5", 5),
    "savepoint": ("--savepoint", "kept", "kept"),
    "resume_from": ("--resume-from", "newest", "newest"),
    "take_over": ("--take-over", None, True),
    "on_change": ("--on-change", "totals=drop", {"totals": "drop"}),
    "until": ("--until", "caught_up", "caught_up"),
    "max_drift_s": ("--max-drift", "90s", 90.0),
    "instance": ("--instance", "1/2", (1, 2)),
    "checkpoint_timeout_s": ("--checkpoint-timeout", "30s", 30.0),
    "checkpoint_min_pause_s": ("--checkpoint-min-pause", "500ms", 0.5),
    "workers": ("--workers", "3", 3),
    "restart": (
        "--restart",
        "fixed-delay:delay=2s,attempts=5,within=1h",
        FixedDelay(delay_s=2, attempts=5, within_s=3600),
    ),
}


def test_every_setting_of_run_has_an_option():
    """A setting that only programs can reach."""
    settings = set(inspect.signature(onceflow.runtime.run.run).parameters) - ELSEWHERE
    assert settings == {"state", *SAID}
    assert len(inspect.signature(command.run).parameters) == len(settings) + len(
        {"target", "yes", "from", "fresh", "metrics-port", "metrics-address"}
    )


def test_options_come_to_run_as_they_were_said(home, monkeypatch):
    """An option that is read and goes nowhere, or in another unit."""
    heard = {}

    def run(flow, state, **settings):
        heard.update(settings)
        return JobResult(
            finished=True, caught_up=False, checkpoints=0, last_checkpoint=None, resumed_from=None, late={}, changes=(),
            records_in=0, records_out=0, rejected=0, skipped=0,
        )  # fmt: skip

    monkeypatch.setattr(onceflow.runtime.run, "run", run)
    monkeypatch.chdir(home)
    monkeypatch.setattr(sys, "path", list(sys.path))
    said = [word for option, value, _ in SAID.values() for word in (option, value) if word is not None]
    done = CliRunner().invoke(app, ["run", "job.py:flow", "--state", "state", *said])
    sys.modules.pop("job", None)
    assert done.exit_code == 0, done.output
    assert {name: heard[name] for name in SAID} == {name: value for name, (_, _, value) in SAID.items()}


@pytest.mark.parametrize("text", ["0s", "soon", "-1s"])
def test_a_drift_that_is_no_duration(onceflow, home, text):
    """A bound that is taken for another one."""
    refused = onceflow("run", "job.py:flow", "--state", "state", f"--max-drift={text}")
    assert refused.returncode == 2 and "--max-drift" in refused.stderr
    assert not (home / "state").exists()
