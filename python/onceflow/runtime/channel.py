"""What travels from a source task to the worker task, and the channel that it travels in."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TypeAlias

from onceflow.exceptions import CapacityExceededError
from onceflow.operators.base import EventTimes
from onceflow.sources import SourceBatch
from onceflow.types import Micros

__all__ = ["BarrierEvent", "BatchEvent", "Channel", "EndEvent", "Event"]

#: A batch, and a barrier or the end.
_CAPACITY = 2


@dataclass(frozen=True, slots=True)
class BatchEvent:
    """Records with their times, and the watermark of their partition after them (both None without event time)."""

    batch: SourceBatch
    times: EventTimes
    watermark: Micros | None


@dataclass(frozen=True, slots=True)
class BarrierEvent:
    """Everything before it belongs to the checkpoint, everything after it to the next one."""

    checkpoint_id: int
    created_s: float


@dataclass(frozen=True, slots=True)
class EndEvent:
    """Nothing more comes from the partition in this run."""


Event: TypeAlias = BatchEvent | BarrierEvent | EndEvent


class Channel:
    """A queue from one task to another, of a batch at most and what comes after it: a barrier, or the end.

    A source task reads once in a round, and the worker takes what was read before the next round begins. Rounds stop
    while sinks hold too much: that is the back-pressure.
    """

    __slots__ = ("_events",)

    def __init__(self) -> None:
        self._events: deque[Event] = deque()

    def __len__(self) -> int:
        return len(self._events)

    def put(self, event: Event) -> None:
        """Appends an event.

        Raises:
            CapacityExceededError: It is full: the task was asked before what it had read was taken.
        """
        if len(self._events) >= _CAPACITY:
            raise CapacityExceededError(
                f"a channel takes {_CAPACITY} events, and was given another; report this",
                needed=_CAPACITY + 1,
                limit=_CAPACITY,
            )
        self._events.append(event)

    def pop(self) -> Event:
        """The next event."""
        return self._events.popleft()
