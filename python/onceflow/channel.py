"""What travels from a source task to the worker task, and the bounded channel that it travels in."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TypeAlias

from onceflow.sources import SourceBatch
from onceflow.types import Micros

__all__ = ["BarrierEvent", "BatchEvent", "Channel", "EndEvent", "Event"]


@dataclass(frozen=True, slots=True)
class BatchEvent:
    """Records, and the watermark of their partition behind them (None without event time)."""

    batch: SourceBatch
    watermark: Micros | None


@dataclass(frozen=True, slots=True)
class BarrierEvent:
    """Everything before it belongs to the checkpoint, everything behind it to the next one."""

    checkpoint_id: int
    created_s: float


@dataclass(frozen=True, slots=True)
class EndEvent:
    """The partition has ended for good."""


Event: TypeAlias = BatchEvent | BarrierEvent | EndEvent


class Channel:
    """A queue from one task to another. Full, it stops its sender: that is the back-pressure.

    Args:
        max_batches: Bound; barriers and the end always find room, since there is one of each at most.
    """

    __slots__ = ("_batches", "_events", "_max_batches")

    def __init__(self, max_batches: int = 2) -> None:
        self._events: deque[Event] = deque()
        self._max_batches = max_batches
        self._batches = 0

    @property
    def is_full(self) -> bool:
        """True if another batch must wait."""
        return self._batches >= self._max_batches

    def __len__(self) -> int:
        return len(self._events)

    def put(self, event: Event) -> None:
        """Appends an event."""
        self._events.append(event)
        self._batches += isinstance(event, BatchEvent)

    def peek(self) -> Event | None:
        """The next event, which stays."""
        return self._events[0] if self._events else None

    def pop(self) -> Event:
        """The next event."""
        event = self._events.popleft()
        self._batches -= isinstance(event, BatchEvent)
        return event
