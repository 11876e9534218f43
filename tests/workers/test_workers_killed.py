"""Any process of a job of several workers is killed, stopped, replaced and woken; the output stays exact.

Kind of fault: what one process knows as decided, and another one has lost.
"""

from __future__ import annotations

import os
import random
import signal
import time
import tomllib
from functools import partial
from pathlib import Path

import pytest
from lives import Life, killed_until_done, no_survivors
from worker_flows import build, results, write_inputs

import onceflow as of
from onceflow.exceptions import LateRecordsWarning

POINTS = tomllib.loads((Path(__file__).parents[1] / "runner" / "crash_points.toml").read_text())
#: Each is passed by the supervisor, by a worker, or by both: whoever comes there first dies.
SHARED = ["barrier.mid_inject", "task.pre_snapshot", "sink.post_prepare", "decide.pre", "decide.post_wait"]
SHARED += ["sink.pre_commit", "file.pre_rename", "sink.post_commit", "recover.pre_commit", "recover.post_open"]
KILLS = [(name, nth) for name, times in POINTS["workers"].items() for nth in times] + [(name, 1) for name in SHARED]
KIND = "stateful"
#: Of each partition: so many that several checkpoints are taken meanwhile.
RECORDS = 3000

pytestmark = pytest.mark.usefixtures("crash_points")


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    root = tmp_path_factory.mktemp("expected")
    write_inputs(root, records=RECORDS)
    of.run(build(root, KIND), root / "state")
    return results(root, KIND)


def _run(root: Path, **settings) -> None:
    of.run(build(root, KIND), root / "state", workers=2, batch_size=40, checkpoint_interval_s=0.02, **settings)


@pytest.mark.parametrize(("point", "nth"), KILLS)
def test_a_kill_at_each_point_leaves_the_output_exact(tmp_path, expected, point, nth):
    write_inputs(tmp_path, records=RECORDS)
    with no_survivors():
        first = Life(partial(_run, tmp_path), CRASH_AT=f"{point}:{nth}")
        # A worker's end is the supervisor's error.
        assert first.wait() in ("killed", "WorkerLostError"), first.error
        second = Life(partial(_run, tmp_path))
        assert second.wait() == "done", second.error
    assert results(tmp_path, KIND) == expected


def test_kills_at_random_moments_leave_the_output_exact(tmp_path):
    """Of the supervisor, whose workers end with it."""
    write_inputs(tmp_path, records=1500)
    with no_survivors():
        kills = killed_until_done(partial(_run, tmp_path), longest_s=4, at_most=6, moments=random.Random(7))
        life = Life(partial(_run, tmp_path))
        assert life.wait(120) == "done", life.error
    assert kills
    one = tmp_path / "one"
    write_inputs(one, records=1500)
    of.run(build(one, KIND), one / "state")
    assert results(tmp_path, KIND) == results(one, KIND)


@pytest.mark.parametrize("point", ["decide.pre", "decide.post_wait", "decide.mid_tell"])
def test_a_supervisor_that_is_replaced_and_woken_changes_nothing(tmp_path, expected, point):
    """Its workers live on until it is woken, and are shut out of their stores and of the sinks."""
    write_inputs(tmp_path, records=RECORDS)
    with no_survivors():
        first = Life(partial(_run, tmp_path), STOP_AT=f"{point}:1")
        assert first.step(60) == "stopped", first.error
        second = Life(partial(_run, tmp_path, take_over=True))
        assert second.wait() == "done", second.error
        first.wake()
        assert first.wait() in ("FencedError", "WorkerLostError"), first.error
    assert results(tmp_path, KIND) == expected


def test_no_worker_outlives_its_supervisor(tmp_path):
    """Kind of fault: an orphan that holds a store, or writes on."""
    write_inputs(tmp_path, records=20_000)
    with no_survivors():
        life = Life(partial(_run, tmp_path))
        workers = _workers_of(life)
        os.kill(workers[0], signal.SIGSTOP)
        life.kill()
        os.kill(workers[0], signal.SIGCONT)
        until = time.monotonic() + 30
        while any(Path(f"/proc/{pid}").exists() for pid in workers):
            assert time.monotonic() < until
            time.sleep(0.01)


def _workers_of(life: Life) -> list[int]:
    until = time.monotonic() + 60
    while True:
        assert life.step(0.05) is None, life.error
        found = [int(pid) for pid in Path(f"/proc/{life.pid}/task/{life.pid}/children").read_text().split()]
        if len(found) == 2 and all(b"onceflow.runtime.workers" in _command(pid) for pid in found):
            return found
        assert time.monotonic() < until


def _command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_worker_that_is_stopped_ends_the_run_in_time(tmp_path, expected, monkeypatch):
    """Kind of fault: an open connection to a process that does nothing any more."""
    monkeypatch.setattr("onceflow.runtime.workers.crew._LONGEST_SILENCE_S", 8.0)
    write_inputs(tmp_path, records=20_000)
    with no_survivors():
        life = Life(partial(_run, tmp_path))
        os.kill(_workers_of(life)[1], signal.SIGSTOP)
        assert life.wait(60) == "WorkerLostError", life.error
        assert "no sign of life" in life.error


def test_late_records_are_told_by_the_run(tmp_path):
    write_inputs(tmp_path)
    with pytest.warns(LateRecordsWarning, match="out"):
        of.run(build(tmp_path, "windows"), tmp_path / "state", workers=2)
