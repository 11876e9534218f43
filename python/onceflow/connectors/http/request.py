"""What of a record of the dataflow becomes a request."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import httpx

from onceflow.connectors.http.key import quoted
from onceflow.connectors.record_fields import field_of
from onceflow.connectors.values import json_line
from onceflow.exceptions import SinkError

__all__ = ["Method", "RequestMaker", "hashable", "origin"]

#: Bytes that no header has.
_FORBIDDEN = set(b"\r\n\0")

Method: TypeAlias = Literal["POST", "PUT", "PATCH", "DELETE"]


@dataclass(frozen=True, slots=True)
class RequestMaker:
    """See ``HttpSink``."""

    url: str | Callable[[Any], str]
    method: Method
    body: Callable[[Any], Any] | None
    headers: Mapping[str, str] | Callable[[Any], Mapping[str, str]]
    key_header: str

    def request(self, client: httpx.AsyncClient, record: Any, key: str) -> httpx.Request:
        """The request of a record.

        Raises:
            SinkError: It cannot be made; the text has no part of the URL but its origin, and no header.
        """
        url = self.url if isinstance(self.url, str) else field_of(record, self.url, "url")
        extra = field_of(record, self.headers, "headers") if callable(self.headers) else self.headers
        content = self._content(record)
        # Of an answer hardly anything is read, and it should not grow when it is.
        headers = httpx.Headers({"accept-encoding": "identity"})
        if isinstance(content, _Json):
            headers["content-type"] = "application/json"
        try:
            headers.update(extra)
            headers[self.key_header] = quoted(key)
            data = None if content is None else content if isinstance(content, bytes) else content.encode()
            request = client.build_request(self.method, url, headers=headers, content=data)
        except ValueError as error:
            # Neither URL nor headers are shown.
            raise SinkError(f"the request of a record cannot be made ({type(error).__name__}: {error})") from error
        except (TypeError, httpx.InvalidURL) as error:
            raise SinkError(
                f"the request of a record cannot be made ({type(error).__name__}): give a URL such as "
                "'https://example.com/orders', and texts as headers"
            ) from None
        if any(_FORBIDDEN & set(value) for _, value in request.headers.raw):
            # Whatever refuses it later would quote it.
            raise SinkError("a header of a record has a line break in it, or a zero byte")
        if request.url.scheme not in ("http", "https") or not request.url.host:
            raise SinkError("the URL of a record is not one such as 'https://example.com/orders'")
        return request

    def _content(self, record: Any) -> bytes | str | None:
        made = record if self.body is None else field_of(record, self.body, "body")
        if self.body is not None and (made is None or isinstance(made, (bytes, str))):
            return made
        try:
            return _Json(json_line(made))
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise SinkError(
                f"JSON cannot hold a record: {error}; map it to plain values, or give body= a function of a record "
                "that gives bytes or text"
            ) from error


class _Json(bytes):
    """What was made to JSON here, and is called so."""


def hashable(value: Any) -> Hashable:
    """The key of a record, by which requests have their order.

    Raises:
        SinkError: It cannot be one.
    """
    try:
        hash(value)
    except TypeError as error:
        raise SinkError(f"key of a record is a {type(value).__name__}: give a text, a number or a tuple") from error
    return value  # type: ignore[no-any-return]


def origin(url: httpx.URL | str) -> str:
    """Scheme, host and port of a URL: paths and queries hold tokens as well."""
    parsed = httpx.URL(url)
    port = "" if parsed.port is None else f":{parsed.port}"
    host = f"[{parsed.host}]" if ":" in parsed.host else parsed.host
    return f"{parsed.scheme}://{host}{port}"
