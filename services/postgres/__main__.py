"""Runs a PostgreSQL server until it is interrupted: ``python -m services.postgres``; prints its DSN."""

from __future__ import annotations

from services.postgres import PostgresServer
from services.process import run_until_ended

if __name__ == "__main__":
    run_until_ended("postgres", PostgresServer)
