"""The server of the tests as a child process, and what it has done."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

__all__ = ["Request", "ServerProcess", "effects_in"]

PROGRAM = Path(__file__).with_name("http_server.py")


@dataclass(frozen=True)
class Request:
    """One that has come."""

    path: str
    key: str | None
    headers: dict[str, str]
    body: bytes
    #: Requests that were under way then, this one included.
    under_way: int


class ServerProcess:
    """Keeps its port and its database over kills."""

    def __init__(self, directory: Path) -> None:
        self._database = directory / "server.sqlite"
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port = found.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/orders"
        self.start()

    def start(self) -> None:
        leash = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        self.process = subprocess.Popen(
            [*leash, sys.executable, str(PROGRAM), str(self._database), str(self.port)], stdout=subprocess.PIPE
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def script(self, *actions: dict[str, Any], always: dict[str, Any] | None = None) -> None:
        """What is done with the next requests, and with those that follow; see the server."""
        script = {"next": list(actions), "always": always or {}}
        httpx.post(f"http://127.0.0.1:{self.port}/script", json=script, trust_env=False).raise_for_status()

    def effects(self) -> list[Any]:
        """The bodies of requests that had an effect, in order."""
        return effects_in(self._database)

    def requests(self) -> list[Request]:
        """All that came."""
        rows = self._rows("select path, key, headers, body, under_way from requests order by number")
        return [Request(path, key, json.loads(headers), body, under) for path, key, headers, body, under in rows]

    def _rows(self, query: str) -> list[Any]:
        return _rows(self._database, query)


def effects_in(database: Path) -> list[Any]:
    """The same of a server that is somewhere else."""
    return [json.loads(body) for (body,) in _rows(database, "select body from effects order by number")]


def _rows(database: Path, query: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(database, timeout=30)) as db:
        return db.execute(query).fetchall()
