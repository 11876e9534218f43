"""A topic of a real Kafka gets partitions while a job follows it: their records come once, without a restart."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from numbered import GrowingNumbers
from topics import Topics

JOB = Path(__file__).with_name("following_kafka.py")


class Numbers(GrowingNumbers):
    """In a real topic."""

    def __init__(self, bootstrap: str, root: Path) -> None:
        super().__init__(root)
        self.topics, self.bootstrap = Topics(bootstrap), bootstrap
        self.name = self.topics.create()

    def put(self, partition: int, values: list[bytes]) -> None:
        self.topics.write(self.name, values, partition=partition)

    def make_partitions(self) -> None:
        self.topics.grow(self.name, self.partitions)

    def life(self, *arguments: str, **env: str) -> subprocess.Popen[bytes]:
        env = {name: value for name, value in os.environ.items() if name not in ("CRASH_AT", "STOP_AT")} | env
        command = [sys.executable, "-W", "error", str(JOB), str(self.root), self.bootstrap, self.name, *arguments]
        return subprocess.Popen(command, env=env)

    def await_all(self, life: subprocess.Popen[bytes], first: int = 0) -> None:
        def check_alive() -> None:
            assert life.poll() is None

        super().await_all(check_alive, first)


@pytest.fixture
def numbers(kafka, tmp_path):
    return Numbers(kafka.bootstrap, tmp_path)


def test_killed_while_partitions_come(numbers):
    """Kind: a partition that is half in a checkpoint, or that nobody finds after a kill."""
    moments = random.Random(3)
    numbers.write(20)
    for _ in range(3):
        life = numbers.life()
        numbers.grow()
        numbers.write(20)
        time.sleep(moments.uniform(0.5, 2.0))
        life.kill()
        life.wait()
    life = numbers.life()
    for _ in range(2):
        numbers.await_all(life)
        numbers.grow()
        numbers.write(20)
    numbers.await_all(life)
    life.kill()
    life.wait()
    numbers.check()


def test_a_new_partition_is_read_from_its_beginning(numbers):
    """Kind: a job that begins at the latest records begins there in each new partition too, and loses what came before
    it was found."""
    numbers.write(20)
    life = numbers.life("latest")
    deadline = time.monotonic() + 60
    # Until a record has come through, nobody knows that it has begun.
    begun = numbers.next
    while not numbers.totals():
        assert time.monotonic() < deadline
        assert life.poll() is None
        numbers.write(numbers.keys)
        time.sleep(0.2)
    first = min(numbers.seen())
    assert first >= begun
    numbers.grow()
    numbers.write(20)
    numbers.await_all(life, first)
    life.kill()
    life.wait()
    numbers.check(first)
