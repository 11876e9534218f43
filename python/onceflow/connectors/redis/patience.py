"""How a client waits for a server that is away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import AuthenticationError, AuthorizationError
from redis.retry import Retry

from onceflow.connectors.waiting import Waiting
from onceflow.exceptions import described

__all__ = ["Patience"]

T = TypeVar("T")

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.05, 1.0


class _Refused(Exception):  # noqa: N818 - carries an error past the client's own retries
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


class Patience(Retry):
    """Repeats what failed because the server could not be reached, so often at most.

    The client takes a refused password for a server that is away; waiting does not help there. And it repeats the
    connecting within each repeated command, by which attempts would multiply.

    Args:
        attempts: Of one command.
        waiting: Is told that it is repeated.
    """

    def __init__(self, attempts: int, waiting: Waiting | None = None) -> None:
        super().__init__(ExponentialWithJitterBackoff(base=_FIRST_WAIT_S, cap=_LONGEST_WAIT_S), attempts - 1)
        self._within = False
        self._waiting = waiting

    def call_with_retry(self, do: Callable[[], T], fail: Callable[..., Any], *more: Any, **settings: Any) -> T:
        """See ``redis.retry.Retry``."""
        if self._within:
            return do()

        def once() -> T:
            try:
                return do()
            except (AuthenticationError, AuthorizationError) as error:
                raise _Refused(error) from None

        def failed(error: Exception, *count: int) -> None:
            fail(error, *count)
            if self._waiting is not None:
                self._waiting.missed(described(error))

        self._within = True
        try:
            done = super().call_with_retry(once, failed, *more, **settings)
            if self._waiting is not None:
                self._waiting.answered()
            return done
        except _Refused as refused:
            raise refused.error from None
        finally:
            self._within = False
