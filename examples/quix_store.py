"""onceflow as the state store of Quix Streams: local state that opens at once, however the process ended.

Quix keeps the state of a stateful function in a local store, and each change of it in a changelog topic; after a crash
the store is brought up to date from there. It knows stores of RocksDB and of memory. This one is a ``StateBackend`` for
each partition: what a commit of Quix changed and the changelog's offset become durable together, in the background, so
after a crash only the last commits are read from the changelog again.

The program counts words by a stateful function with exactly-once processing, is killed by SIGKILL again and again, and
the counts that a committed reader finds at the end must be those of words that were each counted once. Quix has no
place where a store of one's own is registered, so its state manager is replaced.

    pip install onceflow "quixstreams==3.28.*"
    python examples/quix_store.py                  # starts a broker of its own; needs Java and Maven
    python examples/quix_store.py localhost:9092
"""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
import tempfile
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import quixstreams.app
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from quixstreams import Application, State
from quixstreams.state import StateStoreManager
from quixstreams.state.base import PartitionTransaction, PartitionTransactionCache, Store, StorePartition
from quixstreams.state.metadata import Marker
from quixstreams.state.recovery import ChangelogProducer, ChangelogProducerFactory
from quixstreams.utils.json import dumps, loads

from onceflow.embed import StateBackend

WORDS, KILLS = 6_000, 2


class OnceflowPartition(StorePartition):
    """The state of one partition of a topic.

    Args:
        directory: Of its own.
        changelog_producer: None: Quix keeps no changelog, and a commit waits until the disk has it.
    """

    def __init__(self, directory: Path, changelog_producer: ChangelogProducer | None) -> None:
        super().__init__(dumps, loads, changelog_producer)
        self._backend = StateBackend.open(directory, job="quix-store")
        # Column family and key, as Quix names them.
        self._values = self._backend.table("values", key=("str", "bytes"), columns={"value": "bytes"})
        offset = self._backend.positions.get("changelog")
        self._offset = None if offset is None else int(offset)

    def get_changelog_offset(self) -> int | None:
        return self._offset

    def write_changelog_offset(self, offset: int) -> None:
        self._offset = offset

    def write(self, cache: PartitionTransactionCache, changelog_offset: int | None) -> None:
        for family in cache.get_column_families():
            updates = [item for of_key in cache.get_updates(family).values() for item in of_key.items()]
            self._values.put([(family, key) for key, _ in updates], value=[value for _, value in updates])
            self._values.delete([(family, key) for key in cache.get_deletes(family)])
        if changelog_offset is not None:
            self._offset = changelog_offset
        self._checkpoint(wait=self._changelog_producer is None)

    def get(self, key: bytes, cf_name: str = "default") -> bytes | Literal[Marker.UNDEFINED]:
        value = self._values.get_bytes([(cf_name, key)], "value")[0]
        return Marker.UNDEFINED if value is None else value

    def exists(self, key: bytes, cf_name: str = "default") -> bool:
        return bool(self._values.contains([(cf_name, key)])[0])

    def recover_from_changelog_message(self, key: bytes, value: bytes | None, cf_name: str, offset: int) -> None:
        if value is None:
            self._values.delete([(cf_name, key)])
        else:
            self._values.put([(cf_name, key)], value=[value])
        self._offset = offset

    def complete_recovery(self) -> None:
        self._checkpoint(wait=False)

    def begin(self) -> PartitionTransaction[Any, Any]:
        return OnceflowTransaction(self, self._dumps, self._loads, self._changelog_producer)

    def close(self) -> None:
        self._backend.close()

    def _checkpoint(self, *, wait: bool) -> None:
        written = self._backend.checkpoint({} if self._offset is None else {"changelog": self._offset})
        if wait:
            written.wait()


class OnceflowTransaction(PartitionTransaction[Any, Any]):
    """Quix's own, which keeps what a commit changes until it is written."""


class OnceflowStore(Store):
    """The state of a topic, by partition."""

    def __init__(self, name: str, topic: str, directory: Path, changelog: ChangelogProducerFactory | None) -> None:
        super().__init__(name, topic)
        self._directory, self._changelog = directory, changelog

    def create_new_partition(self, partition: int) -> OnceflowPartition:
        # Names of topics and stores are no file names.
        place = hashlib.sha256(f"{self.stream_id}/{self.name}".encode()).hexdigest()[:24]
        producer = None if self._changelog is None else self._changelog.get_partition_producer(partition)
        directory = self._directory / place / str(partition)
        directory.parent.mkdir(parents=True, exist_ok=True)
        return OnceflowPartition(directory, producer)


class OnceflowStateManager(StateStoreManager):
    """Makes stores of onceflow instead of RocksDB's."""

    def register_store(  # type: ignore[override]
        self, stream_id: str, store_name: str = "default", store_type: Any = None, changelog_config: Any = None
    ) -> None:
        if store_name not in self._stores.setdefault(stream_id, {}):
            changelog = self._setup_changelogs(stream_id, store_name, topic_config=changelog_config)
            directory = Path(self._state_dir or "state")
            self._stores[stream_id][store_name] = OnceflowStore(store_name, stream_id, directory, changelog)


def count_words(bootstrap: str, words: str, counts: str, state: str) -> None:
    """A program of Quix: all but its first line is as it would be with another store."""
    quixstreams.app.StateStoreManager = OnceflowStateManager
    app = Application(
        bootstrap,
        consumer_group=f"count-{words}",
        auto_offset_reset="earliest",
        processing_guarantee="exactly-once",
        commit_interval=0.2,
        state_dir=state,
        loglevel="ERROR",
        # So long a program that was killed keeps its partitions, and its last offsets hidden, from the next one.
        consumer_extra_config={"session.timeout.ms": 6_000, "heartbeat.interval.ms": 500},
        producer_extra_config={"transaction.timeout.ms": 5_000},
    )
    stream = app.dataframe(app.topic(words, value_deserializer="str"))

    def count(_word: str, state: State) -> int:
        total = int(state.get("count", 0)) + 1
        state.set("count", total)
        print("counted", flush=True)
        return total

    stream.apply(count, stateful=True).to_topic(app.topic(counts, value_serializer="json"))
    app.run(timeout=15)


def write_words(bootstrap: str, topic: str) -> Counter[str]:
    """Writes words, each as the key and the value of a message; returns how often each."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for made in admin.create_topics([NewTopic(topic, 2, 1)]).values():
        made.result(30)
    chance, producer, expected = random.Random(1), Producer({"bootstrap.servers": bootstrap}), Counter[str]()
    for _ in range(WORDS):
        word = f"word-{int(chance.paretovariate(0.6)) % 300}"
        expected[word] += 1
        producer.produce(topic, word, word)
    producer.flush(30)
    return expected


def committed_counts(bootstrap: str, topic: str) -> Iterator[tuple[str, int]]:
    """Word and count of each message that a committed reader finds."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "check", "isolation.level": "read_committed"})
    partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
    for number in partitions:
        place = TopicPartition(topic, number, 0)
        consumer.assign([place])
        end = consumer.get_watermark_offsets(place, timeout=30)[1]
        while consumer.position([place])[0].offset < end:
            message = consumer.poll(1.0)
            if message is not None and message.error() is None:
                yield (message.key() or b"").decode(), int(json.loads(message.value() or b"null"))
    consumer.close()


def values_in(state: str) -> int:
    """How many values the newest checkpoints of all partitions have."""
    total = 0
    for partition in Path(state).glob("*/*/*"):
        with StateBackend.open(partition, job="quix-store", read_only=True) as backend:
            total += len(backend.table("values", key=("str", "bytes"), columns={"value": "bytes"}))
    return total


def main(bootstrap: str, directory: str) -> None:
    number = uuid.uuid4().hex
    words, counts, state = f"words-{number}", f"counts-{number}", str(Path(directory) / "state")
    expected = write_words(bootstrap, words)
    for life in range(KILLS + 1):
        command = [sys.executable, __file__, bootstrap, words, counts, state]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as program:
            stop_at = random.randrange(800, 1_600) if life < KILLS else -1
            for counted, _ in enumerate(program.stdout or ()):
                if counted == stop_at:
                    program.kill()
        print(f"life {life + 1}: exit code {program.returncode}, {values_in(state)} counts in local state")
    found = sorted(committed_counts(bootstrap, counts))
    assert found == sorted((word, n) for word in expected for n in range(1, expected[word] + 1)), "not exactly once"
    print(f"{len(found)} words, each counted once")


if __name__ == "__main__":
    if len(sys.argv) == 5:
        count_words(*sys.argv[1:])
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
