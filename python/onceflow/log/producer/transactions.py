"""The calls of a transaction, from ``init_transactions`` to its end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self, TypeVar

from onceflow.exceptions import (
    ConfigurationError,
    LogTimeoutError,
    OnceflowError,
    ProducerFencedError,
    TransactionAbortedError,
)
from onceflow.log.membership import ConsumerGroupMetadata
from onceflow.log.metadata import Described
from onceflow.log.producer.arguments import real_offset
from onceflow.log.producer.buffer import Buffer
from onceflow.log.producer.sender import UNANSWERED, Sender
from onceflow.log.producer.state import Call, Lifecycle, ProducerState
from onceflow.log.settings import check_items, check_name, check_timeout
from onceflow.log.topic_partition import Positions, TopicPartition

if TYPE_CHECKING:
    from onceflow import _native
    from onceflow.log.log_time import LogTime

__all__ = ["Transactions"]

_T = TypeVar("_T")


class Transactions(Described):
    """What a producer with a transactional id can do besides writing; a part of ``Producer``."""

    def __init__(
        self,
        log: _native.Log,
        native: _native.LogProducer,
        lifecycle: Lifecycle,
        buffer: Buffer,
        sender: Sender,
        log_time: LogTime,
        *,
        timeout_s: float,
    ) -> None:
        self._log = log
        self._native = native
        self._lifecycle = lifecycle
        self._buffer = buffer
        self._sender = sender
        self._time = log_time
        self._timeout_s = timeout_s

    @property
    def state(self) -> ProducerState:
        """In which state the producer is; while another thread is in a call to the log, asking waits for that."""
        return self._lifecycle.state

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open, or its end has not been answered."""
        return self._lifecycle.in_transaction

    def init_transactions(self, timeout: float | None = None) -> None:
        """Fences every older producer of this transactional id and aborts what it left open; call it once, first.

        Raises:
            ProducerFencedError: A newer producer has taken over.
            LogTimeoutError: Another process held the log for too long; call it again.
        """
        check_timeout("init_transactions: timeout", timeout)
        self._lifecycle.check_usable()
        self._lifecycle.check(Call.INIT)
        self._repeated(lambda: self._native.init_transactions(now_ms=self._time.now_ms()), timeout)
        self._lifecycle.ending()

    def begin_transaction(self) -> None:
        """Begins a transaction; what is produced from now on belongs to it.

        Raises:
            InvalidTransactionStateError: ``init_transactions`` was not called, or a transaction is open.
            ProducerFencedError: A newer producer has taken over.
        """
        with self._sender.order:
            self._lifecycle.check_usable()
            self._lifecycle.check(Call.BEGIN)
            self._native.begin_transaction(now_ms=self._time.now_ms())
            if self._buffer.has_staged():
                self._sender.end(
                    (), LogTimeoutError("the end of the transaction was interrupted: nobody knows which it was")
                )
            self._lifecycle.begun()

    def send_offsets_to_transaction(
        self,
        positions: Iterable[TopicPartition],
        group_metadata: ConsumerGroupMetadata | None = None,
        timeout: float | None = None,
        *,
        group_id: str | None = None,
    ) -> None:
        """Commits positions of a consumer group with the transaction, or not at all.

        Args:
            positions: ``Consumer.positions()``: the next offset to read of each partition.
            group_metadata: ``Consumer.consumer_group_metadata()``. Not needed with what ``Consumer.positions``
                returned, which knows it.
            timeout: For compatibility; nothing is waited for.
            group_id: Instead of ``group_metadata``: the group.

        Raises:
            InvalidTransactionStateError: No transaction is open.
            ConfigurationError: Not clear which group.
        """
        check_name("send_offsets_to_transaction: group_id", group_id)
        if group_metadata is not None and not isinstance(group_metadata, ConsumerGroupMetadata):
            raise ConfigurationError(
                f"send_offsets_to_transaction: group_metadata is {group_metadata!r}; give what "
                "Consumer.consumer_group_metadata() returns",
                setting="group_metadata",
            )
        chosen = check_items(
            "send_offsets_to_transaction: positions", positions, TopicPartition, "consumer.positions()"
        )
        if group_metadata is None and isinstance(positions, Positions):
            group_metadata = positions.group_metadata
        if group_metadata is None and group_id is None:
            raise ConfigurationError("whose offsets are these? give group_metadata or group_id")
        if group_metadata is not None and group_id not in (None, group_metadata.group_id):
            raise ConfigurationError(
                f"these are positions of group {group_metadata.group_id!r}; they cannot be committed for {group_id!r}"
            )
        metadata = group_metadata or ConsumerGroupMetadata(str(group_id))
        offsets = [(each.topic, each.partition, real_offset(each), each.metadata) for each in chosen]
        with self._sender.order:
            self._lifecycle.check_usable()
            self._lifecycle.check(Call.SEND_OFFSETS)
            self._native.send_offsets(
                metadata.group_id,
                offsets,
                now_ms=self._time.now_ms(),
                member=metadata.member_id,
                generation=metadata.generation,
            )

    def commit_transaction(self, timeout: float | None = None) -> None:
        """Makes all of the transaction visible at once, durably; then calls the ``on_delivery`` that are still due.

        Args:
            timeout: How long to repeat it while there is no answer; None: the transaction's timeout.

        Raises:
            ProducerFencedError, TransactionTimedOutError: Nothing of it is there.
            InvalidTransactionStateError: Part of it was refused; abort it. Or no transaction is open.
            GroupFencedError: The consumer whose offsets it has is not a member any more; abort it.
            LogTimeoutError, StoreIOError: Nobody knows; only ``commit_transaction`` may be called, again.
        """
        check_timeout("commit_transaction: timeout", timeout)
        with self._sender.order:
            self._lifecycle.check_usable()
            self._lifecycle.ending()
            self._sender.drain()
            self._lifecycle.check(Call.COMMIT)
            try:
                places = self._repeated(lambda: self._native.commit_transaction(now_ms=self._time.now_ms()), timeout)
            except UNANSWERED:
                raise
            except OnceflowError as error:
                self._lifecycle.failed(error)
                self._sender.end((), error)
                raise
            self._sender.end(places, None)
        self._buffer.serve()

    def abort_transaction(self, timeout: float | None = None) -> None:
        """Ends the transaction without a trace; the ``on_delivery`` still due get ``TransactionAbortedError``.

        Args:
            timeout: How long to repeat it while there is no answer; None: the transaction's timeout.

        Raises:
            InvalidTransactionStateError: No transaction is open.
            ProducerFencedError: A newer producer has taken over, which has aborted it.
            LogTimeoutError, StoreIOError: Nobody knows; only ``abort_transaction`` may be called, again. The
                transaction will not appear.
        """
        check_timeout("abort_transaction: timeout", timeout)
        aborted = TransactionAbortedError("the transaction of this record was aborted")
        with self._sender.order:
            self._lifecycle.check_usable()
            self._lifecycle.check(Call.ABORT)
            self._lifecycle.ending()
            self._sender.drop_pending(aborted)
            try:
                self._repeated(lambda: self._native.abort_transaction(now_ms=self._time.now_ms()), timeout)
            except (*UNANSWERED, ProducerFencedError):
                # It will not appear, whoever aborts it in the end.
                self._sender.end((), aborted)
                raise
            self._lifecycle.refused = None
            self._sender.end((), aborted)
        self._buffer.serve()

    @contextmanager
    def transaction(self) -> Iterator[Self]:
        """A transaction around a block: committed at its end, aborted if it raises.

        What the block raised is raised on, also if the abort fails: a producer that was fenced has nothing left to
        abort, and an abort without an answer must be repeated (``abort_transaction``), which a note on the exception
        says. A commit that is refused is aborted; one without an answer stays open for another
        ``commit_transaction``. If the block ends the transaction itself, nothing more is done.
        """
        self.begin_transaction()
        try:
            yield self
        except BaseException as error:
            self._abort_because_of(error)
            raise
        if not self.in_transaction:
            return
        try:
            self.commit_transaction()
        except UNANSWERED:
            raise
        except OnceflowError as error:
            self._abort_because_of(error)
            raise

    def _abort_because_of(self, error: BaseException) -> None:
        if not self.in_transaction:
            return
        try:
            self.abort_transaction()
        except OnceflowError as failed:
            error.add_note(f"The transaction could not be aborted either; it will not appear. {failed}")

    def _repeated(self, call: Callable[[], _T], timeout: float | None) -> _T:
        """Makes a call until it has an answer, for as long as the transaction may last by default."""
        return self._sender.repeated(call, self._timeout_s if timeout is None or timeout < 0 else timeout)
