"""A deduplicator and a barrier aligner as one writes them in Python, with the same answers to what they are fed."""

from __future__ import annotations

from collections import deque
from typing import Any, TypeAlias

__all__ = ["ACCEPT", "Action", "PythonAligner", "PythonDeduplicator"]

# As in ``Verdicts``.
ACCEPT, DUPLICATE, TOO_OLD, GAP, FENCED = range(5)
_LAST_SEQUENCE = (1 << 31) - 1

#: ``("deliver", channel, item)``, ``("trigger", None, checkpoint id)`` or ``("abort", None, checkpoint id)``.
Action: TypeAlias = "tuple[str, int | None, Any]"


class PythonDeduplicator:
    """Strict, in order: a dict of producers, each with its epoch and its last five batches."""

    def __init__(self, window: int = 5) -> None:
        self._window = window
        self._producers: dict[int, tuple[int, deque[tuple[int, int]]]] = {}

    def check_many(self, ids: list[int], epochs: list[int], firsts: list[int], lasts: list[int]) -> list[int]:
        """One verdict's code a batch."""
        producers, window = self._producers, self._window
        codes: list[int] = []
        add = codes.append
        for producer, epoch, first, last in zip(ids, epochs, firsts, lasts, strict=True):
            known = producers.get(producer)
            if known is None or epoch > known[0]:
                if first != 0:
                    add(GAP)
                    continue
                producers[producer] = (epoch, deque([(first, last)], window))
                add(ACCEPT)
                continue
            newest, batches = known
            if epoch < newest:
                add(FENCED)
                continue
            expected = batches[-1][1] + 1 if batches[-1][1] < _LAST_SEQUENCE else 0
            if first == expected:
                batches.append((first, last))
                add(ACCEPT)
            elif (first, last) in batches:
                add(DUPLICATE)
            else:
                add(TOO_OLD if last < batches[0][0] else GAP)
        return codes


class PythonAligner:
    """Aligned: a channel waits from its barrier to the last one; what it holds back is released as it arrived."""

    def __init__(self, channels: int) -> None:
        self._blocked = [False] * channels
        self._missing = 0
        self._pending: int | None = None
        self._latest = 0
        self._held: list[tuple[str, int, Any]] = []

    def receive(self, channel: int, item: Any) -> list[Action]:
        """An item."""
        if self._blocked[channel]:
            self._held.append(("item", channel, item))
            return []
        return [("deliver", channel, item)]

    def barrier(self, channel: int, checkpoint_id: int) -> list[Action]:
        """A barrier."""
        if self._blocked[channel]:
            self._held.append(("barrier", channel, checkpoint_id))
            return []
        actions: list[Action] = []
        if self._align(channel, checkpoint_id, actions):
            self._release(actions)
        return actions

    def _align(self, channel: int, checkpoint_id: int, actions: list[Action]) -> bool:
        """Counts a barrier; whether channels were unblocked."""
        freed = False
        if checkpoint_id != self._pending:
            if checkpoint_id <= self._latest:
                return False
            if self._pending is not None:
                actions.append(("abort", None, self._pending))
                self._blocked = [False] * len(self._blocked)
                freed = True
            self._pending = self._latest = checkpoint_id
            self._missing = len(self._blocked)
        self._blocked[channel] = True
        self._missing -= 1
        if self._missing == 0:
            actions.append(("trigger", None, checkpoint_id))
            self._pending = None
            self._blocked = [False] * len(self._blocked)
            freed = True
        return freed

    def _release(self, actions: list[Action]) -> None:
        again = True
        while again:
            again = False
            held, self._held = self._held, []
            for number, (kind, channel, item) in enumerate(held):
                if self._blocked[channel]:
                    self._held.append((kind, channel, item))
                elif kind == "item":
                    actions.append(("deliver", channel, item))
                elif self._align(channel, item, actions):
                    # Those that are left behind are older than the rest.
                    self._held += held[number + 1 :]
                    again = True
                    break
