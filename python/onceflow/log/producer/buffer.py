"""Records that wait to be written, and reports that wait to be asked for; both within one bound."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence

from onceflow.exceptions import BufferFullError, OnceflowError
from onceflow.log.producer.batches import Batch, Pending, Places, Produced, Report, Staged
from onceflow.log.producer.state import Lifecycle

__all__ = ["Buffer"]


class Buffer:
    """What threads that produce, the one that writes and those that ask for reports have in common.

    Attributes:
        lock: Guards everything here. Held for moments.
        halted: Whether ``make_room`` must be asked before any record is taken: it is closed, forked, or has a failure.
        pending: Records that wait to be written, by topic.
        records: How many are not acknowledged yet, and reports that nobody has asked for.
        nbytes: What they hold.
        max_records: The bound of ``records``.
        max_bytes: The bound of ``nbytes``.
        wake: Set: there is something to write.
        full: Set: it must be written at once.
    """

    def __init__(self, lifecycle: Lifecycle, *, max_records: int, max_bytes: int, max_block_s: float) -> None:
        self._lifecycle = lifecycle
        self.max_records = max_records
        self.max_bytes = max_bytes
        self._max_block_s = max_block_s
        self.halted = False
        #: What became of records without a callback, until somebody can be told.
        self._failure: OnceflowError | None = None
        self.reset()

    def reset(self) -> None:
        """Empties it; in a forked child its locks may be held for ever by threads of the parent."""
        self.lock = threading.Lock()
        self._room = threading.Condition(self.lock)
        self._reported = threading.Condition(self.lock)
        self.pending: dict[str, Pending] = {}
        self.records = 0
        self.nbytes = 0
        self._reports: deque[Report] = deque()
        #: Threads that are calling callbacks.
        self._serving: set[int] = set()
        #: The records with callbacks of the open transaction.
        self._staged = Staged()
        self.wake = threading.Event()
        self.full = threading.Event()

    def close(self) -> None:
        """No more records are taken, and whoever waits for some to write ends."""
        with self.lock:
            self._lifecycle.closed = self.halted = True
            self.wake.set()
            self.full.set()

    # ---- in --------------------------------------------------------------------------------------

    def make_room(self, size: int) -> None:
        """Called with the lock held: waits until a record of this size may be taken.

        Raises:
            BufferFullError: It took too long.
            OnceflowError: What became of earlier records.
        """
        deadline = time.monotonic() + self._max_block_s
        while True:
            self._lifecycle.check_usable()
            if self._failure is not None:
                failure, self._failure, self.halted = self._failure, None, False
                raise failure
            # One record is always taken, however large.
            if self.records < self.max_records and (self.nbytes + size <= self.max_bytes or not self.nbytes):
                return
            self.full.set()
            if self._reports and threading.get_ident() not in self._serving:
                self.lock.release()
                try:
                    self.serve()
                finally:
                    self.lock.acquire()
                continue
            left = deadline - time.monotonic()
            if left <= 0:
                raise BufferFullError(
                    f"{self.records} records of {self.nbytes} bytes wait to be written, and none was within "
                    f"{self._max_block_s} s; produce more slowly, or raise max_buffered_records and max_buffered_bytes"
                )
            self._room.wait(min(left, threading.TIMEOUT_MAX))

    def first_of(self, topic: str) -> Pending:
        """Called with the lock held: where records of a topic go that has none waiting."""
        pending = self.pending[topic] = Pending(topic)
        self.wake.set()
        return pending

    def take_pending(self) -> list[Pending]:
        """All that waits to be written."""
        with self.lock:
            if not self._lifecycle.closed:
                self.wake.clear()
                self.full.clear()
            pending, self.pending = self.pending, {}
            return list(pending.values())

    def wait_written(self, deadline: float) -> bool:
        """Asks for everything to be written at once, and waits for it; False: it took longer."""
        with self.lock:
            self.full.set()
            left = min(deadline - time.monotonic(), threading.TIMEOUT_MAX)
            self._room.wait_for(lambda: not self._unwritten(), left)
            return not self._unwritten()

    def unwritten(self) -> int:
        """Records that are not acknowledged; those of a transaction are when it has them."""
        with self.lock:
            return self._unwritten()

    def _unwritten(self) -> int:
        return self.records - len(self._reports)

    # ---- and out ---------------------------------------------------------------------------------

    def has_staged(self) -> bool:
        """Whether records with callbacks wait for the end of a transaction."""
        return bool(self._staged)

    def end(self, produced: Sequence[Produced], error: OnceflowError | None) -> None:
        """The transaction has ended; what nobody was told yet is told with the places of the records, or the error."""
        with self.lock:
            self._staged.end(produced, error)
            self._staged = Staged()

    def stage(self, batch: Batch) -> None:
        """The transaction has a batch. Its reports are due, as its producer may wait for them before the commit."""
        self._done(batch, batch.reports(None, None, self._staged))

    def acknowledge(
        self, batch: Batch, places: Places | None, error: OnceflowError | None, *, tell: bool = True
    ) -> None:
        """Records outside of transactions have a place, or an error; without a callback, somebody must be told it."""
        reports = batch.reports(places, error)
        untold = error is not None and len(reports) < len(batch) and tell
        self._done(batch, reports, error if untold else None)

    def _done(self, batch: Batch, reports: list[Report], failure: OnceflowError | None = None) -> None:
        with self.lock:
            self.nbytes -= batch.nbytes
            self.records -= len(batch) - len(reports)
            self._reports.extend(reports)
            if failure is not None and self._failure is None:
                self._failure = failure
                self.halted = True
            self._room.notify_all()
            self._reported.notify_all()

    def wait_reported(self, timeout_s: float) -> None:
        """Until there is a report, a failure or nothing more to wait for; below 0: for as long as it takes."""
        with self.lock:
            timeout_s = threading.TIMEOUT_MAX if timeout_s < 0 else min(timeout_s, threading.TIMEOUT_MAX)
            self._reported.wait_for(lambda: self._reports or self._failure or not self.records, timeout_s)

    def serve(self) -> int:
        """Calls the callbacks that are due; one that raises stops it, and the rest stay due."""
        thread = threading.get_ident()
        if thread in self._serving:
            # A callback polls: the call that it is in goes on with the others.
            return 0
        served = 0
        self._serving.add(thread)
        try:
            while True:
                with self.lock:
                    if not self._reports:
                        return served
                    report = self._reports.popleft()
                    self.records -= 1
                    self._room.notify_all()
                served += 1
                on_delivery, message, staged, ordinal = report
                if staged is not None:
                    message = staged.known(message, ordinal)
                on_delivery(message._error, message)
        finally:
            self._serving.discard(thread)

    def raise_failure(self) -> None:
        """Tells what became of earlier records without a callback, once."""
        with self.lock:
            if self._failure is None:
                return
            failure, self._failure = self._failure, None
            self.halted = self._lifecycle.closed
        raise failure
