"""Two jobs in a chain over a topic, three processes of each, killed again and again: each visit is counted once.

``python examples/instances.py`` starts a real Kafka on loopback; where none can be started, or with the argument
``log``, the chain runs on the embedded log; with the address of a broker, on that. Nothing else differs: see
``source`` and ``sink``.

- Visits come to a topic in no order. The job ``by-user`` cannot count them by user: no process has all of one. So it
  writes them into another topic by their user: it repartitions them.
- The job ``counts`` counts them there by user. Each of its processes has all visits of its users.

SIGKILL ends the six processes in turn, at random moments. At the end both topics are read with their own clients, and
compared with a count of what was written.

``python examples/instances.py JOB INDEX PLACE STATE`` is one life of one process.
"""

from __future__ import annotations

import contextlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer as KafkaConsumer
from confluent_kafka import Producer as KafkaProducer
from confluent_kafka.admin import AdminClient, NewTopic

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from services.kafka import KafkaBroker
from services.process import ServerUnavailableError

import onceflow as of
from onceflow.connectors.kafka import KafkaSink, KafkaSource
from onceflow.connectors.log import LogSink, LogSource

INSTANCES, PARTITIONS = 3, 5
VISITS, USERS = 6_000, 40
KILLS = 9
LONGEST_S = 180.0


def source(place: str, topic: str, **settings: Any) -> LogSource | KafkaSource:
    """A topic that is followed."""
    if place.startswith("/"):
        return LogSource(place, topic, decode="json", stop_at_end=False, **settings)
    return KafkaSource(place, topic, decode="json", stop_at_end=False, **settings)


def sink(place: str, topic: str, **settings: Any) -> LogSink | KafkaSink:
    """A topic that is written."""
    if place.startswith("/"):
        return LogSink(place, topic, **settings)
    return KafkaSink(place, topic, **settings)


def repartition(place: str) -> of.Dataflow:
    """Visits as they come, by their user."""
    flow = of.Dataflow("by-user")
    visits = flow.source("visits", source(place, "visits")).map(lambda visit: {**visit, "user": visit["user"].lower()})
    visits.sink("out", sink(place, "visits-by-user", key="user"))
    return flow


def counting(place: str) -> of.Dataflow:
    """How many visits each user has made, as often as it changes."""
    flow = of.Dataflow("counts")
    visits = flow.source("visits", source(place, "visits-by-user", partitioned_by="user"))
    counts = visits.key_by("user").aggregate("by-user", visits=of.count(), seconds=of.sum("seconds"))
    counts.sink("out", sink(place, "counts", key="user"))
    return flow


JOBS = {"by-user": repartition, "counts": counting}


def live(job: str, index: int, place: str, state: str) -> None:
    """One process, until it is killed or told to stop."""
    of.run(JOBS[job](place), state=state, instance=(index, INSTANCES), checkpoint_interval_s=0.1)


class Topics:
    """The topics of a place, with the clients that belong to it."""

    def __init__(self, place: str) -> None:
        self._place = place
        if place.startswith("/"):
            with of.Log.open(place) as log:
                for topic in ("visits", "visits-by-user", "counts"):
                    log.create_topic(topic, partitions=PARTITIONS)
            return
        new = [NewTopic(topic, PARTITIONS) for topic in ("visits", "visits-by-user", "counts")]
        admin = AdminClient({"bootstrap.servers": place})
        for made in admin.create_topics(new).values():
            made.result(30)

    def write(self, visits: list[dict[str, Any]]) -> None:
        """Visits, in no order."""
        if self._place.startswith("/"):
            with of.Log.open(self._place) as log, of.Producer(log) as producer:
                for visit in visits:
                    producer.produce("visits", json.dumps(visit), partition=random.randrange(PARTITIONS))
            return
        kafka = KafkaProducer({"bootstrap.servers": self._place, "enable.idempotence": True})
        for visit in visits:
            kafka.produce("visits", json.dumps(visit), partition=random.randrange(PARTITIONS))
        if kafka.flush(30):
            raise SystemExit("the broker does not take visits")

    def follow(self, topic: str, group: str = "after") -> Iterator[list[Any]]:
        """Records that are committed, as they come; an empty list where nothing new is there."""
        with contextlib.ExitStack() as resources:
            consumer = self._consumer(topic, f"{topic}-{group}", resources)
            while True:
                messages = consumer.consume(1000, timeout=0.2)
                yield [json.loads(message.value()) for message in messages if message.error() is None]

    def _consumer(self, topic: str, group: str, resources: contextlib.ExitStack) -> Any:
        if self._place.startswith("/"):
            log = resources.enter_context(of.Log.open(self._place))
            mine = resources.enter_context(of.Consumer(log, group_id=group, auto_offset_reset="earliest"))
            mine.subscribe([topic])
            return mine
        kafka = KafkaConsumer(
            {"bootstrap.servers": self._place, "group.id": group, "auto.offset.reset": "earliest"}  # read_committed
        )
        resources.callback(kafka.close)
        kafka.subscribe([topic])
        return kafka


class Processes:
    """Three of each job."""

    def __init__(self, place: str, root: Path) -> None:
        self._place, self._root = place, root
        self._all = {(job, index): self._begin(job, index) for job in JOBS for index in range(INSTANCES)}

    def _begin(self, job: str, index: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, __file__, job, str(index), self._place, str(self._root / f"{job}-{index}")]
        return subprocess.Popen(command)

    def check(self) -> None:
        """None of them has ended by itself."""
        for (job, index), process in self._all.items():
            if process.poll() is not None:
                raise SystemExit(f"instance {index} of {job} has ended with {process.returncode}")

    def kill(self, number: int) -> str:
        """One of them, which begins again."""
        job, index = list(self._all)[number % len(self._all)]
        self._all[job, index].kill()
        self._all[job, index].wait()
        self._all[job, index] = self._begin(job, index)
        return f"instance {index} of {job}"

    def stop(self) -> None:
        """All of them, each with a last checkpoint."""
        for process in self._all.values():
            process.send_signal(signal.SIGTERM)
        for (job, index), process in self._all.items():
            if process.wait(60) != 0:
                raise SystemExit(f"instance {index} of {job} has ended with {process.returncode}")

    def end(self) -> None:
        """Whatever lives still."""
        for process in self._all.values():
            process.kill()
            process.wait()


def main(place: str, root: Path) -> None:
    """The chain from its beginning to its end."""
    topics, chance = Topics(place), random.Random()
    visits = [
        {"n": n, "user": f"User{chance.randrange(USERS)}", "seconds": chance.randrange(600)} for n in range(VISITS)
    ]
    processes = Processes(place, root)
    try:
        pieces = [visits[n :: KILLS + 1] for n in range(KILLS + 1)]
        topics.write(pieces.pop())
        # All of them have begun.
        await_counts(topics, VISITS // (KILLS + 1), processes)
        for kill, piece in enumerate(pieces):
            topics.write(piece)
            time.sleep(chance.uniform(0.0, 1.5))
            processes.check()
            print(f"killed {processes.kill(chance.randrange(6) if kill >= 6 else kill)}", flush=True)
        compare(topics, visits, processes)
        processes.stop()
    finally:
        processes.end()


def await_counts(topics: Topics, visits: int, processes: Processes) -> None:
    """Until so many visits are counted."""
    until, newest = time.monotonic() + LONGEST_S, dict[str, int]()
    for counts in topics.follow("counts", "before"):
        newest.update({count["user"]: count["visits"] for count in counts})
        if sum(newest.values()) == visits:
            return
        processes.check()
        if time.monotonic() > until:
            raise SystemExit(f"after {LONGEST_S:g} s there are {sum(newest.values())} of {visits} visits counted")


def compare(topics: Topics, visits: list[dict[str, Any]], processes: Processes) -> None:
    """Both topics with what was written."""
    until, seen, newest = time.monotonic() + LONGEST_S, Counter[int](), dict[str, dict[str, Any]]()
    between, counts = topics.follow("visits-by-user"), topics.follow("counts")
    while seen.total() < VISITS or sum(count["visits"] for count in newest.values()) < VISITS:
        seen.update(visit["n"] for visit in next(between))
        for count in next(counts):
            before = newest.get(count["user"])
            if before is not None and count["visits"] <= before["visits"]:
                raise SystemExit(f"a count came twice, or out of order: {count} after {before}")
            newest[count["user"]] = count
        processes.check()
        if time.monotonic() > until:
            raise SystemExit(f"after {LONGEST_S:g} s there are {seen.total()} of {VISITS} visits between the jobs")
    # Nothing comes behind.
    seen.update(visit["n"] for visit in next(between))
    twice = [n for n, times in seen.items() if times > 1]
    if twice or len(seen) != VISITS:
        raise SystemExit(f"visits between the jobs: {len(seen)} of {VISITS}, twice: {twice[:5]}")
    expected: dict[str, dict[str, Any]] = {}
    for visit in visits:
        user = visit["user"].lower()
        mine = expected.setdefault(user, {"user": user, "visits": 0, "seconds": 0})
        mine["visits"] += 1
        mine["seconds"] += visit["seconds"]
    if newest != expected:
        raise SystemExit(f"the counts differ: {newest} and not {expected}")
    print(f"{VISITS} visits of {len(newest)} users, each counted once", flush=True)


def begin(on: str) -> None:
    """On a real Kafka, started or at an address, or on the embedded log."""
    with contextlib.ExitStack() as resources:
        root = Path(resources.enter_context(tempfile.TemporaryDirectory(prefix="onceflow-")))
        place = str(root / "log")
        if ":" in on:
            place = on
        elif on != "log":
            try:
                place = resources.enter_context(KafkaBroker(root / "kafka")).bootstrap
            except ServerUnavailableError as error:
                print(f"no Kafka, so on the embedded log: {error}")
        print(f"{2 * INSTANCES} processes on {'the embedded log' if place.startswith('/') else 'Kafka'}", flush=True)
        main(place, root)


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in JOBS:
        live(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4])
    else:
        begin(sys.argv[1] if sys.argv[1:] else "kafka")
