"""Reads sources to their end, at once or in pieces."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, repeat
from typing import Any

import msgspec

from onceflow import Columns
from onceflow.sources import Source


class Found:
    """What a partition held: records, event times, rejected records, and how many were skipped."""

    def __init__(self) -> None:
        self.records: list[Any] = []
        self.times: list[int] = []
        self.rejected: list[tuple[str, str, str]] = []
        self.skipped = 0

    def add(self, batch) -> None:
        rows = batch.records.to_rows() if isinstance(batch.records, Columns) else batch.records
        self.records += rows
        if batch.event_times is not None:
            assert len(batch.event_times) == len(rows)
            self.times += batch.event_times.tolist()
        self.rejected += [(one.position, one.reason, one.text) for one in batch.rejected]
        self.skipped += batch.skipped

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Found) and repr(vars(self)) == repr(vars(other))

    __hash__ = None

    def __repr__(self) -> str:
        return f"Found({vars(self)})"


def plain(position):
    """The position as a checkpoint gives it back."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(position))


def read(source: Source, partition: Any = None, position: Any = None, sizes: Iterable[int] = ()) -> Found:
    """Everything from a position on, by one reader, in batches of these sizes (then of 7)."""
    found = Found()
    partition = str(partition) if partition is not None else source.partitions()[0]
    reader = source.open(partition, position)
    try:
        for size in chain(sizes, repeat(7)):
            batch = reader.read(size)
            if batch is None:
                return found
            assert len(batch.records) <= size
            found.add(batch)
    finally:
        reader.close()
    return found


def read_in_pieces(source: Source, sizes: Iterable[int], partition: Any = None) -> Found:
    """Everything, with another reader for each batch."""
    found = Found()
    partition = str(partition) if partition is not None else source.partitions()[0]
    position = None
    for size in chain(sizes, repeat(1)):
        reader = source.open(partition, position)
        batch = reader.read(size)
        position = plain(reader.position())
        reader.close()
        if batch is None:
            return found
        found.add(batch)
    return found


def position_after(source: Source, batches: Iterable[int], partition: Any = None):
    """The position behind batches of these sizes, and what they held."""
    found = Found()
    partition = str(partition) if partition is not None else source.partitions()[0]
    reader = source.open(partition, None)
    for size in batches:
        batch = reader.read(size)
        if batch is not None:
            found.add(batch)
    position = plain(reader.position())
    reader.close()
    return position, found
