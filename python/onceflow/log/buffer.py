"""Records on their way from ``produce`` to the log, and the reports on their way back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

from onceflow._native import partition_of
from onceflow.exceptions import OnceflowError
from onceflow.log.message import Headers, Message
from onceflow.log.topic_partition import OFFSET_INVALID, Place

__all__ = ["Batch", "OnDelivery", "Pending", "Places", "Produced", "Report"]

#: Called with the error, or None, and the record.
OnDelivery = Callable[[OnceflowError | None, Message], object]

#: What remembers a record: value, key, partition or -1, timestamp or 0, headers, delivery callback.
Pending = tuple[bytes | None, bytes | None, int, int, Headers | None, OnDelivery | None]


class Report(NamedTuple):
    """A callback that is due."""

    on_delivery: OnDelivery
    error: OnceflowError | None
    message: Message


@dataclass(frozen=True, slots=True)
class Produced:
    """Neighbours in one partition that one call has written.

    Attributes:
        topic: Name of the topic.
        partition: Number of the partition.
        first_offset: Offset of the first record.
        count: How many they are.
    """

    topic: str
    partition: int
    first_offset: int
    count: int


class Batch:
    """Records of one topic, transposed for the native producer.

    Attributes:
        partitions: None: the log chooses by key. An int: one for all. Else one a record, which reports need.
    """

    def __init__(self, topic: str, records: Sequence[Pending], count: int, turn: int, now_ms: int) -> None:
        values, keys, partitions, timestamps, headers, callbacks = zip(*records, strict=True)
        rows = len(records)
        self.topic = topic
        self.values = values
        self.keys = None if keys.count(None) == rows else keys
        self.headers = None if headers.count(None) == rows else headers
        self.timestamps: int | list[int] = now_ms
        if timestamps.count(0) < rows:
            self.timestamps = [timestamp or now_ms for timestamp in timestamps]
        self.callbacks = None if callbacks.count(None) == rows else callbacks
        self.partitions: int | list[int] | None = None
        if self.callbacks is not None or partitions.count(-1) < rows:
            if partitions[0] != -1 and partitions.count(partitions[0]) == rows:
                self.partitions = partitions[0]
            else:
                # Records without a key go to one partition a batch, in turn: larger batches, and all get their share.
                sticky = turn % count
                self.partitions = [
                    partition if partition != -1 else sticky if key is None else partition_of(key, count)
                    for partition, key in zip(partitions, keys, strict=True)
                ]

    def __len__(self) -> int:
        return len(self.values)

    def reports(self, places: Places | None, error: OnceflowError | None) -> list[Report]:
        """The callbacks of the batch: with what became of it; ``places`` None if nobody knows where it is."""
        if self.callbacks is None:
            return []
        rows = len(self)
        partitions = self.partitions if isinstance(self.partitions, list) else [self.partitions or 0] * rows
        keys = self.keys or (None,) * rows
        headers = self.headers or (None,) * rows
        timestamps = self.timestamps if isinstance(self.timestamps, list) else [self.timestamps] * rows
        reports = []
        for partition, timestamp, key, value, header, on_delivery in zip(
            partitions, timestamps, keys, self.values, headers, self.callbacks, strict=True
        ):
            offset = OFFSET_INVALID if places is None else places.next(self.topic, partition)
            if on_delivery is not None:
                message = Message(self.topic, partition, offset, timestamp, key, value, header, error)
                reports.append(Report(on_delivery, error, message))
        return reports


class Places:
    """Hands out the offsets that the log gave to the records of some batches, in their order."""

    def __init__(self, produced: Sequence[Produced]) -> None:
        runs: dict[Place, list[range]] = {}
        for run in produced:
            offsets = range(run.first_offset, run.first_offset + run.count)
            runs.setdefault((run.topic, run.partition), []).append(offsets)
        self._offsets = {place: chain.from_iterable(ranges) for place, ranges in runs.items()}

    def next(self, topic: str, partition: int) -> int:
        """The offset of the next record of this partition."""
        return next(self._offsets[topic, partition])
