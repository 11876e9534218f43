"""A run ends, is interrupted, and is resumed; its exit code and last words say which."""

from __future__ import annotations

import re
import signal
import time

import msgspec
import pytest
from cli_job import QUICK, ROWS, SLOW, checkpoints, finish, furnish, wait_for_checkpoint

from onceflow.connectors.files import read_parts


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """Output of the job that nobody disturbs."""
    return finish(furnish(tmp_path_factory.mktemp("calm")))


def test_to_the_end_and_then_nothing_is_left_to_do(home, onceflow, calm):
    first = onceflow(*QUICK)
    assert first.returncode == 0, first.stderr
    assert first.stdout == ""
    assert "totals: started from nothing" in first.stderr
    assert re.search(r"totals: finished after .*, 2,000 records \(.* records/s\), \d+ checkpoint", first.stderr)
    assert read_parts(home / "out") == calm
    second = onceflow(*QUICK)
    assert second.returncode == 0
    assert "had finished already" in second.stderr
    assert read_parts(home / "out") == calm


def test_until_caught_up_it_goes_on_when_a_file_has_grown(home, onceflow):
    """It says that it is not over, and how to go on; and a finished job says what would have kept it open."""
    until = (*QUICK, "--until", "caught_up")
    first = onceflow(*until)
    assert first.returncode == 0, first.stderr
    assert "totals: caught up after" in first.stderr
    assert "run the same command again when there is more" in first.stderr
    with (home / "in.csv").open("a") as file:
        file.write((home / "in.csv").read_text().splitlines()[-1] + "\n")
    second = onceflow(*until)
    assert second.returncode == 0, second.stderr
    assert "in all     2,001 in" in second.stderr
    assert onceflow(*QUICK).returncode == 0
    assert "--until caught_up" in onceflow(*until).stderr
    wrong = onceflow(*QUICK, "--until", "now")
    assert wrong.returncode == 2
    assert "caught_up" in wrong.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_a_last_checkpoint_and_a_second_run_resumes(home, start, onceflow, calm, number):
    process = start(*SLOW)
    wait_for_checkpoint(home / "state")
    process.send_signal(number)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 0, told
    assert "stopping with a last checkpoint" in told
    assert "run the same command again to resume" in told
    newest = re.search(r"newest +checkpoint (\d+)", told)[1]
    records = re.search(r"in all +([\d,]+) in", told)[1]
    assert 0 < int(records.replace(",", "")) < ROWS
    second = onceflow(*QUICK)
    assert second.returncode == 0, second.stderr
    assert f"resumed from checkpoint {newest} after {records} records" in second.stderr
    assert "in all     2,000 in" in second.stderr
    assert read_parts(home / "out") == calm


def test_a_second_interrupt_stops_at_once_and_loses_nothing(home, terminal, onceflow, calm):
    # A pause that outlasts the test, so that the last checkpoint cannot come in between.
    text = (home / "job.py").read_text()
    pause = "print('pausing') or time.sleep(60) if batch[0]['id'] == 1000 else time.sleep(0.002)"
    (home / "job.py").write_text(text.replace("time.sleep(pause_s)", pause))
    screen = terminal(*QUICK)
    screen.read_until("pausing")
    screen.type("\x03")
    time.sleep(0.3)
    screen.type("\x03")
    assert screen.wait() == 130, screen.text
    assert "interrupted at once; the next run" in screen.text
    assert "Traceback" not in screen.text
    (home / "job.py").write_text(text)
    assert onceflow(*QUICK).returncode == 0
    assert read_parts(home / "out") == calm


def test_a_line_now_and_then_where_there_is_no_terminal(home, start):
    process = start(*SLOW[:-1], "5")
    wait_for_checkpoint(home / "state")
    lines = []
    while not any("checkpoint" in line and " in, " in line for line in lines):
        lines.append(process.stderr.readline())
        assert lines[-1], lines
    assert re.fullmatch(
        r"[\d.]+ s: [\d,]+ in, [\d,]+ out, [\d,]+ records/s, \d+ checkpoints, the last [\d.]+ \ws, [\d.]+ \w+"
        r", \d+% busy(, \d+% backpressured)?(, event time [\d, ]+ days behind)?\n",
        lines[-1],
    )


def test_standard_output_belongs_to_the_sinks(home, onceflow):
    ran = onceflow("run", "job.py:printing", "--state", "state", "--guarantee", "at_least_once")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == [str(number) for number in range(ROWS)]


def test_all_settings_arrive(home, onceflow):
    options = ["--guarantee", "effectively_once", "--batch-size", "25", "--codec", "pickle", "--retain", "3"]
    ran = onceflow("run", "job:slow", "--state", "deep/state", "--checkpoint-interval", "1ms", *options)
    assert ran.returncode == 0, ran.stderr
    known = checkpoints(home / "deep" / "state")
    assert len(known) == 3
    job = msgspec.msgpack.decode(known[-1].blobs["job"])
    assert (job["guarantee"], job["batch_size"], job["codec"]) == ("effectively_once", 25, "pickle")
