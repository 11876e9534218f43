"""Runs a MariaDB server until it is interrupted: ``python -m services.mariadb``; prints its URL."""

from __future__ import annotations

from services.mariadb import MariaDBServer
from services.process import run_until_ended

if __name__ == "__main__":
    run_until_ended("mariadb", MariaDBServer)
