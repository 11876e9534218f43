"""Transactions that are repeated as a whole while the server is away, until a deadline."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

import psycopg
import tenacity
from psycopg import errors

from onceflow.connectors.postgres.server import Server
from onceflow.connectors.waiting import Waiting
from onceflow.exceptions import SinkError, SinkWaitingWarning, SourceError, SourceWaitingWarning

__all__ = ["Session"]

T = TypeVar("T")

#: Classes of errors after which the same transaction may well succeed: connection, rollback by the server (deadlock,
#: serialization), resources, intervention of an administrator, system.
_PASSING_CLASSES = ("08", "40", "53", "57", "58")
_PASSING = (errors.LockNotAvailable, errors.ReadOnlySqlTransaction)
_LONGEST_PAUSE_S = 5.0


class Session:
    """One connection to a server, made anew when it is lost.

    A transaction whose end is not known is repeated, so it must begin by reading whether it was committed.

    Args:
        server: Where to.
        application_name: See ``Server.connect``.
        retry_for_s: How long a transaction is repeated.
        who: Who waits while it is away, for people.
        error: What is raised.
    """

    def __init__(
        self,
        server: Server,
        application_name: str,
        retry_for_s: float,
        who: str,
        error: type[SinkError] | type[SourceError] = SinkError,
    ) -> None:
        self.server = server
        self._error = error
        self._is_closed = False
        self._name = application_name
        self._retry_for_s = retry_for_s
        self._connection: psycopg.Connection[Any] | None = None
        told = SinkWaitingWarning if error is SinkError else SourceWaitingWarning
        self._waiting = Waiting(who, f"PostgreSQL {server.shown}", f"retry_for_s={retry_for_s:g}", told)
        #: Called with each new connection, before it is used.
        self.greet: Callable[[psycopg.Connection[Any]], None] = lambda connection: None

    def connect(self) -> None:
        """Connects, without waiting for a server that is away.

        Raises:
            SinkError, SourceError: It cannot be reached, or does not let this user in.
        """
        try:
            with self._waiting.watched():
                self._connected()
            self._waiting.answered()
        except psycopg.Error as error:
            raise self._failed(error) from self._cause(error)

    def run(self, transaction: Callable[[psycopg.Connection[Any]], T]) -> T:
        """Runs it, again and again with longer and longer pauses, until it ends or fails for good.

        Args:
            transaction: Gets a connection in autocommit; begins and commits by itself. What it leaves open is rolled
                back.

        Raises:
            SinkError, SourceError: The server has refused it, or did not come back in time.
        """
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_passes),
            wait=tenacity.wait_random_exponential(multiplier=0.05, max=_LONGEST_PAUSE_S),
            stop=tenacity.stop_after_delay(self._retry_for_s),
            before_sleep=self._missed,
            reraise=True,
        )
        try:
            done: T = retrying(self._attempt, transaction)
            self._waiting.answered()
            return done
        except psycopg.Error as error:
            if not _passes(error):
                raise self._failed(error) from self._cause(error)
            raise self._error(
                f"{self._failed(error)}; this was tried for {self._retry_for_s:g} s. Nothing is lost: run the job "
                "again when the server is back, or give it longer by retry_for_s"
            ) from self._cause(error)

    def close(self) -> None:
        """Ends the connection, and what it has begun."""
        self._is_closed = True
        self._waiting.close()
        self._drop()

    def _missed(self, attempt: tenacity.RetryCallState) -> None:
        error = attempt.outcome.exception() if attempt.outcome else None
        self._waiting.missed("" if error is None else self.server.told(error))

    def _attempt(self, transaction: Callable[[psycopg.Connection[Any]], T]) -> T:
        with self._waiting.watched():
            connection = self._connected()
            try:
                return transaction(connection)
            except BaseException:
                try:
                    connection.rollback()
                except psycopg.Error:
                    self._drop()
                raise

    def _connected(self) -> psycopg.Connection[Any]:
        if self._is_closed:
            # By another thread than the one that is at it.
            raise self._error(f"the connection to PostgreSQL {self.server.shown} was closed")
        if self._connection is None or self._connection.closed:
            self._connection = self.server.connect(self._name)
            try:
                self.greet(self._connection)
            except BaseException:
                self._drop()
                raise
        return self._connection

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                connection.close()

    def _failed(self, error: psycopg.Error) -> SinkError | SourceError:
        return self._error(f"PostgreSQL {self.server.shown}: {self.server.told(error)}")

    def _cause(self, error: psycopg.Error) -> psycopg.Error | None:
        """The error itself, unless its text has secrets."""
        return error if self.server.told(error) == " ".join(str(error).split()) else None


def _passes(error: BaseException) -> bool:
    """Whether it can be different the next time."""
    if isinstance(error, _PASSING):
        return True
    if not isinstance(error, psycopg.OperationalError):
        return False
    # Of a connection that was lost, or was never there, there is no code.
    return error.sqlstate is None or error.sqlstate.startswith(_PASSING_CLASSES)
