"""A job that writes to Kafka: killed at each point and at random moments, stopped, replaced, woken."""

from __future__ import annotations

import random
import tomllib
from pathlib import Path

import pytest
from counting_kafka import Job
from lives import Life, killed_until_done, no_survivors

POINTS = tomllib.loads((Path(__file__).parents[1] / "runner" / "crash_points.toml").read_text())
CELLS = [(name, nth) for name, times in POINTS["kafka"].items() for nth in times]
#: Points of any job, on the way of this one's output.
CELLS += [(name, 2) for name in ("sink.post_prepare", "decide.post_wait", "sink.pre_commit", "sink.post_commit")]
CELLS += [("recover.pre_commit", 1), ("recover.post_commit", 1)]

pytestmark = pytest.mark.usefixtures("crash_points", "eager")


@pytest.fixture
def job(kafka, tmp_path):
    return Job.make(kafka.bootstrap, tmp_path / "job")


@pytest.fixture(autouse=True)
def _in_turn(request):
    points = [request.getfixturevalue(name) for name in ("point", "first") if name in request.fixturenames]
    if any(point.startswith("kafka.sent_ahead") for point in points):
        request.getfixturevalue("in_turn")


def came_through(job):
    life = Life(job.run)
    assert life.wait() == "done", life.error
    job.check()


@pytest.mark.parametrize(("point", "nth"), CELLS)
def test_killed_at_a_crash_point(job, point, nth):
    """Kind: output that was decided and is lost, or is sent twice."""
    crash_at = f"{point}:{nth}"
    life = Life(job.run, CRASH_AT=crash_at)
    assert life.wait() == "killed", life.error
    # Killed there once more, in the recovery or after it, if it comes that far.
    assert Life(job.run, CRASH_AT=crash_at).wait() in ("done", "killed")
    came_through(job)


def test_killed_at_random_moments(kafka, tmp_path):
    """Kind: a moment that no crash point names, such as within the broker's commit."""
    moments = random.Random(20_261_127)
    kills = number = 0
    while kills < 12:
        number += 1
        job = Job.make(kafka.bootstrap, tmp_path / str(number))
        kills += killed_until_done(job.run, longest_s=1.0, at_most=6, moments=moments)
        came_through(job)


@no_survivors()
@pytest.mark.parametrize("second", ["kafka.post_fence:1", "kafka.sent_ahead:1", "kafka.pre_commit:2", None])
@pytest.mark.parametrize(
    "first",
    [
        "kafka.pre_fence:1",
        "kafka.post_fence:1",
        "kafka.sent_ahead:2",
        "kafka.pre_commit:2",
        "kafka.post_commit:2",
        "decide.pre:2",
    ],
)
def test_a_run_that_is_woken_after_it_was_replaced_changes_nothing(job, first, second):
    """Kind: a run that is woken between its look at the markers, its transaction and its commit, while its successor
    is in the middle of its own, or through."""
    zombie = Life(job.run, STOP_AT=first)
    assert zombie.step(60) == "stopped", zombie.error
    newer = Life(lambda: job.run(take_over=True), **({"STOP_AT": second} if second else {}))
    came = newer.step(60)
    assert came == ("stopped" if second else "done"), newer.error
    zombie.wake()
    if second:
        assert zombie.step(60) == "FencedError", zombie.error
        newer.wake()
        assert newer.wait() == "done", newer.error
    assert zombie.wait() == "FencedError", zombie.error
    came_through(job)
