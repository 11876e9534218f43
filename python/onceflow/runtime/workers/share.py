"""What of a job is one worker's: partitions of its sources, and the edges by which it shares keys with others."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from zlib import crc32

from onceflow.runtime.workers.exchange import Edges

__all__ = ["Share", "dealt_out"]


def dealt_out(names: list[str], dealt: Mapping[str, int], count: int) -> dict[str, int]:
    """Which worker reads each partition; evenly, and for good.

    Args:
        names: All partitions, as ``source/partition``.
        dealt: Those that have been dealt out before.
        count: Of workers.
    """
    found = dict(dealt)
    taken = Counter(found.values())
    for name in names:
        if name not in found:
            found[name] = rank = min(range(count), key=lambda rank: taken[rank])
            taken[rank] += 1
    return found


class Share:
    """Of one worker.

    Args:
        rank: Its number.
        count: Of workers.
        dealt: Which worker reads each partition that was there at the start, as ``source/partition``.
        edges: To the others.
    """

    def __init__(self, rank: int, count: int, dealt: Mapping[str, int], edges: Edges) -> None:
        self.rank = rank
        self.count = count
        self.edges = edges
        self._dealt = dealt
        self._others: dict[str, set[str]] = defaultdict(set)
        #: Channels before those of its own sources: one from each other worker for each exchange, and one in which the
        #: supervisor puts its barriers, so that no checkpoint is cut before the worker has heard of it.
        self.channels = len(edges.exchanges) * (count - 1) + 1

    def owns(self, step_id: str, partition: str) -> bool:
        """Whether this worker reads a partition. One that has come since the start goes by its name."""
        name = f"{step_id}/{partition}"
        rank = self._dealt.get(name)
        if rank is None:
            rank = crc32(name.encode()) % self.count
        if rank != self.rank:
            self._others[step_id].add(partition)
        return rank == self.rank

    def others_of(self, step_id: str) -> set[str]:
        """Partitions of a source that other workers read, as far as was asked."""
        return self._others[step_id]
