"""What a look at PostgreSQL finds before a start, and what a dead job has left there."""

import contextlib
import re
import time
import uuid
from types import SimpleNamespace

import psycopg
import pytest

from onceflow import Dataflow, run
from onceflow.checks import CheckContext
from onceflow.clock import SystemClock
from onceflow.connectors.postgres import PostgresChanges, PostgresSink, PostgresSource
from onceflow.runtime.doctor import diagnosed, resolved
from onceflow.testing import TestingSource, TransactionalTestingSink


class Shifted(SystemClock):
    """This machine's clock, set wrongly."""

    def __init__(self, by_s):
        self.by_s = by_s

    def now(self):
        return super().now() + self.by_s


def looked(sink, **settings):
    return [(one.level, f"{one.subject}: {one.text}") for one in sink.check(CheckContext("job", "out", **settings))]


@pytest.fixture
def db(postgres_dsn):
    with psycopg.connect(postgres_dsn, autocommit=True) as session:
        session.execute("create table t (id int primary key, v text)")
        yield SimpleNamespace(dsn=postgres_dsn, run=session.execute)


def bad(sink, **settings):
    """What is not as it has to be, but for what the server of the tests is started with."""
    found = [each for each in looked(sink, **settings) if each[0] != "ok"]
    return [each for each in found if "fsync is off" not in each[1]]


def test_a_table_that_can_be_written(db):
    """A look that finds fault with what is right, or makes something."""
    sink = PostgresSink(db.dsn, "t", mode="upsert", key="id")
    assert bad(sink) == []
    assert "table t: can be written, by the key 'id': 'id', 'v'" in looked(sink)[-2][1]
    assert "is made by the first run" in looked(sink)[-1][1]
    assert db.run("select count(*) from pg_tables where schemaname = 'public'").fetchone() == (1,)


def test_what_is_wrong_with_a_table(db):
    """A missing table, column or key, and markers that a crash empties, found when output is there already."""
    assert "there is no table" in bad(PostgresSink(db.dsn, "missing"))[0][1]
    assert "no column 'w'" in bad(PostgresSink(db.dsn, "t", columns=["w"]))[0][1]
    [(level, text)] = bad(PostgresSink(db.dsn, "t", mode="upsert", key="v"))
    assert level == "error" and "v" in text
    db.run("create unlogged table onceflow_markers (owner text, key text, text text, primary key (owner, key))")
    assert "is unlogged" in bad(PostgresSink(db.dsn, "t"))[0][1]


def test_a_user_who_may_not(db):
    """Rights that are missing when the first run makes its table of markers."""
    name = f"someone_{db.dsn[-12:].replace('/', '_').replace('-', '_')}"
    db.run(f"create role {name} login")
    try:
        db.run(f"revoke create on schema public from public; grant select, insert on t to {name}")
        as_role = PostgresSink(lambda: _as(db.dsn, name), "t")
        [(level, text)] = bad(as_role)
        assert level == "error" and "may not make tables in schema 'public'" in text
        db.run("create table onceflow_markers (owner text, key text, text text, primary key (owner, key))")
        assert "may not read and write it" in bad(as_role)[0][1]
    finally:
        db.run(f"drop owned by {name}; drop role {name}")


def _as(dsn, role):
    session = psycopg.connect(dsn, autocommit=True)
    session.execute(f"set session authorization {role}")
    return session


def test_the_server(db):
    """Settings under which what was answered is lost, connections that run out, and clocks that differ."""
    sink = PostgresSink(db.dsn, "t")
    # The server of the tests is started so, to be quick.
    assert ("error", True) in [(level, "fsync is off" in text) for level, text in looked(sink)]
    [(level, text)] = bad(sink, clock=Shifted(60))
    assert level == "warning" and "60.0 s behind" in text
    [(level, text)] = bad(sink, clock=Shifted(-60))
    assert "60.0 s ahead of" in text
    (most,) = db.run("select current_setting('max_connections')::int").fetchone()
    with contextlib.ExitStack() as sessions, contextlib.suppress(psycopg.OperationalError):
        for _ in range(most - 7):
            sessions.enter_context(psycopg.connect(db.dsn))
        assert "connections are taken" in bad(sink)[0][1]


def test_a_server_that_cannot_be_reached(db):
    """A password in what is shown."""
    [(level, text)] = bad(PostgresSink("postgresql://nobody:hunter2@127.0.0.1:1/none", "t"))
    assert level == "error" and "127.0.0.1:1/none" in text and "hunter2" not in text


def test_markers_of_a_sink_that_is_gone(db, state):
    """Markers that stay for ever, or that are needed and are removed."""
    flow = Dataflow("job")
    rows = flow.source("in", TestingSource([{"id": 1, "v": "a"}]))
    rows.sink("out", PostgresSink(db.dsn, "t"))
    assert run(flow, state).finished
    level, text = looked(PostgresSink(db.dsn, "t"))[-1]
    assert level == "ok" and "output of this sink up to checkpoint 1" in text
    db.run("insert into onceflow_markers select 'job/gone', key, text from onceflow_markers where owner = 'job/out'")
    db.run("insert into onceflow_markers select 'job2/gone', key, text from onceflow_markers where owner = 'job/out'")
    [left] = diagnosed(flow, state).sinks[0].leftovers
    assert left.fate == "removable" and "'job/gone'" in left.subject
    assert resolved(flow, state).removable == 1
    assert {owner for (owner,) in db.run("select owner from onceflow_markers").fetchall()} == {"job/out", "job2/gone"}
    assert diagnosed(flow, state).removable == 0
    other = state.with_name("other")
    state.rename(other)
    fresh = Dataflow("job")
    fresh.source("in", TestingSource([{"id": 2, "v": "b"}])).sink("elsewhere", PostgresSink(db.dsn, "t"))
    assert run(fresh, state).finished
    # The markers of ``out`` are of the other state.
    assert diagnosed(fresh, state).removable == 0
    assert resolved(fresh, state).removable == 0
    assert run(flow, other).finished


def test_markers_beside_two_sinks_and_of_a_sink_that_only_a_checkpoint_has(db, state):
    """One marker that is told, and counted, twice; markers of a sink that the dataflow has no more, without a word."""
    db.run("create table u (id int)")

    def flow_of(*sinks):
        flow = Dataflow("job")
        rows = flow.source("in", TestingSource([{"id": 1, "v": "a"}]))
        for name in sinks:
            rows.map(lambda row: {"id": row["id"]}).sink(name, PostgresSink(db.dsn, "u"))
        return flow

    assert run(flow_of("one", "two", "three"), state).finished
    copied = "insert into onceflow_markers select 'job/gone', key, text from onceflow_markers where owner = 'job/one'"
    db.run(copied)
    assert diagnosed(flow_of("one", "two", "three"), state).removable == 1
    found = diagnosed(flow_of("one", "two"), state)
    assert found.removable == 1
    told = [(each.fate, each.subject.split(" in ")[0]) for sink in found.sinks for each in sink.leftovers]
    assert told == [("removable", "2 markers of 'job/gone'"), ("kept", "2 markers of 'job/three'")]
    assert resolved(flow_of("one", "two"), state).removable == 1
    assert run(flow_of("one", "two", "three"), state).finished
    assert db.run("select count(*) from onceflow_markers where owner = 'job/three'").fetchone() == (3,)


def of_source(source):
    found = [(one.level, f"{one.subject}: {one.text}") for one in source.check(CheckContext("job", "in"))]
    return [each for each in found if "fsync is off" not in each[1]]


def test_rows_that_can_be_read(db):
    """A key by which rows would be left out, found when some are."""
    db.run("create table r (id bigint generated always as identity primary key, v text)")
    found = of_source(PostgresSource(db.dsn, "r", key="id"))
    assert [level for level, _ in found] == ["ok", "ok"] and found[-1][1] == "table r by id: can be read"
    for source in (PostgresSource(db.dsn, "r", key="v"), PostgresSource(db.dsn, "missing", key="id")):
        assert [level for level, _ in of_source(source)] == ["ok", "error"]
    assert [level for level, _ in of_source(PostgresSource("postgresql://127.0.0.1:1/none", "r", key="id"))] == [
        "error"
    ]


def test_a_slot(db):
    """Log that a server keeps for a job that is down, and nobody knows; a slot that is somebody else's."""
    name = f"slot_{db.dsn[-12:].replace('/', '_').replace('-', '_').lower()}"
    source = PostgresChanges(db.dsn, name)
    found = of_source(source)
    assert [level for level, _ in found] == ["ok", "warning", "ok"], found
    assert "max_slot_wal_keep_size is -1" in found[1][1] and "is made by the first run" in found[2][1]
    assert db.run("select count(*) from pg_replication_slots where slot_name = %s", (name,)).fetchone() == (0,)
    for plugin, level, text in (("test_decoding", "ok", "is read by nobody now; the server keeps"),
                                ("pgoutput", "error", "is decoded by pgoutput")):  # fmt: skip
        db.run("select pg_create_logical_replication_slot(%s, %s)", (name, plugin))
        try:
            assert of_source(source)[-1][0] == level and text in of_source(source)[-1][1]
        finally:
            db.run("select pg_drop_replication_slot(%s)", (name,))


def drop(db, slot):
    """Drops a slot, as soon as the server has noticed that its reader is gone."""
    until = time.monotonic() + 20
    while True:
        try:
            return db.run("select pg_drop_replication_slot(%s)", (slot,))
        except psycopg.errors.ObjectInUse:
            assert time.monotonic() < until
            time.sleep(0.05)


def test_a_slot_that_holds_the_log(db, state):
    """A disk that fills for a job that is down or given up, untold; or a slot that is dropped all the same."""
    name = f"slot_{uuid.uuid4().hex[:12]}"

    def held():
        [found] = diagnosed(flow, state).sources
        [left] = found.leftovers
        assert (found.step_id, found.connector, found.error) == ("in", "PostgresChanges", None)
        assert left.fate == "kept" and left.subject.startswith(f"slot {name!r} of PostgreSQL 127.0.0.1")
        assert f"select pg_drop_replication_slot('{name}')" in left.text
        return left.text

    flow = Dataflow("follows")
    flow.source("in", PostgresChanges(db.dsn, name)).sink("out", TransactionalTestingSink())
    assert run(flow, state, until="caught_up")
    try:
        assert "a checkpoint needs it" in held()
        db.run("insert into t select n, repeat('x', 1000) from generate_series(1, 3000) n")
        assert re.search(r"holds [3-9]\.\d MiB of the server's log, and more till somebody reads", held())
        done = resolved(flow, state)
        assert done.removable == 0 and not done.failed
        assert db.run("select count(*) from pg_replication_slots where slot_name = %s", (name,)).fetchone() == (1,)
        reader = PostgresChanges(db.dsn, name).open("0", None)
        with contextlib.closing(reader):
            reader.read(1)
            assert "for a client that is no run of this job" in held()
    finally:
        drop(db, name)
    assert diagnosed(flow, state).sources == ()


def test_a_server_whose_slot_cannot_be_looked_at(db, state):
    """A source that is silent about what it could not ask, or tells a password."""
    flow = Dataflow("follows")
    flow.source("in", TestingSource([1])).sink("out", TransactionalTestingSink())
    assert run(flow, state).finished
    away = Dataflow("follows")
    changes = PostgresChanges("postgresql://nobody:hunter2@127.0.0.1:1/none", "away")
    away.source("in", changes).sink("out", TransactionalTestingSink())
    found = diagnosed(away, state)
    assert found.failed and found.sources[0].error.startswith("PostgreSQL 127.0.0.1:1/none: ")
    assert "hunter2" not in found.sources[0].error
