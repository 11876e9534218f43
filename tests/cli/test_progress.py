"""What a running job shows in a terminal, and what it tells of a recovery."""

from __future__ import annotations

import re

import pytest
from cli_job import QUICK, SLOW, checkpoints, damage_chunk, finish

from onceflow.cli import console
from onceflow.cli.progress import JobProgress
from onceflow.connectors.files import read_parts
from onceflow.events import CheckpointFailed, JobResult, Progress, Recovered, Restarting, Stopping


def test_a_terminal_shows_a_live_panel_and_then_a_summary(home, terminal):
    screen = terminal(*SLOW)
    assert screen.wait() == 0, screen.text
    # Redrawn in place: the cursor goes up again and again, is hidden meanwhile and comes back.
    assert screen.raw.count("\x1b[1A") > 5
    assert "\x1b[?25l" in screen.raw
    assert screen.raw.rindex("\x1b[?25h") > screen.raw.rindex("\x1b[?25l")
    panels = re.findall(r"records +([\d,]+) in  ([\d,]+) out  ([\d,]+)/s", screen.text)
    assert len({records_in for records_in, _, _ in panels}) > 3
    assert any(rate != "0" for _, _, rate in panels)
    assert re.search(r"checkpoints +\d+  last [\d.]+ .s, [\d.]+ \w+", screen.text)
    last = screen.text.rstrip().splitlines()[-3:]
    assert "totals: finished after" in last[0]
    assert "2,000 in" in last[1]
    assert "newest     checkpoint" in last[2]


def test_ctrl_c_in_a_terminal_stops_and_says_how_to_resume(home, terminal):
    screen = terminal(*SLOW)
    screen.read_until(" last ")
    screen.type("\x03")
    assert screen.wait() == 0, screen.text
    assert "stopping with a last checkpoint; Ctrl-C once more stops at once" in screen.text
    assert screen.text.rstrip().endswith("run the same command again to resume from there")


def test_damage_is_a_warning_that_names_it_and_output_stays_exact(home, onceflow):
    output = finish(home)
    newest = checkpoints(home / "state")[-1].id
    damage_chunk(home / "state", newest)
    ran = onceflow(*QUICK)
    assert ran.returncode == 0, ran.stderr
    assert "warning: damage found in the recovery: " in ran.stderr
    assert ran.stderr.count("warning: ") == 1
    assert "DamagedCheckpointWarning" not in ran.stderr
    assert f"the state of checkpoint {newest} is damaged: its input is replayed" in ran.stderr
    assert read_parts(home / "out") == output


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def told(capsys):
    """What was written to standard error since the last call."""
    console.status.cache_clear()
    yield lambda: capsys.readouterr().err
    console.status.cache_clear()


def test_rate_and_counts_begin_where_the_run_began(told):
    clock = Clock()
    progress = JobProgress("job", live=False, clock=clock)
    progress.on_event(Recovered(7, 2, 1_000, 0.003, records_in=50_000, records_out=10_000))
    assert told() == "job: resumed from checkpoint 7 after 50,000 records (1,000 rows of state in 3 ms)\n"
    for half_seconds in range(1, 5):
        clock.now += 0.5
        progress.on_event(Progress(50_000 + 500 * half_seconds, 10_000))
    assert told() == "2 s: 52,000 in, 10,000 out, 1,000 records/s, 0 checkpoints, 0% busy\n"
    progress.finish(JobResult(True, 52_000, 10_000, 3, 4, 1, 8, 7))
    assert told().splitlines() == [
        "job: finished after 2 s, 2,000 records (1,000 records/s), 1 checkpoint",
        "  in all     52,000 in, 10,000 out",
        "  malformed  3 to dead letters, 4 skipped",
    ]


def test_how_the_worker_is_is_told(told):
    """The kind of fault: a job that its sinks hold up, or that is days behind, and looks idle."""
    clock = Clock()
    progress = JobProgress("job", live=False, clock=clock, now=lambda: 1_000_000.0)
    progress.on_event(Recovered(None, 1, 0, 0.003))
    told()
    told_of = {"busy": 0.25, "backpressured": 0.7, "event_time_s": 1_000_000.0 - 95}
    clock.now += 2.5
    progress.on_event(Progress(10, 10, **told_of))
    assert told().endswith(", 0 checkpoints, 25% busy, 70% backpressured, event time 1 min 35 s behind\n")
    clock.now += 2.5
    progress.on_event(Progress(20, 20, busy=1.0, event_time_s=1_000_000.0 - 3 * 86400))
    assert told().endswith(", 0 checkpoints, 100% busy, event time 3 days behind\n")


def test_a_failed_attempt_is_told_and_counts_go_on(told):
    """The kind of fault: a run that begins its counts anew at each restart, so that its rate is that of a minute."""
    clock = Clock()
    progress = JobProgress("job", live=False, clock=clock)
    progress.on_event(Recovered(7, 2, 1_000, 0.003, records_in=100))
    clock.now += 10
    progress.on_event(CheckpointFailed(8, "SinkError: no\nanswer"))
    progress.on_event(Restarting(1, 2.5, "SinkError: no\nanswer"))
    progress.on_event(Recovered(7, 3, 1_000, 0.003, records_in=100))
    assert "warning: job: checkpoint 8 failed: SinkError: no answer\n" in (text := told())
    assert "warning: job: failed, and is begun again in 2.5 s (restart 1): SinkError: no answer\n" in text
    clock.now += 10
    progress.finish(JobResult(True, 1100, 10, 0, 0, 1, 8, 7, restarts=1, failures=("SinkError: no\nanswer",)))
    assert told().splitlines()[::2] == [
        "job: finished after 20 s, 1,000 records (50 records/s), 1 checkpoint",
        "  restarts   1, the last one after SinkError: no answer",
    ]


def test_a_replay_and_a_stop_are_told(told):
    progress = JobProgress("job", live=False)
    progress.on_event(Recovered(7, 2, 1, 0.003, replaying_to=8, damage=("chunk 3 is damaged",)))
    text = told()
    assert "warning: damage found in the recovery: chunk 3 is damaged\n" in text
    assert "the state of checkpoint 8 is damaged: its input is replayed" in text
    progress.on_event(Stopping())
    assert "stopping with a last checkpoint" in told()
    progress.on_event(Stopping(8192))
    assert told().splitlines()[1] == "  the batch under way, of 8,192 records, is finished first"


def test_a_line_that_says_nothing_new_is_not_printed(told):
    """The kind of fault: an idle job fills a log file with the same line, every two seconds for months."""
    clock = Clock()
    progress = JobProgress("job", live=False, clock=clock)
    progress.on_event(Recovered(7, 2, 1_000, 0.003, records_in=50, records_out=10))
    told()
    for _ in range(100):
        clock.now += 1
        progress.on_event(Progress(50, 10))
    assert told() == ""
    progress.on_event(Progress(60, 10))
    assert told() == "1 min 40 s: 60 in, 10 out, 3 records/s, 0 checkpoints, 0% busy\n"
    for _ in range(100):
        clock.now += 1
        progress.on_event(Progress(60, 10))
    assert told() == ""


def test_the_rate_behind_a_time_in_which_nothing_was_told(told):
    """Kind: a sink that nobody answered for a minute, and a rate that counts the minute: 0 records/s, while thousands
    come."""
    clock = Clock()
    progress = JobProgress("job", live=False, clock=clock)
    progress.on_event(Recovered(7, 2, 1_000, 0.003))
    for tenths in range(1, 25):
        clock.now += 0.1
        progress.on_event(Progress(100 * tenths, 0))
    told()
    clock.now += 60
    for tenths in range(25, 80):
        progress.on_event(Progress(100 * tenths, 0))
        clock.now += 0.1
    rates = [line.split(" out, ")[1].split(" records/s")[0] for line in told().splitlines()]
    assert rates == ["1,000", "1,000", "1,000"]
