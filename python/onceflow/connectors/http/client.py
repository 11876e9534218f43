"""The client that sends requests of ours: an answer as it counts, and nothing secret in a message or a log."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from datetime import UTC, datetime

import httpx

from onceflow.connectors.http.request import origin
from onceflow.connectors.http.retrying import AgainError, wanted_wait_s
from onceflow.connectors.http.status import StatusPolicy
from onceflow.exceptions import SinkError

__all__ = ["THREAD", "Client", "RefusedError"]

#: Name of the thread that requests are sent on.
THREAD = "onceflow-http"
#: What is read of an answer; the rest is left, and the connection closed.
_MAX_ANSWER_BYTES = 64 << 10
#: What is shorter is left where an answer quotes it: it would be found everywhere.
_SHORTEST_SECRET = 4
#: What a message shows of it.
_SHOWN_CHARACTERS = 200
#: Of a request that is sent somewhere else (307, 308).
_MAX_REDIRECTS = 5
_REDIRECTS = (307, 308)
#: Of a request, which are no secrets; all others may be.
_OPEN_HEADERS = {"accept", "accept-encoding", "connection", "content-length", "content-type", "host", "user-agent"}
#: They log URLs, with passwords and tokens in them, and headers of answers.
_LOGGERS = ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.http2", "httpcore.proxy")


class _NoRequests(logging.Filter):
    """Lets pass what is not about requests of ours."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.threadName != THREAD


_NO_REQUESTS = _NoRequests()


def _say_no_requests() -> None:
    for name in _LOGGERS:
        # Twice is once.
        logging.getLogger(name).addFilter(_NO_REQUESTS)


class RefusedError(Exception):
    """The server does not want this record."""


class Client:
    """Used in one event loop, on the thread of the name above.

    Args:
        make: The user's own client; None: one with the usual settings.
        statuses: What is done about each.
        timeout_s: Of one attempt.
        concurrency: So many connections at most.
        key_header: Which is no secret.
    """

    def __init__(
        self,
        make: Callable[[], httpx.AsyncClient] | None,
        statuses: StatusPolicy,
        timeout_s: float,
        concurrency: int,
        key_header: str,
    ) -> None:
        _say_no_requests()
        limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
        # ``attempt`` bounds the time of all of it.
        self.http = httpx.AsyncClient(limits=limits, timeout=timeout_s) if make is None else make()
        self._statuses = statuses
        self._timeout_s = timeout_s
        self._open_headers = {*_OPEN_HEADERS, key_header.lower()}

    async def close(self) -> None:
        """Ends the connections."""
        await self.http.aclose()

    async def attempt(self, request: httpx.Request) -> None:
        """Sends it once; returns when the answer says that it is done.

        Raises:
            AgainError: It may come to something the next time.
            RefusedError: The server does not want this record.
            SinkError: There is no use in going on.
        """
        shown = f"{request.method} {origin(request.url)}"
        try:
            async with asyncio.timeout(self._timeout_s):
                answer, text = await self._answer(request)
        except TimeoutError:
            raise AgainError(f"{shown} has not answered within timeout_s={self._timeout_s:g}") from None
        except (httpx.LocalProtocolError, httpx.UnsupportedProtocol):
            # What it says may quote a header.
            raise SinkError(f"{shown} cannot be sent: its headers or URL are not as HTTP has them") from None
        except httpx.TransportError as error:
            if (reason := _certificate_problem(error)) is not None:
                raise SinkError(
                    f"{shown}: TLS refuses the server: {reason}. Give client= a function that makes an "
                    "httpx.AsyncClient which trusts it, if it is to be trusted"
                ) from None
            raise AgainError(f"{shown} has failed: {type(error).__name__}: {error}") from error
        outcome = self._statuses.outcome(answer.status_code)
        if outcome == "ok":
            return
        told = f"{shown} has answered {answer.status_code} {answer.reason_phrase}{self._without_secrets(text, request)}"
        if outcome == "retry":
            raise AgainError(told, wanted_wait_s(answer.headers, datetime.now(UTC)))
        if outcome == "refuse":
            raise RefusedError(f"the record was refused: {told}")
        raise SinkError(f"{told}; that is not the fault of one record, so the job stops (see on_status)")

    async def _answer(self, request: httpx.Request) -> tuple[httpx.Response, str]:
        """The answer, with the beginning of its text."""
        home = origin(request.url)
        for _ in range(_MAX_REDIRECTS + 1):
            answer = await self.http.send(request, stream=True, follow_redirects=False)
            try:
                again = answer.next_request if answer.status_code in _REDIRECTS else None
                text = b""
                if again is None:
                    text = await _beginning(answer)
            finally:
                await answer.aclose()
            if again is None:
                return answer, text.decode(errors="replace")
            if origin(again.url) != home:
                raise SinkError(
                    f"{request.method} {home} is sent on to {origin(again.url)}, which is not followed: its headers "
                    "may be meant for this server alone. Give the URL that it should go to"
                )
            request = again
        raise SinkError(f"{request.method} {home} is sent on more than {_MAX_REDIRECTS} times")

    def _without_secrets(self, text: str, request: httpx.Request) -> str:
        """The beginning of an answer, in a message; what it quotes of headers and URL is left out."""
        hidden = [value for name, value in request.headers.items() if name not in self._open_headers]
        secrets = [part for value in hidden for part in value.split()]
        secrets += [request.url.raw_path.decode(), *request.url.params.values(), *request.url.path.split("/")]
        for secret in secrets:
            if len(secret) >= _SHORTEST_SECRET:
                text = text.replace(secret, "***")
        shown = " ".join(text[:_SHOWN_CHARACTERS].split())
        return f": {shown}" if shown else ""


async def _beginning(answer: httpx.Response) -> bytes:
    text = bytearray()
    async for chunk in answer.aiter_raw():
        text += chunk
        if len(text) >= _MAX_ANSWER_BYTES:
            break
    return bytes(text[:_MAX_ANSWER_BYTES])


def _certificate_problem(error: BaseException) -> str | None:
    """Why a server is not to be trusted, or speaks no TLS; None if it is something that may pass."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return cause.verify_message or str(cause)
        if isinstance(cause, ssl.SSLError) and cause.reason == "WRONG_VERSION_NUMBER":
            return "it does not speak TLS on this port"
        cause = cause.__cause__ or cause.__context__
    return None
