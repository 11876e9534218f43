"""A job that writes through an outbox: killed at each point, within the target's transactions, at random moments."""

from __future__ import annotations

import os
import random
import signal
import tomllib
from functools import partial
from pathlib import Path

import outbox_table
import pytest
from counting_job import run, shown, write_input
from lives import Life, killed_until_done, no_survivors

POINTS = tomllib.loads((Path(__file__).parents[1] / "runner" / "crash_points.toml").read_text())
CELLS = [(name, nth) for name, times in POINTS["outbox"].items() for nth in times]
#: Points of any job, on the way of this one's output.
CELLS += [(name, 2) for name in ("sink.post_prepare", "decide.pre", "decide.post_wait", "sink.pre_commit")]
CELLS += [("sink.post_commit", 2), ("recover.pre_commit", 1), ("recover.post_commit", 1), ("decide.post", 2)]
#: Of a batch in a life that is to be killed: slow enough for a few checkpoints on a busy machine.
PACE_S = 0.01

pytestmark = pytest.mark.usefixtures("crash_points")


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """What the job shows that nobody disturbs."""
    root = tmp_path_factory.mktemp("calm") / "job"
    root.mkdir()
    write_input(root.parent)
    assert Life(lambda: run(root, "outbox")).wait() == "done"
    return shown(root, "outbox")


@pytest.fixture
def job(tmp_path):
    """The directory of a job."""
    write_input(tmp_path)
    root = tmp_path / "job"
    root.mkdir()
    return root


def came_through(job):
    life = Life(lambda: run(job, "outbox"))
    assert life.wait() == "done", life.error
    return shown(job, "outbox")


@pytest.mark.parametrize(("point", "nth"), CELLS)
def test_killed_at_a_crash_point(job, calm, point, nth):
    """Kind: output that was decided and is lost, or is applied twice."""
    crash_at = f"{point}:{nth}"
    assert Life(lambda: run(job, "outbox", pace_s=PACE_S), CRASH_AT=crash_at).wait() == "killed"
    # Killed there once more, in the recovery or after it, if it comes that far.
    assert Life(lambda: run(job, "outbox", pace_s=PACE_S), CRASH_AT=crash_at).wait() in ("done", "killed")
    assert came_through(job) == calm


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_killed_within_a_transaction_of_the_target(job, calm, nth, after):
    """Kind: records without their marker, or a marker without its records. The first transaction is the fence."""

    def live():
        keep, times = outbox_table.RowsTable._keep, []

        def killed(table, marker):
            times.append(marker)
            if len(times) == nth and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            keep(table, marker)
            if len(times) == nth:
                os.kill(os.getpid(), signal.SIGKILL)

        outbox_table.RowsTable._keep = killed
        run(job, "outbox", pace_s=PACE_S)

    assert Life(live).wait() == "killed"
    assert came_through(job) == calm


def test_killed_at_random_moments(tmp_path, calm):
    """Kind: a moment that no crash point names."""
    moments = random.Random(20_241_127)
    write_input(tmp_path)
    kills = number = 0
    while kills < 25:
        number += 1
        job = tmp_path / str(number)
        job.mkdir()
        kills += killed_until_done(partial(run, job, "outbox"), longest_s=0.3, at_most=12, moments=moments)
        assert came_through(job) == calm


@no_survivors()
@pytest.mark.parametrize("stop_at", ["outbox.pre_fence:1", "outbox.post_fence:1", "outbox.pre_apply:2"])
def test_a_paused_run_that_was_replaced_changes_nothing(job, calm, stop_at):
    """Kind: a run that is woken between its look at the markers and its transaction."""
    zombie = Life(lambda: run(job, "outbox", pace_s=PACE_S), STOP_AT=stop_at)
    assert zombie.step(60) == "stopped"
    newer = Life(lambda: run(job, "outbox", take_over=True))
    assert newer.wait() == "done", newer.error
    assert shown(job, "outbox") == calm
    zombie.wake()
    assert zombie.wait() == "FencedError", zombie.error
    assert shown(job, "outbox") == calm
