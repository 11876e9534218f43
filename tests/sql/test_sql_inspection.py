"""What a look at databases of each kind finds before a start, and what a dead job has left there."""

import sqlalchemy as sa

from onceflow import Dataflow, run
from onceflow.checks import CheckContext
from onceflow.connectors.sql import SqlSink
from onceflow.runtime.doctor import diagnosed, resolved
from onceflow.testing import TestingSource


def flow_of(db, sink="out"):
    flow = Dataflow("job")
    flow.source("in", TestingSource([{"id": 1}, {"id": 2}])).sink(sink, SqlSink(db.url, "t"))
    return flow


def looked(sink):
    [finding] = sink.check(CheckContext("job", "out"))
    return finding.level, finding.text


def tables(db):
    engine = sa.create_engine(db.url, poolclass=sa.NullPool)
    try:
        return set(sa.inspect(engine).get_table_names())
    finally:
        engine.dispose()


def test_a_table(db, state):
    """A look that makes its table of markers, or that does not tell a table that is missing."""
    [finding] = flow_of(db).check()[1].findings
    assert finding.level == "error" and "t" in finding.text
    db.run("create table t (id int)")
    assert looked(SqlSink(db.url, "t")) == ("ok", "can be reached; it holds no output of this sink")
    assert tables(db) == {"t"}
    assert run(flow_of(db), state).finished
    assert looked(SqlSink(db.url, "t"))[1].endswith("output of this sink up to checkpoint 1")


def test_markers_of_a_sink_that_is_gone(db, state):
    """Markers that stay for ever, or that are needed and are removed."""
    db.run("create table t (id int)")
    assert run(flow_of(db), state).finished
    copied = "insert into onceflow_sql_markers select '{}', marker, standing from onceflow_sql_markers where owner = {}"
    [(mine,)] = db.rows("select distinct owner from onceflow_sql_markers")
    is_mine = "'job/out'" if isinstance(mine, str) else "x'" + bytes(mine).hex() + "'"
    db.run(copied.format("job/gone", is_mine), copied.format("job2/gone", is_mine))
    [left] = diagnosed(flow_of(db), state).sinks[0].leftovers
    assert left.fate == "removable" and "'job/gone'" in left.subject
    done = resolved(flow_of(db), state)
    assert done.removable == 1 and not done.failed, done
    owners = {bytes(owner).decode() if not isinstance(owner, str) else owner
              for (owner,) in db.rows("select distinct owner from onceflow_sql_markers")}  # fmt: skip
    assert owners == {"job/out", "job2/gone"}
    assert diagnosed(flow_of(db), state).removable == 0
    # Seen from two sinks it is one, and a sink that only a checkpoint has is told of.
    db.run(copied.format("job/gone", is_mine))
    db.run("create table w (id int)")
    both = flow_of(db, "new")
    both.source("more", TestingSource([])).sink("newer", SqlSink(db.url, "w"))
    found = [each for sink in diagnosed(both, state).sinks for each in sink.leftovers]
    assert [(each.fate, each.subject.split(" in ")[0]) for each in found] == [
        ("removable", "2 markers of 'job/gone'"), ("kept", "2 markers of 'job/out'"),
    ]  # fmt: skip
    assert "which the dataflow has no more" in found[1].text
    assert resolved(both, state).removable == 1
    # Of another state: that job may still be run.
    other = state.with_name("other")
    db.run("create table u (id int)")
    fresh = Dataflow("job")
    fresh.source("in", TestingSource([{"id": 3}])).sink("elsewhere", SqlSink(db.url, "u"))
    assert run(fresh, other).finished
    assert diagnosed(fresh, other).removable == 0
    kept, dropped = diagnosed(flow_of(db), other).sinks[0].leftovers
    if "job/elsewhere" in kept.subject:
        kept, dropped = dropped, kept
    assert kept.fate == "kept" and "another state directory" in kept.text
    assert dropped.fate == "kept" and "which the dataflow has no more" in dropped.text
    assert run(flow_of(db), state).finished and db.rows() == [(1,), (2,)]
