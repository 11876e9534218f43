"""Exactly once into SQLite, which has transactions but no two phases: the contract, faults of targets, bounds."""

from __future__ import annotations

import contextlib
import functools
import shutil
import sqlite3

import pytest
from outbox_table import RowsTable, rows_sink, shown_rows

import onceflow as of
from onceflow.connectors.outbox import Marker, OutboxSink, OutboxTarget
from onceflow.connectors.outbox.marker import Standing
from onceflow.exceptions import ConfigurationError, FencedError, RepeatedOutputWarning, SinkError, UserFunctionError
from onceflow.sinks import Committable, SinkContext
from onceflow.testing import EOF, TestingSource, TransactionalSinkContract

COLUMNS = ("id", "text")


class TestRowsTable(TransactionalSinkContract):
    def make_sink(self, directory):
        # Its tables are made by who connects first.
        RowsTable(directory / "rows.db", COLUMNS).close()
        return rows_sink(directory / "rows.db", COLUMNS)

    def visible(self, directory):
        path = directory / "rows.db"
        return [dict(zip(COLUMNS, row, strict=True)) for row in shown_rows(path)] if path.exists() else []


def records(*numbers):
    return [{"id": number, "text": f"record {number}"} for number in numbers]


def context(epoch=1, restored=None, *, lineage=1, worker=0, run=""):
    return SinkContext("job", "out", epoch, lineage, restored, restored, "5" * 32, worker=worker, run=run)


def committed(writer, checkpoint_id, rows):
    writer.write(rows)
    committable = Committable(checkpoint_id, writer.prepare(checkpoint_id, writer.seal(checkpoint_id)))
    writer.commit(committable)
    return committable


def numbers(path):
    return [row[0] for row in shown_rows(path)]


def test_a_target_that_keeps_no_marker_is_told_at_once(tmp_path):
    """Kind: a target whose ``apply`` forgets the marker writes everything again at the next crash, and nobody knows."""

    class Forgetful(RowsTable):
        def apply(self, records, marker):
            with self._transaction():
                self._db.executemany("insert into written values (:id, :text)", records)

    writer = OutboxSink(functools.partial(Forgetful, tmp_path / "rows.db", COLUMNS)).open(context())
    writer.recover([])
    with pytest.raises(SinkError, match="returned without keeping its marker"):
        committed(writer, 1, records(1))
    writer.close()


def test_what_is_paused_within_apply_finds_the_fence_in_its_transaction(tmp_path):
    """Kind: a run that has looked whether it may write, is paused there, and writes after its successor has begun."""
    path = tmp_path / "rows.db"
    successors = []

    class Paused(RowsTable):
        def apply(self, records, marker):
            successors.append(rows_sink(path, COLUMNS).open(context(2, 1)))
            successors[0].recover([decided])
            super().apply(records, marker)

    writer = OutboxSink(functools.partial(Paused, path, COLUMNS)).open(context())
    writer.recover([])
    writer.write(records(1))
    decided = Committable(1, writer.prepare(1, writer.seal(1)))
    with pytest.raises(FencedError, match="another run of job 'job', with epoch 2 of lineage 1, writes to the target"):
        writer.commit(decided)
    assert numbers(path) == [1]
    committed(successors[0], 2, records(2))
    assert numbers(path) == [1, 2]
    writer.close()
    successors[0].close()


def test_a_target_that_was_put_back_is_refused_before_it_is_fenced(tmp_path):
    """Kind: a target that lacks what was there gets what came after it, and nobody misses the rest."""
    path, copy = tmp_path / "rows.db", tmp_path / "copy.db"
    writer = rows_sink(path, COLUMNS).open(context())
    writer.recover([])
    committed(writer, 1, records(1))
    shutil.copy(path, copy)
    committed(writer, 2, records(2))
    decided = committed(writer, 3, records(3))
    writer.close()
    shutil.copy(copy, path)
    with contextlib.closing(sqlite3.connect(path)) as db:
        before = list(db.execute("select * from markers"))
    for epoch in (2, 3):
        again = rows_sink(path, COLUMNS).open(context(epoch, 3))
        with pytest.raises(
            SinkError, match=r"had the output of checkpoint 2 .* has it up to 1 now: the target is older"
        ):
            again.recover([decided])
        again.close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert list(db.execute("select * from markers")) == before
    assert numbers(path) == [1]


def test_what_an_older_run_commits_until_it_is_fenced_is_looked_at_again(tmp_path):
    """Kind: between the look at the markers and the fence an older run, of another copy of the state, goes on."""
    path = tmp_path / "rows.db"
    older = rows_sink(path, COLUMNS).open(context())
    older.recover([])

    class Late(RowsTable):
        def fence(self, marker):
            committed(older, 4, records(4))
            super().fence(marker)

    newer = OutboxSink(functools.partial(Late, path, COLUMNS)).open(context(2, 3))
    with pytest.raises(SinkError, match=r"holds the output of checkpoint 4 .* the newest one of this run's state is 3"):
        newer.recover([])
    assert numbers(path) == [4]
    older.close()
    newer.close()


def test_two_runs_of_one_epoch_are_told_apart(tmp_path):
    """Kind: a copy of the state directory, run at the same time, has the same epoch and lineage."""
    path = tmp_path / "rows.db"
    first = rows_sink(path, COLUMNS).open(context())
    first.recover([])
    committed(first, 1, records(1))
    second = rows_sink(path, COLUMNS).open(context(1, 1))
    second.recover([])
    with pytest.raises(FencedError):
        committed(first, 2, records(2))
    committed(second, 2, records(3))
    assert numbers(path) == [1, 3]
    first.close()
    second.close()


def test_what_does_not_fit_is_told(tmp_path):
    """Kind: output that outgrows the decision record fails after hours of work, with words about a store."""
    sink = OutboxSink(functools.partial(RowsTable, tmp_path / "rows.db", COLUMNS), max_staged_bytes=1000)
    writer = sink.open(context())
    writer.recover([])
    writer.write(records(1))
    assert (writer.held, 0 < writer.held_bytes < 1000) == (1, True)
    with pytest.raises(SinkError, match=r"has \d{4} bytes, and a decision record takes 1000 .* begin more often"):
        writer.write([{"id": 2, "text": "x" * 1000}])
    writer.close()


def test_what_a_target_would_refuse_is_refused_before_the_decision(tmp_path):
    """Kind: a record that the target refuses after the decision stops the job for ever."""
    path, broken = tmp_path / "rows.db", {2}

    class Checked(RowsTable):
        def check(self, records):
            if bad := [record for record in records if record["id"] in broken]:
                raise SinkError(f"no room for {bad}")

    def job():
        flow = of.Dataflow("job")
        source = TestingSource([*records(1), EOF, *records(2, 3)], batch_size=1)
        flow.source("in", source).sink("out", OutboxSink(functools.partial(Checked, path, COLUMNS)))
        return flow

    assert not of.run(job(), tmp_path / "state").finished
    for _ in range(2):
        with pytest.raises(SinkError, match="no room for"):
            of.run(job(), tmp_path / "state")
    assert numbers(path) == [1]
    broken.clear()
    while not of.run(job(), tmp_path / "state").finished:
        pass
    assert numbers(path) == [1, 2, 3]


def test_two_sinks_and_two_jobs_share_a_database(tmp_path):
    """Kind: markers of one sink are taken for those of another."""
    path = tmp_path / "rows.db"
    for name in ("one", "two"):
        flow = of.Dataflow(name)
        stream = flow.source("in", TestingSource(records(1, 2)))
        stream.sink("left", rows_sink(path, COLUMNS))
        stream.sink("right", rows_sink(path, COLUMNS))
        of.run(flow, tmp_path / name)
    assert sorted(numbers(path)) == [1, 1, 1, 1, 2, 2, 2, 2]
    with contextlib.closing(sqlite3.connect(path)) as db:
        keys = sorted(db.execute("select owner, key from markers"))
    owners = ("one/left", "one/right", "two/left", "two/right")
    assert keys == [(owner, key) for owner in owners for key in ("fence", "worker-0")]


def test_the_way_on_when_the_state_was_deleted(tmp_path):
    """What the message advises: without output and markers the output begins anew."""
    path = tmp_path / "rows.db"

    def job():
        flow = of.Dataflow("job")
        flow.source("in", TestingSource(records(1, 2))).sink("out", rows_sink(path, COLUMNS))
        return flow

    of.run(job(), tmp_path / "state")
    for _ in range(2):
        with pytest.raises((SinkError, FencedError), match="delete the output of sink 'out' and its markers"):
            of.run(job(), tmp_path / "other")
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("delete from written")
        db.execute("delete from markers where owner = 'job/out'")
    of.run(job(), tmp_path / "other")
    assert numbers(path) == [1, 2]


def test_a_run_that_failed_before_it_wrote(tmp_path):
    """Kind: a message about output that nobody has written."""
    path = tmp_path / "rows.db"

    def job(name, fails):
        flow = of.Dataflow("job")
        rows = flow.source("in", TestingSource(records(1))).map(lambda row: [row][int(fails)])
        rows.sink("out", rows_sink(path, COLUMNS))
        return of.run(flow, tmp_path / name)

    with pytest.raises(UserFunctionError):
        job("one", fails=True)
    with pytest.raises(
        SinkError, match=r"is taken by job 'job' .* has written nothing yet.*delete the markers of 'job/out'"
    ):
        job("two", fails=False)
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("delete from markers where owner = 'job/out'")
    job("two", fails=False)
    assert numbers(path) == [1]


@pytest.mark.parametrize("damage", ["delete from markers", "update markers set text = 'x'"])
def test_markers_that_are_deleted_or_damaged_meanwhile_are_missed(tmp_path, damage):
    """Kind: without its marker a commit would be repeated."""
    path = tmp_path / "rows.db"
    writer = rows_sink(path, COLUMNS).open(context())
    writer.recover([])
    writer.write(records(1))
    decided = Committable(1, writer.prepare(1, writer.seal(1)))
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute(damage)
    with pytest.raises(SinkError, match=r"does not know sink .job/out. any more|is damaged"):
        writer.commit(decided)
    assert numbers(path) == []
    writer.close()


def test_what_cannot_be_staged_is_told(tmp_path):
    """Kind: a value that the decision record cannot hold."""
    writer = rows_sink(tmp_path / "rows.db", COLUMNS).open(context())
    writer.recover([])
    with pytest.raises(SinkError, match="a record cannot be staged"):
        writer.write([{"id": object(), "text": ""}])
    with pytest.raises(SinkError, match="not of this kind of sink"):
        writer.commit(Committable(1, {"epoch": 1, "parts": []}))
    writer.close()


def test_wrong_settings_are_refused_by_name(tmp_path):
    """Kind: what is wrong is found when the job has run for an hour, or never."""
    target = RowsTable(tmp_path / "rows.db", COLUMNS)
    for connect in (None, "rows.db", target):
        with pytest.raises(ConfigurationError, match="OutboxSink: connect="):
            OutboxSink(connect)
    target.close()
    for number in (0, -1, True, 1.5, 1 << 40):
        with pytest.raises(ConfigurationError, match="OutboxSink: max_staged_bytes="):
            OutboxSink(lambda: None, max_staged_bytes=number)
    with pytest.raises(SinkError, match="derive it from OutboxTarget"):
        OutboxSink(lambda: None).open(context())


def test_a_marker_keeps_how_far_earlier_lineages_came():
    """Kind: a target that does not know whether it has an output of a lineage that was left; texts that grow without
    an end; markers of an older version."""
    first = Standing(7, "r" * 32, 12, 1, "5" * 32)
    assert (first.newest_of(1), first.newest_of(2), first.newest_of(None), first.left_by(1)) == (12, None, None, {})
    second = Standing(8, "s" * 32, 9, 1_790_000_000_000_000_000, "5" * 32, first.left_by(1_790_000_000_000_000_000))
    read = Standing.read(second.text())
    assert (read, read.newest_of(1), read.newest_of(read.lineage)) == (second, 12, 9)
    for number in range(20):
        lineage = 1_790_000_000_000_000_001 + number
        second = Standing(9, "s" * 32, 10**12 + number, lineage, "5" * 32, second.left_by(lineage))
    assert list(second.left) == [1_790_000_000_000_000_012 + number for number in range(8)]
    assert len(second.text()) < 600
    old = Standing.read('{"job_epoch":1,"run":"x","checkpoint":3,"lineage":1,"state":""}')
    assert (old.left, old.left_by(2)) == ({}, {1: 3})
    assert Standing.read('{"job_epoch":1,"run":"x","checkpoint":3}').left_by(2) == {}


def test_a_marker_says_what_it_is_about():
    """The promise of ``Marker``: owner, key, and a text that ``is_due`` reads again."""

    def marker(worker, checkpoint, *, epoch=1, run="r", lineage=1):
        return Marker("job", "out", worker, lineage, checkpoint, epoch, run, "")

    fence = marker(-1, 0)
    assert (fence.owner, fence.key, marker(3, 1).key) == ("job/out", "fence", "worker-3")
    assert fence.is_due({})
    kept = {"fence": fence.text, "worker-3": marker(3, 5).text}
    assert [marker(3, number).is_due(kept) for number in (4, 5, 6)] == [False, False, True]
    # Another worker, and another timeline, have their own.
    assert marker(2, 1).is_due(kept)
    assert marker(3, 1, lineage=2).is_due(kept)
    assert marker(-1, 0, epoch=2, run="s").is_due(kept)
    for older in ({"epoch": 0}, {"epoch": 9, "lineage": 0}):
        with pytest.raises(FencedError):
            marker(-1, 0, run="s", **older).is_due(kept)
    with pytest.raises(FencedError):
        marker(3, 6, epoch=2, run="s").is_due(kept)


def test_a_target_needs_three_methods():
    """Kind: a target that lacks one is found when the job is at its first commit."""
    assert OutboxTarget.__abstractmethods__ == {"read_markers", "fence", "apply"}


def test_a_checkpoint_begins_before_what_is_staged_is_too_much(tmp_path):
    """Kind: a bound below the one of the job, which nobody looks at until the run has failed by it."""
    rows = [{"id": number, "text": "x" * 100} for number in range(2_000)]
    flow = of.Dataflow("bounded")
    sink = OutboxSink(functools.partial(RowsTable, tmp_path / "rows.db", COLUMNS), max_staged_bytes=20_000)
    flow.source("in", TestingSource(rows, batch_size=50)).sink("out", sink)
    result = of.run(flow, tmp_path / "state", batch_size=50, checkpoint_interval_s=3600)
    assert result.checkpoints >= 2_000 * 100 // 20_000
    assert numbers(tmp_path / "rows.db") == list(range(2_000))


def test_markers_that_were_deleted_after_one_checkpoint_are_missed(tmp_path):
    """Kind: what is not there was never there. The output of the first checkpoint was written a second time."""
    path, lines = tmp_path / "rows.db", TestingSource([{"id": 1, "text": "one"}])

    def run(**settings):
        flow = of.Dataflow("job")
        flow.source("in", lines).sink("out", rows_sink(path, COLUMNS))
        return of.run(flow, tmp_path / "state", until="caught_up", **settings)

    run()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("delete from markers")
    for _ in range(2):
        with pytest.raises(SinkError, match=r"before checkpoint 1 was decided, and has none now.*resume_from=1 "):
            run()
    assert numbers(path) == [1]
    # As advised: here it was there, and that is told.
    with pytest.warns(RepeatedOutputWarning, match="nobody can tell") as told:
        run(resume_from=1)
    assert len(told) == 1
    assert numbers(path) == [1, 1]
    run()
    assert numbers(path) == [1, 1]
