"""The server that tests get keeps what was committed across a kill, and a machine that cannot run one says so."""

from __future__ import annotations

import subprocess
import sys
import time

import psycopg
import pytest
from services.postgres import PostgresServer, install
from services.process import ServerUnavailableError


def test_committed_rows_survive_a_kill_of_the_server(postgres_dsn, postgres):
    """A server that loses its data at a kill would make every test of downtime a test of nothing."""
    with psycopg.connect(postgres_dsn) as session:
        session.execute("create table kept (number int)")
        session.execute("insert into kept values (1)")
    before = postgres.pid
    with psycopg.connect(postgres_dsn) as session:
        postgres.kill()
        with pytest.raises(psycopg.OperationalError):
            session.execute("select 1")
    postgres.start()
    assert postgres.pid != before
    with psycopg.connect(postgres_dsn) as session:
        assert session.execute("select * from kept").fetchall() == [(1,)]
        assert session.execute("show max_prepared_transactions").fetchone() == ("0",)


def _reason(dsn: str) -> str:
    try:
        psycopg.connect(dsn).close()
    except psycopg.OperationalError as error:
        return str(error)
    return ""


def test_the_server_ends_with_the_process_that_started_it():
    """A killed test run leaves no server behind."""
    program = (
        "from services.postgres import PostgresServer; import os, signal; server = PostgresServer();"
        "print(server.dsn, server.log.parent, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert ended.returncode == -9, ended.stderr
    dsn, directory = ended.stdout.split()
    try:
        while "refused" not in _reason(dsn):
            time.sleep(0.05)
    finally:
        subprocess.run(["rm", "-r", directory], check=True)


def test_a_machine_without_postgres_says_so(monkeypatch, tmp_path):
    """A newcomer without the programs learns what to install."""
    monkeypatch.setenv("PGBIN", str(tmp_path))
    with pytest.raises(ServerUnavailableError, match="has no initdb"):
        install()
    monkeypatch.delenv("PGBIN")
    monkeypatch.setattr("services.postgres._installed", lambda: None)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(ServerUnavailableError, match="apt-get install postgresql"):
        PostgresServer()
