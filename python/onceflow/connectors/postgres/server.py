"""A server as its DSN names it, without its secrets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import psycopg
from psycopg.conninfo import conninfo_to_dict

from onceflow.exceptions import ConfigurationError, SinkError

__all__ = ["Connect", "Server"]

#: A DSN, or a function that connects anew each time it is called.
Connect: TypeAlias = "str | Callable[[], psycopg.Connection[Any]]"

#: What a DSN may set otherwise. A server that is gone without a word is noticed within half a minute, and of several
#: hosts the primary is taken.
_DEFAULTS = {
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
    "target_session_attrs": "primary",
}
_SECRETS = ("password", "sslpassword", "passfile", "sslkey")


class Server:
    """Connects. What it shows of itself, and what errors tell, has no secrets.

    Args:
        connect: See ``Connect``.

    Raises:
        ConfigurationError: It is neither, or the DSN cannot be read.
    """

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._given: dict[str, str] = {}
        if isinstance(connect, str):
            try:
                self._given = {name: str(value) for name, value in conninfo_to_dict(connect).items()}
            except psycopg.Error:
                # Its text quotes the DSN.
                raise ConfigurationError(
                    "the DSN of PostgreSQL cannot be read (it is not shown, since it may hold a password): write "
                    "'postgresql://user@host:5432/database' or 'host=… dbname=…'; special characters of a password "
                    "are to be percent-encoded in the first form"
                ) from None
        elif not callable(connect):
            raise ConfigurationError(
                f"give the DSN of PostgreSQL, or a function that connects, not a {type(connect).__name__}"
            )

    def __repr__(self) -> str:
        return f"Server({self.shown!r})"

    @property
    def shown(self) -> str:
        """For people: host, port and database."""
        if not isinstance(self._connect, str):
            return "of a function"
        host = self._given.get("host") or self._given.get("hostaddr") or "local"
        port, database = self._given.get("port", "5432"), self._given.get("dbname", "")
        return f"{host}:{port}/{database}"

    def connect(self, application_name: str, **settings: str) -> psycopg.Connection[Any]:
        """A new session without any state of its own, so that it can go through a pooler: autocommit, nothing prepared.

        Args:
            application_name: By which the server knows it.
            settings: Of the connection, in place of those of the DSN.

        Raises:
            psycopg.OperationalError: No server, no such user, and so on.
        """
        if isinstance(self._connect, str):
            chosen = {**self.settings(), **settings}
            session = psycopg.connect(**chosen, application_name=application_name, autocommit=True)  # type: ignore[arg-type]
        else:
            session = self._connect()
            if not isinstance(session, psycopg.Connection):
                raise SinkError(f"the function that connects has given a {type(session).__name__}, no connection")
            session.autocommit = True
        session.prepare_threshold = None
        return session

    def settings(self) -> dict[str, str]:
        """Of a connection, with its secrets; of a DSN alone."""
        return {**_DEFAULTS, **self._given}

    def told(self, error: BaseException) -> str:
        """The text of an error of the client, on one line."""
        text = " ".join(str(error).split()) or type(error).__name__
        for name in _SECRETS:
            if secret := self._given.get(name):
                text = text.replace(secret, "…")
        return text
