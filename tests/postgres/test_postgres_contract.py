"""Tables of PostgreSQL keep the contract of a transactional sink."""

from __future__ import annotations

import gc

import psycopg
import pytest

from onceflow.connectors.postgres import PostgresSink
from onceflow.testing import TransactionalSinkContract

#: Writers that are left open stand for processes that have died.
pytestmark = pytest.mark.filterwarnings("ignore:<psycopg.Connection.*was deleted while still open:ResourceWarning")


class _Tables(TransactionalSinkContract):
    """A table for each directory, which here is a schema."""

    table = "create table if not exists {}.out (nth bigint generated always as identity, id int, text text)"
    settings: dict = {}  # noqa: RUF012

    @pytest.fixture(autouse=True)
    def _database(self, postgres_dsn):
        self.dsn = postgres_dsn
        yield
        # Here, where it is expected, and not while another test runs.
        gc.collect()

    def make_sink(self, directory):
        schema = f"d_{directory.name.lower()}"[:60].replace("-", "_")
        with psycopg.connect(self.dsn) as session:
            session.execute(f"create schema if not exists {schema}")
            session.execute(self.table.format(schema))
        return PostgresSink(self.dsn, f"{schema}.out", **self.settings)

    def visible(self, directory):
        schema = f"d_{directory.name.lower()}"[:60].replace("-", "_")
        with psycopg.connect(self.dsn) as session:
            try:
                rows = session.execute(f"select id, text from {schema}.out order by nth").fetchall()
            except psycopg.errors.UndefinedTable:
                return []
        return [{"id": number, "text": text} for number, text in rows]


class TestAppend(_Tables):
    pass


class TestUpsert(_Tables):
    table = "create table if not exists {}.out (nth bigint generated always as identity, id int primary key, text text)"
    settings = {"mode": "upsert", "key": "id"}  # noqa: RUF012
