"""What PostgreSQL's catalogue says of a table that is to be written, and what is refused of it before a job begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from onceflow.connectors.postgres.texts import KEY_TYPES, ColumnType
from onceflow.exceptions import SinkError

__all__ = ["Column", "Table", "TableName", "read_table"]

_TABLE = """
select c.oid, n.nspname, c.relname, c.relkind, c.relpersistence, c.relhasrules, row_security_active(c.oid),
       has_table_privilege(c.oid, 'insert'), has_table_privilege(c.oid, 'update'),
       has_table_privilege(c.oid, 'delete'), has_table_privilege(c.oid, 'select')
  from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
 where c.oid = pg_catalog.to_regclass(%s)
"""
_COLUMNS = """
select a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), b.typname,
       case when t.typtype = 'd' then t.typtypmod else a.atttypmod end,
       array(select e.enumlabel::text from pg_catalog.pg_enum e where e.enumtypid = b.oid order by e.enumsortorder),
       a.attidentity <> '', a.attidentity = 'a', a.attgenerated <> '', a.atthasdef,
       coalesce(o.collisdeterministic, true)
  from pg_catalog.pg_attribute a
  join pg_catalog.pg_type t on t.oid = a.atttypid
  join pg_catalog.pg_type b on b.oid = case when t.typtype = 'd' then t.typbasetype else t.oid end
  left join pg_catalog.pg_collation o on o.oid = a.attcollation
 where a.attrelid = %s and a.attnum > 0 and not a.attisdropped order by a.attnum
"""
_UNIQUE = """
select array(select a.attname::text from unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) k
               join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k),
       i.indpred is not null, i.indexprs is not null, i.indisvalid and i.indisready, i.indimmediate
  from pg_catalog.pg_index i where i.indrelid = %s and i.indisunique
"""


@dataclass(frozen=True, slots=True)
class TableName:
    """Schema and name."""

    schema: str
    name: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"

    def quoted(self) -> sql.Identifier:
        """For a statement."""
        return sql.Identifier(self.schema, self.name)


@dataclass(frozen=True, slots=True)
class Column:
    """One column, and who fills it in where a record does not."""

    name: str
    type: ColumnType
    identity: bool
    identity_always: bool
    generated: bool
    has_default: bool
    deterministic: bool


@dataclass(frozen=True, slots=True)
class _UniqueIndex:
    columns: frozenset[str]
    is_partial: bool
    has_expressions: bool
    is_valid: bool
    is_immediate: bool

    def why_not(self) -> str | None:
        """Why ``ON CONFLICT`` cannot go by it."""
        if self.is_partial:
            return "has a predicate, so that rows outside of it have no key"
        if self.has_expressions:
            return "is of expressions"
        if not self.is_valid:
            return "is not valid: its making was interrupted"
        return None if self.is_immediate else "is deferrable"


@dataclass(frozen=True, slots=True)
class Table:
    """As the catalogue had it."""

    oid: int
    name: TableName
    columns: dict[str, Column]
    unique: tuple[_UniqueIndex, ...]
    is_partitioned: bool

    def written(self, columns: Sequence[str] | None, key: Sequence[str]) -> list[str]:
        """The columns that are written.

        Args:
            columns: Asked for; None: all that nobody else fills in, and the key.
            key: Of an upsert.

        Raises:
            SinkError: There is none of a name, or the table fills it in always.
        """
        if columns is None:
            columns = [
                name
                for name, column in self.columns.items()
                if name in key or not (column.identity or column.generated or column.has_default)
            ]
        for name in (*columns, *key):
            column = self.columns.get(name)
            if column is None:
                raise SinkError(
                    f"table {self.name} has no column {name!r}; it has {', '.join(map(repr, self.columns))}"
                )
            if column.generated:
                raise SinkError(
                    f"column {name!r} of table {self.name} is generated and cannot be written: leave it out"
                )
        if missing := [name for name in key if name not in columns]:
            raise SinkError(f"columns= lacks {', '.join(map(repr, missing))} of the key")
        return list(columns)

    def check_key(self, key: Sequence[str]) -> None:
        """Whether rows can be found by a key.

        Raises:
            SinkError: They cannot; the text names the keys that the table has.
        """
        for name in key:
            column = self.columns[name]
            if column.type.base not in KEY_TYPES or not column.deterministic:
                why = "its collation takes different texts for equal" if not column.deterministic else "of its type"
                raise SinkError(
                    f"column {name!r} ({column.type.name}) of table {self.name} cannot be part of a key, {why}: two "
                    "values that look different can be one key"
                )
        of_these = [index for index in self.unique if index.columns == frozenset(key)]
        if any(index.why_not() is None for index in of_these):
            return
        reasons = [f"; the unique index of these {index.why_not()}" for index in of_these]
        others = [", ".join(map(repr, sorted(index.columns))) for index in self.unique if index.why_not() is None]
        known = f"it has {' and '.join(f'({each})' for each in others)}" if others else "it has none"
        partitioned = "; a key of a partitioned table holds the columns that it is partitioned by, too"
        raise SinkError(
            f"table {self.name} has no unique key of {', '.join(map(repr, key))}, by which an upsert finds its row; "
            f"{known}{''.join(reasons)}{partitioned if self.is_partitioned else ''}. Make one: alter table … add "
            f"unique ({', '.join(key)})"
        )


def read_table(
    session: psycopg.Connection[Any], name: str | TableName, mode: Literal["append", "upsert"], *, deletes: bool = False
) -> Table:
    """A table that can be written exactly once.

    Args:
        session: Of the server.
        name: With or without its schema.
        mode: How it is to be written.
        deletes: Whether rows are deleted, too.

    Raises:
        SinkError: It is missing, or no table that keeps what is written; the text says why.
    """
    quoted = _quoted(name).as_string(session)
    with session.cursor(row_factory=tuple_row) as cursor:
        row = cursor.execute(_TABLE, (quoted,)).fetchone()
        if row is None:
            raise SinkError(f"there is no table {name}; make it, or name its schema: 'schema.table'")
        oid, schema, relname, kind, persistence, rules, security, may_insert, may_update, may_delete, may_select = row
        if kind not in ("r", "p"):
            raise SinkError(f"{name} is not a table, but a view or the like: write to a table")
        if persistence != "p":
            raise SinkError(
                f"table {name} is unlogged or temporary: after a crash of the server it is empty, and the markers say "
                f"that it is not. Make it durable: alter table {name} set logged"
            )
        if rules:
            raise SinkError(f"table {name} has rules, which rewrite what is written: use triggers instead")
        if security:
            raise SinkError(
                f"row security of table {name} holds for this user, so that rows could be left out: use a role with "
                "BYPASSRLS, or the table's owner"
            )
        needed = {"insert": may_insert}
        if mode == "upsert":
            needed |= {"update": may_update, "select": may_select}
        if deletes:
            needed["delete"] = may_delete
        if lacking := [privilege for privilege, there in needed.items() if not there]:
            raise SinkError(f"this user may not write to table {name}: grant {', '.join(lacking)} on {name}")
        columns = {
            column: Column(column, ColumnType(shown, base, modifier, tuple(labels)), *others)
            for column, shown, base, modifier, labels, *others in cursor.execute(_COLUMNS, (oid,)).fetchall()
        }
        unique = tuple(_UniqueIndex(frozenset(of), *flags) for of, *flags in cursor.execute(_UNIQUE, (oid,)).fetchall())
    return Table(oid, TableName(schema, relname), columns, unique, kind == "p")


def _quoted(name: str | TableName) -> sql.Identifier:
    return name.quoted() if isinstance(name, TableName) else sql.Identifier(*name.split("."))
