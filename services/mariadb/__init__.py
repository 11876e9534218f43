"""A real MariaDB server for tests and benchmarks, without containers.

Needs Debian's packages mariadb-server-core and mariadb-client-core, which are installed when they are missing and this
is root; they bring the programs and start nothing. From a shell::

    python -m services.mariadb        # prints a URL; ends with Ctrl-C, and its data with it

The server is a child of the process that started it and ends with it. It listens on loopback only; ``root`` has no
password.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from services.process import ServerProcess, ServerStartError, ServerUnavailableError, apt_install, free_ports

__all__ = ["MariaDBServer", "install"]

#: As users have it, but small. The client names no character set or mode of its own.
SETTINGS = {
    "bind-address": "127.0.0.1",
    "skip-name-resolve": "ON",
    "innodb-buffer-pool-size": "64M",
    "innodb-log-file-size": "32M",
    "performance-schema": "OFF",
    "character-set-server": "utf8mb4",
}

_PACKAGES = ("mariadb-server-core", "mariadb-client-core")
_READY = "ready for connections"
#: Owns the data where this is root, which the server refuses to run as: nobody, and the group of the same number.
_USER = 65534


def install() -> tuple[str, str]:
    """The programs that make a data directory and serve it, installed if they are not there.

    Raises:
        ServerUnavailableError: They are missing, and cannot be installed.
    """
    for last in (False, True):
        found = [shutil.which(name, path="/usr/sbin:/usr/bin") for name in ("mariadb-install-db", "mariadbd")]
        if all(found) and shutil.which("my_print_defaults"):
            return str(found[0]), str(found[1])
        if not last:
            for package in _PACKAGES:
                apt_install(package, "a MariaDB server")
    raise ServerUnavailableError(f"the Debian packages {' and '.join(_PACKAGES)} have no server")


class MariaDBServer(ServerProcess):
    """A running server; a context manager.

    Its data lie in a temporary directory, which belongs to ``nobody`` where this is root, and is deleted by ``stop``.

    Args:
        settings: Of the server besides those in ``SETTINGS``.

    Attributes:
        port: On loopback.

    Raises:
        ServerUnavailableError: See ``install``.
        ServerStartError: It did not start.
    """

    called = "the MariaDB server"

    def __init__(self, *, settings: Mapping[str, str] | None = None) -> None:
        self._install, self._server = install()
        self._settings = {**SETTINGS, **(settings or {})}
        self._directory = Path(tempfile.mkdtemp(prefix="onceflow-mariadb-"))
        self._data = self._directory / "data"
        super().__init__(self._directory / "server.log", user=str(_USER))
        self.port = 0
        try:
            self._create()
            self._start_on_free_ports(self._choose_port)
        except BaseException:
            self._delete_data()
            raise

    @contextlib.contextmanager
    def database(self, name: str) -> Iterator[str]:
        """A new empty database, for as long as it takes; its URL for SQLAlchemy, as ``root``."""
        self._ask(f"create database `{name}`")
        try:
            yield self.url(name)
        finally:
            self._ask(f"drop database `{name}`")

    def url(self, database: str = "") -> str:
        """For SQLAlchemy."""
        return f"mariadb+pymysql://root@127.0.0.1:{self.port}/{database}"

    @property
    def address(self) -> str:
        """The URL of no database."""
        return self.url()

    def _ask(self, statement: str) -> None:
        import pymysql  # noqa: PLC0415 - only who asks for a database needs a client

        with pymysql.connect(host="127.0.0.1", port=self.port, user="root") as session, session.cursor() as cursor:
            cursor.execute(statement)

    def _choose_port(self) -> None:
        (self.port,) = free_ports(1)

    def _create(self) -> None:
        self._directory.chmod(0o755)
        self._data.mkdir()
        if self._as_user:
            shutil.chown(self._data, _USER, _USER)
        options = ["--no-defaults", f"--datadir={self._data}", "--auth-root-authentication-method=normal"]
        made = subprocess.run(
            [*self._as_user, self._install, *options, "--skip-test-db", "--skip-name-resolve"],
            check=False,
            capture_output=True,
            text=True,
            cwd="/",
        )
        if made.returncode != 0:
            raise ServerStartError(
                f"the server's data could not be set up:\n{made.stdout[-2000:]}{made.stderr[-2000:]}"
            )

    def _command(self) -> list[str]:
        paths = {"datadir": self._data, "socket": self._data / "socket", "pid-file": self._data / "pid"}
        given = {**self._settings, **paths, "port": self.port}
        return [self._server, "--no-defaults", *(f"--{name}={value}" for name, value in given.items())]

    def _is_ready(self, printed: str) -> bool:
        return _READY in printed

    def _delete_data(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)
