"""Many transactions of one producer of a sink, whose id is taken so often that the broker gives it another identity.

A producer's epoch has 15 bits, and whoever takes its transactional id raises it: after 32,767 times the broker hands
out another producer id, with epoch 0. (Newer clients of Java raise it with each transaction.) Beside the sink somebody
else writes to the same partitions and aborts, so that a reader of what is committed has as many control records to pass
by as records, and aborted transactions between them.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from typing import NamedTuple

import topics
from confluent_kafka import KafkaException
from services.kafka import KafkaBroker
from waits import CONTEXT

from onceflow.connectors.kafka import KafkaSink, KafkaSource
from onceflow.connectors.kafka.destination import transactional_id_of
from onceflow.sinks import Committable

__all__ = ["Identity", "Many", "run_many"]

_PARTITIONS = 2
#: One in so many is a stranger's, which he aborts.
_ABORTED = 5
_TAKERS = 12


class Identity(NamedTuple):
    """What the broker calls a producer."""

    producer: int
    epoch: int


@dataclass(frozen=True)
class Many:
    """What there was.

    Attributes:
        committed: Transactions of the sink.
        aborted: Of a stranger.
        first: The sink's identity after these.
        last: After its id was taken, and one more transaction.
        read: Records that the source has handed out, in the order of each partition.
        end: Of both partitions together: offsets, of records, control records and what was aborted.
    """

    committed: int
    aborted: int
    first: Identity
    last: Identity
    read: dict[int, list[int]]
    end: int


def run_many(broker: KafkaBroker, count: int, taken: int, told: Callable[[int], None] = lambda done: None) -> Many:
    """Commits checkpoints of one record each by one writer of a sink, and then reads them by a source.

    Args:
        broker: Of whom it is asked how it calls the producer.
        count: Of transactions; the last one comes when its id was taken so often.
        taken: How often.
        told: Called with how many of both there have been.
    """
    name = topics.name("many")
    topics.create(broker.bootstrap, name, _PARTITIONS)
    context = replace(CONTEXT, job=name)
    stranger = topics.producer(broker.bootstrap, f"{name}-stranger")
    stranger.init_transactions(60)
    aborted = 0
    sink = KafkaSink(broker.bootstrap, name, partition=lambda record: record["n"] % _PARTITIONS)
    own = transactional_id_of(name, context.sink, context.worker)
    with closing(sink.open(context)) as writer:
        writer.recover([])

        def commit(number: int) -> None:
            checkpoint = number + 1
            writer.write([{"n": number}])
            writer.commit(Committable(checkpoint, writer.prepare(checkpoint, writer.seal(checkpoint))))

        for number in range(count - 1):
            commit(number)
            if number % _ABORTED == 0:
                stranger.begin_transaction()
                stranger.produce(name, b'{"n": -1}', partition=number // _ABORTED % _PARTITIONS)
                stranger.flush()
                stranger.abort_transaction()
                aborted += 1
            told(number + 1)
        first = _identity(broker, own)

        def take(_: int) -> None:
            # Of several at a time the broker may refuse one, or another shuts it out.
            with contextlib.suppress(KafkaException):
                topics.producer(broker.bootstrap, own).init_transactions(60)

        # It takes hardly any work, and many waits.
        with ThreadPoolExecutor(_TAKERS) as takers:
            for number, _ in enumerate(takers.map(take, range(taken))):
                told(count + number)
        commit(count - 1)
        last = _identity(broker, own)
    source = KafkaSource(broker.bootstrap, name, decode="json")
    read, end = {}, 0
    for partition in source.partitions():
        with closing(source.open(partition, None)) as reader:
            numbers = read[int(partition)] = []
            while (batch := reader.read(1000)) is not None:
                numbers += [record["n"] for record in batch.records]
            end += reader.position()["offset"]
    return Many(count, aborted, first, last, read, end)


def _identity(broker: KafkaBroker, transactional_id: str) -> Identity:
    said = broker.tool(
        "TransactionsCommand",
        "--bootstrap-server",
        broker.bootstrap,
        "describe",
        "--transactional-id",
        transactional_id,
    )
    names, values = (re.split(r"\s*\t\s*|\s{2,}", line.strip()) for line in said.strip().splitlines()[-2:])
    found = dict(zip(names, values, strict=False))
    return Identity(int(found["ProducerId"]), int(found["ProducerEpoch"]))
