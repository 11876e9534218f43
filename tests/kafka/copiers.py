"""The soak that Kafka runs, through jobs: numbers are copied from topic to topic by two jobs in a chain.

Both jobs and the broker are killed hard three times, each time after another fifth of the work at least. In between
somebody takes the jobs' transactional ids at random, by which the broker aborts whatever is open, which is something
nearly always: the jobs send ahead however little they have. A reader of what is
committed follows all the while. In the end the same numbers must be there, each once, in the same order in each
partition, and the history of all clients must show no anomaly.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import topics
from copying_job import PARTITIONS, CopyingJob, Numbers, number_of
from lives import Life, no_survivors
from recording import RecordingConsumer, create_topics
from services.kafka import KafkaBroker

from onceflow.connectors.kafka import sending
from onceflow.connectors.kafka.destination import transactional_id_of
from onceflow.testing.histories import Recorder

__all__ = ["Copied", "run_copiers"]

SHARES = (0.2, 0.4, 0.6)
#: Of one batch, which is one transaction at least.
_BATCH = 750
_STALLED_S = 300.0
#: Between two times that somebody takes an id.
_LEAST_S, _MOST_S = 0.1, 0.6


@dataclass(frozen=True)
class Copied:
    """What there was.

    Attributes:
        numbers: That came through.
        kills: Of jobs and brokers.
        taken: How often somebody took an id.
        aborted: Records of transactions that the broker aborted.
        operations: Of the history.
    """

    numbers: int
    kills: int
    taken: int
    aborted: int
    operations: int


@no_survivors()
def run_copiers(
    root: Path,
    broker: KafkaBroker,
    *,
    numbers: int,
    pace_s: float,
    chance: random.Random,
    told: Callable[[int], None] = lambda count: None,
) -> Copied:
    """Runs the soak; AssertionError if anything is wrong.

    Args:
        root: An empty directory.
        broker: Is killed.
        numbers: How many.
        pace_s: What a job waits at each batch, so that kills find it at work.
        chance: Of what is random.
        told: Called with how many have come.
    """
    names = [topics.name(name) for name in ("numbers", "middle", "copies")]
    create_topics(broker.bootstrap, **dict.fromkeys(names, PARTITIONS))
    jobs = [
        CopyingJob(broker.bootstrap, f"to-{target}", root / target, source, target, pace_s=pace_s, batch=_BATCH)
        for source, target in itertools.pairwise(names)
    ]

    def follow(job: CopyingJob) -> None:
        sending._LEAST_BYTES = 1
        job.run(follow=True, interval_s=0.1)

    def begin() -> list[Life]:
        return [Life(lambda job=job: follow(job)) for job in jobs]

    lives = begin()
    written = Numbers(broker.bootstrap, root / "history", names[0], *names[1:])
    with Recorder(root / "history", "follower") as recorder:
        places = [(names[2], partition) for partition in range(PARTITIONS)]
        follower = RecordingConsumer(broker.bootstrap, recorder, places, value_of=number_of)
        seen = kills = taken = 0
        shares = [share * numbers for share in SHARES]
        moved_s = taken_s = time.monotonic()
        while seen < numbers:
            if written.count < numbers:
                written.write(min(2 * _BATCH, numbers - written.count))
            if found := len(follower.poll(2 * _BATCH)):
                seen, moved_s = seen + found, time.monotonic()
                told(seen)
            assert time.monotonic() < moved_s + _STALLED_S, f"{seen} of {numbers} copies, and no more come"
            if shares and seen >= shares[0]:
                shares.pop(0)
                time.sleep(chance.uniform(0, 0.3))
                assert all(life.kill() == "killed" for life in lives), [life.error for life in lives]
                broker.kill()
                broker.start()
                kills += len(lives) + 1
                lives = begin()
                taken_s = time.monotonic() + chance.uniform(_LEAST_S, _MOST_S)
            elif time.monotonic() > taken_s:
                job = chance.choice(jobs)
                stranger = topics.producer(broker.bootstrap, transactional_id_of(job.name, "copies", 0))
                stranger.init_transactions(60)
                taken += 1
                taken_s = time.monotonic() + chance.uniform(_LEAST_S, _MOST_S)
            for life in lives:
                assert life.step(0) is None, life.error
        assert all(life.kill() == "killed" for life in lives)
        for job in jobs:
            last = Life(job.run)
            assert last.wait(_STALLED_S) == "done", last.error
        follower.read_to_the_end()
        with Recorder(root / "history", "middle") as other:
            places = [(names[1], partition) for partition in range(PARTITIONS)]
            reader = RecordingConsumer(broker.bootstrap, other, places, value_of=number_of)
            reader.read_to_the_end()
            reader.close()
        follower.close()
    operations, aborted = written.due(), 0
    for job in jobs:
        values = [message.value() for message in topics.read(broker.bootstrap, job.target)]
        assert (said := job.wrong(values, numbers)) == "", f"{root}: {job.target}: {said}"
        aborted += len(topics.read(broker.bootstrap, job.target, isolation="read_uncommitted")) - len(values)
    return Copied(numbers, kills, taken, aborted, operations)
