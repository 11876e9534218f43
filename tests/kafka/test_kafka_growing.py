"""A topic of a real Kafka gets partitions while a job follows it: their records come once, without a restart."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kafka_topics import Topics, written

JOB = Path(__file__).with_name("following_kafka.py")
KEYS = 5


class Numbers:
    """Numbers in a topic that grows, and what a job shows of them."""

    def __init__(self, bootstrap: str, root: Path) -> None:
        self.topics = Topics(bootstrap)
        self.root, self.bootstrap = root, bootstrap
        self.name = self.topics.create()
        self.next, self.partitions = 0, 1

    def write(self, count: int) -> None:
        for partition in range(self.partitions):
            mine = [n for n in range(self.next, self.next + count) if n % self.partitions == partition]
            self.topics.write(self.name, [{"n": n, "key": f"k{n % KEYS}"} for n in mine], partition=partition)
        self.next += count

    def grow(self) -> None:
        self.partitions += 1
        self.topics.grow(self.name, self.partitions)

    def life(self, *arguments: str, **env: str) -> subprocess.Popen[bytes]:
        env = {name: value for name, value in os.environ.items() if name not in ("CRASH_AT", "STOP_AT")} | env
        command = [sys.executable, "-W", "error", str(JOB), str(self.root), self.bootstrap, self.name, *arguments]
        return subprocess.Popen(command, env=env)

    def totals(self) -> dict[str, int]:
        shown = written(self.root / "totals") if (self.root / "totals").exists() else []
        return {total["key"]: total["total"] for total in shown}

    def await_all(self, life: subprocess.Popen[bytes], first: int = 0) -> None:
        deadline = time.monotonic() + 60
        while sum(self.totals().values()) < sum(range(first, self.next)):
            assert life.poll() is None
            assert time.monotonic() < deadline, self.totals()
            time.sleep(0.02)

    def check(self, first: int = 0) -> None:
        assert sorted(record["n"] for record in written(self.root / "each")) == list(range(first, self.next))
        expected: dict[str, int] = {}
        for n in range(first, self.next):
            expected[f"k{n % KEYS}"] = expected.get(f"k{n % KEYS}", 0) + n
        assert self.totals() == expected


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
        numbers.write(KEYS)
        time.sleep(0.2)
    first = min(record["n"] for record in written(numbers.root / "each"))
    assert first >= begun
    numbers.grow()
    numbers.write(20)
    numbers.await_all(life, first)
    life.kill()
    life.wait()
    numbers.check(first)
