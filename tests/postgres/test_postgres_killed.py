"""A job that writes to PostgreSQL: killed at each point, stopped and replaced, and the server killed under it."""

from __future__ import annotations

import random
import time
import tomllib
from functools import partial
from pathlib import Path

import psycopg
import pytest
from counts_job import expected, make_tables, run, shown
from lives import Life, killed_until_done, no_survivors

POINTS = tomllib.loads((Path(__file__).parents[1] / "runner" / "crash_points.toml").read_text())
CELLS = [(name, nth) for name, times in POINTS["postgres"].items() for nth in times]
#: Points of any job, on the way of this one's output.
CELLS += [(name, 2) for name in ("sink.post_prepare", "decide.pre", "decide.post", "sink.pre_commit")]
CELLS += [("sink.post_commit", 2), ("recover.pre_commit", 1), ("recover.post_commit", 1)]

pytestmark = pytest.mark.usefixtures("crash_points")


@pytest.fixture
def dsn(postgres_dsn):
    """A database with the tables of the job."""
    make_tables(postgres_dsn)
    return postgres_dsn


def came_through(root, dsn):
    life = Life(partial(run, root, dsn, pace_s=0))
    assert life.wait() == "done", life.error
    assert shown(dsn) == expected()


@pytest.mark.parametrize(("point", "nth"), CELLS)
def test_killed_at_a_crash_point(tmp_path, dsn, point, nth):
    """Kind: output that was decided and is lost, or is applied twice."""
    crash_at = f"{point}:{nth}"
    assert Life(partial(run, tmp_path, dsn), CRASH_AT=crash_at).wait() == "killed"
    # Killed there once more, in the recovery or after it, if it comes that far.
    assert Life(partial(run, tmp_path, dsn), CRASH_AT=crash_at).wait() in ("done", "killed")
    came_through(tmp_path, dsn)


def test_killed_at_random_moments(tmp_path, dsn):
    """Kind: a moment that no crash point names, such as within COPY or while the answer to COMMIT is on its way."""
    moments = random.Random(20_241_127)
    kills = killed_until_done(partial(run, tmp_path, dsn), longest_s=0.6, at_most=15, moments=moments)
    assert kills
    came_through(tmp_path, dsn)


@no_survivors()
@pytest.mark.parametrize(
    "stop_at", ["postgres.pre_fence:1", "postgres.post_fence:1", "postgres.pre_commit:3", "postgres.post_commit:3"]
)
def test_p3_a_stopped_run_that_was_replaced_changes_nothing(tmp_path, dsn, stop_at):
    """Kind: a run that is stopped, also within its transaction with the marker's row locked, replaced, and woken."""
    zombie = Life(partial(run, tmp_path, dsn), STOP_AT=stop_at)
    assert zombie.step(60) == "stopped"
    newer = Life(partial(run, tmp_path, dsn, take_over=True))
    assert newer.wait() == "done", newer.error
    assert shown(dsn) == expected()
    zombie.wake()
    # One that waits before its transaction may notice first that the state has another owner.
    assert zombie.wait() == "FencedError", zombie.error
    assert shown(dsn) == expected()


def begun(life, dsn):
    """Waits until it has written something."""
    while not shown(dsn)["counted"]:
        assert life.step(0.01) is None, life.error


@no_survivors()
def test_p3_the_server_is_killed_while_the_job_runs(tmp_path, dsn, postgres):
    """Kind: connections lost at any moment, COMMIT among them: the transaction is repeated only if it is not there."""
    moments = random.Random(13)
    life = Life(partial(run, tmp_path, dsn, pace_s=0.1))
    begun(life, dsn)
    kills = 0
    while life.step(moments.uniform(0, 0.15)) is None:
        kills += 1
        postgres.kill()
        time.sleep(moments.uniform(0, 0.2))
        postgres.start()
    assert life.end == "done", life.error
    assert kills
    assert shown(dsn) == expected()


@no_survivors()
def test_p3_connections_are_cut_while_the_job_runs(tmp_path, dsn):
    """Kind: an administrator, a pooler or a network ends sessions at any moment."""
    life = Life(partial(run, tmp_path, dsn, pace_s=0.03))
    begun(life, dsn)
    moments, cut = random.Random(7), 0
    with psycopg.connect(dsn, autocommit=True) as session:
        # Not for ever: a busy machine may not get through a transaction between two cuts.
        while cut < 15 and life.step(moments.uniform(0, 0.1)) is None:
            cut += session.execute(
                "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name like 'onceflow%'"
            ).fetchone()[0]
    assert life.wait() == "done", life.error
    assert cut
    assert shown(dsn) == expected()


@no_survivors()
def test_a_server_that_is_away_for_long_loses_and_repeats_nothing(tmp_path, dsn, postgres):
    """Kind: downtime longer than any timeout; the job stops and says why, and the next one goes on."""
    life = Life(partial(run, tmp_path, dsn, retry_for_s=0.5), STOP_AT="postgres.pre_commit:2")
    assert life.step(60) == "stopped"
    postgres.kill()
    try:
        life.wake()
        assert life.wait() == "SinkError"
        assert "Nothing is lost" in life.error
        # Nor is it at a start without a server, which says at once that there is none.
        life = Life(partial(run, tmp_path, dsn))
        assert life.wait() == "SinkError"
        assert "refused" in life.error
    finally:
        postgres.start()
    came_through(tmp_path, dsn)
