"""--resume-from none asks and says what it means; --resume-from says what is written again."""

from __future__ import annotations

import json
import time

import pytest
from cli_job import QUICK, checkpoints, finish

from onceflow.connectors.files import read_parts
from onceflow.embed import StateBackend


@pytest.fixture
def finished(home):
    """The job has run to its end; its output was moved away."""
    before = finish(home)
    (home / "out").rename(home / "old")
    return before


def ids(home):
    return [info.id for info in checkpoints(home / "state")]


def test_refused_where_nobody_can_be_asked(home, onceflow, finished):
    before = ids(home)
    ran = onceflow(*QUICK, "--resume-from", "none")
    assert ran.returncode == 2
    assert "add --yes" in ran.stderr
    assert ids(home) == before
    assert not (home / "out").exists()


@pytest.mark.parametrize(("answer", "code"), [("\n", 2), ("\x03", 130)])
def test_any_answer_but_yes_changes_nothing(home, onceflow, terminal, finished, answer, code):
    before = ids(home)
    screen = terminal(*QUICK, "--resume-from", "none")
    screen.read_until("Start over? [y/N]:")
    assert "new lineage" in screen.text
    assert "outputs are written again" in " ".join(screen.text.split())
    # A Ctrl-C between the prompt and the read behind it would be noticed with the next key only.
    time.sleep(0.3)
    screen.type(answer)
    assert screen.wait() == code, screen.text
    assert ids(home) == before
    assert not (home / "out").exists()


def test_yes_starts_over_in_a_new_lineage(home, onceflow, terminal, finished):
    screen = terminal(*QUICK, "--resume-from", "none")
    screen.read_until("Start over? [y/N]:")
    screen.type("y\n")
    assert screen.wait() == 0, screen.text
    assert "started from nothing" in screen.text
    assert read_parts(home / "out") == finished
    # How many of the lineage that was left are still there depends on how many the new one has.
    assert max(checkpoints(home / "state"), key=lambda info: info.id).lineage > 1


def test_yes_given_beforehand(home, onceflow, finished):
    ran = onceflow(*QUICK, "--resume-from", "none", "--yes")
    assert ran.returncode == 0, ran.stderr
    assert "new lineage" in ran.stderr
    assert read_parts(home / "out") == finished


def test_nothing_to_lose_is_nothing_to_ask(home, onceflow):
    ran = onceflow(*QUICK, "--resume-from", "none")
    assert ran.returncode == 0, ran.stderr
    assert "Start over" not in ran.stderr


def test_the_directory_of_another_job_is_refused_not_asked_about(home, onceflow, finished):
    ran = onceflow(
        "run", "job.py:printing", "--state", "state", "--guarantee", "at_least_once", "--resume-from", "none"
    )
    assert ran.returncode == 3
    assert 'belongs to the job "totals"' in ran.stderr
    assert "Start over" not in ran.stderr


def test_from_a_checkpoint_names_what_is_written_again(home, onceflow, finished):
    older, newest = ids(home)
    ran = onceflow(*QUICK, "--resume-from", str(older))
    assert ran.returncode == 0, ran.stderr
    assert f"from checkpoint {older} instead of {newest} starts a new lineage" in ran.stderr
    assert "the sinks (out) wrote after it is written again" in ran.stderr
    assert checkpoints(home / "state")[-1].lineage > 1


def test_from_the_newest_writes_nothing_again(home, onceflow, finished):
    newest = ids(home)[-1]
    ran = onceflow(*QUICK, "--resume-from", str(newest))
    assert ran.returncode == 0
    assert "no output that it knows of is written again" in ran.stderr
    assert not any((home / "out").glob("part-*"))


def test_from_a_checkpoint_that_is_not_there(home, onceflow, finished):
    ran = onceflow(*QUICK, "--resume-from", "999999")
    assert ran.returncode == 2
    assert "has no checkpoint 999999; it has" in ran.stderr


def test_both_is_neither(home, onceflow):
    ran = onceflow(*QUICK, "--fresh", "--from-checkpoint", "1")
    assert ran.returncode == 2
    assert "not both" in ran.stderr
    assert not (home / "state").exists()


def test_a_savepoint_is_made_and_resumed_from_by_its_name(home, onceflow, start, finished):
    """The kind of fault: a setting that the guide and messages speak of cannot be given on the command line."""
    ran = onceflow(*QUICK, "--resume-from", "none", "--yes", "--savepoint", "end")
    assert ran.returncode == 0, ran.stderr
    saved = checkpoints(home / "state")[-1]
    assert saved.savepoint == "end"
    shown = onceflow("checkpoints", "show", "state", "end")
    assert f"checkpoint {saved.id}" in shown.stdout
    for wanted in ("end", str(saved.id)):
        ran = onceflow(*QUICK, "--resume-from", wanted)
        assert ran.returncode == 0, ran.stderr
        assert f"checkpoint {saved.id} is the newest one" in ran.stderr
    ran = onceflow(*QUICK, "--resume-from", "begin")
    assert ran.returncode == 2
    assert "has no savepoint 'begin'; it has " in ran.stderr
    assert f"{saved.id} (end)" in ran.stderr
    ran = onceflow(*QUICK, "--savepoint", "7")
    assert ran.returncode == 2
    assert "savepoint is '7'" in ran.stderr
    assert "on the command line: --savepoint" in ran.stderr


def test_what_messages_call_settings_is_told_as_options(home, onceflow, finished):
    ran = onceflow(*QUICK, "--batch-size", "7")
    assert ran.returncode == 2
    assert "started with batch_size=" in ran.stderr
    assert "on the command line: --resume-from none, --batch-size" in ran.stderr
    # Where there is no such option, none is advised.
    ran = onceflow("checkpoints", "ls", "nowhere")
    assert ran.returncode == 3
    assert "--take-over" not in ran.stderr


def test_a_job_that_has_gone_back_says_where_it_goes_on(home, onceflow, finished):
    older, newest = ids(home)
    with StateBackend.open(home / "state", job="totals", resume_from=older) as backend:
        backend.begin_lineage()
    listed = onceflow("checkpoints", "ls", "state")
    assert f"the job goes on from checkpoint {older}: it has gone back" in listed.stderr
    as_json = json.loads(onceflow("checkpoints", "ls", "state", "--json").stdout)
    assert as_json["resumes_from"] == older
    assert [info["id"] for info in as_json["checkpoints"]] == [older, newest]


def test_the_old_names_of_the_option_still_work(home, onceflow, finished):
    """A hint that is followed: who uses an old name is told the new one."""
    ran = onceflow(*QUICK, "--fresh", "--yes")
    assert ran.returncode == 0
    assert "--fresh is called --resume-from none now" in ran.stderr
    ran = onceflow(*QUICK, "--from-checkpoint", "999999")
    assert "--from-checkpoint is called --resume-from 999999 now" in ran.stderr
