"""Exactly once into a table of any database with transactions that SQLAlchemy reaches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from onceflow.connectors.extras import require
from onceflow.connectors.outbox import OutboxSink, OutboxTarget
from onceflow.connectors.outbox.writer import MAX_STAGED_BYTES
from onceflow.exceptions import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy import URL
    from sqlalchemy.engine import Engine

    from onceflow.connectors.sql.table import Mode, Wanted

__all__ = ["SqlSink"]

_LIBPQ = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}
_MYSQL = {"connect_timeout": 10, "read_timeout": 60, "write_timeout": 60}
#: By driver: how long it waits for a server that does not answer, where the URL says nothing of it.
_PATIENCE: dict[str, dict[str, int]] = {
    "psycopg": _LIBPQ,
    "psycopg2": _LIBPQ,
    "pymysql": _MYSQL,
    "mysqldb": _MYSQL,
}


class SqlSink(OutboxSink):
    """Appends records to a table, or replaces its rows by key, exactly once.

    Records are dicts with the columns of the table. The output of a checkpoint is written in one transaction, together
    with a marker in the table ``onceflow_sql_markers`` beside it, which is made when it is missing. See
    ``onceflow.connectors.sql.target`` for how.

    Args:
        database: A URL of SQLAlchemy, such as ``"postgresql+psycopg://user@host/name"`` or ``"sqlite:///orders.db"``;
            or a function that makes an ``Engine`` each time it is called, once for each worker of a run, which is the
            sink's own.
        table: Its name; it must exist.
        schema: Its schema (in MariaDB, its database); that of the connection by default.
        mode: ``"append"`` writes each record as a row; ``"upsert"`` replaces the row that has the record's key.
        key: Columns that are the primary key, or a unique constraint, of the table; for ``"upsert"``.
        columns: Those that records have, where the database fills in others; all by default that it does not compute.
        retry_for: So long a transaction is repeated when the connection is lost, a lock is held, or the database sees a
            conflict; then the run ends with an error, and the next one goes on.
        max_staged_bytes: See ``OutboxSink``.

    Raises:
        ConfigurationError: Settings that cannot be.
        MissingExtraError: SQLAlchemy, or the driver that the URL names, is not installed.
    """

    def __init__(
        self,
        database: str | URL | Callable[[], Engine],
        table: str,
        *,
        schema: str | None = None,
        mode: Mode = "append",
        key: str | Sequence[str] | None = None,
        columns: Sequence[str] | None = None,
        retry_for: timedelta = timedelta(minutes=2),
        max_staged_bytes: int = MAX_STAGED_BYTES,
    ) -> None:
        require("sqlalchemy", extra="sql", purpose="SqlSink")
        require("tenacity", extra="sql", purpose="SqlSink")
        wanted = _wanted(table, schema, mode, key, columns)
        if not isinstance(retry_for, timedelta) or retry_for < timedelta(0):
            raise ConfigurationError(
                f"SqlSink: retry_for={retry_for!r}: give a timedelta of 0 or more", setting="retry_for"
            )
        connect = partial(_connected, _engine_maker(database), wanted, retry_for.total_seconds())
        super().__init__(connect, max_staged_bytes=max_staged_bytes)


def _connected(make_engine: Callable[[], Engine], wanted: Wanted, retry_s: float) -> OutboxTarget:
    from onceflow.connectors.sql.target import SqlTarget  # noqa: PLC0415 - needs the extra

    return SqlTarget(make_engine, wanted, retry_s)


def _wanted(table: Any, schema: Any, mode: Any, key: Any, columns: Any) -> Wanted:
    from onceflow.connectors.sql.table import Wanted  # noqa: PLC0415 - needs the extra

    for name, value in (("table", table), *((("schema", schema),) if schema is not None else ())):
        if not isinstance(value, str) or not value:
            raise ConfigurationError(f"SqlSink: {name}={value!r}: give a name", setting=name)
    if mode not in ("append", "upsert"):
        raise ConfigurationError(f"SqlSink: mode={mode!r}: give 'append' or 'upsert'", setting="mode")
    if (mode == "upsert") != (key is not None):
        raise ConfigurationError(
            f"SqlSink: mode={mode!r} with key={key!r}: give key=[...] for 'upsert', and only for that"
        )
    keys = () if key is None else _names("key", [key] if isinstance(key, str) else key)
    return Wanted(table, schema, mode, keys, None if columns is None else _names("columns", columns))


def _names(setting: str, names: Any) -> tuple[str, ...]:
    is_list = isinstance(names, Sequence) and not isinstance(names, str)
    if not is_list or not names or not all(isinstance(name, str) and name for name in names):
        raise ConfigurationError(f"SqlSink: {setting}={names!r}: give a list of names", setting=setting)
    if len(set(names)) != len(names):
        raise ConfigurationError(f"SqlSink: {setting}={names!r}: a name is given twice", setting=setting)
    return tuple(names)


def _engine_maker(database: Any) -> Callable[[], Engine]:
    import sqlalchemy as sa  # noqa: PLC0415 - an extra

    if callable(database) and not isinstance(database, sa.URL):
        made: Callable[[], Engine] = database
        return made
    if not isinstance(database, (str, sa.URL)):
        raise ConfigurationError(
            f"SqlSink: database is a {type(database).__name__}: give a URL, or a function that makes an Engine",
            setting="database",
        )
    try:
        url = sa.make_url(database)
        given = _PATIENCE.get(url.get_driver_name(), {})
        make = partial(
            sa.create_engine,
            url,
            # Values stay out of what the library logs and raises.
            hide_parameters=True,
            pool_size=1,
            max_overflow=0,
            poolclass=sa.QueuePool,
            connect_args={name: value for name, value in given.items() if name not in url.query},
        )
        # Whether it is a kind that is known, with its driver, is told now.
        make().dispose()
    except (sa.exc.ArgumentError, ValueError):
        # Not the text: there may be a password in it.
        raise ConfigurationError(
            "SqlSink: database is not a URL of SQLAlchemy, such as 'postgresql+psycopg://user@host/name'"
        ) from None
    except ImportError as error:
        raise ConfigurationError(f"SqlSink: the driver of {url.drivername} is not installed: {error}") from error
    return make
