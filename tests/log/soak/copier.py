"""The soak that Kafka runs: numbers are copied between topics in transactions while the copiers are killed.

A producer writes numbers, idempotently. Copiers, each with partitions of its own, copy them in transactions that also
commit how far they have read; a third of the transactions is aborted. All copiers are killed hard, three times, each
time after another fifth of the work at least. A reader follows all the while. In the end the same numbers must be
there, each once, in the same order in each partition, and the history of all clients must show no anomaly.

A copy is the text ``LIFE.ATTEMPT:NUMBER``, so that each attempt has values of its own and the numbers tell what was
copied. Every other copier keeps so little in memory that its transactions are staged on the disk.
"""

from __future__ import annotations

import itertools
import random
import time
from pathlib import Path

from killing import Life, no_survivors
from recording_log import RecordingConsumer, RecordingProducer, now_ms

from onceflow._native import Log
from onceflow.testing.histories import History, Recorder, Report, check

__all__ = ["run_copiers"]

COPIERS = 2
PARTITIONS = 4
SHARES = (0.2, 0.4, 0.6)


@no_survivors()
def run_copiers(root: Path, *, records: int, transaction: int, pause_s: float, seed: int) -> Report:
    """Runs the soak and checks it.

    Args:
        root: An empty directory.
        records: How many numbers.
        transaction: Records of a transaction at most.
        pause_s: What a copier waits before it ends a transaction, so that kills find some open.
        seed: Of what is aborted.
    """
    with Log.open(root / "log") as log:
        for topic in ("numbers", "copies"):
            log.create_topic(topic, partitions=PARTITIONS)
    reader = Life(lambda: follow(root, records))
    source = Life(lambda: produce(root, records))
    lives = itertools.count()

    def start() -> list[Life]:
        life = next(lives)
        return [
            Life(lambda mine=mine: copy(root, mine, life, records, transaction, pause_s, seed))
            for mine in range(COPIERS)
        ]

    copiers = start()
    for share in SHARES:
        while seen(root) < share * records:
            assert reader.poll() is None, "the reader ended before it had seen everything"
            # Raises for one that failed.
            assert [copier.poll() for copier in copiers]
            time.sleep(0.002)
        assert sum(copier.kill() for copier in copiers), "the copiers were through before they were killed"
        copiers = start()
    for life in (*copiers, source, reader):
        assert life.wait() == 0
    return verify(root, records)


def produce(root: Path, records: int) -> None:
    """Writes the numbers."""
    with Log.open(root / "log") as log:
        producer = RecordingProducer(log, root / "history", "source")
        for first in range(0, records, 1000):
            for partition in range(PARTITIONS):
                numbers = range(first + partition, min(first + 1000, records), PARTITIONS)
                producer.send("numbers", partition, [str(number) for number in numbers])


def copy(root: Path, mine: int, life: int, records: int, transaction: int, pause_s: float, seed: int) -> None:
    """One life of a copier: its partitions, to their end."""
    partitions = range(mine, PARTITIONS, COPIERS)
    chance = random.Random(f"{seed} {mine} {life}")
    with Log.open(root / "log") as log:
        producer = RecordingProducer(
            log,
            root / "history",
            f"copier-{mine}-{life}",
            transactional_id=f"copier-{mine}",
            max_buffered_bytes=2000 if mine % 2 else 1 << 24,
        )
        # Only now, with the transaction of the life before decided, do the group's positions stand still.
        places = [("numbers", partition) for partition in partitions]
        consumer = RecordingConsumer(log, producer.recorder, places, group="copiers")
        all_of_them = sum(len(range(partition, records, PARTITIONS)) for partition in partitions)
        for attempt in itertools.count():
            if sum(offset for _, _, offset in consumer.positions()) == all_of_them:
                return
            found = consumer.poll(transaction)
            if not found:
                continue
            producer.begin()
            for partition in partitions:
                values = [f"{life}.{attempt}:{one.value}" for one in found if one.partition == partition]
                for first in range(0, len(values), 100):
                    producer.send("copies", partition, values[first : first + 100])
            producer.send_offsets("copiers", consumer.positions())
            time.sleep(pause_s)
            if chance.random() < 1 / 3:
                producer.abort()
                consumer.resume()
            else:
                producer.commit()


def follow(root: Path, records: int) -> None:
    """The reader: follows the copies, says how many it has seen, and keeps the log in order meanwhile."""
    with Log.open(root / "log") as log, Recorder(root / "history", "reader") as recorder:
        consumer = RecordingConsumer(log, recorder, [("copies", partition) for partition in range(PARTITIONS)])
        count = 0
        while count < records:
            count += len(consumer.poll(500))
            (root / "seen.new").write_text(str(count))
            (root / "seen.new").rename(root / "seen")
            log.maintain(now_ms=now_ms())


def seen(root: Path) -> int:
    """How many copies the reader has seen."""
    path = root / "seen"
    return int(path.read_text()) if path.exists() else 0


def verify(root: Path, records: int) -> Report:
    """Compares what is in the log with what should be, and checks the history."""
    with Log.open(root / "log", create=False) as log, Recorder(root / "history", "last") as recorder:
        for partition in range(PARTITIONS):
            copies = [int(value.rpartition(b":")[2]) for value in _all(log, "copies", partition)]
            assert copies == list(range(partition, records, PARTITIONS)), f"{root}: partition {partition} is wrong"
        places = [(topic, partition) for topic in ("numbers", "copies") for partition in range(PARTITIONS)]
        consumer = RecordingConsumer(log, recorder, places)
        while consumer.poll(10_000, 0.0):
            pass
        while log.maintain(now_ms=now_ms()).more:
            pass
        assert [producer.staged_bytes for producer in log.producers()] == [0] * COPIERS
    report = check(History.load(root / "history"), atomic_commits=True)
    report.raise_anomalies()
    assert report.unseen == 0, str(report)
    return report


def _all(log: Log, topic: str, partition: int) -> list[bytes]:
    values: list[bytes] = []
    offset = 0
    while len(found := log.fetch(topic, partition, offset)):
        values += [value for value in found.values if value is not None]
        offset = found.next_offset
    return values
