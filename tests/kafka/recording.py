"""Kafka clients that write down what they do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from onceflow.testing.histories import Isolation, PartitionOffset, Record, Recorder

#: Delivery reports that say: the record was never sent, or the broker refused it.
NEVER_SENT = {KafkaError._PURGE_QUEUE, KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.TOPIC_AUTHORIZATION_FAILED}

QUIET = {"log_level": 0, "error_cb": lambda error: None}


def create_topics(bootstrap: str, **partitions: int) -> None:
    """Topics with so many partitions, and as many replicas as the cluster gives by itself."""
    # Its answers are lost if the client goes before they come.
    admin = AdminClient({"bootstrap.servers": bootstrap, **QUIET})
    for future in admin.create_topics([NewTopic(topic, number) for topic, number in partitions.items()]).values():
        future.result(30)


def definite(error: BaseException) -> bool:
    """Whether a call surely did nothing: only if Kafka says that the transaction must be aborted now."""
    return isinstance(error, KafkaException) and error.args[0].txn_requires_abort()


class RecordingProducer:
    """An idempotent producer, with an id also a transactional one."""

    def __init__(
        self, bootstrap: str, directory: Path, name: str, *, transactional_id: str | None = None, **config: object
    ) -> None:
        self.recorder = Recorder(directory, name, definite=definite)
        settings = {"bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 1, **QUIET, **config}
        if transactional_id is not None:
            settings |= {"transactional.id": transactional_id, "transaction.timeout.ms": 10_000}
        self._producer = Producer(settings)
        if transactional_id is not None:
            self._producer.init_transactions(30)

    def begin(self) -> None:
        self._producer.begin_transaction()
        self.recorder.begin()

    def send(self, topic: str, value: str, partition: int) -> None:
        call = self.recorder.send(topic, value, partition)

        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is None:
                self.recorder.sent(call, message.partition(), message.offset())
            else:
                self.recorder.not_sent(call, error.str(), definite=error.code() in NEVER_SENT)

        self._producer.produce(topic, value, partition=partition, on_delivery=delivered)
        self._producer.poll(0)

    def flush(self) -> None:
        assert self._producer.flush(30) == 0

    def send_offsets(self, consumer: RecordingConsumer) -> None:
        positions = consumer.positions()
        with self.recorder.send_offsets(consumer.group, [PartitionOffset(*place) for place in positions]):
            self._producer.send_offsets_to_transaction(
                [TopicPartition(*place) for place in positions], consumer.consumer.consumer_group_metadata(), 30
            )

    def commit(self) -> None:
        with self.recorder.commit():
            self._producer.commit_transaction(30)

    def abort(self) -> None:
        with self.recorder.abort():
            self._producer.abort_transaction(30)


class RecordingConsumer:
    """Reads partitions that it chose itself, from their beginning or where its group had come to.

    ``value_of``: what of a record stands in the history.
    """

    def __init__(
        self,
        bootstrap: str,
        recorder: Recorder,
        places: list[tuple[str, int]],
        *,
        group: str | None = None,
        isolation: Isolation = Isolation.READ_COMMITTED,
        value_of: Callable[[bytes], str] = bytes.decode,
    ) -> None:
        self.group = group or recorder.client
        self._value_of = value_of
        self.recorder = recorder
        self.isolation = isolation
        self.consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": self.group,
                "isolation.level": isolation.value,
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "error",
                **QUIET,
            }
        )
        self._positions = dict.fromkeys(places, 0)
        self.ended: set[tuple[str, int]] = set()
        self.resume(group)

    def resume(self, group: str | None) -> None:
        """Goes back to what the group has committed, or to the beginning."""
        start_ns = self.recorder.now()
        positions = [TopicPartition(*place, 0) for place in self._positions]
        if group is not None:
            for each in self.consumer.committed(positions, 30):
                self._positions[each.topic, each.partition] = max(each.offset, 0)
        positions = [TopicPartition(*place) for place in self.positions()]
        self.consumer.assign(positions)
        self.ended.clear()
        self.recorder.assigned([PartitionOffset(*place) for place in self.positions()], group=group, start_ns=start_ns)

    def positions(self) -> list[tuple[str, int, int]]:
        return [(topic, partition, offset) for (topic, partition), offset in self._positions.items()]

    def poll(self, limit: int = 100, timeout_s: float = 0.2) -> list[str]:
        """Values of up to so many records; ``ended`` tells which partitions are read to their end."""
        start_ns = self.recorder.now()
        records, reached = [], []
        # consume() would wait for all that it was asked for, or until the time is over.
        first = self.consumer.poll(timeout_s)
        for message in [] if first is None else [first, *self.consumer.consume(limit - 1, 0)]:
            place = (message.topic(), message.partition())
            if message.error() is None:
                records.append(Record(*place, message.offset(), self._value_of(message.value())))
                self._positions[place] = message.offset() + 1
                self.ended.discard(place)
            elif message.error().code() == KafkaError._PARTITION_EOF:
                reached.append(PartitionOffset(*place, message.offset()))
                self._positions[place] = message.offset()
                self.ended.add(place)
            else:
                raise KafkaException(message.error())
        self.recorder.polled(records, start_ns=start_ns, reached=reached, isolation=self.isolation)
        return [str(record.value) for record in records]

    def read_to_the_end(self, done: Callable[[], bool] = lambda: True) -> list[str]:
        """All values until each partition is at its end and ``done``."""
        values = []
        while not (len(self.ended) == len(self._positions) and done()):
            values.extend(self.poll())
        return values

    def close(self) -> None:
        self.consumer.close()


class Promises:
    """What a job promises of a topic, in the words of the history checker: each value is there once, in the order of
    its partition, as if one client a partition had sent it and had it acknowledged.

    How often and by whom it is sent in truth is the job's affair.

    Args:
        directory: Of the history.
        topic: The job's output.
        partitions: Of it.
    """

    def __init__(self, directory: Path, topic: str, partitions: int) -> None:
        self._topic = topic
        self._recorders = [Recorder(directory, f"promise-of-{topic}-{number}") for number in range(partitions)]
        self._calls: list[tuple[Recorder, int]] = []

    def made(self, partition: int, value: str) -> None:
        """Before the input of it is there."""
        recorder = self._recorders[partition]
        self._calls.append((recorder, recorder.send(self._topic, value, partition)))

    def due(self) -> None:
        """When the job is through."""
        for recorder, call in self._calls:
            recorder.sent(call)
