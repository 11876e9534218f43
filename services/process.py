"""What all real servers of tests and benchmarks share: a child of this process, on loopback, that ends with it."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

__all__ = [
    "ServerProcess",
    "ServerStartError",
    "ServerUnavailableError",
    "apt_install",
    "free_ports",
    "run_until_ended",
]

_STOP_TIMEOUT_S = 30.0
#: So often a server is started on other ports.
_TRIES = 3


class ServerUnavailableError(Exception):
    """This machine cannot run the server; the text says what to install."""


class ServerStartError(Exception):
    """The server ended or did not become ready; the text has the end of its log."""


class ServerProcess(ABC):
    """A server; a context manager that starts nothing and stops in the end.

    A class of it prepares data and settings, and then calls ``start``.

    Args:
        log: See below.
        user: Of the system, for a server that refuses to run as root; not used where this is not root.

    Attributes:
        log: What the server prints. Begun anew at each start.
    """

    #: In messages: "the broker".
    called: ClassVar[str]
    #: Asks the server to end at once, in order.
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    start_timeout_s: ClassVar[float] = 60.0

    def __init__(self, log: Path, user: str | None = None) -> None:
        self.log = log
        #: Runs a program as another user.
        self._as_user: list[str] = []
        if user is not None and os.geteuid() == 0:
            self._as_user = ["setpriv", "--reuid", user, "--regid", user, "--clear-groups"]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    @abstractmethod
    def address(self) -> str:
        """For clients."""

    @abstractmethod
    def _command(self) -> list[str]:
        """Program and arguments."""

    @abstractmethod
    def _is_ready(self, printed: str) -> bool:
        """Whether clients may come, by what the server has printed or by asking it."""

    @abstractmethod
    def _delete_data(self) -> None:
        """Removes what ``start`` would go on from."""

    def start(self) -> None:
        """Starts it again on the same address and data, after ``kill``.

        Raises:
            ServerStartError: It did not become ready.
        """
        self.launch()
        self.wait_until_ready()

    def launch(self) -> None:
        """Begins to start it, for those that come up only together with others."""
        # It must not outlive a caller that is killed. The user comes before that, or the system forgets it.
        as_user = self._as_user or (["setpriv"] if shutil.which("setpriv") else [])
        leash = [*as_user, "--pdeathsig", "KILL"] if as_user else []
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [*leash, *self._command()],
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until_ready(self) -> None:
        """Waits for what ``launch`` has begun.

        Raises:
            ServerStartError: It did not become ready.
        """
        process = self._process
        if process is None:
            raise ServerStartError(f"{self.called} is not running")
        deadline = time.monotonic() + self.start_timeout_s
        while not self._is_ready(text := self.log.read_text(errors="replace")):
            ended = process.poll() is not None
            if ended or time.monotonic() > deadline:
                self.kill()
                raise ServerStartError(f"{self.called} {'ended' if ended else 'is not ready'}:\n{text[-3000:]}")
            time.sleep(0.02)

    def _start_on_free_ports(self, configure: Callable[[], None]) -> None:
        """Configures it for ports that are free, and starts it; again on others where somebody took one meanwhile.

        Args:
            configure: Chooses ports by ``free_ports``, and writes them to where the server finds them.

        Raises:
            ServerStartError: It did not become ready.
        """
        for left in reversed(range(_TRIES)):
            try:
                configure()
                self.start()
                return
            except ServerStartError as error:
                if not left or "Address already in use" not in str(error):
                    raise

    def kill(self) -> None:
        """Ends it by SIGKILL, with all processes of its own, and keeps the data; ``start`` brings it back."""
        process = self._process
        if process is None:
            return
        # Stopped, it starts no more of them meanwhile.
        process.send_signal(signal.SIGSTOP)
        children = _children_of(process.pid)
        self._end(signal.SIGKILL)
        for child in children:
            _kill_stranger(child)

    def stop(self) -> None:
        """Ends it and deletes its data."""
        self._end(self.stop_signal)
        self._delete_data()

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    @property
    def pid(self) -> int:
        """Of the running server."""
        if self._process is None:
            raise ServerStartError(f"{self.called} is not running")
        return self._process.pid


def free_ports(number: int) -> list[int]:
    """Ports on loopback that nobody listens on now; somebody may take one before it is used."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def apt_install(package: str, what_for: str) -> None:
    """Installs a Debian package, as root.

    Raises:
        ServerUnavailableError: Not root, no Debian, or it failed; the text says what to install.
    """
    missing = f"{what_for} needs the Debian package {package}: apt-get install {package}"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise ServerUnavailableError(missing)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", package]):
        # Another process of the same test run may be at it.
        locked = ["apt-get", "-o", "DPkg::Lock::Timeout=300", *command]
        done = subprocess.run(locked, check=False, capture_output=True, text=True, env=environment)
        if done.returncode != 0:
            raise ServerUnavailableError(f"{missing} has failed:\n{done.stderr[-2000:]}")


def run_until_ended(name: str, make: Callable[[], ServerProcess]) -> None:
    """For a shell: starts a server, prints its address, and stops it at Ctrl-C or SIGTERM.

    Args:
        name: Of its module, without ``services``.
        make: Starts it.
    """
    text = "Starts a server of its own on free ports, prints its address, and stops it at Ctrl-C, with its data."
    argparse.ArgumentParser(prog=f"python -m services.{name}", description=text).parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with make() as server:
        print(server.address, flush=True)
        try:
            signal.pause()
        except KeyboardInterrupt:
            print("stopping")


def _children_of(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        found += map(int, task.read_text().split())
    return found


def _kill_stranger(pid: int) -> None:
    """Kills what is no child of ours, and returns when it holds nothing any more."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return
        if state == "Z":
            return
        time.sleep(0.005)
    raise ServerStartError(f"process {pid} outlives SIGKILL")
