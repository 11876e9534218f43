"""A real PostgreSQL server for tests and benchmarks, without containers.

Needs Debian's package postgresql, which is installed when it is missing and this is root; or programs of another
PostgreSQL, in the directory that the variable ``PGBIN`` names. From a shell::

    python -m services.postgres        # prints a DSN; ends with Ctrl-C, and its data with it

The server is a child of the process that started it and ends with it. It listens on loopback only, and trusts whoever
comes, but asks a role ``guarded`` for its password.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from services.process import ServerProcess, ServerStartError, ServerUnavailableError, apt_install, free_ports

__all__ = ["PostgresReplica", "PostgresServer", "install"]

#: As users have it, but small; ``logical`` is what change data capture needs. Prepared transactions stay off, which is
#: the server's default: nothing here may need them.
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_prepared_transactions": "0",
    "wal_level": "logical",
    "max_connections": "100",
    "shared_buffers": "64MB",
    "max_wal_size": "1GB",
    "timezone": "UTC",
    "log_checkpoints": "off",
}

_READY = "database system is ready to accept connections"
_READY_TO_READ = "database system is ready to accept read-only connections"
_CLIENTS = """
host all guarded 127.0.0.1/32 scram-sha-256
host all all 127.0.0.1/32 trust
host replication all 127.0.0.1/32 trust
"""
_NO_CLUSTER = "create_main_cluster = false\n"


def install() -> Path:
    """The directory of the server's programs, installed if they are not there.

    Raises:
        ServerUnavailableError: They are missing, and cannot be installed.
    """
    if chosen := os.environ.get("PGBIN"):
        if not (Path(chosen) / "initdb").is_file():
            raise ServerUnavailableError(f"PGBIN={chosen!r} has no initdb: it must name the directory of the programs")
        return Path(chosen)
    if (found := _installed()) is None:
        if os.geteuid() == 0:
            # The package would start a server of its own.
            config = Path("/etc/postgresql-common/createcluster.conf")
            config.parent.mkdir(parents=True, exist_ok=True)
            if not config.exists():
                config.write_text(_NO_CLUSTER)
        apt_install("postgresql", "a PostgreSQL server")
        found = _installed()
    if found is None:
        raise ServerUnavailableError(
            "the Debian package postgresql is installed, and /usr/lib/postgresql has no initdb"
        )
    return found


def _installed() -> Path | None:
    programs = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    return max((each.parent for each in programs), key=lambda each: int(each.parent.name), default=None)


class PostgresServer(ServerProcess):
    """A running server; a context manager.

    Its data lie in a temporary directory, which belongs to the user ``postgres`` where this is root, and is deleted by
    ``stop``.

    Args:
        settings: Of the server besides those in ``SETTINGS``.

    Attributes:
        dsn: Of the database ``postgres``, as its superuser.
        settings: Of the server.

    Raises:
        ServerUnavailableError: See ``install``.
        ServerStartError: It did not start.
    """

    called = "the PostgreSQL server"
    #: Ends the sessions and does not wait for them.
    stop_signal = signal.SIGINT

    def __init__(self, *, settings: Mapping[str, str] | None = None) -> None:
        self.bin = install()
        self.settings = {**SETTINGS, **(settings or {})}
        self._port = 0
        self._directory = Path(tempfile.mkdtemp(prefix="onceflow-postgres-"))
        self._data = self._directory / "data"
        super().__init__(self._directory / "server.log", user="postgres")
        if self._as_user:
            shutil.chown(self._directory, "postgres", "postgres")
        self.dsn = ""
        try:
            self._create()
            self._start_on_free_ports(self._configure)
        except BaseException:
            self._delete_data()
            raise

    @contextlib.contextmanager
    def database(self, name: str) -> Iterator[str]:
        """A new empty database, for as long as it takes; its DSN. Sessions that are left in it are ended."""
        import psycopg  # noqa: PLC0415 - only who asks for a database needs a client
        from psycopg import sql  # noqa: PLC0415

        with psycopg.connect(self.dsn, autocommit=True) as session:
            session.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        try:
            yield f"{self.dsn.rpartition('/')[0]}/{name}"
        finally:
            with psycopg.connect(self.dsn, autocommit=True) as session:
                session.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", (name,))
                session.execute(
                    "select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = %s", (name,)
                )
                session.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))

    @property
    def address(self) -> str:
        """The same as ``dsn``."""
        return self.dsn

    def _create(self) -> None:
        initdb = [self.bin / "initdb", "-D", self._data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C"]
        made = subprocess.run(
            [*self._as_user, *initdb, "--no-sync"],
            check=False,
            capture_output=True,
            text=True,
            cwd="/",
        )
        if made.returncode != 0:
            raise ServerStartError(f"the server's data could not be set up:\n{made.stderr[-2000:]}")

    def _configure(self) -> None:
        (self._port,) = free_ports(1)
        self.dsn = f"postgresql://postgres@127.0.0.1:{self._port}/postgres"
        self._write_settings()
        (self._data / "pg_hba.conf").write_text(_CLIENTS)

    def _settings_now(self) -> dict[str, str]:
        return {**self.settings, "port": str(self._port)}

    def _write_settings(self) -> None:
        text = "".join(f"{name} = '{value}'\n" for name, value in self._settings_now().items())
        (self._data / "postgresql.auto.conf").write_text(text)

    def _command(self) -> list[str]:
        return [str(self.bin / "postgres"), "-D", str(self._data)]

    def _is_ready(self, printed: str) -> bool:
        return _READY in printed

    def _delete_data(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)


class PostgresReplica(PostgresServer):
    """A running replica, which follows a server by its log, asynchronously.

    Args:
        primary: Which it follows.

    Raises:
        ServerUnavailableError: See ``install``.
        ServerStartError: It did not start.
    """

    called = "the replica of the PostgreSQL server"

    def __init__(self, primary: PostgresServer) -> None:
        self._primary: PostgresServer | None = primary
        super().__init__(settings=primary.settings)

    def detach(self) -> None:
        """From now on it follows nobody: whatever comes later is not in it."""
        import psycopg  # noqa: PLC0415 - only who asks for it needs a client

        self._primary = None
        self._write_settings()
        with psycopg.connect(self.dsn, autocommit=True) as session:
            session.execute("select pg_reload_conf()")
            self._wait_for(session, "select not exists (select from pg_stat_wal_receiver)")

    def promote(self) -> None:
        """Makes it a server of its own, which takes writes."""
        import psycopg  # noqa: PLC0415 - as above

        with psycopg.connect(self.dsn, autocommit=True) as session:
            self._wait_for(session, "select pg_promote()")

    def follow(self) -> None:
        """Waits until it has all that the primary has now."""
        import psycopg  # noqa: PLC0415 - as above

        assert self._primary is not None
        with psycopg.connect(self._primary.dsn, autocommit=True) as session:
            (end,) = session.execute("select pg_current_wal_flush_lsn()::text").fetchone() or ("",)
        with psycopg.connect(self.dsn, autocommit=True) as session:
            self._wait_for(session, f"select pg_last_wal_replay_lsn() >= '{end}'::pg_lsn")

    def _wait_for(self, session: Any, query: str) -> None:
        deadline = time.monotonic() + self.start_timeout_s
        while not session.execute(query).fetchone()[0]:
            if time.monotonic() > deadline:
                raise ServerStartError(f"{self.called}: not within {self.start_timeout_s:g} s: {query}")
            time.sleep(0.02)

    def _create(self) -> None:
        assert self._primary is not None
        backup = [self.bin / "pg_basebackup", "-d", self._primary.dsn, "-D", self._data, "-R", "--checkpoint=fast"]
        made = subprocess.run(
            [*self._as_user, *backup, "--no-sync"], check=False, capture_output=True, text=True, cwd="/"
        )
        if made.returncode != 0:
            raise ServerStartError(f"the replica's data could not be set up:\n{made.stderr[-2000:]}")

    def _settings_now(self) -> dict[str, str]:
        follows = "" if self._primary is None else self._primary.dsn
        return {**super()._settings_now(), "primary_conninfo": follows}

    def _is_ready(self, printed: str) -> bool:
        return _READY in printed or _READY_TO_READ in printed
