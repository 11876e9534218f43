"""Records of one partition as columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from onceflow.log.message import Headers, Message, messages

if TYPE_CHECKING:
    from onceflow._native import LogRecords

__all__ = ["Records"]


class Records:
    """What ``Consumer.consume_batch`` read: neighbours in one partition, in order, as columns.

    Also an Arrow array: ``pyarrow.record_batch(records)`` and ``polars.from_arrow`` take it, without a copy and
    without a Python object for a record. Its columns are ``offset``, ``timestamp_ms``, ``key`` and ``value``; the
    latter two are binary. Keys and values go back into a log as they are: ``Producer.produce_many`` takes such columns.

    Attributes:
        topic: Name of the topic.
        partition: Number of the partition.
    """

    __slots__ = ("_native", "partition", "topic")

    def __init__(self, topic: str, partition: int, native: LogRecords) -> None:
        self.topic = topic
        self.partition = partition
        self._native = native

    def __len__(self) -> int:
        return len(self._native)

    @property
    def offsets(self) -> npt.NDArray[np.int64]:
        """Ascending; there are gaps where compaction has removed records."""
        return self._native.offsets

    @property
    def next_offset(self) -> int:
        """The offset to read on from."""
        return self._native.next_offset

    @property
    def timestamps(self) -> npt.NDArray[np.int64]:
        """Milliseconds since 1970."""
        return self._native.timestamps

    @property
    def keys(self) -> list[bytes | None]:
        """As Python objects; for a column without them use Arrow."""
        return self._native.keys

    @property
    def values(self) -> list[bytes | None]:
        """As Python objects; for a column without them use Arrow."""
        return self._native.values

    @property
    def headers(self) -> list[Headers | None]:
        """One list, or None, a record."""
        return self._native.headers

    @property
    def nbytes(self) -> int:
        """Bytes of keys, values and headers."""
        return self._native.nbytes

    def messages(self) -> list[Message]:
        """The same records one by one."""
        return messages(self.topic, self.partition, self._native)

    def __arrow_c_array__(self, requested_schema: object | None = None) -> tuple[object, object]:
        """The Arrow PyCapsule interface."""
        return self._native.__arrow_c_array__(requested_schema)

    def __repr__(self) -> str:
        return f"Records({self.topic}/{self.partition}, {len(self)} records, next_offset={self.next_offset})"
