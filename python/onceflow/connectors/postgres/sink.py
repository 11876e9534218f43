"""Tables of PostgreSQL as a sink: the output of a checkpoint is there at once, once, after the decision.

It is an outbox (``onceflow.connectors.outbox.writer`` says how it works) whose target is a table; see ``destination``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, cast

import msgspec

from onceflow.checks import CheckContext, Finding
from onceflow.connectors.outbox.writer import OutboxWriter, with_run
from onceflow.connectors.postgres.destination import PostgresDestination, Settings
from onceflow.connectors.postgres.encode import Delete
from onceflow.connectors.postgres.inspection import look_at_table
from onceflow.connectors.postgres.leftovers import left_in_postgres
from onceflow.connectors.postgres.server import Connect, Server
from onceflow.connectors.postgres.staged import Part
from onceflow.exceptions import ConfigurationError
from onceflow.leftovers import Leftover, LeftoverContext
from onceflow.log.settings import check_seconds
from onceflow.sinks import SinkContext, TransactionalSink, TransactionalSinkWriter
from onceflow.types import Plain

__all__ = ["PostgresSink"]


class PostgresSink(TransactionalSink):
    """Writes records into a table that exists, exactly once: rows and a marker in one transaction.

    Records are dicts of the columns' names, or columns. A value that the column would round, cut or not take is refused
    before the decision.

    Args:
        connect: DSN, such as ``"postgresql://user@host/database"``, or a function that gives a ``psycopg.Connection``
            of its own each time it is called. A password is best left to ``~/.pgpass`` or the variable PGPASSWORD.
        table: Its name, with or without schema: ``"counts"``, ``"public.counts"``.
        mode: ``"append"``: each record is a row. ``"upsert"``: it replaces the row of its key, if there is one.
        key: Of an upsert: column, or columns, on which the table has a primary key or a unique index.
        delete: Of an upsert: name of a field that says whether the row of the record's key is deleted instead, or a
            function of the record that says so. A field that is no column of the table is not written.
        columns: Those that are written; None: all but generated and identity columns and those with a default. A record
            has all of them and no other field.
        rejected: Name of a table, made if it is missing, for records that violate a constraint: they are put there in
            the same transaction and the rest is written. None: such a record stops the job, which names it.
        markers_schema: Schema of the table ``onceflow_markers``; None: that of the table.
        retry_for_s: How long a transaction is repeated while the server is away, before the job stops. Nothing is lost
            then either.
        may_be_emptied: Others take rows away, so a table that is empty at a start is none that was truncated.

    Raises:
        ConfigurationError: Settings that cannot be.
    """

    def __init__(
        self,
        connect: Connect,
        table: str,
        *,
        mode: Literal["append", "upsert"] = "append",
        key: str | Sequence[str] | None = None,
        delete: Delete | None = None,
        columns: Sequence[str] | None = None,
        rejected: str | None = None,
        markers_schema: str | None = None,
        retry_for_s: float = 300.0,
        may_be_emptied: bool = False,
    ) -> None:
        if mode not in ("append", "upsert"):
            raise ConfigurationError(f"PostgresSink: mode={mode!r}: give 'append' or 'upsert'", setting="mode")
        keys = () if key is None else (key,) if isinstance(key, str) else tuple(key)
        if (mode == "upsert") != bool(keys):
            raise ConfigurationError(
                f"PostgresSink: mode={mode!r} with key={key!r}: an upsert has a key, such as key='id', and what is "
                "appended has none"
            )
        if len(set(keys)) != len(keys) or (columns is not None and len(set(columns)) != len(columns)):
            raise ConfigurationError(f"PostgresSink: key={key!r}, columns={columns!r}: name each column once")
        if delete is not None and mode != "upsert":
            raise ConfigurationError("PostgresSink: delete= needs mode='upsert' and a key, by which rows are found")
        if isinstance(columns, str):
            raise ConfigurationError(f"PostgresSink: columns={columns!r}: give a list of names", setting="columns")
        for name, value in (("table", table), ("rejected", rejected)):
            if value is not None and (not isinstance(value, str) or not value or value.count(".") > 1):
                raise ConfigurationError(
                    f"PostgresSink: {name}={value!r}: give 'table' or 'schema.table'", setting=name
                )
        check_seconds("PostgresSink: retry_for_s", retry_for_s)
        self._server = Server(connect)
        chosen = None if columns is None else tuple(columns)
        self._settings = Settings(
            table, mode, keys, chosen, delete, rejected, markers_schema, float(retry_for_s), may_be_emptied
        )

    def open(self, context: SinkContext) -> TransactionalSinkWriter:
        """See ``Sink``."""
        context = with_run(context)
        return _PostgresWriter(PostgresDestination(self._server, self._settings, context), context)

    def check(self, context: CheckContext) -> Iterable[Finding]:
        """See ``Sink``."""
        return look_at_table(self._server, self._settings, context)

    def leftovers(self, context: LeftoverContext) -> Iterable[Leftover]:
        """See ``Sink``."""
        return left_in_postgres(self._server, self._settings, context)


class _PostgresWriter(OutboxWriter[Part]):
    def __init__(self, destination: PostgresDestination, context: SinkContext) -> None:
        super().__init__(destination, context)
        self._table = destination

    def snapshot(self) -> Plain:
        # Which history of the server the output lies in.
        written = cast("dict[str, Plain]", super().snapshot())
        return written | {"server": cast("Plain", msgspec.to_builtins(self._table.identity))}
