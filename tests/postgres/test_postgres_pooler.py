"""P11: a real pooler in transaction mode between the job and the server."""

from __future__ import annotations

import random
import time
from functools import partial

import psycopg
import pytest
from counts_job import expected, make_tables, run, shown
from lives import Life, no_survivors
from services.pgbouncer import PgBouncer
from services.process import ServerUnavailableError

pytestmark = pytest.mark.usefixtures("crash_points")

#: What somebody else's program may leave in a session, and whoever gets the session next has.
LEFT = (
    "set lock_timeout = 1",
    "set default_transaction_read_only = on",
    "set default_transaction_isolation = serializable",
    "set synchronous_commit = off",
    "set intervalstyle = iso_8601",
    "set datestyle = german",
)


@pytest.fixture
def pooler(postgres_dsn):
    """Before a database with the tables of the job."""
    make_tables(postgres_dsn)
    try:
        pooler = PgBouncer(postgres_dsn)
    except ServerUnavailableError as error:
        pytest.skip(str(error))
    with pooler:
        yield pooler


def leave_settings(pooler):
    """In all sessions of the pool."""
    with psycopg.connect(pooler.dsn, autocommit=True) as one, psycopg.connect(pooler.dsn, autocommit=True) as other:
        one.prepare_threshold = other.prepare_threshold = None
        # Each holds a session of its own until it commits.
        for each in (one, other):
            each.execute("begin read write")
        pids = {each.execute("select pg_backend_pid()").fetchone()[0] for each in (one, other)}
        for each in (one, other):
            for setting in LEFT:
                each.execute(setting)
            each.execute("commit")
    return pids


@pytest.mark.parametrize("point", ["postgres.pre_commit:3", "postgres.post_commit:3"])
def test_p11_a_killed_job_goes_on_behind_a_pooler(tmp_path, postgres_dsn, pooler, point):
    """Kind: settings, locks, prepared statements or temporary tables that a session was to keep."""
    assert len(leave_settings(pooler)) == 2
    assert Life(partial(run, tmp_path, pooler.dsn), CRASH_AT=point).wait() == "killed"
    life = Life(partial(run, tmp_path, pooler.dsn))
    assert life.wait() == "done", life.error
    assert shown(postgres_dsn) == expected()


@no_survivors()
def test_p11_a_stopped_run_behind_a_pooler_is_replaced(tmp_path, postgres_dsn, pooler):
    """Kind: a run that was stopped within its transaction is found by a name that the pooler has not passed on."""
    zombie = Life(partial(run, tmp_path, pooler.dsn), STOP_AT="postgres.pre_commit:3")
    assert zombie.step(60) == "stopped"
    newer = Life(partial(run, tmp_path, pooler.dsn, take_over=True))
    assert newer.wait() == "done", newer.error
    zombie.wake()
    assert zombie.wait() == "FencedError", zombie.error
    assert shown(postgres_dsn) == expected()


@no_survivors()
def test_p11_the_pooler_is_killed_while_the_job_runs(tmp_path, postgres_dsn, pooler):
    """Kind: a pooler that ends takes the answer to a COMMIT with it, and the session may go on behind it."""
    moments = random.Random(11)
    life = Life(partial(run, tmp_path, pooler.dsn, pace_s=0.03))
    while not shown(postgres_dsn)["counted"]:
        assert life.step(0.01) is None, life.error
    kills = 0
    # Not for ever: a busy machine may not get through a transaction between two kills.
    while kills < 8 and life.step(moments.uniform(0, 0.2)) is None:
        kills += 1
        pooler.kill()
        time.sleep(moments.uniform(0, 0.1))
        pooler.start()
    assert life.wait() == "done", life.error
    assert kills
    assert shown(postgres_dsn) == expected()
