"""What a dead job left behind is found, and removed without the next run losing or repeating anything."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lives import Life, no_survivors
from outbox_table import rows_sink, shown_rows
from paced import Paced
from state.disk import damage

from onceflow import Dataflow
from onceflow._native import LogProducer
from onceflow.connectors.files import CsvSink, CsvSource, read_parts
from onceflow.connectors.log import LogSink
from onceflow.exceptions import StoreLockedError, StoreMismatchError, StoreMissingError
from onceflow.leftovers import Leftover
from onceflow.log import Log
from onceflow.runtime.doctor import diagnosed, resolved
from onceflow.runtime.run import run
from onceflow.testing import TestingSource, TransactionalTestingSink

ROWS = 2000

pytestmark = [pytest.mark.usefixtures("crash_points"), pytest.mark.timeout(120)]


def furnish(root: Path) -> Path:
    root.mkdir(exist_ok=True)
    (root / "in.csv").write_text("id\n" + "".join(f"{number}\n" for number in range(ROWS)))
    with Log.open(root / "log", upkeep_interval_s=None) as log:
        log.create_topic("out", exist_ok=True)
    return root


class Rows(Paced, CsvSource):
    """So that runs that are killed one after the other do not come to the end."""


def build(root: Path, name="left") -> Dataflow:
    flow = Dataflow(name)
    rows = flow.source("rows", Rows(root / "in.csv"))
    rows.sink("csv", CsvSink(root / "csv"))
    rows.sink("log", LogSink(root / "log", "out"))
    rows.sink("outbox", rows_sink(root / "rows.db", ("id",)))
    return flow


def job(root: Path, **settings):
    return run(build(root), root / "state", checkpoint_interval_s=0.001, batch_size=20, **settings)


def outputs(root: Path):
    """The numbers that each sink shows, in order."""
    with Log.open(root / "log", upkeep_interval_s=None) as log:
        records = log.native.fetch("out", 0, 0, max_records=ROWS * 2, max_bytes=1 << 30)
        values = [int(re.search(rb"\d+", value)[0]) for value in records.values]
    numbers = [int(line) for line in read_parts(root / "csv").split()[1:]]
    return {"csv": numbers, "log": values, "outbox": [row[0] for row in shown_rows(root / "rows.db")]}


def exact(root: Path):
    assert job(root).finished
    assert outputs(root) == {sink: list(range(ROWS)) for sink in ("csv", "log", "outbox")}


def staged(root: Path):
    names = (path.name for path in (root / "csv" / ".onceflow").iterdir())
    return {name for name in names if name.startswith(("open-", "staged-"))}


def fates(diagnosis):
    return [each.fate for sink in diagnosis.sinks for each in sink.leftovers]


def tree(directory: Path):
    """All that is in it; what readers of a log and of a store note of themselves aside."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name not in ("lock.mdb", "rows.db-journal")
    }


#: Where a run is killed → what it leaves.
POINTS = {
    "file.pre_sync:3": ["removable"],
    "file.pre_dirsync:3": ["removable"],
    "file.post_prepare:3": ["removable"],
    "decide.pre:3": ["removable"],
    "decide.post:3": ["decided"],
    "sink.pre_commit:7": ["decided"],
    "file.pre_rename:3": ["decided"],
    "file.post_rename:3": [],
    "log.pre_append:3": [],
    "outbox.post_apply:2": [],
}


@pytest.mark.parametrize("point", POINTS)
def test_the_next_run_is_exact(tmp_path, point):
    """Output that was decided and is removed, or not decided and stays; and a run after it that finds another world."""
    root = furnish(tmp_path / "job")
    with no_survivors():
        assert Life(lambda: job(root), CRASH_AT=point).wait() == "killed"
    before = tree(root)
    found = diagnosed(build(root), root / "state")
    assert tree(root) == before, "a look changes nothing"
    assert not found.running and not found.failed and found.owner is not None
    # What was being written when the kill came may be there besides.
    assert set(POINTS[point]) <= set(fates(found)) <= {*POINTS[point], "removable"}
    decided = {
        each.subject.rpartition("/")[2] for sink in found.sinks for each in sink.leftovers if each.fate == "decided"
    }
    done = resolved(build(root), root / "state")
    assert done.removable == found.removable and not done.failed
    assert staged(root) == decided
    assert diagnosed(build(root), root / "state").removable == 0
    exact(root)
    assert fates(diagnosed(build(root), root / "state")) == []


def test_twice_and_between_kills(tmp_path):
    """A second removal that removes more, and kills around it."""
    root = furnish(tmp_path / "job")
    with no_survivors():
        for point in ("decide.pre:4", "file.pre_rename:1", "decide.post:2", "file.pre_clean:1", "file.post_prepare:1"):
            assert Life(lambda: job(root), CRASH_AT=point).wait() == "killed"
            resolved(build(root), root / "state")
            assert resolved(build(root), root / "state").removable == 0
    exact(root)


def test_a_removal_that_is_killed(tmp_path):
    """Half of what was to be removed is left."""
    root = furnish(tmp_path / "job")
    with no_survivors():
        assert Life(lambda: job(root), CRASH_AT="decide.pre:3").wait() == "killed"
    (root / "csv" / ".onceflow" / "open-0001-000000000001-900.csv").touch()
    first, *rest = [each for sink in diagnosed(build(root), root / "state").sinks for each in sink.leftovers]
    first.resolve()
    first.resolve()
    assert rest and fates(resolved(build(root), root / "state")) == ["removable"] * len(rest)
    exact(root)


def test_a_job_that_lives(tmp_path):
    """What a running or paused run has under way is taken for left behind."""
    root = furnish(tmp_path / "job")
    with no_survivors():
        life = Life(lambda: job(root), STOP_AT="file.pre_dirsync:2")
        assert life.step(60) == "stopped"
        before = tree(root)
        found = diagnosed(build(root), root / "state")
        assert found.running and found.owner == life.pid and found.sinks == ()
        with pytest.raises(StoreLockedError, match=str(life.pid)):
            resolved(build(root), root / "state")
        assert tree(root) == before and staged(root)
        life.wake()
        assert life.wait() == "done"
    assert outputs(root)["csv"] == list(range(ROWS))


@pytest.mark.parametrize("point", ["file.pre_dirsync:2", "decide.pre:2", "file.pre_rename:2"])
def test_a_run_that_was_replaced_wakes_after_it(tmp_path, point):
    """A run that was paused, replaced by one that died, and wakes when its files were removed: it decides nothing."""
    root = furnish(tmp_path / "job")
    with no_survivors():
        old = Life(lambda: job(root), STOP_AT=point)
        assert old.step(60) == "stopped"
        new = Life(lambda: job(root, take_over=True), CRASH_AT="file.post_prepare:1")
        assert new.wait() == "killed", new.error
        assert resolved(build(root), root / "state").removable
        old.wake()
        assert old.wait() == "FencedError", old.error
    assert diagnosed(build(root), root / "state").removable == 0
    exact(root)


def test_a_checkpoint_that_cannot_be_read(tmp_path):
    """What was decided by a record that is damaged is taken for undecided."""
    root = furnish(tmp_path / "job")
    with no_survivors():
        assert Life(lambda: job(root), CRASH_AT="file.pre_rename:3").wait() == "killed"
    newest = max(int(name.split("-")[3].split(".")[0]) for name in staged(root) if name.startswith("staged-"))
    damage(root / "state", "records", newest)
    before = staged(root)
    found = diagnosed(build(root), root / "state")
    assert found.damage and set(fates(found)) == {"kept"}
    assert resolved(build(root), root / "state").removable == 0
    assert staged(root) == before


def test_what_is_not_ours(tmp_path):
    """Another job's state, another state's output, a state that is newer."""
    root = furnish(tmp_path / "job")
    with pytest.raises(StoreMissingError):
        diagnosed(build(root), root / "state")
    assert job(root).finished
    with pytest.raises(StoreMismatchError):
        diagnosed(build(root, "other"), root / "state")
    (root / "csv" / ".onceflow" / "open-0001-000000000099-1.csv").touch()
    [newer] = diagnosed(build(root), root / "state").sinks[0].leftovers
    assert newer.fate == "kept" and "job epoch 99, which is newer than this state" in newer.text
    other = furnish(tmp_path / "other")
    assert job(other).finished
    (other / "state").rename(root / "state-of-other")
    csv, log, _ = diagnosed(build(root), root / "state-of-other").sinks
    assert "another state" in csv.leftovers[0].text and "another identity" in log.leftovers[0].text
    assert resolved(build(root), root / "state-of-other").removable == 0


def test_markers_and_transactions_in_a_log(tmp_path):
    """A marker that is needed is removed; one of a sink that is gone, and an open transaction, stay for ever."""
    root = furnish(tmp_path / "job")
    assert job(root).finished
    now_ms = int(time.time() * 1000)
    with Log.open(root / "log", upkeep_interval_s=None) as log:
        for name, commit in (("onceflow/left/gone", True), ("onceflow/other/out", True), ("onceflow/left/log", False)):
            producer = LogProducer(log.native, now_ms=now_ms, transactional_id=name, max_buffered_bytes=1)
            producer.init_transactions(now_ms=now_ms)
            producer.begin_transaction(now_ms=now_ms)
            producer.produce("out", [b"x" * 100], partition=0, now_ms=now_ms)
            if commit:
                note = '{"job_epoch":1,"run":"x","checkpoint":1,"lineage":1,"state":""}'
                producer.send_offsets(name, [("out", 0, 1, note)], now_ms=now_ms)
                producer.commit_transaction(now_ms=now_ms)
    found = diagnosed(build(root), root / "state").sinks[1].leftovers
    assert [(each.fate, each.subject.split("'")[1]) for each in found] == [
        ("removable", "onceflow/left/log"),
        ("removable", "onceflow/left/gone"),
    ]
    assert resolved(build(root), root / "state").removable == 2
    assert fates(diagnosed(build(root), root / "state")) == []
    with Log.open(root / "log", upkeep_interval_s=None) as log:
        assert [group.group for group in log.groups()] == ["onceflow/left/log", "onceflow/other/out"]
        assert not any(producer.started_ms for producer in log.transactions())


class _Left(TransactionalTestingSink):
    def leftovers(self, context):
        yield Leftover("removable", "one", "can be removed", lambda: self.calls.append("one"))
        yield Leftover("removable", "two", "cannot be removed", self.fail)

    def fail(self):
        raise OSError("no")


class _Unseen(TransactionalTestingSink):
    def leftovers(self, context):
        raise OSError("cannot be reached")


def test_a_sink_that_cannot_be_looked_at(tmp_path):
    """One sink that hides what was left in the others, or a removal that fails and is said to be done."""
    root = furnish(tmp_path / "job")
    flow = Dataflow("left")
    rows = flow.source("rows", CsvSource(root / "in.csv"))
    left = _Left()
    left.calls = []
    for step_id, sink in (("unseen", _Unseen()), ("left", left), ("csv", CsvSink(root / "csv"))):
        rows.sink(step_id, sink)
    assert run(flow, root / "state").finished
    (root / "csv" / ".onceflow" / "open-0001-000000000001-9.csv").touch()
    found = diagnosed(flow, root / "state")
    assert [sink.error for sink in found.sinks] == ["OSError: cannot be reached", None, None] and found.failed
    done = resolved(flow, root / "state")
    assert [sink.error for sink in done.sinks] == ["OSError: cannot be reached", "OSError: no", None]
    assert left.calls == ["one"] and not staged(root)


class _Holds(TestingSource):
    def leftovers(self, context):
        self.context = context
        yield Leftover("kept", "slot", "holds the log")
        yield Leftover("removable", "old slot", "of nobody", lambda: self.dropped.append("old slot"))


class _Hidden(TestingSource):
    def leftovers(self, context):
        raise OSError("cannot be reached")


def test_what_sources_hold(tmp_path):
    """What a source holds in another system is not told, told of other checkpoints, or hides a sink."""
    holds, hidden, out = _Holds([1, 2, 3]), _Hidden([1]), TransactionalTestingSink()
    holds.dropped = []
    flow = Dataflow("left")
    for step_id, source in (("holds", holds), ("hidden", hidden), ("plain", TestingSource([1]))):
        flow.source(step_id, source).sink(f"out-{step_id}", out if step_id == "holds" else TransactionalTestingSink())
    assert run(flow, tmp_path / "state").finished
    found = diagnosed(flow, tmp_path / "state")
    assert [(each.step_id, each.error) for each in found.sources] == [
        ("holds", None),
        ("hidden", "OSError: cannot be reached"),
    ]
    assert len(found.sinks) == 3 and found.failed and found.removable == 1 and holds.dropped == []
    assert holds.context.positions and holds.context.complete
    assert all(positions.keys() == {"0"} for positions in holds.context.positions)
    assert holds.context.known_sources == {"holds", "hidden", "plain"}
    done = resolved(flow, tmp_path / "state")
    assert holds.dropped == ["old slot"] and done.removable == 1
    without = Dataflow("left")
    without.source("new", _Holds([1])).sink("out-new", TransactionalTestingSink())
    [(new, _)] = [(step.source, diagnosed(without, tmp_path / "state")) for step in without.graph.sources()]
    assert new.context.positions == () and new.context.known_sources == {"new", "holds", "hidden", "plain"}


def test_the_command(tmp_path):
    """A removal that nobody has agreed to, and exit codes that say another thing than the text."""
    root = furnish(tmp_path / "job")
    with no_survivors():
        assert Life(lambda: job(root), CRASH_AT="decide.pre:3").wait() == "killed"
    (root / "left.py").write_text(
        f"import sys; from pathlib import Path; sys.path[:0] = {sys.path!r}\n"
        f"import test_doctor\nflow = test_doctor.build(Path({str(root)!r}))\n"
    )

    def doctor(*more):
        command = [sys.executable, "-m", "onceflow", "doctor", "left.py:flow", "--state", "state", *more]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        return subprocess.run(
            command, cwd=root, env=env, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )

    listed = doctor()
    assert listed.returncode == 1 and "  remove   file " in listed.stdout and "not running" in listed.stdout
    before = staged(root)
    asked = doctor("--resolve")
    assert asked.returncode == 2 and "add --yes" in asked.stderr and staged(root) == before
    told = doctor("--json")
    assert '"fate": "removable"' in told.stdout and told.returncode == 1
    done = doctor("--resolve", "--yes")
    assert (done.returncode, staged(root)) == (0, set()), done.stderr
    clean = doctor()
    assert clean.returncode == 0 and clean.stdout.count("nothing was left behind") == 3
    other = doctor("--instance", "1/2")
    assert other.returncode == 2 and "state of a run that is all of the job" in other.stderr
    with no_survivors():
        life = Life(lambda: job(root), STOP_AT="file.pre_dirsync:2")
        assert life.step(60) == "stopped"
        running = doctor("--resolve", "--yes")
        assert running.returncode == 0 and f"is running in process {life.pid}" in running.stdout
        life.wake()
        assert life.wait() == "done"
