"""The sink that sends each record to a server."""

from __future__ import annotations

import functools
import math
import socket
import warnings
from collections.abc import Callable, Iterable, Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args
from urllib.request import getproxies, proxy_bypass

from onceflow.checks import CheckContext, Finding
from onceflow.connectors.extras import require
from onceflow.connectors.http.status import OnStatus, StatusPolicy
from onceflow.connectors.outbox.writer import with_run
from onceflow.exceptions import ConfigurationError, RepeatedOutputWarning
from onceflow.sinks import IdempotentSink, SinkContext, SinkWriter

if TYPE_CHECKING:
    import httpx

    from onceflow.connectors.http.request import Method

__all__ = ["HttpSink"]

#: What becomes of a record that the server refuses.
OnRefused: TypeAlias = Literal["fail", "dead_letter", "skip"]
#: Name of a field of the record, or a function of the record.
Field: TypeAlias = str | Callable[[Any], Any]

_METHODS = ("POST", "PUT", "PATCH", "DELETE")
_MAX_CONCURRENCY = 1000
#: What all sinks of a job together may hold.
_MAX_WAITING = 1_000_000
_CHECK_TIMEOUT_S = 5.0


class HttpSink(IdempotentSink):
    """Each record is one request, with an ``Idempotency-Key``
    (draft-ietf-httpapi-idempotency-key-header) that is the same however often the request is sent.

    Under exactly_once the records, and so their keys, are fixed by the decision of their checkpoint; the requests are
    sent after it, again after a crash, also by another run. A server that honours the key does each once. Without such
    a server nobody can promise that: a lost answer looks like a lost request.

    Under effectively_once requests are sent at once, so the key must come from the record: ``idempotency_key``. Under
    at_least_once too, and without such a key a crash repeats requests with new ones.

    Functions are called for each attempt of a run to send a record, so they should depend on the record alone.

    Args:
        url: Where to; or a function of the record.
        method: Of the request.
        body: A function of the record: bytes or text, sent as they are; None for no body; anything else is sent as
            JSON. By default the record itself as JSON.
        headers: More headers; or a function of the record. They are kept in no checkpoint and shown in no message.
        idempotency_key: Name of a field, or a function of the record, that gives a text which no other record has, such
            as an order's number. None: the identity of the output.
        key: Name of a field, or a function of the record: requests of one key are sent one after the other, in order.
            None: in no order.
        concurrency: So many requests at a time, at most.
        max_waiting: Where requests wait for a decision (exactly_once, at_most_once), so many of them, with those that
            are being sent, hold back the source. The end of a run waits for them.
        timeout_s: Of one attempt, from connecting to the end of the answer.
        deadline_s: Of one record, with all attempts and waits between them; then the job stops. The next run goes on
            with it.
        backoff_s: Bound of the first wait before another attempt; it doubles each time. ``Retry-After`` comes on top.
        max_backoff_s: What that bound grows to.
        on_status: By status (404) or class of them ("5xx"), in place of the defaults: ``"ok"``, ``"retry"``,
            ``"refuse"`` or ``"fail"``. By default 2xx is ok; 408, 409, 425, 429 and 5xx are sent again; 401, 403,
            407, 501 and 505, and with a fixed URL 404, 405 and 410, stop the job; other 4xx refuse the record.
        on_refused: What becomes of a record that is refused: ``"fail"`` stops the job, ``"skip"`` counts it
            (``JobResult.refused``) and says so by a ``RefusedRecordsWarning``, ``"dead_letter"`` keeps it in
            ``dead_letters``, once, and never sends it again.
        dead_letters: A file; see ``onceflow.connectors.dead_letters``.
        key_header: Name of the header.
        client: A function that gives the ``httpx.AsyncClient`` to use, for authentication, certificates, proxies. It is
            closed by the sink. By default one that checks certificates by the system's ways.

    Raises:
        ConfigurationError: Settings that cannot be.
        MissingExtraError: httpx or tenacity is not installed.
    """

    def __init__(
        self,
        url: str | Callable[[Any], str],
        *,
        method: Method = "POST",
        body: Callable[[Any], Any] | None = None,
        headers: Mapping[str, str] | Callable[[Any], Mapping[str, str]] | None = None,
        idempotency_key: Field | None = None,
        key: Field | None = None,
        concurrency: int = 8,
        max_waiting: int = 10_000,
        timeout_s: float = 30.0,
        deadline_s: float = 300.0,
        backoff_s: float = 0.2,
        max_backoff_s: float = 30.0,
        on_status: OnStatus | None = None,
        on_refused: OnRefused = "fail",
        dead_letters: str | PathLike[str] | None = None,
        key_header: str = "Idempotency-Key",
        client: Callable[[], httpx.AsyncClient] | None = None,
    ) -> None:
        require("httpx", extra="http", purpose="HttpSink")
        require("tenacity", extra="http", purpose="HttpSink")
        if method not in _METHODS:
            raise ConfigurationError(f"method={method!r}: give one of {', '.join(_METHODS)}", setting="method")
        if on_refused not in get_args(OnRefused):
            raise ConfigurationError(
                f"on_refused={on_refused!r}: give one of {', '.join(get_args(OnRefused))}", setting="on_refused"
            )
        if (on_refused == "dead_letter") != (dead_letters is not None):
            raise ConfigurationError(
                "on_refused='dead_letter' and dead_letters, a path, go together: give both or none"
            )
        _check_numbers({"concurrency": (concurrency, _MAX_CONCURRENCY), "max_waiting": (max_waiting, _MAX_WAITING)})
        times = {"timeout_s": timeout_s, "deadline_s": deadline_s, "max_backoff_s": max_backoff_s}
        _check_times({**times, "backoff_s": backoff_s})
        for name, field in (("idempotency_key", idempotency_key), ("key", key)):
            if field is not None and not isinstance(field, str) and not callable(field):
                raise ConfigurationError(
                    f"{name}={field!r}: give the name of a field, or a function of a record", setting=name
                )
        if not key_header.isascii() or not key_header.replace("-", "").isalnum():
            raise ConfigurationError(f"key_header={key_header!r}: give the name of a header", setting="key_header")
        for name, function in (("body", body), ("client", client)):
            if function is not None and not callable(function):
                raise ConfigurationError(f"{name} is a {type(function).__name__}: give a function", setting=name)
        self._statuses = StatusPolicy(on_status or {}, fixed_url=isinstance(url, str))
        self._url = url
        self._method = method
        self._body = body
        self._headers = headers
        self._idempotency_key = idempotency_key
        self._key = key
        self._concurrency = concurrency
        self._max_waiting = max_waiting
        self._timeout_s = timeout_s
        self._retry = {"backoff_s": backoff_s, "max_backoff_s": max_backoff_s, "deadline_s": deadline_s}
        self._on_refused = on_refused
        self._dead_letters = dead_letters
        self._key_header = key_header
        self._client = client
        self._where = self._shown_where()
        if idempotency_key is None:
            self.recognises = "outputs"
        self.relies_on = (
            f"the server must honour {key_header}: a request that it has had before, which is sent again after a lost "
            "answer or a crash, must have no second effect, however long the job was down"
        )

    def open(self, context: SinkContext) -> SinkWriter:
        """See ``Sink``. Says by ``RepeatedOutputWarning`` where a new lineage sends again what was sent."""
        # Its modules need the extra.
        from onceflow.connectors.http.client import Client  # noqa: PLC0415 - an extra
        from onceflow.connectors.http.request import RequestMaker  # noqa: PLC0415 - an extra
        from onceflow.connectors.http.retrying import retrying  # noqa: PLC0415 - an extra
        from onceflow.connectors.http.writer import HttpWriter  # noqa: PLC0415 - an extra

        if self._idempotency_key is None and context.newest_left is not None:
            warnings.warn(
                RepeatedOutputWarning(
                    f"job {context.job!r} goes back to checkpoint {context.restored_checkpoint} and had come to "
                    f"{context.newest_left}: sink {context.sink!r} has sent output of the checkpoints between, and "
                    "sends it again with new keys, so a server does it twice. Where that must not be, run the job with "
                    "its newest state instead, or give idempotency_key"
                ),
                stacklevel=3,
            )
        maker = RequestMaker(self._url, self._method, self._body, self._headers or {}, self._key_header)
        return HttpWriter(
            maker,
            with_run(context),
            retry=retrying(**self._retry),
            connect=functools.partial(
                Client, self._client, self._statuses, self._timeout_s, self._concurrency, self._key_header
            ),
            idempotency_key=self._idempotency_key,
            key=self._key,
            concurrency=self._concurrency,
            max_waiting=self._max_waiting,
            deadline_s=self._retry["deadline_s"],
            where=f"the server {self._where}",
            refused_is_failure=self._on_refused == "fail",
            dead_letters=self._dead_letters,
        )

    def check(self, context: CheckContext) -> Iterable[Finding]:
        """See ``Sink``: connects to the server, and sends it nothing."""
        if isinstance(self._url, str) and self._client is None:
            yield _reached(self._url, self._where)
        yield Finding(
            "warning",
            self._where,
            f"what nobody can see from here: {self.relies_on}",
            "make sure of it where the server is described, or send a request twice with one key",
        )

    def _shown_where(self) -> str:
        """Where to, without what may be secret."""
        import httpx  # noqa: PLC0415 - an extra

        from onceflow.connectors.http.request import origin  # noqa: PLC0415 - an extra

        if callable(self._url):
            return "where each record says"
        try:
            parsed = httpx.URL(self._url)
        except (TypeError, httpx.InvalidURL):
            parsed = httpx.URL()
        if parsed.scheme not in ("http", "https") or not parsed.host:
            # Not shown: it may hold a token.
            raise ConfigurationError("url is not a URL such as 'https://example.com/orders'")
        return origin(parsed)


def _check_numbers(numbers: Mapping[str, tuple[Any, int]]) -> None:
    for name, (number, most) in numbers.items():
        if not isinstance(number, int) or isinstance(number, bool) or not 0 < number <= most:
            raise ConfigurationError(f"{name}={number!r}: give a whole number from 1 to {most}", setting=name)


def _check_times(times: Mapping[str, Any]) -> None:
    for name, seconds in times.items():
        number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
        if not number or not math.isfinite(seconds) or seconds <= 0:
            raise ConfigurationError(f"{name}={seconds!r}: give a number of seconds above 0", setting=name)


def _reached(url: str, where: str) -> Finding:
    """Whether somebody listens where a URL leads to."""
    import httpx  # noqa: PLC0415 - an extra

    parsed = httpx.URL(url)
    if parsed.scheme in getproxies() and not proxy_bypass(parsed.host):
        return Finding("ok", where, "is reached through a proxy, which was not asked")
    port = parsed.port or {"http": 80, "https": 443}[parsed.scheme]
    try:
        socket.create_connection((parsed.host, port), _CHECK_TIMEOUT_S).close()
    except OSError as error:
        return Finding("error", where, f"cannot be reached: {error}", "start the server, or give another url")
    return Finding("ok", where, "can be reached")
