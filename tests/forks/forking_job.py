"""The counting job, forking at each of its points: python forking_job.py ROOT KIND WHERE.

``python``: at the points of the Python side, on the thread that passes them, so that a child that leaves by an
exception unwinds the run from there. ``core``: at those of the core, where a thread is held while another one forks: a
function of the job if it is called meanwhile, and a thread of its own.

Each time a child for each way of leaving. Those that outlive the parent leave once ROOT/leave is there.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

from counting_job import run

import onceflow.connectors.sql.target
import onceflow.runtime.run  # noqa: F401
from onceflow import crash

WAYS = ("exception", "exit", "_exit", "exec", "outlive")
STOP_AT_BATCH = 6
CHANCE_S = 0.03


class ChildError(Exception):
    """What a child's code may raise."""


def fork_all(root: Path, where: str) -> None:
    """A child for each way of leaving; returns in the parent only."""
    for way in WAYS:
        if os.fork() == 0:
            note(root, f"{where} {way}")
            leave(root, way)


def note(root: Path, what: str) -> None:
    with (root / "children").open("a") as file:
        file.write(f"{what}\n")


def leave(root: Path, way: str) -> None:
    if way == "_exit":
        os._exit(6)
    if way == "exec":
        os.execv("/bin/true", ["true"])
    if way == "exception":
        raise ChildError
    while way == "outlive" and not (root / "leave").exists():
        time.sleep(0.005)
    sys.exit(5)


def fork_at_points(root: Path) -> None:
    """From now on each point of the Python side forks, the first time that it is passed."""
    home = os.getpid()
    passed = set()

    def fork(name: str) -> None:
        if os.getpid() == home and name not in passed:
            passed.add(name)
            fork_all(root, name)

    for module in list(sys.modules.values()):
        if getattr(module, "crash_point", None) is crash.crash_point and module is not crash:
            module.crash_point = fork


class Holder:
    """Forks while threads are held at points of the core."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._home = os.getpid()
        self._busy = threading.Lock()
        self._seen: set[tuple[str, str]] = set()
        threading.Thread(target=self._watch, daemon=True).start()

    def fork_in_function(self) -> None:
        """Called by a function of the job: as long as points come where another thread is held, forks at each."""
        until = time.monotonic() + 2 * CHANCE_S
        while os.getpid() == self._home and time.monotonic() < until:
            if self.fork("function"):
                until = time.monotonic() + 2 * CHANCE_S
            time.sleep(0.001)

    def fork(self, who: str) -> bool:
        """Children at each point where a thread is held now; whether there was one."""
        before = len(self._seen)
        for path in self._root.glob("*.held"):
            if not path.with_suffix(".go").exists() and (path.stem, who) not in self._seen:
                self._seen.add((path.stem, who))
                fork_all(self._root, f"{path.stem} {who}")
        return len(self._seen) > before

    def _watch(self) -> None:
        while True:
            held = [path for path in self._root.glob("*.held") if not path.with_suffix(".go").exists()]
            # A chance for the job's functions to be called meanwhile.
            time.sleep(CHANCE_S)
            self.fork("thread")
            for path in held:
                path.with_suffix(".go").touch()


def main() -> None:
    root, kind, where = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    home = os.getpid()
    holder = Holder(root) if where == "core" else None
    if where == "python":
        fork_at_points(root)

    def on_batch(number: int) -> None:
        if holder is not None:
            holder.fork_in_function()
        if number == STOP_AT_BATCH:
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        run(root, kind, on_batch=on_batch)
    except ChildError:
        if os.getpid() != home:
            # As an exception that nobody catches, without its text.
            sys.exit(1)
        raise
    if os.getpid() != home:
        note(root, "a child came through the run")


if __name__ == "__main__":
    main()
