"""Jobs that write into real databases: killed, replaced, woken; the server killed, answers lost, contents put back."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import tomllib
import warnings
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa
from counting_job import BATCH, write_input
from databases import Database
from lives import Life, killed_until_done, no_survivors

import onceflow as of
from onceflow.connectors.files import CsvSource
from onceflow.connectors.sql import SqlSink, target
from onceflow.connectors.sql.dialect import Dialect
from onceflow.exceptions import FinishedJobWarning, SinkError
from onceflow.runtime.run import run as run_flow
from onceflow.sinks import Committable, SinkContext

ROWS = 160
PACE_S = 0.01
POINTS = [("outbox.pre_fence", 1), ("outbox.post_fence", 1), ("outbox.post_apply", 2), ("sink.pre_commit", 2)]
LISTED = tomllib.loads((Path(__file__).parents[1] / "runner" / "crash_points.toml").read_text())
POINTS += [(name, nth) for name, times in LISTED["sql"].items() for nth in times]

pytestmark = pytest.mark.usefixtures("crash_points")


class Job:
    """A job that numbers each user's rows, into an append and an upsert table of one database."""

    def __init__(self, db, directory):
        self.db, self.root = db, directory / "job"
        self.root.mkdir()
        write_input(directory)
        name = db.text
        db.run(
            f"create table t (user_name {name}, id int, nth int)",
            f"create table newest (user_name {name} not null primary key, id int, nth int)",
        )

    def run(self, *, pace_s=0.0, take_over=False, retry_s=120):
        def slowly(batch):
            time.sleep(pace_s)
            return batch

        def numbered(nth, row):
            number = (nth or 0) + 1
            return number, {"user_name": row["user"], "id": row["id"], "nth": number}

        flow = of.Dataflow("counting")
        rows = flow.source("rows", CsvSource(self.root.parent / "in.csv")).map_batch(slowly)
        counts = rows.key_by("user").stateful_map("counts", numbered)
        retry_for = timedelta(seconds=retry_s)
        counts.sink("out", SqlSink(self.db.url, "t", retry_for=retry_for))
        counts.sink("newest", SqlSink(self.db.url, "newest", mode="upsert", key="user_name", retry_for=retry_for))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FinishedJobWarning)
            run_flow(flow, self.root / "state", checkpoint_interval_s=1e-6, batch_size=BATCH, take_over=take_over)

    def life(self, *, pace_s=PACE_S, take_over=False, **environment):
        return Life(partial(self.run, pace_s=pace_s, take_over=take_over), **environment)

    def check(self):
        """What is there is exactly what a job shows that nobody disturbs."""
        seen, expected = {}, []
        for number in range(ROWS):
            user = f"u{number * 7919 % 7}"
            seen[user] = (number, seen.get(user, (0, 0))[1] + 1)
            expected.append((user, *seen[user]))
        assert sorted(self.db.rows("select * from t")) == sorted(expected)
        assert sorted(self.db.rows("select * from newest")) == sorted((user, *newest) for user, newest in seen.items())

    def come_through(self):
        life = self.life(pace_s=0.0)
        assert life.wait() == "done", life.error
        self.check()


@pytest.fixture
def job(db, tmp_path):
    return Job(db, tmp_path)


@pytest.fixture
def server(job, request):
    """The server of the job's database."""
    return request.getfixturevalue({"postgresql": "postgres"}.get(job.db.kind, job.db.kind))


@pytest.mark.parametrize(("point", "nth"), POINTS)
def test_killed_at_a_crash_point(job, point, nth):
    """Kind: output that was decided and is lost, or is applied twice."""
    assert job.life(CRASH_AT=f"{point}:{nth}").wait() == "killed"
    assert job.life(CRASH_AT=f"{point}:{nth}").wait() in ("done", "killed")
    job.come_through()


def test_killed_at_random_moments(job):
    """Kind: a moment that no crash point names."""
    moments = random.Random(20_241_127)
    killed_until_done(partial(job.run, pace_s=PACE_S), longest_s=0.8, at_most=6, moments=moments)
    job.come_through()


@no_survivors()
@pytest.mark.parametrize("stop_at", ["outbox.pre_fence:1", "outbox.pre_apply:3", "sql.post_commit:2"])
def test_a_paused_run_that_was_replaced_changes_nothing(job, stop_at):
    """Kind: a run that is woken between its look at the markers and its transaction."""
    zombie = job.life(STOP_AT=stop_at)
    assert zombie.step(60) == "stopped"
    newer = job.life(pace_s=0.0, take_over=True)
    if job.db.kind == "duckdb":
        # The file belongs to one process, also while it is paused.
        assert newer.wait() == "SinkError", newer.error
        assert "lock" in newer.error
        zombie.wake()
        assert zombie.wait() in ("FencedError", "SinkError"), zombie.error
        job.come_through()
        return
    assert newer.wait() == "done", newer.error
    job.check()
    zombie.wake()
    assert zombie.wait() == "FencedError", zombie.error
    job.check()


@no_survivors()
@pytest.mark.parametrize("db", ["sqlite", "postgresql", "mariadb"], indirect=True)
def test_a_run_that_is_paused_within_its_transaction_and_replaced(job):
    """Kind: a run that holds the lock: its successor waits for it, and what it commits then is there once."""
    zombie = job.life(STOP_AT="sql.pre_commit:3")
    assert zombie.step(60) == "stopped"
    newer = job.life(pace_s=0.0, take_over=True)
    assert newer.step(1.0) is None
    zombie.wake()
    assert newer.wait() == "done", newer.error
    assert zombie.wait() == "FencedError", zombie.error
    job.check()


@no_survivors()
@pytest.mark.parametrize("db", ["postgresql", "mariadb"], indirect=True)
def test_a_run_that_stays_paused_within_its_transaction_is_ended_by_the_server(job, monkeypatch):
    """Kind: a paused run keeps its locks, and with them its successor, for ever."""
    monkeypatch.setattr(Dialect, "idle_s", 1)
    zombie = job.life(STOP_AT="sql.pre_commit:3")
    assert zombie.step(60) == "stopped"
    newer = job.life(pace_s=0.0, take_over=True)
    assert newer.wait() == "done", newer.error
    job.check()
    zombie.wake()
    assert zombie.wait() == "FencedError", zombie.error
    job.check()


@no_survivors()
@pytest.mark.parametrize("db", ["postgresql", "mariadb"], indirect=True)
def test_the_server_is_killed_while_a_job_runs(job, server):
    """Kind: a lost connection ends the job, or its transaction is repeated though it was committed."""
    moments = random.Random(job.db.kind)
    life = job.life(pace_s=0.15)
    for _ in range(4):
        if life.step(moments.uniform(0.1, 0.6)) is not None:
            break
        server.kill()
        time.sleep(moments.uniform(0, 0.3))
        server.start()
    ended = life.wait()
    # Before it has begun it tells at once that it reaches nothing.
    assert ended in ("done", "SinkError"), life.error
    job.come_through()


@no_survivors()
@pytest.mark.parametrize("db", ["mariadb"], indirect=True)
def test_a_server_that_does_not_answer(job, server):
    """Kind: a job that waits for ever, and hears of no signal."""
    url = f"{job.db.url}?read_timeout=1"
    job.db = Database(job.db.kind, url)
    life = Life(partial(job.run, pace_s=PACE_S, retry_s=3), STOP_AT="outbox.pre_apply:3")
    assert life.step(60) == "stopped"
    os.kill(server.pid, signal.SIGSTOP)
    try:
        life.wake()
        assert life.wait() == "SinkError", life.error
        assert "Lost connection" in life.error or "timed out" in life.error
    finally:
        os.kill(server.pid, signal.SIGCONT)
    job.come_through()


@no_survivors()
@pytest.mark.parametrize("way", ["exception", "exit", "return"])
@pytest.mark.parametrize("db", ["sqlite", "postgresql", "mariadb"], indirect=True)
def test_a_child_that_leaves_within_the_transaction(job, way, monkeypatch):
    """Kind: the child's cleanup rolls the transaction back, which its parent then takes for committed."""
    forked = []

    def fork(name):
        if name != "sql.pre_commit" or len(forked) == 3:
            return
        forked.append(os.fork())
        if forked[-1] == 0:
            forked.extend([0, 0, 0])
            if way == "exception":
                raise RuntimeError
            if way == "exit":
                sys.exit(5)
            return
        time.sleep(0.2)

    monkeypatch.setattr(target, "crash_point", fork)
    life = job.life()
    assert life.wait() == "done", life.error
    job.check()


@pytest.mark.parametrize("committed", [True, False])
def test_the_answer_to_a_commit_is_lost(job, committed, monkeypatch):
    """Kind: nobody knows whether a transaction was committed: it is repeated though it was, or left out though not."""
    right, lost = sa.engine.Connection.commit, []

    def commit(connection):
        if committed:
            right(connection)
        else:
            connection.rollback()
        lost.append(connection)
        raise sa.exc.OperationalError("commit", {}, OSError("the connection was lost"), connection_invalidated=True)

    def sometimes(connection):
        if len(lost) % 2 == 0 and len(lost) < 8:
            return commit(connection)
        lost.append(None)
        return right(connection)

    monkeypatch.setattr(sa.engine.Connection, "commit", sometimes)
    job.run(pace_s=PACE_S)
    monkeypatch.undo()
    assert len(lost) > 8
    job.check()


def contents(db):
    """What is there: rows and markers."""
    return {table: db.rows(f"select * from {table}") for table in ("t", "onceflow_sql_markers")}


def put_back(db, kept):
    engine = sa.create_engine(db.url)
    with engine.begin() as session:
        for table, rows in kept.items():
            session.exec_driver_sql(f"delete from {table}")
            width = len(rows[0])
            columns = [sa.Column(name) for name in (("id",) if width == 1 else ("owner", "marker", "standing"))]
            made = sa.Table(table, sa.MetaData(), *columns)
            session.execute(made.insert(), [dict(zip(made.columns.keys(), row, strict=True)) for row in rows])
    engine.dispose()


def test_a_database_that_was_put_back_is_refused(db):
    """Kind: a table that lacks what was there gets what came after it, and nobody misses the rest."""
    db.run("create table t (id int)")
    writer = SqlSink(db.url, "t").open(SinkContext("job", "out", 1, 1, None, None, "5" * 32))
    writer.recover([])
    kept, decided = {}, None
    for checkpoint in (1, 2, 3):
        writer.write([{"id": checkpoint}])
        decided = Committable(checkpoint, writer.prepare(checkpoint, writer.seal(checkpoint)))
        writer.commit(decided)
        kept[checkpoint] = contents(db)
    writer.close()
    put_back(db, kept[1])
    for epoch in (2, 3):
        again = SqlSink(db.url, "t").open(SinkContext("job", "out", epoch, 1, 3, 3, "5" * 32))
        with pytest.raises(
            SinkError, match=r"had the output of checkpoint 2 .* has it up to 1 now: the target is older"
        ):
            again.recover([decided])
        again.close()
    assert contents(db) == kept[1]
    # An older state beside the newest table is refused, too.
    put_back(db, kept[3])
    for epoch in (2, 3):
        with pytest.raises(SinkError, match="the state is older than its output"):
            SqlSink(db.url, "t").open(SinkContext("job", "out", epoch, 1, 2, 2, "5" * 32))
    assert contents(db) == kept[3]
