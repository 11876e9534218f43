"""Programs beside the tests, as processes that are talked to and killed."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


class Program:
    """A script of this directory in a process; what it prints is read line by line."""

    def __init__(self, script: str, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, HERE / script, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))

    def line(self, timeout_s: float = 30) -> str:
        """The next line."""
        return self._lines.get(timeout=timeout_s)

    def event(self, *wanted: str, timeout_s: float = 30) -> list[Any]:
        """The next line, as JSON, that begins with one of these words."""
        until = time.monotonic() + timeout_s
        while True:
            event = json.loads(self.line(until - time.monotonic()))
            if not wanted or event[0] in wanted:
                return event

    def events(self) -> list[list[Any]]:
        """Those that are there."""
        found = []
        while not self._lines.empty():
            found.append(json.loads(self._lines.get()))
        return found

    def say(self, text: str) -> None:
        """A line of input."""
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def stop(self) -> None:
        """SIGSTOP, and the process stands still when this returns."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)

    def go_on(self) -> None:
        """SIGCONT."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """No more input; it ends by itself."""
        self.process.stdin.close()
        assert self.process.wait(30) == 0

    def close(self) -> None:
        """Whatever it does, it is gone."""
        self.go_on_if_alive()
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            pipe.close()

    def go_on_if_alive(self) -> None:
        if self.process.poll() is None:
            self.go_on()
