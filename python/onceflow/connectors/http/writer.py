"""The writer of HTTP requests: some at a time, each until there is an answer that counts.

The requests run in an event loop on a thread of their own; ``write`` waits until all of a batch are answered. So
nothing is under way between two calls, and a slow server holds back who calls.
"""

from __future__ import annotations

import asyncio
import itertools
import ssl
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from os import PathLike
from typing import Any, NamedTuple

import httpx
import tenacity

from onceflow.columns import rows_of
from onceflow.connectors.dead_letters import DeadLetter, DeadLetters
from onceflow.connectors.http.key import key_of_output
from onceflow.connectors.http.request import RequestMaker, field_of, hashable, origin
from onceflow.connectors.http.retrying import AgainError, wanted_wait_s
from onceflow.connectors.http.status import StatusPolicy
from onceflow.crash import crash_point
from onceflow.exceptions import RefusedRecordsWarning, SinkError
from onceflow.sinks import OutputId, SinkContext, SinkWriter
from onceflow.types import Batch

__all__ = ["HttpWriter"]

#: What is read of an answer; the rest is left, and the connection closed.
_MAX_ANSWER_BYTES = 64 << 10
#: What is shorter is left where an answer quotes it: it would be found everywhere.
_SHORTEST_SECRET = 4
#: What a message shows of it.
_SHOWN_CHARACTERS = 200
#: Of a request that is sent somewhere else (307, 308).
_MAX_REDIRECTS = 5
_REDIRECTS = (307, 308)


class _Refused(Exception):  # noqa: N818 - an answer, not an error
    """The server does not want this record."""


class _Item(NamedTuple):
    record: Any
    #: Of the header, without quotation marks.
    key: str


class HttpWriter(SinkWriter):
    """See ``HttpSink`` for the settings."""

    refused: int = 0

    def __init__(
        self,
        maker: RequestMaker,
        context: SinkContext,
        *,
        retry: tenacity.AsyncRetrying,
        statuses: StatusPolicy,
        where: str,
        client: Callable[[], httpx.AsyncClient] | None,
        idempotency_key: str | Callable[[Any], Any] | None,
        key: str | Callable[[Any], Any] | None,
        concurrency: int,
        timeout_s: float,
        deadline_s: float,
        refused_is_failure: bool,
        dead_letters: str | PathLike[str] | None,
    ) -> None:
        self._maker = maker
        self._context = context
        self._retry = retry
        self._statuses = statuses
        self._where = where
        self._idempotency_key = idempotency_key
        self._key = key
        self._concurrency = concurrency
        self._timeout_s = timeout_s
        self._deadline_s = deadline_s
        self._refused_is_failure = refused_is_failure
        self._letters = None if dead_letters is None else DeadLetters(dead_letters)
        self._make_client = client or self._default_client
        self._client: httpx.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        #: Records that were written before a decision in this run.
        self._written = 0

    # -- the writer ----------------------------------------------------------------------------

    def write(self, records: Batch) -> None:
        # No checkpoint has the number 0.
        first = OutputId(self._context.run, 0, self._context.worker, self._written)
        self._written += len(records)
        self.write_output(records, first)

    def write_output(self, records: Batch, first: OutputId) -> None:
        items = self._items(rows_of(records), first)
        if self._letters is not None:
            # Whatever the server would say to them today.
            known = self._letters.known([item.key for item in items])
            items = [item for item in items if item.key not in known]
        if not items:
            return
        crash_point("http.pre_send")
        refused = self._on_the_loop(items)
        crash_point("http.post_answers")
        if refused:
            self._keep(refused)

    def flush(self) -> None:
        # Nothing is under way between two calls.
        pass

    def close(self) -> None:
        loop, self._loop = self._loop, None
        if loop is not None and self._thread is not None:
            try:
                asyncio.run_coroutine_threadsafe(self._close_client(), loop).result()
            finally:
                loop.call_soon_threadsafe(loop.stop)
                self._thread.join()
                loop.close()
        if self._letters is not None:
            self._letters.close()

    def _items(self, records: list[Any], first: OutputId) -> list[_Item]:
        chosen, mine = self._idempotency_key, self._context
        if chosen is None:
            ids = (
                OutputId(first.run, first.checkpoint, first.worker, number) for number in itertools.count(first.number)
            )
            return [_Item(record, key_of_output(mine.job, mine.sink, one)) for record, one in zip(records, ids)]  # noqa: B905 - one does not end
        items = []
        for record in records:
            key = field_of(record, chosen, "idempotency_key")
            if not isinstance(key, str) or not key:
                raise SinkError(
                    f"idempotency_key of a record is {'empty' if key == '' else f'a {type(key).__name__}'}: give a "
                    "text that no other record has"
                )
            items.append(_Item(record, key))
        return items

    def _keep(self, refused: list[tuple[_Item, str]]) -> None:
        self.refused += len(refused)
        if self._letters is None:
            if self.refused == len(refused):
                warnings.warn(
                    RefusedRecordsWarning(
                        f"sink {self._context.sink!r}: the server refuses records, which are skipped; the first: "
                        f"{refused[0][1]}. JobResult.refused counts them; on_refused='dead_letter' keeps them"
                    ),
                    stacklevel=2,
                )
            return
        mine = self._context
        crash_point("http.pre_dead_letters")
        self._letters.add(DeadLetter(item.key, mine.job, mine.sink, reason, item.record) for item, reason in refused)
        crash_point("http.post_dead_letters")

    # -- the loop ------------------------------------------------------------------------------

    def _on_the_loop(self, items: list[_Item]) -> list[tuple[_Item, str]]:
        if self._loop is None:
            self._loop = loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=loop.run_forever, name="onceflow-http", daemon=True)
            self._thread.start()
        sent = asyncio.run_coroutine_threadsafe(self._send_all(items), self._loop)
        try:
            return sent.result()
        except BaseExceptionGroup as group:
            # The first one has cancelled the others.
            error = group.exceptions[0]
            raise error from error.__cause__
        finally:
            sent.cancel()

    async def _send_all(self, items: list[_Item]) -> list[tuple[_Item, str]]:
        """Sends all of them; returns those that were refused, with the reason."""
        refused: list[tuple[_Item, str]] = []
        async with asyncio.TaskGroup() as group:
            for lane in self._lanes(items):
                group.create_task(self._send_each(lane, refused))
        return refused

    def _lanes(self, items: list[_Item]) -> Iterable[Iterator[_Item]]:
        """What is sent one after the other. Without keys, whoever has an answer takes the next one."""
        number = min(self._concurrency, len(items))
        if self._key is None:
            return [iter(items)] if number == 1 else itertools.repeat(iter(items), number)
        lanes: list[list[_Item]] = [[] for _ in range(number)]
        for item in items:
            lanes[hash(hashable(field_of(item.record, self._key, "key"))) % number].append(item)
        return [iter(lane) for lane in lanes if lane]

    async def _send_each(self, lane: Iterator[_Item], refused: list[tuple[_Item, str]]) -> None:
        if self._client is None:
            self._client = self._make_client()
        client = self._client
        for item in lane:
            request = self._maker.request(client, item.record, item.key)
            try:
                await self._retry.copy()(self._attempt, client, request)
            except _Refused as answer:
                if self._refused_is_failure:
                    raise SinkError(
                        f"{answer}. To go on without such records, give on_refused='dead_letter' (or 'skip'); what a "
                        "status means can be said by on_status"
                    ) from None
                refused.append((item, str(answer)))
            except AgainError as error:
                key = "the same key" if self._keys_stay else "another key"
                raise SinkError(
                    f"{error}, and deadline_s={self._deadline_s:g} leaves no time for another attempt. The next run "
                    f"sends the request again, with {key}"
                ) from error

    async def _attempt(self, client: httpx.AsyncClient, request: httpx.Request) -> None:
        shown = f"{request.method} {origin(request.url)}"
        try:
            async with asyncio.timeout(self._timeout_s):
                answer, text = await self._answer(client, request)
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
            raise _Refused(f"the record was refused: {told}")
        raise SinkError(f"{told}; that is no fault of one record, so the job stops (see on_status)")

    async def _answer(self, client: httpx.AsyncClient, request: httpx.Request) -> tuple[httpx.Response, str]:
        """The answer, with the beginning of its text."""
        home = origin(request.url)
        for _ in range(_MAX_REDIRECTS + 1):
            answer = await client.send(request, stream=True, follow_redirects=False)
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
        open_headers = {*_OPEN_HEADERS, self._maker.key_header.lower()}
        hidden = [value for name, value in request.headers.items() if name not in open_headers]
        secrets = [part for value in hidden for part in value.split()]
        secrets += [request.url.raw_path.decode(), *request.url.params.values(), *request.url.path.split("/")]
        for secret in secrets:
            if len(secret) >= _SHORTEST_SECRET:
                text = text.replace(secret, "***")
        shown = " ".join(text[:_SHOWN_CHARACTERS].split())
        return f": {shown}" if shown else ""

    @property
    def _keys_stay(self) -> bool:
        """Whether another run sends with the same keys."""
        return self._idempotency_key is not None or not self._written

    def _default_client(self) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=self._concurrency, max_keepalive_connections=self._concurrency)
        # ``_attempt`` bounds the time of all of it.
        return httpx.AsyncClient(limits=limits, timeout=self._timeout_s)

    async def _close_client(self) -> None:
        if self._client is not None:
            await self._client.aclose()


#: Of a request, which are no secrets; all others may be.
_OPEN_HEADERS = {"accept", "accept-encoding", "connection", "content-length", "content-type", "host", "user-agent"}


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
