"""Databases that the tests of the SQL sink write to: each test has one of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

__all__ = ["KINDS", "Database", "database"]

KINDS = ("sqlite", "duckdb", "postgresql", "mariadb")


@dataclass(frozen=True)
class Database:
    """A database.

    Attributes:
        kind: One of ``KINDS``.
        url: For SQLAlchemy.
    """

    kind: str
    url: str

    def run(self, *statements: str) -> list[tuple[Any, ...]]:
        """Runs statements, each committed; the rows of the last one if it has any."""
        engine = sa.create_engine(self.url, poolclass=sa.NullPool)
        rows: list[tuple[Any, ...]] = []
        with engine.connect() as session:
            for statement in statements:
                found = session.exec_driver_sql(statement)
                rows = [tuple(row) for row in found] if found.returns_rows else []
                session.commit()
        engine.dispose()
        return rows

    @property
    def text(self) -> str:
        """A type of text that may be a key."""
        exact = "varchar(100) character set utf8mb4 collate utf8mb4_nopad_bin"
        return exact if self.kind == "mariadb" else "varchar(100)"

    def rows(self, query: str = "select * from t order by 1") -> list[tuple[Any, ...]]:
        """What is there, by the vendor's driver."""
        return self.run(query)


@contextlib.contextmanager
def database(kind: str, directory: Path, request: Any) -> Iterator[Database]:
    """A new empty one.

    Args:
        kind: One of ``KINDS``.
        directory: Where a file is made.
        request: Of pytest, for servers.
    """
    if kind == "sqlite":
        (directory / "t.db").touch()
        yield Database(kind, f"sqlite:///{directory}/t.db")
    elif kind == "duckdb":
        made = Database(kind, f"duckdb:///{directory}/t.duckdb")
        made.run("select 1")
        yield made
    elif kind == "postgresql":
        dsn = request.getfixturevalue("postgres_dsn")
        yield Database(kind, dsn.replace("postgresql://", "postgresql+psycopg://"))
    else:
        yield Database(kind, request.getfixturevalue("mariadb_url"))
