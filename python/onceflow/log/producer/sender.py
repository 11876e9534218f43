"""From the buffer to the log: in order, each batch once, whatever has to be repeated."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

from onceflow.exceptions import (
    BufferFullError,
    LogError,
    LogTimeoutError,
    OnceflowError,
    RecordPurgedError,
    StoreIOError,
    TransactionAbortedError,
)
from onceflow.log.forgetting import when_forgotten
from onceflow.log.producer.batches import Batch, Pending, Places, Produced
from onceflow.log.producer.buffer import Buffer
from onceflow.log.producer.state import Lifecycle
from onceflow.log.producer.topics import TopicCache
from onceflow.log.settings import told

if TYPE_CHECKING:
    from onceflow import _native
    from onceflow.log.log_time import LogTime

__all__ = ["UNANSWERED", "Sender"]

_T = TypeVar("_T")

#: Errors after which nobody knows whether the call was applied; the native producer keeps and repeats it.
UNANSWERED = (LogTimeoutError, StoreIOError)
#: How long to wait between repetitions of a call that got no answer because of the disk.
_REPEAT_AFTER_S = 0.05


class Sender:
    """Gives batches to the native producer, in the order of ``order``, and their outcome to the buffer.

    Attributes:
        order: Held while batches go to the native producer. Taken before the buffer's lock.
        unanswered: Whether the native producer has a write that got no answer.
    """

    def __init__(
        self,
        native: _native.LogProducer,
        lifecycle: Lifecycle,
        buffer: Buffer,
        topics: TopicCache,
        log_time: LogTime,
        *,
        linger_s: float,
        delivery_timeout_s: float,
    ) -> None:
        self._native = native
        self._lifecycle = lifecycle
        self._buffer = buffer
        self._topics = topics
        self._time = log_time
        self._linger_s = min(linger_s, threading.TIMEOUT_MAX)
        self._delivery_timeout_s = delivery_timeout_s
        self._transactional = native.transactional_id is not None
        self._turn = 0
        self.unanswered = False
        self.reset()

    def reset(self) -> None:
        """In a forked child there is no thread, and the lock may be held for ever by one of the parent."""
        self.order = threading.RLock()
        self._thread: threading.Thread | None = None

    # ---- the background thread -------------------------------------------------------------------

    def start(self) -> None:
        """Begins to write in the background, unless it does so already; called with the buffer's lock held."""
        if self._thread is not None:
            return
        _SENDERS.add(self)
        self._thread = threading.Thread(
            target=_send_in_background,
            args=(weakref.ref(self), self._buffer.wake, self._buffer.full, self._linger_s),
            name="onceflow-producer",
            daemon=True,
        )
        when_forgotten(self, self._buffer.wake.set)
        self._thread.start()

    def join(self) -> None:
        """Waits for the end of the background thread; the buffer must be closed."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def halt(self) -> None:
        """A forked child has the buffer, perhaps locked, but not the thread: nothing may seem to work there."""
        self._buffer.halted = True
        self._buffer.reset()
        self.reset()

    @property
    def ended(self) -> bool:
        """Whether there is nothing to write any more."""
        return self._lifecycle.closed

    # ---- batches ---------------------------------------------------------------------------------

    def drain(self) -> None:
        """Gives all that is in the buffer to the native producer."""
        with self.order:
            for pending in self._buffer.take_pending():
                self._send(pending)

    def drop_pending(self, error: TransactionAbortedError | RecordPurgedError) -> bool:
        """Forgets what is in the buffer; whether there was anything."""
        dropped = self._buffer.take_pending()
        for pending in dropped:
            self._buffer.acknowledge(self._batch(pending), None, error, tell=False)
        return bool(dropped)

    def _batch(self, pending: Pending) -> Batch:
        self._turn += 1
        return Batch(pending, self._topics.partitions(pending.topic), self._turn, self._time.wall_ms())

    def _send(self, pending: Pending) -> None:
        batch = self._batch(pending)
        try:
            self.settle_before()
            places = self._append(batch)
        except Exception as failed:
            # Whatever it is: the records are counted as waiting, and who flushes would wait for ever.
            error = told(failed)
            if self._transactional:
                # The commit will tell.
                self._lifecycle.refuse(error)
                self._buffer.acknowledge(batch, None, error, tell=not self._native.in_transaction)
            elif (
                len(pending) > 1
                and isinstance(error, LogError)
                and not isinstance(error, (*UNANSWERED, BufferFullError))
            ):
                # One record may have spoiled it for all, if the topic was changed in between.
                for one in pending.one_by_one():
                    self._send(one)
            else:
                self._buffer.acknowledge(batch, None, error)
            return
        if self._transactional:
            self._buffer.stage(batch)
        else:
            self._buffer.acknowledge(batch, places, None)

    def _append(self, batch: Batch) -> Places | None:
        """Writes a batch; None: it belongs to a transaction that is repeated before its commit."""
        try:
            places = self._native.produce(
                batch.topic,
                batch.values,
                now_ms=self._time.now_ms(),
                wall_ms=self._time.wall_ms(),
                keys=batch.keys,
                timestamps=batch.timestamps,
                headers=batch.headers,
                partition=batch.partitions,
            )
        except UNANSWERED:
            self.unanswered = True
            if self._transactional:
                # It is repeated before the commit.
                return None
            places = self.settle()
        return Places(self.produced(places))

    # ---- repetitions -----------------------------------------------------------------------------

    def settle(self, timeout_s: float | None = None) -> list[tuple[int, int, int, int]]:
        """Repeats a write that got no answer, until it has one or the time is over; says where its records are."""
        if not self.unanswered:
            return []
        timeout_s = self._delivery_timeout_s if timeout_s is None else timeout_s
        places = self.repeated(lambda: self._native.flush(now_ms=self._time.now_ms()), timeout_s)
        self.unanswered = False
        return places

    def settle_before(self) -> None:
        """The same before other records are written; an error says that those were not taken."""
        try:
            self.settle()
        except UNANSWERED as error:
            raise BufferFullError(
                f"an earlier batch still has no answer, so these records were not taken: {error}; "
                "call flush until it succeeds, then produce them again"
            ) from error

    def settle_within(self, deadline: float) -> None:
        """The same, unless another thread is at it for longer."""
        left = min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX)
        if self.unanswered and self.order.acquire(timeout=left):
            try:
                self.settle(max(0.0, deadline - time.monotonic()))
            finally:
                self.order.release()

    def repeated(self, call: Callable[[], _T], timeout_s: float) -> _T:
        """Makes a call until it has an answer, or the time is over."""
        deadline = time.monotonic() + timeout_s
        while True:
            self._lifecycle.check_usable()
            try:
                return call()
            except UNANSWERED:
                if time.monotonic() + _REPEAT_AFTER_S >= deadline:
                    raise
                time.sleep(_REPEAT_AFTER_S)

    # ---- outcomes --------------------------------------------------------------------------------

    def produced(self, places: Iterable[tuple[int, int, int, int]]) -> list[Produced]:
        """Where records are, with the names of their topics."""
        return [
            Produced(self._topics.name(topic), partition, first, count) for topic, partition, first, count in places
        ]

    def end(self, places: Iterable[tuple[int, int, int, int]], error: OnceflowError | None) -> None:
        """The transaction has ended: its records have a place, or an error."""
        self._buffer.end(self.produced(places) if self._buffer.has_staged() else [], error)


def _send_in_background(
    sender: weakref.ref[Sender], wake: threading.Event, full: threading.Event, linger_s: float
) -> None:
    """The background thread: ends with ``close``, or when the producer is forgotten."""
    while True:
        wake.wait()
        full.wait(linger_s)
        alive = sender()
        if alive is None or alive.ended:
            return
        alive.drain()
        del alive


#: Those that have a background thread.
_SENDERS: weakref.WeakSet[Sender] = weakref.WeakSet()


def _halt_in_child() -> None:
    for sender in _SENDERS:
        sender.halt()


os.register_at_fork(after_in_child=_halt_in_child)
