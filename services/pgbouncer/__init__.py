"""A real PgBouncer before a PostgreSQL server, for tests, without containers.

Needs Debian's package pgbouncer, which is installed when it is missing and this is root. It gives each transaction
whatever session is free, as poolers in transaction mode do, and lets settings of a session stay for who comes next.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from services.process import ServerProcess, ServerUnavailableError, apt_install, free_ports

__all__ = ["PgBouncer", "install"]

SETTINGS = {
    "listen_addr": "127.0.0.1",
    "unix_socket_dir": "",
    "auth_type": "trust",
    "pool_mode": "transaction",
    "default_pool_size": "2",
    "server_login_retry": "0",
}

_READY = "process up"


def install() -> str:
    """The program, installed if it is not there.

    Raises:
        ServerUnavailableError: It is missing, and cannot be installed.
    """
    if (program := shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin:/usr/local/bin:/usr/bin")) is None:
        apt_install("pgbouncer", "a pooler for PostgreSQL")
        program = shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        raise ServerUnavailableError("the Debian package pgbouncer is installed, and has no pgbouncer")
    return program


class PgBouncer(ServerProcess):
    """A running pooler; a context manager.

    Args:
        dsn: Of a database of the server behind it, ``postgresql://user@host:port/database``.
        settings: Besides those in ``SETTINGS``.

    Attributes:
        dsn: Of the same database, by way of the pooler.

    Raises:
        ServerUnavailableError: See ``install``.
        ServerStartError: It did not start.
    """

    called = "PgBouncer"

    def __init__(self, dsn: str, *, settings: Mapping[str, str] | None = None) -> None:
        self._program = install()
        self._behind = urlsplit(dsn)
        self._settings = {**SETTINGS, **(settings or {})}
        self._directory = Path(tempfile.mkdtemp(prefix="onceflow-pgbouncer-"))
        # It does not run as root.
        super().__init__(self._directory / "server.log", user="postgres")
        self._directory.chmod(0o755)
        self.dsn = ""
        try:
            self._start_on_free_ports(self._configure)
        except BaseException:
            self._delete_data()
            raise

    @property
    def address(self) -> str:
        """The same as ``dsn``."""
        return self.dsn

    def _configure(self) -> None:
        (port,) = free_ports(1)
        behind = self._behind
        self.dsn = f"postgresql://{behind.username}@127.0.0.1:{port}{behind.path}"
        users = self._directory / "users.txt"
        users.write_text(f'"{behind.username}" ""\n')
        settings = {**self._settings, "listen_port": str(port), "auth_file": str(users)}
        lines = [
            "[databases]",
            f"* = host={behind.hostname} port={behind.port}",
            "[pgbouncer]",
            *(f"{name} = {value}" for name, value in settings.items()),
        ]
        (self._directory / "pgbouncer.ini").write_text("\n".join(lines) + "\n")

    def _command(self) -> list[str]:
        return [self._program, str(self._directory / "pgbouncer.ini")]

    def _is_ready(self, printed: str) -> bool:
        return _READY in printed

    def _delete_data(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)
