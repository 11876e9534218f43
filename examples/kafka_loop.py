"""Payments of a Kafka topic counted exactly once, in a plain loop around confluent-kafka.

The programs that write the topic start again after a crash and send what they are not sure of once more, so some
payments stand in it twice: an idempotent producer of Kafka cannot know. A worker of ours reads it, without groups and
without onceflow's runner: a Deduplicator drops what came before, a table keeps the totals by account, and a checkpoint
now and then makes both durable together with the offsets. The worker is killed by SIGKILL again and again, and the
totals must come out as if nothing of this had happened.

    python examples/kafka_loop.py                  # starts a broker of its own; needs Java and Maven
    python examples/kafka_loop.py localhost:9092
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import uuid
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from onceflow.embed import StateBackend

PRODUCERS, PAYMENTS, PARTITIONS, KILLS = 6, 4_000, 3, 3


def write_topic(bootstrap: str, topic: str) -> Counter[str]:
    """Writes the topic; returns what each account should hold, in cents."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for made in admin.create_topics([NewTopic(topic, PARTITIONS, 1)]).values():
        made.result(30)
    chance, expected = random.Random(1), Counter[str]()
    kafka = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True})
    for producer in range(PRODUCERS):
        payments = [(f"account-{chance.randrange(50)}", chance.randrange(1, 10_000)) for _ in range(PAYMENTS)]
        for account, cents in payments:
            expected[account] += cents
        first = 0
        while first < PAYMENTS:
            upto = min(first + chance.randrange(1, 500), PAYMENTS)
            for sequence in range(first, upto):
                account, cents = payments[sequence]
                # A producer keeps to one partition, so that its sequence has an order.
                kafka.produce(
                    topic,
                    str(cents).encode(),
                    account.encode(),
                    producer % PARTITIONS,
                    headers={"producer": str(producer).encode(), "sequence": str(sequence).encode()},
                )
            kafka.flush(30)
            # Now and then it forgets how far it had come, and begins some payments earlier.
            first = max(0, upto - chance.choice([0, 0, 0, 200]))
            if upto == PAYMENTS:
                break
    return expected


def sequence_of(message: Message) -> tuple[int, int]:
    """Producer and sequence of a payment."""
    headers = dict(message.headers() or ())
    return int(headers["producer"]), int(headers["sequence"])


def work(bootstrap: str, topic: str, state: str) -> None:
    """Reads on from where the newest checkpoint left off, up to the end of the topic."""
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "none", "enable.auto.commit": False, "auto.offset.reset": "error"}
    )
    with StateBackend.open(state, job="payments") as backend:
        totals = backend.table("totals", key="str", columns={"cents": "i64", "payments": "i64"})
        seen = backend.deduplicator("producers")
        offsets = {number: int(backend.positions.get(str(number), 0)) for number in range(PARTITIONS)}
        consumer.assign([TopicPartition(topic, number, offset) for number, offset in offsets.items()])
        ends = {n: consumer.get_watermark_offsets(TopicPartition(topic, n), timeout=30)[1] for n in range(PARTITIONS)}
        batches = 0
        while offsets != ends:
            messages = consumer.consume(100, timeout=1.0)
            batches += 1
            for message in messages:
                if error := message.error():
                    raise KafkaException(error)
                offsets[message.partition()] = message.offset() + 1
            if messages:
                producers, sequences = zip(*map(sequence_of, messages), strict=True)
                # One call for all: whether a payment is new is decided in the order in which they came.
                is_new = seen.check_many(producers, [0] * len(messages), sequences, sequences).accepted
                new = [message for message, fresh in zip(messages, is_new, strict=True) if fresh]
                accounts = [(message.key() or b"").decode() for message in new]
                cents = [int(message.value() or b"") for message in new]
                totals.update(accounts, {"cents": ("add", cents), "payments": ("count", None)})
            if batches % 10 == 0:
                backend.checkpoint({str(number): offset for number, offset in offsets.items()})  # written meanwhile
                print("checkpoint", flush=True)
        backend.checkpoint({str(number): offset for number, offset in offsets.items()}).wait()
    consumer.close()


def main(bootstrap: str, directory: str) -> None:
    topic, state = f"payments-{uuid.uuid4().hex}", str(Path(directory) / "state")
    expected = write_topic(bootstrap, topic)
    for life in range(KILLS + 1):
        command = [sys.executable, __file__, bootstrap, topic, state]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as worker:
            stop_at = random.randrange(3, 8) if life < KILLS else -1
            for number, _ in enumerate(worker.stdout or ()):
                if number == stop_at:
                    worker.kill()
        with StateBackend.open(state, job="payments", read_only=True) as backend:
            print(f"life {life + 1}: exit code {worker.returncode}, offsets {backend.positions}")
            totals = backend.table("totals", key="str", columns={"cents": "i64", "payments": "i64"}).scan()
    found = dict(zip(totals.keys, totals.columns["cents"].tolist(), strict=True))
    assert found == dict(expected), "a payment was lost or counted twice"
    read = sum(int(offset) for offset in backend.positions.values())
    counted = int(totals.columns["payments"].sum())
    print(f"{counted} payments of {len(found)} accounts, each counted once; {read - counted} came again")


if __name__ == "__main__":
    if len(sys.argv) == 4:
        work(*sys.argv[1:])
    else:
        with ExitStack() as stack:
            scratch = stack.enter_context(tempfile.TemporaryDirectory())
            if len(sys.argv) == 1:
                sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
                from services.kafka import KafkaBroker

                broker = stack.enter_context(KafkaBroker(Path(scratch) / "kafka"))
                main(broker.bootstrap, scratch)
            else:
                main(sys.argv[1], scratch)
