"""A real Redis server for tests, without containers.

Needs Debian's package redis-server, which is installed when it is missing and this is root. From a shell::

    python -m services.redis        # prints a URL; ends with Ctrl-C, and its data with it

The server is a child of the process that started it and ends with it. It listens on loopback only, and keeps each write
before it answers.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from services.process import ServerProcess, ServerUnavailableError, apt_install, free_ports

__all__ = ["RedisServer", "install"]

#: What onceflow asks of a server, and nothing that is made in the background.
SETTINGS = {
    "bind": "127.0.0.1",
    "appendonly": "yes",
    "appendfsync": "always",
    "save": '""',
    "databases": "1000",
}

_READY = "Ready to accept connections"


def install() -> str:
    """The server's program, installed if it is not there.

    Raises:
        ServerUnavailableError: It is missing, and cannot be installed.
    """
    if shutil.which("redis-server") is None:
        apt_install("redis-server", "a Redis server")
    program = shutil.which("redis-server")
    if program is None:
        raise ServerUnavailableError("the Debian package redis-server is installed, and has no redis-server")
    return program


class RedisServer(ServerProcess):
    """A running server; a context manager. ``stop`` deletes its data.

    Args:
        settings: Of the server besides those in ``SETTINGS``.

    Attributes:
        url: Of its database 0.

    Raises:
        ServerUnavailableError: See ``install``.
        ServerStartError: It did not start.
    """

    called = "the Redis server"

    def __init__(self, *, settings: Mapping[str, str] | None = None) -> None:
        self._program = install()
        self._settings = {**SETTINGS, **(settings or {})}
        self._directory = Path(tempfile.mkdtemp(prefix="onceflow-redis-"))
        self.data = self._directory / "data"
        self.data.mkdir()
        super().__init__(self._directory / "server.log")
        self.url = ""
        self._databases = itertools.count(1)
        try:
            self._start_on_free_ports(self._configure)
        except BaseException:
            self._delete_data()
            raise

    def database(self) -> str:
        """The URL of a database that nobody has had."""
        return f"{self.url.rpartition('/')[0]}/{next(self._databases)}"

    @property
    def address(self) -> str:
        """The same as ``url``."""
        return self.url

    def _configure(self) -> None:
        (port,) = free_ports(1)
        self.url = f"redis://127.0.0.1:{port}/0"
        settings = {**self._settings, "port": str(port), "dir": str(self.data)}
        self._config = self._directory / "redis.conf"
        self._config.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))

    def _command(self) -> list[str]:
        return [self._program, str(self._config)]

    def _is_ready(self, printed: str) -> bool:
        return _READY in printed

    def _delete_data(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)
