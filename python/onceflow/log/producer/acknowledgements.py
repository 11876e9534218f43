"""What a producer still waits for: flushing it, asking for its reports, forgetting it."""

from __future__ import annotations

import time
from contextlib import nullcontext

from onceflow.exceptions import ConfigurationError, RecordPurgedError
from onceflow.log.producer.transactions import Transactions
from onceflow.log.settings import check_timeout

__all__ = ["Acknowledgements"]


class Acknowledgements(Transactions):
    """What a producer can do with records that it has taken; a part of ``Producer``."""

    def __len__(self) -> int:
        """Records that are not acknowledged yet, and reports that nobody has asked for."""
        return self._buffer.records

    def purge(self, in_queue: bool = True, in_flight: bool = True, blocking: bool = True) -> None:
        """Forgets what waits in the buffer: its ``on_delivery`` get ``RecordPurgedError``, by ``poll`` or ``flush``.

        A transaction that loses records so can only be aborted.

        Args:
            in_queue: Whether to.
            in_flight: For compatibility: what is being written to the disk already is written.
            blocking: Whether to wait until that is written.
        """
        self._lifecycle.check_usable()
        if not in_queue:
            return
        error = RecordPurgedError("the record was purged before it was written")
        with self._sender.order if blocking else nullcontext():
            if self._sender.drop_pending(error) and self.in_transaction:
                self._lifecycle.refuse(error)

    def poll(self, timeout: float = 0.0) -> int:
        """Calls the ``on_delivery`` of records that are acknowledged.

        Args:
            timeout: How long to wait for the first of them, in seconds; below 0: until there is one, or no record that
                waits for it.

        Returns:
            How many were called.

        Raises:
            LogError: What became of earlier records without a callback.
        """
        check_timeout("poll: timeout", timeout)
        if timeout is None:
            raise ConfigurationError("poll: timeout is None; give seconds, such as 1.0")
        if timeout:
            self._buffer.wait_reported(timeout)
        served = self._buffer.serve()
        self._buffer.raise_failure()
        return served

    def flush(self, timeout: float | None = -1) -> int:
        """Waits until all records are acknowledged, and calls what their ``on_delivery`` says.

        In a transaction they are acknowledged when that has them; durable they are with its commit.

        Args:
            timeout: At most so many seconds; -1 or None: as long as it takes.

        Returns:
            Records that are still waiting.

        Raises:
            LogError: What became of records without a callback.
            LogTimeoutError, StoreIOError: A batch of ``produce_many`` still has no answer; call it again.
        """
        check_timeout("flush: timeout", timeout)
        self._lifecycle.check_usable()
        if timeout is None or timeout < 0:
            with self._sender.order:
                self._sender.drain()
                self._sender.settle()
        else:
            # The background thread writes: it may take longer than the caller wants to wait.
            deadline = time.monotonic() + timeout
            if self._buffer.wait_written(deadline):
                # What is left is a batch without an answer.
                self._sender.settle_within(deadline)
        self._buffer.serve()
        self._buffer.raise_failure()
        return self._buffer.unwritten()
