"""The program starts quickly: nothing heavy is imported before it is needed."""

from __future__ import annotations

import json
import subprocess
import sys

from cli_job import PROGRAM

from onceflow._native import __version__


def test_the_commands_are_known_without_numpy_and_the_extension():
    code = (
        "import sys, onceflow.cli.app\n"
        "heavy = {'numpy', 'onceflow._native', 'msgspec', 'pyarrow', 'rich.console', 'asyncio'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


def test_version(onceflow):
    assert onceflow("--version").stdout == f"onceflow {__version__}\n"


def test_help_names_commands_and_exit_codes(onceflow):
    ran = onceflow("--help")
    assert ran.returncode == 0
    for text in ("run", "explain", "checkpoints", "state", "a newer run of the job has taken over"):
        assert text in ran.stdout


def test_the_help_of_run_cuts_no_option_in_80_columns(onceflow):
    shown = onceflow("run", "--help").stdout
    for option in (
        "--checkpoint-interval",
        "--resume-from",
        "--take-over",
        "--resume-from",
        "none",
        "--batch-size",
        "--on-change",
    ):
        assert option in shown


def test_explain(home, onceflow):
    kept = onceflow("explain", "job.py:flow")
    assert (kept.returncode, kept.stderr) == (0, "")
    assert "out: CsvSink is transactional" in kept.stdout
    missing = onceflow("explain", "job.py:printing")
    assert missing.returncode == 1
    assert "MISSING  out" in missing.stdout
    assert onceflow("explain", "job.py:printing", "--guarantee", "at_least_once").returncode == 0


def test_explain_looks_at_the_real_systems(home, onceflow):
    """A start that is going to fail, shown as sound; or a look that changes what it looks at."""
    sound = onceflow("explain", "job.py:flow", "--check")
    assert (sound.returncode, sound.stderr) == (0, "")
    assert f"\nsource rows: CsvSource\n  ok       file {home}/in.csv: can be read, " in sound.stdout
    assert "will be made" in sound.stdout and not (home / "out").exists()
    (home / "in.csv").unlink()
    (home / "out").write_text("")
    lacking = onceflow("explain", "job.py:flow", "--check")
    assert lacking.returncode == 1
    assert "  ERROR    CsvSource: " in lacking.stdout and f"{home}/out is not a directory" in lacking.stdout
    assert "  unknown  it has no check" in onceflow("explain", "job.py:printing", "--check").stdout
    assert onceflow("explain", "job.py:flow").returncode == 0


def test_explain_looks_at_what_a_state_goes_on_from(home, onceflow):
    """A start that is going to be refused for its state, shown as sound; or a state that a look makes."""
    looked = ("explain", "job.py:flow", "--check", "--state", "state")
    fresh = onceflow(*looked)
    assert fresh.returncode == 0 and "\njob totals\n  ok       state directory state: is made by" in fresh.stdout
    assert not (home / "state").exists()
    run = onceflow("run", "job.py:flow", "--state", "state", "--until", "caught_up")
    assert run.returncode == 0, run.stderr
    sound = onceflow(*looked)
    assert sound.returncode == 0, sound.stdout
    assert "a run goes on from checkpoint" in sound.stdout
    assert "positions of 'rows': a run can go on from all 1" in sound.stdout
    other = onceflow(*looked, "--guarantee", "at_least_once")
    assert other.returncode == 1 and "the job was started with guarantee='exactly_once'" in other.stdout
    (home / "in.csv").write_text("id\n")
    shrunk = onceflow(*looked, "--format", "json")
    assert shrunk.returncode == 1
    job, rows, _ = json.loads(shrunk.stdout)["checks"]
    assert (job["role"], job["findings"][0]["level"]) == ("job", "ok")
    assert (rows["findings"][-1]["level"], rows["findings"][-1]["subject"]) == ("error", "positions of 'rows'")
    assert onceflow("explain", "job.py:flow", "--state", "state").returncode == 2


def test_explain_says_whom_it_asks_and_does_not_wait_for_ever(home, onceflow):
    """Nothing on the screen for as long as a server does not answer."""
    (home / "hanging.py").write_text(HANGING)
    looked = onceflow("explain", "hanging.py:flow", "--check", "--timeout", "500ms")
    assert looked.returncode == 1
    assert "source in: Hanging\n  ok       a server: can be reached\n  ERROR    Hanging: what is asked" in looked.stdout
    assert "within 0.5 s" in looked.stdout and "sink out: CsvSink\n  ok " in looked.stdout
    asking = subprocess.Popen(
        [*PROGRAM, "explain", "hanging.py:flow", "--check", "--timeout", "1h"],
        cwd=home, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with asking:
        assert any("source in: Hanging" in line for line in asking.stdout)
        asking.kill()


HANGING = """
import time
import onceflow as of
from onceflow.checks import Finding
from onceflow.connectors.files import CsvSink
from onceflow.testing import TestingSource

class Hanging(TestingSource):
    def check(self, context):
        yield Finding("ok", "a server", "can be reached")
        time.sleep(3600)

flow = of.Dataflow("hanging")
flow.source("in", Hanging([{"id": 1}])).sink("out", CsvSink("hung"))
"""


def test_explain_for_programs_and_as_a_picture(home, onceflow):
    """Findings that a format has no place for, and that go missing."""
    told = json.loads(onceflow("explain", "job.py:printing", "--format", "json").stdout)
    assert (told["version"], told["kept"], "checks" in told) == (1, False, False)
    checked = onceflow("explain", "job.py:flow", "--check", "--format", "json")
    rows, out = json.loads(checked.stdout)["checks"]
    assert (rows["step_id"], rows["role"], rows["connector"]) == ("rows", "source", "CsvSource")
    assert list(rows["findings"][0]) == ["level", "subject", "text", "advice"] and out["step_id"] == "out"
    assert onceflow("explain", "job.py:flow", "--format", "mermaid").stdout.startswith("flowchart LR\n")
    refused = onceflow("explain", "job.py:flow", "--format", "mermaid", "--check")
    assert refused.returncode == 2 and "told as text or json" in refused.stderr
