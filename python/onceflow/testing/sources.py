"""A source of given records, with marks at which a run is interrupted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from onceflow.exceptions import OnceflowError
from onceflow.sources import Source, SourceBatch, SourceContext, SourceReader, StopRun, Wake
from onceflow.types import Plain

__all__ = ["ABORT", "EOF", "PAUSE", "AbortedError", "TestingSource"]


class AbortedError(OnceflowError):
    """A run met an ``ABORT`` mark: it ends here as if it had crashed, without a last checkpoint."""

    kind = "testing_aborted"


class _Mark:
    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


#: The run ends at once, with ``AbortedError``; the next run does not see the mark.
ABORT = _Mark("ABORT")
#: The run ends with a last checkpoint; the next run goes on behind the mark.
EOF = _Mark("EOF")
#: One round without records.
PAUSE = _Mark("PAUSE")


class TestingSource(Source):
    """Records of lists, one list a partition.

    Args:
        partitions: Records and marks of each partition.
        event_time: Makes the time (microseconds since 1970 UTC) of a record; without it there is none.
        batch_size: Records of a batch at most; also a mark ends a batch.
        replayable: False: positions are ignored, as with a source that cannot be read again: a run gets what no run
            before has got.
    """

    __test__ = False
    wakes: ClassVar[bool] = True

    def __init__(
        self,
        *partitions: Sequence[Any],
        event_time: Callable[[Any], int] | None = None,
        batch_size: int = 10,
        replayable: bool = True,
    ) -> None:
        self.replayable = replayable  # type: ignore[misc]
        self.has_event_time = event_time is not None
        self.deterministic = event_time is None
        self._event_time = event_time
        self._batch_size = batch_size
        self._partitions = [list(items) for items in partitions]
        self._met: set[tuple[int, int]] = set()
        self._readers: dict[int, _Reader] = {}

    def partitions(self) -> list[str]:
        """``"0"``, ``"1"`` and so on."""
        return [str(number) for number in range(len(self._partitions))]

    def open(self, partition: str, position: Plain) -> SourceReader:
        """See ``Source``."""
        return self.open_with_context(partition, position, SourceContext())

    def open_with_context(self, partition: str, position: Plain, context: SourceContext) -> SourceReader:
        """See ``Source``."""
        number = int(partition)
        start = position if isinstance(position, int) else 0
        if not self.replayable and number in self._readers:
            start = self._readers[number].next
        settings = (self._batch_size, self._event_time, self._met, number, context.wake)
        reader = _Reader(self._partitions[number], start, *settings)
        self._readers[number] = reader
        return reader


class _Reader(SourceReader):
    def __init__(
        self,
        items: list[Any],
        start: int,
        batch_size: int,
        event_time: Callable[[Any], int] | None,
        met: set[tuple[int, int]],
        number: int,
        wake: Wake,
    ) -> None:
        self._items = items
        self.next = start
        self._batch_size = batch_size
        self._event_time = event_time
        self._met = met
        self._number = number
        self._wake = wake

    def read(self, max_records: int) -> SourceBatch | None:
        if self.next >= len(self._items):
            return None
        first = self.next
        records: list[Any] = []
        while self.next < len(self._items) and len(records) < min(self._batch_size, max_records):
            item = self._items[self.next]
            if isinstance(item, _Mark):
                if records:
                    break
                self._meet(item)
                break
            records.append(item)
            self.next += 1
        times = None
        if self._event_time is not None:
            times = np.array([self._event_time(record) for record in records], dtype=np.int64)
        return SourceBatch(records, times, first_record=first)

    def _meet(self, mark: _Mark) -> None:
        place = (self._number, self.next)
        self.next += 1
        # What follows the mark is there.
        self._wake.set()
        if mark is ABORT and place not in self._met:
            self._met.add(place)
            raise AbortedError(f"partition {self._number} met ABORT")
        if mark is EOF and place not in self._met:
            self._met.add(place)
            raise StopRun

    def position(self) -> Plain:
        return self.next
