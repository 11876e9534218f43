"""Going back to an older checkpoint, or to nothing, leaves the former lineage for good."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from onceflow import Dataflow, StateBackend, run
from onceflow.connectors.files import JsonLinesSink, read_parts
from onceflow.exceptions import ConfigurationError, SinkError
from onceflow.testing import ABORT, EOF, PAUSE, AbortedError, IdempotentTestingSink, TestingSource
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
        run(flow([1, ABORT, 2, 3], sink), state, fresh=True)
    run(flow([1, PAUSE, 2, 3], sink), state)
    assert sink.records == [1, 2, 3]


def test_a_crash_right_after_going_back_loses_nothing(state):
    sink = Output()
    first = run(flow([1, EOF, 2, EOF, 3], sink), state, savepoint="one")
    run(flow([1, PAUSE, 2, EOF, 3], sink), state)
    del sink.committed[max(sink.committed)]
    with pytest.raises(AbortedError):
        run(flow([1, PAUSE, 2, ABORT, 3], sink), state, from_checkpoint="one")
    assert list(sink.committed) == [first.last_checkpoint]
    run(flow([1, PAUSE, 2, PAUSE, 3], sink), state)
    assert sink.records == [1, 2, 3]


def test_a_fresh_start_does_not_write_the_former_lineage_into_an_idempotent_sink(state):
    sink = IdempotentTestingSink(key=lambda number: number)
    run(flow([1, 2], sink), state)
    sink.records.clear()
    run(flow([7, 8], sink), state, fresh=True)
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
        checkpoint = int(sys.argv[1]) or None
        run(flow, "state", checkpoint_interval_s=1e-9, retain=9, from_checkpoint=checkpoint)
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
        run(flow([1, PAUSE, 2], sink), state, from_checkpoint=back)
    newest = max((tmp_path / "out").glob("part-*"))
    newest.unlink()
    assert run(flow([1, PAUSE, 2], sink), state, from_checkpoint=back).finished
    assert read_parts(tmp_path / "out") == b"1\n2\n"


def test_a_savepoint_of_a_job_that_has_finished_is_refused(state):
    run(flow([1], Output()), state, savepoint="end")
    assert run(flow([1], Output()), state, savepoint="end").finished
    with pytest.raises(ConfigurationError, match=r"has finished.*'later'"):
        run(flow([1], Output()), state, savepoint="later")
    with StateBackend.open(state, job="back", read_only=True) as backend:
        assert [info.savepoint for info in backend.checkpoints()] == ["end"]
