"""Going back to an older checkpoint, or to nothing, leaves the former lineage for good."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import warnings

import pytest

from onceflow import Dataflow, run
from onceflow.connectors.files import JsonLinesSink, read_parts
from onceflow.embed import StateBackend
from onceflow.exceptions import CheckpointStateError, ConfigurationError, RepeatedOutputWarning, SinkError
from onceflow.sinks import SinkContext
from onceflow.testing import ABORT, EOF, PAUSE, AbortedError, IdempotentTestingSink, PlainTestingSink, TestingSource
from onceflow.testing import TransactionalTestingSink as Output


def flow(items, sink):
    made = Dataflow("back")
    made.source("in", TestingSource(items, batch_size=1)).sink("out", sink)
    return made


def test_a_crash_right_after_a_fresh_start_does_not_bring_back_the_former_lineage(state):
    sink = Output()
    run(flow([1, 2, EOF, 3], sink), state)
    sink.committed.clear()
    with pytest.raises(AbortedError):
        run(flow([1, ABORT, 2, 3], sink), state, resume_from="none")
    run(flow([1, PAUSE, 2, 3], sink), state)
    assert sink.records == [1, 2, 3]


def test_a_crash_right_after_going_back_loses_nothing(state):
    sink = Output()
    first = run(flow([1, EOF, 2, EOF, 3], sink), state, savepoint="one")
    run(flow([1, PAUSE, 2, EOF, 3], sink), state)
    del sink.committed[max(sink.committed)]
    with pytest.raises(AbortedError):
        run(flow([1, PAUSE, 2, ABORT, 3], sink), state, resume_from="one")
    assert list(sink.committed) == [(first.last_checkpoint, 0)]
    run(flow([1, PAUSE, 2, PAUSE, 3], sink), state)
    assert sink.records == [1, 2, 3]


def test_a_fresh_start_does_not_write_the_former_lineage_into_an_idempotent_sink(state):
    sink = IdempotentTestingSink(key=lambda number: number)
    run(flow([1, 2], sink), state)
    sink.records.clear()
    run(flow([7, 8], sink), state, resume_from="none")
    assert list(sink.records) == [7, 8]


@pytest.mark.usefixtures("crash_points")
def test_what_was_decided_and_not_committed_does_not_appear_after_going_back(tmp_path):
    """Killed between decision and commit, then sent back to the checkpoint before: it is written again, so once."""
    script = textwrap.dedent(
        """
        import sys
        from onceflow import Dataflow, run
        from onceflow.connectors.files import JsonLinesSink
        from onceflow.testing import TestingSource
        flow = Dataflow("back")
        flow.source("in", TestingSource(list(range(12)), batch_size=1)).sink("out", JsonLinesSink("out"))
        checkpoint = int(sys.argv[1]) or "newest"
        run(flow, "state", checkpoint_interval_s=1e-9, retain=9, resume_from=checkpoint)
        """
    )

    def life(checkpoint, **env):
        command = [sys.executable, "-c", script, str(checkpoint)]
        return subprocess.run(command, check=False, cwd=tmp_path, env={**os.environ, **env}).returncode

    assert life(0, CRASH_AT="sink.pre_commit:2") == -signal.SIGKILL
    assert life(1) == 0
    assert [json.loads(line) for line in read_parts(tmp_path / "out").split()] == list(range(12))


def test_part_files_that_would_be_written_twice_are_refused(state, tmp_path):
    sink = JsonLinesSink(tmp_path / "out")
    first = run(flow([1, EOF, 2], sink), state)
    run(flow([1, PAUSE, 2], sink), state)
    back = first.last_checkpoint
    with pytest.raises(SinkError, match=rf"after checkpoint {back} and will be written again: move .*part-0001-"):
        run(flow([1, PAUSE, 2], sink), state, resume_from=back)
    newest = max((tmp_path / "out").glob("part-*"))
    newest.unlink()
    assert run(flow([1, PAUSE, 2], sink), state, resume_from=back).finished
    assert read_parts(tmp_path / "out") == b"1\n2\n"


def test_a_savepoint_of_a_job_that_has_finished_is_refused(state):
    run(flow([1], Output()), state, savepoint="end")
    assert run(flow([1], Output()), state, savepoint="end").finished
    with pytest.raises(ConfigurationError, match=r"has finished.*'later'"):
        run(flow([1], Output()), state, savepoint="later")
    with StateBackend.open(state, job="back", read_only=True) as backend:
        assert [info.savepoint for info in backend.checkpoints()] == ["end"]


BACK = textwrap.dedent(
    """
    import sys
    from onceflow import Dataflow, run
    from onceflow.connectors.files import JsonLinesSink
    from onceflow.testing import EOF, TestingSource
    how = sys.argv[1]
    flow = Dataflow("back")
    items = [1, 2, 3, EOF, 4, 5, 6, EOF, 7, 8, 9] if how in ("first", "second") else [1, 2, 3, 0, 4, 5, 6, 0, 7, 8, 9]
    rows = flow.source("in", TestingSource(items, batch_size=1)).filter(lambda number: number)
    rows.sink("out", JsonLinesSink("out"))
    settings = {"first": {"savepoint": "one"}, "back": {"resume_from": "one"}, "fresh": {"resume_from": "none"}}
    run(flow, "state", retain=9, **settings.get(how, {}))
    """
)


@pytest.mark.usefixtures("crash_points")
@pytest.mark.parametrize(
    ("how", "point"), [("back", "lineage.begun"), ("fresh", "recover.post_open"), ("back", "barrier.pre_inject")]
)
def test_a_choice_is_durable_before_anything_is_touched(tmp_path, how, point):
    """The kind of fault: killed early in a run that goes back, a plain run comes back to what was left, and what had
    been moved away to be written again is lost."""

    def life(how, **env):
        command = [sys.executable, "-c", BACK, how]
        return subprocess.run(command, check=False, cwd=tmp_path, env={**os.environ, **env}).returncode

    assert life("first") == life("second") == 0
    parts = sorted((tmp_path / "out").glob("part-*"))
    assert len(parts) == 2
    for part in parts[1 if how == "back" else 0 :]:
        part.unlink()
    assert life(how, CRASH_AT=point) == -signal.SIGKILL
    assert life("plain", CRASH_AT=point if point != "lineage.begun" else "recover.post_open") == -signal.SIGKILL
    assert life("plain") == 0
    assert [json.loads(line) for line in read_parts(tmp_path / "out").split()] == list(range(1, 10))


def checkpointed(state, *values):
    """Checkpoints of a table with one row, whose value each checkpoint sets."""
    numbers = []
    with StateBackend.open(state, job="j", retain=9) as backend:
        table = backend.table("t", key="i64", columns={"n": "i64"})
        for value in values:
            table.put([1], n=value)
            numbers.append(backend.checkpoint({"p": value}).wait().id)
    return numbers


def test_what_was_left_is_not_resumed_from_retained_or_counted(state):
    """The kind of fault: a checkpoint that the job has left is taken for its history, by a resume, by retention or by a
    lineage's number."""
    one, two, three = checkpointed(state, 1, 2, 3)
    with StateBackend.open(state, job="j", retain=9, resume_from=one, lineage=2) as backend:
        assert (backend.lineage, backend.resumes_from) == (2, three)
        backend.begin_lineage()
        assert backend.resumes_from == one
        with pytest.raises(CheckpointStateError, match="resumes from"):
            backend.delete_checkpoint(one)
    # Chosen again it is another lineage: its sinks may hold what a newer state has written after it.
    for checkpoint, lineage in ((one, 3), (None, 2)):
        with StateBackend.open(state, job="j", retain=9, resume_from=checkpoint, lineage=3) as backend:
            assert (backend.lineage, backend.positions, backend.recovery.damage) == (lineage, {"p": 1}, [])
    # The newest record is not the newest of the history.
    with StateBackend.open(state, job="j", retain=9, resume_from=three, lineage=3) as backend:
        assert (backend.lineage, backend.positions) == (3, {"p": 3})
        # Not begun: looking at it changed nothing.
    with StateBackend.open(state, job="j", retain=2) as backend:
        assert (backend.lineage, backend.positions) == (2, {"p": 1})
        backend.table("t", key="i64", columns={"n": "i64"}).put([1], n=4)
        four = backend.checkpoint({"p": 4}).wait().id
        # Two that count are kept: those that were left go when more come.
        assert [info.id for info in backend.checkpoints()] == [one, two, three, four]
        backend.checkpoint({"p": 5}).wait()
        assert [info.lineage for info in backend.checkpoints()] == [2, 2]
        assert backend.resumes_from == four + 1


def test_a_lineage_has_a_number_that_no_copy_gets(state, tmp_path):
    """The kind of fault: two copies of a state begin lineages of one number, so that a target takes the output of the
    one for that of the other."""
    one, _ = checkpointed(state, 1, 2)
    copy = shutil.copytree(state, tmp_path / "copy")
    before, numbers = time.time_ns(), []
    for path in (state, copy, copy, state):
        with StateBackend.open(path, job="j", retain=9, resume_from=one) as backend:
            backend.begin_lineage()
            numbers.append(backend.lineage)
    # Milliseconds, with six digits behind them that are drawn; above all that came before.
    assert before - 1_000_000 <= numbers[0] < numbers[1] < numbers[2] < numbers[3] < time.time_ns() + 1_000_000
    assert len({number % 1_000_000 for number in numbers}) > 1
    # What a target knows may be higher, until the lineage has begun.
    with StateBackend.open(state, job="j", retain=9, resume_from=one) as backend:
        ahead = backend.lineage + 10**15
        assert backend.raise_lineage(ahead)
        assert ahead < backend.lineage <= ahead + 1_000_000
        raised = backend.lineage
        backend.begin_lineage()
        assert not backend.raise_lineage(raised)
    with StateBackend.open(state, job="j", retain=9) as backend:
        assert backend.lineage == raised
        assert not backend.raise_lineage(raised + 1)


def test_a_run_is_noted_before_it_shows(state):
    """The kind of fault: a run of this state directory is taken for one of a copy, or the other way round."""
    with StateBackend.open(state) as backend:
        assert backend.runs() == {}
        backend.begin_run()
        first = backend.run
        assert len(first) == 32
    with StateBackend.open(state) as backend:
        assert backend.runs() == {1: first}
        # One that ends before it begins is not noted.
        assert backend.run != first
    with StateBackend.open(state) as backend:
        backend.begin_run()
        third = backend.run
    with StateBackend.open(state, read_only=True) as backend:
        assert backend.runs() == {1: first, 3: third}
    context = SinkContext("j", "s", 4, 1, run="f" * 32, runs={2: first, 3: third})
    known = [(2, first), (3, third), (4, "f" * 32), (1, "e" * 32), (3, "short")]
    assert not any(context.is_of_a_copy(*run) for run in known)
    assert all(context.is_of_a_copy(*run) for run in [(2, third), (3, "e" * 32), (4, first), (9, first)])
    assert SinkContext("j", "s", 4, 1, run="f" * 32, runs={}).is_of_a_copy(1, first)
    assert not SinkContext("j", "s", 4, 1, run="f" * 32).is_of_a_copy(1, first)


def test_a_program_that_checkpoints_without_saying_so_begins_its_lineage_too(state):
    one, _ = checkpointed(state, 1, 2)
    with StateBackend.open(state, job="j", resume_from="none", lineage=2) as backend:
        backend.checkpoint({"p": 7}).wait()
        assert backend.lineage == 2
    with StateBackend.open(state, job="j") as backend:
        assert (backend.lineage, backend.positions) == (2, {"p": 7})
    assert one == 1


@pytest.mark.usefixtures("crash_points")
@pytest.mark.parametrize(
    "point", ["sink.pre_commit:2", "sink.post_commit:2", "lineage.begun:1", "recover.pre_commit:1"]
)
def test_going_on_from_the_newest_checkpoint_keeps_its_output(tmp_path, point):
    """The kind of fault: a decided output is discarded. The newest checkpoint is chosen by its number, which begins a
    lineage of its own; what it had decided is committed, also if the process is killed in between."""
    script = textwrap.dedent(
        """
        import sys
        from onceflow import Dataflow, run
        from onceflow.embed import StateBackend
        from onceflow.connectors.files import JsonLinesSink
        from onceflow.testing import TestingSource
        flow = Dataflow("back")
        flow.source("in", TestingSource(list(range(12)), batch_size=1)).sink("out", JsonLinesSink("out"))
        checkpoint = "newest"
        if sys.argv[1] == "newest":
            with StateBackend.open("state", job="back", read_only=True, resume_from="none") as backend:
                checkpoint = backend.checkpoints()[-1].id
        run(flow, "state", checkpoint_interval_s=1e-9, resume_from=checkpoint)
        """
    )

    def life(how, **env):
        command = [sys.executable, "-c", script, how]
        return subprocess.run(command, check=False, cwd=tmp_path, env={**os.environ, **env}).returncode

    assert life("first", CRASH_AT="sink.pre_commit:2" if "sink" not in point else point) == -signal.SIGKILL
    if "sink" not in point:
        assert life("newest", CRASH_AT=point) == -signal.SIGKILL
    assert life("newest") == 0
    assert [json.loads(line) for line in read_parts(tmp_path / "out").split()] == list(range(12))


def test_what_a_plain_sink_writes_again_is_told(state):
    """Kind: output is there twice without a word, since a plain sink does not know what it has written."""
    sink = PlainTestingSink()
    settings = {"guarantee": "at_least_once", "retain": 9}
    first = run(flow([1, EOF, 2, 3], sink), state, savepoint="one", **settings).last_checkpoint
    # Nothing came after it.
    last = run(flow([1, EOF, 2, 3], sink), state, resume_from="one", **settings).last_checkpoint
    assert sink.records == [1, 2, 3]
    told = rf"back to checkpoint {first} and had come to {last}: the plain sinks \['out'\]"
    with (
        pytest.raises(RepeatedOutputWarning, match=told),
        warnings.catch_warnings(action="error", category=RepeatedOutputWarning),
    ):
        run(flow([1, EOF, 2, 3], sink), state, resume_from="one", **settings)
    assert sink.records == [1, 2, 3]
    with pytest.warns(RepeatedOutputWarning, match=told):
        run(flow([1, EOF, 2, EOF, 3], sink), state, resume_from="one", **settings)
    assert sink.records == [1, 2, 3, 2]
    # It is the newest one now, with nothing after it.
    run(flow([1, EOF, 2, EOF, 3], sink), state, **settings)
    assert sink.records == [1, 2, 3, 2, 3]


def test_a_sink_is_told_what_is_left_by_going_back(state):
    """Kind: output is there twice without a word, since only who keeps the checkpoints knows how far it had come."""
    told = []

    class Told(Output):
        def open(self, context):
            told.append((context.restored_checkpoint, context.newest_left))
            return super().open(context)

    sink = Told()
    first = run(flow([1, EOF, 2, 3], sink), state, savepoint="one", retain=9).last_checkpoint
    last = run(flow([1, EOF, 2, 3], sink), state, retain=9).last_checkpoint
    run(flow([1, EOF, 2, EOF, 3], sink), state, resume_from="one", retain=9)
    run(flow([1, EOF, 2, EOF, 3], sink), state, retain=9)
    assert told[:3] == [(None, None), (first, None), (first, last)]
    # It goes on in the new lineage and leaves nothing.
    assert told[3][1] is None


@pytest.mark.parametrize(("old", "new"), [({"fresh": True}, "none"), ({"from_checkpoint": 1}, 1)])
def test_the_old_names_of_resume_from_still_do_what_they_did(state, old, new):
    """A hint that is followed: who uses the old names is told the new one."""
    flow, out = Dataflow("j"), Output()
    flow.source("in", TestingSource([1, 2])).sink("out", out)
    run(flow, state)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = run(flow, state, **old)
    told = [str(warning.message) for warning in caught if warning.category is DeprecationWarning]
    assert len(told) == 1
    assert f"resume_from={new!r} now" in told[0]
    assert result.resumed_from == (1 if new == 1 else None)
    assert [warning.filename for warning in caught if warning.category is DeprecationWarning] == [__file__]
