"""Numbers with a key, which tests write into topics, and what an independent count says of jobs that add them up."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from onceflow.connectors.files import read_parts

__all__ = ["GrowingNumbers", "check_totals", "key_of", "sums", "value_of"]


def key_of(number: int, keys: int) -> str:
    return f"k{number % keys}"


def value_of(number: int, keys: int) -> bytes:
    """A record of a topic, as JSON."""
    return msgspec.json.encode({"n": number, "key": key_of(number, keys)})


def sums(numbers: Iterable[int], keys: int) -> dict[str, int]:
    """The total of each key."""
    found: Counter[str] = Counter()
    for number in numbers:
        found[key_of(number, keys)] += number
    return dict(found)


def check_totals(found: Iterable[dict[str, Any]], last: int, keys: int) -> None:
    """Of the totals that a job hands out as they change: each once, and the last ones are those of all numbers."""
    newest: dict[str, dict[str, Any]] = {}
    for total in found:
        assert total["count"] > newest.get(total["key"], {"count": 0})["count"], "a total came twice"
        newest[total["key"]] = total
    assert {key: total["total"] for key, total in newest.items()} == sums(range(last), keys)
    assert sum(total["count"] for total in newest.values()) == last


class GrowingNumbers(ABC):
    """Numbers in a topic that gets partitions, and what a job that follows it shows: each in the directory ``each``,
    and their totals by key in ``totals``, both JSON Lines.

    Args:
        root: Of both directories.
    """

    keys = 5

    def __init__(self, root: Path) -> None:
        self.root, self.next, self.partitions = root, 0, 1

    @abstractmethod
    def put(self, partition: int, values: list[bytes]) -> None:
        """Writes to a partition."""

    @abstractmethod
    def make_partitions(self) -> None:
        """Gives the topic as many as ``partitions`` says."""

    def write(self, count: int) -> None:
        """Numbers from the next one on, to each partition in turn."""
        for partition in range(self.partitions):
            mine = [n for n in range(self.next, self.next + count) if n % self.partitions == partition]
            self.put(partition, [value_of(n, self.keys) for n in mine])
        self.next += count

    def grow(self) -> None:
        self.partitions += 1
        self.make_partitions()

    def seen(self) -> list[int]:
        return sorted(record["n"] for record in self._shown("each"))

    def totals(self) -> dict[str, int]:
        """The last one of each key."""
        return {total["key"]: total["total"] for total in self._shown("totals")}

    def _shown(self, name: str) -> list[dict[str, Any]]:
        path = self.root / name
        return [msgspec.json.decode(line) for line in read_parts(path).splitlines()] if path.exists() else []

    def await_all(self, check_alive: Callable[[], object], first: int = 0) -> None:
        """Until both sinks show all that was written; one commits after the other.

        Args:
            check_alive: Raises if the job has ended.
            first: The first number that it has read.
        """
        until = time.monotonic() + 120
        while len(self.seen()) < self.next - first or sum(self.totals().values()) < sum(range(first, self.next)):
            check_alive()
            assert time.monotonic() < until, (self.seen(), self.next)
            time.sleep(0.01)

    def check(self, first: int = 0) -> None:
        """Each number once, and totals of all of them."""
        assert self.seen() == list(range(first, self.next))
        assert self.totals() == sums(range(first, self.next), self.keys)
