"""The embedded log's clients, writing down what they do: for ``onceflow.testing.histories``.

A producer and a consumer that read and write in turn, as a copier does, share one recorder::

    recorder = Recorder(directory, f"copier-{os.getpid()}", definite=definite)
    producer = RecordingProducer(log, recorder, transactional_id="copier")
    consumer = RecordingConsumer(log, recorder, group_id="copiers")
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from onceflow.exceptions import LogTimeoutError, OnceflowError, StoreIOError, StorePoisonedError
from onceflow.log import Consumer, Log, Message, Producer, TopicPartition
from onceflow.testing.histories import PartitionOffset, Record, Recorder

__all__ = ["RecordingConsumer", "RecordingProducer", "definite"]


def definite(error: BaseException) -> bool:
    """Whether a call that raised this surely had no effect: the log says so of all its errors but these."""
    unknown = (LogTimeoutError, StoreIOError, StorePoisonedError)
    return isinstance(error, OnceflowError) and not isinstance(error, unknown)


class RecordingProducer:
    """A producer; with a transactional id it is initialised at once, which fences its predecessor.

    Attributes:
        producer: What does the work.
        recorder: Where it is written down; its ``definite`` must be the one of this module.
    """

    def __init__(
        self, log: Log, recorder: Recorder, *, transactional_id: str | None = None, transaction_timeout_ms: int = 60_000
    ) -> None:
        self.recorder = recorder
        self.producer = Producer(log, transactional_id=transactional_id, transaction_timeout_ms=transaction_timeout_ms)
        if transactional_id is not None:
            self.producer.init_transactions()

    def begin(self) -> None:
        """Begins a transaction."""
        self.producer.begin_transaction()
        self.recorder.begin()

    def send(self, topic: str, value: str, partition: int = -1) -> None:
        """Produces a record whose value identifies it."""
        call = self.recorder.send(topic, value, None if partition < 0 else partition)

        def delivered(error: OnceflowError | None, message: Message) -> None:
            if error is None:
                self.recorder.sent(call, message.partition(), message.offset())
            else:
                self.recorder.not_sent(call, error)

        self.producer.produce(topic, value, partition=partition, on_delivery=delivered)
        self.producer.poll(0)

    def flush(self) -> None:
        """Waits for the acknowledgements."""
        self.producer.flush()

    def send_offsets(self, consumer: RecordingConsumer) -> None:
        """Commits the consumer's positions with the transaction."""
        positions = consumer.consumer.positions()
        with self.recorder.send_offsets(consumer.group_id, map(_position, positions)):
            self.producer.send_offsets_to_transaction(positions, group_id=consumer.group_id)

    def commit(self) -> None:
        """Commits the transaction."""
        with self.recorder.commit():
            self.producer.commit_transaction()

    def abort(self) -> None:
        """Aborts the transaction."""
        with self.recorder.abort():
            self.producer.abort_transaction()

    def close(self) -> None:
        """Closes the producer."""
        self.producer.close()


class RecordingConsumer:
    """A consumer of a group: with ``topics`` a member of it, else reading what ``resume`` is told.

    Attributes:
        consumer: What does the work.
        group_id: The group.
        recorder: Where it is written down.
        ended: Partitions that were read to their end when they were last looked at.
    """

    def __init__(
        self,
        log: Log,
        recorder: Recorder,
        group_id: str | None = None,
        *,
        topics: Sequence[str] = (),
        session_timeout_ms: int = 45_000,
    ) -> None:
        self.recorder = recorder
        self.group_id = group_id or recorder.client
        self.ended: set[tuple[str, int]] = set()
        self.consumer = Consumer(log, self.group_id, session_timeout_ms=session_timeout_ms)
        self._start_ns = 0
        if topics:
            self.consumer.subscribe(topics, self._assigned, self._revoked, self._revoked)

    def resume(self, partitions: Iterable[tuple[str, int]]) -> None:
        """Reads these partitions from where the group has come to, else from their beginning."""
        start_ns = self.recorder.now()
        self.consumer.assign([TopicPartition(*place) for place in partitions])
        self.ended.clear()
        positions = list(map(_position, self.consumer.positions()))
        self.recorder.assigned(positions, group=self.group_id, start_ns=start_ns)

    def poll(self, limit: int = 100, timeout_s: float = 0.2) -> list[str]:
        """Values of up to so many records."""
        start_ns = self._start_ns = self.recorder.now()
        found = self.consumer.consume(limit, timeout_s)
        records = [
            Record(message.topic(), message.partition(), message.offset() or 0, (message.value() or b"").decode())
            for message in found
        ]
        reached = []
        if not records:
            # Everything up to the positions was read, and a look behind them found nothing.
            reached = list(map(_position, self.consumer.positions()))
            self.ended = {(each.topic, each.partition) for each in reached}
        else:
            self.ended -= {(record.topic, record.partition) for record in records}
        self.recorder.polled(records, start_ns=start_ns, reached=reached)
        return [str(record.value) for record in records]

    def rewind(self) -> None:
        """Goes back to what the group has committed, as after an aborted transaction."""
        for each in self.consumer.assignment():
            self.consumer.seek(each)
            (position,) = self.consumer.position([each])
            self.recorder.sought(*position.place, position.offset)
        self.ended.clear()

    def read_to_the_end(self, quiet_s: float = 0.0) -> list[str]:
        """All values, until there was nothing more for so long."""
        values: list[str] = []
        until = time.monotonic() + quiet_s
        while True:
            some = self.poll(1000, min(0.2, quiet_s))
            values += some
            if some:
                until = time.monotonic() + quiet_s
            elif time.monotonic() >= until:
                return values

    def close(self) -> None:
        """Leaves the group."""
        self.consumer.close()

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self.recorder.rebalanced(self.group_id, assigned=map(_position, partitions), start_ns=self._start_ns)

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self.recorder.rebalanced(self.group_id, revoked=map(_position, partitions), start_ns=self._start_ns)


def _position(position: TopicPartition) -> PartitionOffset:
    return PartitionOffset(position.topic, position.partition, position.offset)
