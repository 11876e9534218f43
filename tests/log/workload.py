"""One client of a random workload: python workload.py DIRECTORY HISTORY NAME LIFE ROLE.

Works until its input ends, or until it is killed. Roles: ``transactor`` (transactions over two topics, some aborted,
some large), ``sender`` (idempotent), ``copier`` (member of a group that copies a topic, with its offsets in the
transaction) and ``reader`` (follows everything).
"""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from onceflow.exceptions import GroupFencedError
from onceflow.log import Log
from onceflow.testing.histories import Recorder
from onceflow.testing.log import RecordingConsumer, RecordingProducer, definite

PLACES = [("numbers", 0), ("numbers", 1), ("numbers", 2), ("copies", 0), ("copies", 1)]
SESSION_MS = 1_000

ended = threading.Event()


def transactor(log: Log, recorder: Recorder, name: str, life: str) -> None:
    producer = RecordingProducer(log, recorder, transactional_id=name)
    number = 0
    while not ended.is_set():
        producer.begin()
        for _ in range(random.choice([1, 3, 10, 200])):
            topic, partition = random.choice(PLACES[:3] + PLACES[:3] + PLACES[3:])
            producer.send(topic, f"{name}.{life}:{number}", partition)
            number += 1
        (producer.abort if random.random() < 0.25 else producer.commit)()
        ended.wait(random.random() * 0.03)
    producer.close()


def sender(log: Log, recorder: Recorder, name: str, life: str) -> None:
    producer = RecordingProducer(log, recorder)
    number = 0
    while not ended.is_set():
        for _ in range(random.choice([1, 20])):
            producer.send("numbers", f"{name}.{life}:{number}", random.randrange(3))
            number += 1
        producer.flush()
        ended.wait(random.random() * 0.03)
    producer.close()


def copier(log: Log, recorder: Recorder, name: str, life: str) -> None:
    producer = RecordingProducer(log, recorder, transactional_id=name)
    consumer = RecordingConsumer(log, recorder, "copiers", topics=["numbers"], session_timeout_ms=SESSION_MS)
    attempt = 0
    while not ended.is_set():
        try:
            values = consumer.poll(50, 0.1)
            if not values:
                continue
            attempt += 1
            producer.begin()
            for value in values:
                producer.send("copies", f"{name}.{life}.{attempt}:{value}", random.randrange(2))
            producer.send_offsets(consumer)
            if random.random() < 0.2:
                producer.abort()
                consumer.rewind()
            else:
                producer.commit()
        except GroupFencedError:
            if producer.producer.in_transaction:
                producer.abort()
    consumer.close()
    producer.close()


def reader(log: Log, recorder: Recorder, name: str, life: str) -> None:
    consumer = RecordingConsumer(log, recorder)
    consumer.resume(PLACES)
    while not ended.is_set():
        consumer.poll(200, 0.1)
    consumer.read_to_the_end()
    consumer.close()


ROLES: dict[str, Callable[[Log, Recorder, str, str], None]] = {
    "transactor": transactor,
    "sender": sender,
    "copier": copier,
    "reader": reader,
}


def main() -> None:
    directory, history, name, life, role = sys.argv[1:]
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    with Log.open(directory) as log, Recorder(Path(history), f"{name}-{life}", definite=definite) as recorder:
        ROLES[role](log, recorder, name, life)


if __name__ == "__main__":
    main()
