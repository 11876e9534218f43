"""Records on their way from ``produce`` to the log, and the reports on their way back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from typing import NamedTuple

from onceflow._native import partition_of
from onceflow.exceptions import OnceflowError
from onceflow.log.message import Headers, Message, placed
from onceflow.log.topic_partition import OFFSET_INVALID, Place

__all__ = ["Batch", "OnDelivery", "Pending", "Places", "Produced", "Report", "Staged"]

#: Called with the error, or None, and the record.
OnDelivery = Callable[[OnceflowError | None, Message], object]

#: What most records do not have: partition or -1, timestamp, headers, delivery callback.
Extras = tuple[int, int | None, Headers | None, OnDelivery | None]


class Report(NamedTuple):
    """A callback that is due.

    Attributes:
        on_delivery: The callback.
        message: What it is called with.
        staged: The transaction of the record.
        ordinal: Which record of the transaction in its partition it is.
    """

    on_delivery: OnDelivery
    message: Message
    staged: Staged | None = None
    ordinal: int = 0


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


class Pending:
    """Records of one topic that wait to be written, as columns: that is how the log takes them.

    Attributes:
        topic: Its name.
        values: One a record.
        keys: One a record.
        extras: By index, of the records that have any.
        nbytes: What they hold of the producer's buffer.
    """

    __slots__ = ("extras", "keys", "nbytes", "topic", "values")

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.values: list[bytes | None] = []
        self.keys: list[bytes | None] = []
        self.extras: dict[int, Extras] = {}
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self.values)

    def one_by_one(self) -> Iterator[Pending]:
        """Each record alone."""
        for index, (value, key) in enumerate(zip(self.values, self.keys, strict=True)):
            one = Pending(self.topic)
            one.values.append(value)
            one.keys.append(key)
            if index in self.extras:
                one.extras[0] = self.extras[index]
            # Together they hold as much as before; which of them holds it makes no difference.
            one.nbytes = 0 if index else self.nbytes
            yield one


class Batch:
    """Records of one topic as the native producer takes them, and the callbacks that wait for their end.

    Attributes:
        partitions: None: the log chooses by key. Else one a record, which reports need.
        timestamps: One for all, or one a record.
    """

    def __init__(self, pending: Pending, count: int, turn: int, wall_ms: int) -> None:
        rows = len(pending)
        self.topic = pending.topic
        self.nbytes = pending.nbytes
        self.values = pending.values
        self.keys = None if pending.keys.count(None) == rows else pending.keys
        self.partitions: list[int] | None = None
        self.timestamps: int | list[int] = wall_ms
        self.headers: list[Headers | None] | None = None
        self.callbacks: list[OnDelivery | None] | None = None
        if pending.extras:
            nothing: Extras = (-1, None, None, None)
            extras = [pending.extras.get(index, nothing) for index in range(rows)]
            # Records without a key go to one partition a batch, in turn: larger batches, and all get their share.
            sticky = turn % count
            self.partitions = [
                partition if partition != -1 else sticky if key is None else partition_of(key, count)
                for (partition, _, _, _), key in zip(extras, pending.keys, strict=True)
            ]
            self.timestamps = [wall_ms if timestamp is None else timestamp for _, timestamp, _, _ in extras]
            if any(headers is not None for _, _, headers, _ in extras):
                self.headers = [headers for _, _, headers, _ in extras]
            if any(on_delivery is not None for _, _, _, on_delivery in extras):
                self.callbacks = [on_delivery for _, _, _, on_delivery in extras]

    def __len__(self) -> int:
        return len(self.values)

    def reports(self, places: Places | None, error: OnceflowError | None, staged: Staged | None = None) -> list[Report]:
        """The callbacks of the batch, with what became of it.

        Args:
            places: None: nobody knows where it is.
            error: Why it is nowhere.
            staged: The transaction that has it.
        """
        if self.callbacks is None:
            return []
        rows = len(self)
        partitions = self.partitions or [0] * rows
        keys = self.keys or [None] * rows
        headers = self.headers or [None] * rows
        timestamps = self.timestamps if isinstance(self.timestamps, list) else [self.timestamps] * rows
        ordinals = repeat(0) if staged is None else staged.ordinals(self.topic, partitions)
        reports = []
        for partition, timestamp, key, value, header, on_delivery, ordinal in zip(
            partitions, timestamps, keys, self.values, headers, self.callbacks, ordinals, strict=False
        ):
            offset = OFFSET_INVALID if places is None else places.next(self.topic, partition)
            if on_delivery is not None:
                message = Message(self.topic, partition, offset, timestamp, key, value, header, error)
                reports.append(Report(on_delivery, message, staged, ordinal))
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


class Staged:
    """The records of a transaction that were produced with callbacks: their reports come before its end or after it.

    Before it nobody knows their offsets. After a commit they are known, unless the transaction has other records too,
    which nobody has counted.
    """

    __slots__ = ("_counts", "_error", "_firsts")

    def __init__(self) -> None:
        self._counts: dict[Place, int] = {}
        self._firsts: dict[Place, int] = {}
        self._error: OnceflowError | None = None

    def __bool__(self) -> bool:
        return bool(self._counts)

    def ordinals(self, topic: str, partitions: list[int]) -> list[int]:
        """The numbers of the next records of these partitions."""
        counts = {partition: self._counts.get((topic, partition), 0) for partition in set(partitions)}
        ordinals = []
        for partition in partitions:
            ordinals.append(ordinal := counts[partition])
            counts[partition] = ordinal + 1
        self._counts.update({(topic, partition): count for partition, count in counts.items()})
        return ordinals

    def end(self, produced: Sequence[Produced], error: OnceflowError | None) -> None:
        """The transaction has ended: its records are here, or nowhere because of an error."""
        found: dict[Place, list[Produced]] = {}
        for run in produced:
            found.setdefault((run.topic, run.partition), []).append(run)
        self._firsts = {
            place: min(run.first_offset for run in runs)
            for place, runs in found.items()
            if sum(run.count for run in runs) == self._counts.get(place)
        }
        self._error = error

    def known(self, message: Message, ordinal: int) -> Message:
        """What is known of a record by now."""
        if self._error is None and not self._firsts:
            return message
        first = self._firsts.get((message._topic, message._partition))
        return placed(message, OFFSET_INVALID if first is None else first + ordinal, self._error)
