"""DuckDB, by the dialect of duckdb-engine: one process at a time, transactions that conflict are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Connection, Engine

from onceflow.connectors.sql import fits
from onceflow.connectors.sql.dialect import Dialect, definition_of, parts_of, rows_of_query
from onceflow.connectors.sql.fits import Fit
from onceflow.connectors.sql.table import Column, Row, Shape, Wanted
from onceflow.exceptions import SinkError

__all__ = ["DuckdbDialect"]

_PLACE = (
    "database_name = current_database() and schema_name = coalesce(:schema, current_schema()) and table_name = :table"
)
_ROWS = 500
_SIZES = {"tinyint": 8, "smallint": 16, "integer": 32, "bigint": 64}


class DuckdbDialect(Dialect):
    """The fence's row is written in each transaction, so that of two which overlap one is refused."""

    locks_rows = False

    def check_database(self, database: sa.URL, where: str) -> None:
        path = database.database
        if not path or path == ":memory:":
            raise SinkError(f"{where} lies in memory, so that output and markers end with the process; give a file")
        if ":" not in path and not Path(path).is_file():
            raise SinkError(f"{where} does not exist: there is no file {path}; make it first, with the table")

    def prepare(self, engine: Engine) -> Engine:
        return engine

    def shape(self, connection: Connection, wanted: Wanted) -> Shape:
        rows = rows_of_query(
            connection,
            f"select column_name, data_type, is_nullable from duckdb_columns() where {_PLACE} order by column_index",  # noqa: S608
            table=wanted.table,
            schema=wanted.schema,
        )
        columns = [Column(name, declared, fit_of(declared), nullable) for name, declared, nullable in rows]
        return Shape(tuple(columns), definition_of(rows))

    def check(self, connection: Connection, wanted: Wanted) -> None:
        found = rows_of_query(
            connection,
            f"select 1 from duckdb_tables() where not temporary and {_PLACE}",  # noqa: S608
            table=wanted.table,
            schema=wanted.schema,
        )
        if not found:
            raise SinkError(f"{wanted.where} is a view or temporary, no table of its own")

    def unique_keys(self, connection: Connection, wanted: Wanted) -> list[frozenset[str]]:
        rows = rows_of_query(
            connection,
            "select constraint_column_names from duckdb_constraints() where constraint_type in ('PRIMARY KEY', "  # noqa: S608
            f"'UNIQUE') and {_PLACE}",
            table=wanted.table,
            schema=wanted.schema,
        )
        return [frozenset(columns) for (columns,) in rows]

    def has_rules(self, connection: Connection, wanted: Wanted) -> bool:
        rules = rows_of_query(
            connection,
            "select 1 from duckdb_constraints() where constraint_type in ('CHECK', 'FOREIGN KEY') and "  # noqa: S608
            f"{_PLACE} union all select 1 from duckdb_indexes() where is_unique and {_PLACE}",
            table=wanted.table,
            schema=wanted.schema,
        )
        return bool(rules)

    def insert(self, table: sa.Table) -> Any:
        return postgresql.insert(table)

    def write(self, connection: Connection, statement: Any, rows: list[Row]) -> None:
        # One statement for many rows: with one each it takes a hundred times as long.
        for start in range(0, len(rows), _ROWS):
            connection.execute(statement.values(rows[start : start + _ROWS]))

    def is_transient(self, error: sa.exc.DBAPIError) -> bool:
        return "onflict" in str(error.orig)


def fit_of(declared: str) -> Fit | None:
    """What a column keeps."""
    name, first, second, _ = parts_of(declared)
    if bits := _SIZES.get(name):
        return fits.integers(-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    if name == "decimal":
        return fits.decimals(first, second)
    return {
        "double": fits.floats(nan=True, infinite=True),
        "varchar": fits.texts(),
        "blob": fits.binaries(),
        "boolean": fits.booleans(),
        "date": fits.dates(),
        "timestamp": fits.moments(),
        "timestamp with time zone": fits.instants(),
    }.get(name)
