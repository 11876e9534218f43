"""A job that forks at each of its points, the child leaving in each way, writes what it writes without children.

A child has a copy of the run: its files, its maps, its locks, threads that stand still for ever, cleanups that undo
what is under way. The kind of fault: some of it is carried out, in the child or at its end, or waits for a thread that
is not there.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import forking_job
import pytest
from counting_job import run, shown, write_input
from lives import Life

POINTS = tomllib.loads((Path(__file__).parents[1] / "runner" / "crash_points.toml").read_text())
SCRIPT = Path(forking_job.__file__)
#: Points of the core in the run of such a job; of the log's core with a sink that writes there.
CORE = {
    "restore.loaded",
    "ckpt.id.post_alloc",
    "snap.post_freeze",
    "snap.post_encode",
    "snap.state.pre_commit",
    "decide.pre_sync",
    "decide.post",
    "recover.pre_fence",
    "recover.post_fence",
    "manifest.replace.pre_rename",
}
LOG_CORE = {
    "log.append.pre_sync",
    "log.append.pre_ack",
    "log.commit.pre_wake",
    "producer.epoch.pre_persist",
    "producer.epoch.pre_reply",
    "txn.end.partial",
    "txn.end.pre_reply",
}

pytestmark = pytest.mark.usefixtures("crash_points")


@pytest.mark.parametrize("where", ["python", "core"])
@pytest.mark.parametrize("kind", ["csv", "log", "outbox", "sql", "sqlite"])
def test_children_at_each_point_change_nothing(tmp_path, kind, where):
    write_input(tmp_path)
    calm, root = tmp_path / "calm", tmp_path / "job"
    calm.mkdir()
    root.mkdir()
    assert Life(lambda: run(calm, kind)).wait() == "done"
    points = CORE | (LOG_CORE if kind == "log" else set())
    with forking(root, kind, where, points) as children:
        # Those that live on leave in the middle of the run that goes on.
        again = Life(lambda: run(root, kind, on_batch=lambda _: leave(root)))
        assert again.wait() == "done", again.error
        ready, _, _ = select.select([children], [], [], 60)
        assert ready and os.read(children, 1) == b"", "children hang"
    assert Life(lambda: compare(root, calm, kind)).wait() == "done"
    noted = (root / "children").read_text().splitlines()
    assert "a child came through the run" not in noted
    passed = {line.split()[0] for line in noted}
    assert where == "python" or any(line.split()[1] == "function" for line in noted)
    assert len(noted) >= len(passed) * len(forking_job.WAYS)
    assert where == "python" or passed >= points, points - passed
    assert where == "core" or passed >= python_points(kind), python_points(kind) - passed


def python_points(kind: str) -> set[str]:
    """Points of the Python side that such a job passes."""
    own = {
        "csv": ("file.",),
        "log": ("log.",),
        "outbox": ("outbox.",),
        "sql": ("outbox.", "sql."),
        "sqlite": ("sink.mid_write",),
    }
    others = tuple(prefix for prefixes in own.values() for prefix in prefixes)
    listed = {name for section in ("points", "elsewhere", "log", "outbox", "sql") for name in POINTS[section]}
    return {name for name in listed if name.startswith(own[kind]) or not name.startswith(others)}


@contextlib.contextmanager
def forking(root: Path, kind: str, where: str, points: set[str]) -> Iterator[int]:
    """One life of the job that forks; a descriptor that is at its end when the last child has gone."""
    read, write = os.pipe()
    environment = {"PYTHONPATH": f"{SCRIPT.parents[1]}", "PATH": os.environ["PATH"]}
    if where == "core":
        environment |= {"HOLD_AT": ",".join(points), "HOLD_IN": str(root)}
    command = [sys.executable, str(SCRIPT), str(root), kind, where]
    with (root / "errors").open("wb") as errors:
        job = subprocess.Popen(command, env=environment, pass_fds=[write], stderr=errors, start_new_session=True)
    os.close(write)
    try:
        assert job.wait(120) == 0, (root / "errors").read_text()
        yield read
    finally:
        os.close(read)
        with contextlib.suppress(ProcessLookupError):
            # Its children are a group of processes; those that hang end here.
            os.killpg(job.pid, signal.SIGKILL)


def leave(root: Path) -> None:
    (root / "leave").touch()
    time.sleep(0.05)


def compare(root: Path, calm: Path, kind: str) -> None:
    assert shown(root, kind) == shown(calm, kind)
