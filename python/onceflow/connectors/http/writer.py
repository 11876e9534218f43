"""The writer of HTTP requests: some at a time, each until there is an answer that counts.

The requests run in an event loop on a thread of their own; ``write`` waits until all of a batch are answered. So
nothing is under way between two calls, and a slow server holds back who calls.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from os import PathLike
from typing import Any, NamedTuple

import tenacity

from onceflow.columns import rows_of
from onceflow.connectors.dead_letters import DeadLetter, DeadLetters
from onceflow.connectors.http.client import THREAD, Client, RefusedError
from onceflow.connectors.http.key import key_of_output
from onceflow.connectors.http.request import RequestMaker, hashable
from onceflow.connectors.http.retrying import AgainError, unless_failed
from onceflow.connectors.record_fields import field_of
from onceflow.connectors.waiting import Waiting
from onceflow.crash import crash_point
from onceflow.exceptions import RefusedRecordsWarning, SinkError
from onceflow.sinks import OutputId, SinkContext, SinkWriter
from onceflow.types import Batch

__all__ = ["HttpWriter"]


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
        connect: Callable[[], Client],
        idempotency_key: str | Callable[[Any], Any] | None,
        key: str | Callable[[Any], Any] | None,
        concurrency: int,
        max_waiting: int,
        deadline_s: float,
        where: str,
        refused_is_failure: bool,
        dead_letters: str | PathLike[str] | None,
    ) -> None:
        self._maker = maker
        self._context = context
        self._retry = retry
        self._idempotency_key = idempotency_key
        self._key = key
        self._concurrency = concurrency
        self.max_waiting = max_waiting
        self._deadline_s = deadline_s
        self._waiting = Waiting(f"sink '{context.job}/{context.sink}'", where, f"deadline_s={deadline_s:g} of a record")
        self._refused_is_failure = refused_is_failure
        self._letters = None if dead_letters is None else DeadLetters(dead_letters)
        self._connect = connect
        self._client: Client | None = None
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        #: Records that were written before a decision in this run.
        self._written = 0

    # -- the writer ----------------------------------------------------------------------------

    def check_output(self, records: Batch) -> None:
        client = self._connected().http
        for item in self._items(rows_of(records), OutputId(self._context.run, 0, self._context.worker, 0)):
            self._maker.request(client, item.record, item.key)
            if self._key is not None:
                hashable(field_of(item.record, self._key, "key"))

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
                if self._client is not None:
                    asyncio.run_coroutine_threadsafe(self._client.close(), loop).result()
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
            self._thread = threading.Thread(target=loop.run_forever, name=THREAD, daemon=True)
            self._thread.start()
        sent = asyncio.run_coroutine_threadsafe(self._send_all(items), self._loop)
        try:
            return sent.result()
        finally:
            sent.cancel()

    async def _send_all(self, items: list[_Item]) -> list[tuple[_Item, str]]:
        """Sends all of them; returns those that were refused, with the reason.

        Where one fails no further ones are begun, but those under way come to their answers: a client that is cancelled
        within its own clean-up leaves connections behind.
        """
        refused: list[tuple[_Item, str]] = []
        failed = asyncio.Event()
        errors: list[BaseException] = []
        retry = unless_failed(self._retry, failed, self._waiting)

        async def send(lane: Iterator[_Item]) -> None:
            try:
                await self._send_each(lane, refused, retry, failed)
            except Exception as error:
                errors.append(error)
                failed.set()

        await asyncio.gather(*map(send, self._lanes(items)))
        if errors:
            raise errors[0]
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

    async def _send_each(
        self,
        lane: Iterator[_Item],
        refused: list[tuple[_Item, str]],
        retry: tenacity.AsyncRetrying,
        failed: asyncio.Event,
    ) -> None:
        client = self._connected()
        for item in lane:
            if failed.is_set():
                return
            request = self._maker.request(client.http, item.record, item.key)
            try:
                await retry.copy()(client.attempt, request)
                self._waiting.answered()
            except RefusedError as answer:
                self._waiting.answered()
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

    def _connected(self) -> Client:
        """The client, which connects when it sends; made once, by whichever thread comes first."""
        with self._lock:
            if self._client is None:
                self._client = self._connect()
            return self._client

    @property
    def _keys_stay(self) -> bool:
        """Whether another run sends with the same keys."""
        return self._idempotency_key is not None or not self._written
