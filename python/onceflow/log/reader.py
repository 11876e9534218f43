"""Which partitions a consumer reads, how far it is in each, and what it has fetched but not yet given away."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Literal

from onceflow.exceptions import ConfigurationError, OffsetOutOfRangeError, UnknownTopicOrPartitionError
from onceflow.log.message import Message, messages
from onceflow.log.records import Records
from onceflow.log.topic_partition import OFFSET_BEGINNING, OFFSET_END, OFFSET_INVALID, OFFSET_STORED, Place

if TYPE_CHECKING:
    from onceflow import _native

__all__ = ["OffsetReset", "Reader"]

OffsetReset = Literal["earliest", "latest", "error"]

#: Messages that are made at once for ``poll`` and ``consume``: all that a consumer holds in memory.
_CHUNK_RECORDS = 5_000


class Reader:
    """Reads its partitions in turn, each in order. Not safe to use from several threads.

    Attributes:
        positions: The next offset to read of each partition; None while nobody knows where to begin.
        paused: Partitions that are not read for now.
        held: The same, while a callback says where they are read, or lets go of them.
        skip_missing: Whether partitions of deleted topics are passed over; else reading them is an error.
    """

    def __init__(
        self,
        log: _native.Log,
        *,
        reset: OffsetReset,
        fetch_max_bytes: int,
        stored: Callable[[Place], int | None],
    ) -> None:
        self._log = log
        self._reset = reset
        self._fetch_max_bytes = fetch_max_bytes
        self._stored = stored
        self.positions: dict[Place, int | None] = {}
        self.paused: set[Place] = set()
        self.held: frozenset[Place] = frozenset()
        self.skip_missing = False
        #: Whose turn it is; the first one was read longest ago.
        self._turns: list[Place] = []
        #: Messages of one partition that were fetched, and how many of them were given away.
        self._chunk: list[Message] = []
        self._given = 0
        self._chunk_place: Place | None = None
        self._chunk_end = 0

    # ---- what is read ----------------------------------------------------------------------------

    def assign(self, positions: Mapping[Place, int]) -> None:
        """Reads these partitions and no others; an offset may be one of the constants."""
        self.remove(list(self.positions))
        self.add(positions)

    def add(self, positions: Mapping[Place, int]) -> None:
        """Reads these partitions too."""
        for place, offset in positions.items():
            self.seek(place, offset)
            self._turns.append(place)

    def remove(self, places: Iterable[Place]) -> None:
        """Reads these partitions no more."""
        for place in places:
            self.positions.pop(place, None)
            self.paused.discard(place)
            self._forget_chunk(place)
        self._turns = [place for place in self._turns if place in self.positions]

    def seek(self, place: Place, offset: int) -> None:
        """Reads on from an offset, or from where one of the constants says.

        Raises:
            UnknownTopicOrPartitionError: No such partition.
            ConfigurationError: A negative number that is none of the constants.
        """
        if offset < 0 and offset not in (OFFSET_BEGINNING, OFFSET_END, OFFSET_STORED, OFFSET_INVALID):
            raise ConfigurationError(
                f"offset={offset} of partition {place[1]} of {place[0]!r}: give an offset, or OFFSET_BEGINNING, "
                "OFFSET_END or OFFSET_STORED; to begin some records before the end, ask get_watermark_offsets for it",
                setting="offset",
            )
        self._forget_chunk(place)
        if offset >= 0:
            self.positions[place] = offset
            return
        partition = self._log.partition(*place)
        if offset == OFFSET_BEGINNING:
            self.positions[place] = partition.start
        elif offset == OFFSET_END:
            self.positions[place] = partition.end
        else:
            stored = self._stored(place)
            self.positions[place] = self._beginning(place) if stored is None else stored

    def pause(self, place: Place) -> None:
        """Does not read a partition for now."""
        self.paused.add(place)
        self._forget_chunk(place)

    def hold(self, places: Iterable[Place]) -> None:
        """Does not read these partitions, and only these, until the next call."""
        self.held = frozenset(places)
        if self._chunk_place in self.held:
            self._forget_chunk(self._chunk_place)

    def resume(self, place: Place) -> None:
        """Reads a paused partition again."""
        self.paused.discard(place)

    def active(self) -> list[tuple[str, int, int]]:
        """What to wait for: the positions of partitions that are read."""
        return [
            (*place, offset)
            for place, offset in self.positions.items()
            if offset is not None and place not in self.paused and place not in self.held
        ]

    # ---- reading ---------------------------------------------------------------------------------

    def message(self) -> Message | None:
        """The next record."""
        if self._given == len(self._chunk) and not self._fetch_chunk():
            return None
        message = self._chunk[self._given]
        self._given += 1
        if self._given < len(self._chunk):
            self.positions[message._topic, message._partition] = message._offset + 1
        else:
            self._given_away()
        return message

    def messages(self, limit: int) -> list[Message]:
        """Up to so many records that are there now, of several partitions perhaps."""
        taken: list[Message] = []
        while len(taken) < limit and (self._given < len(self._chunk) or self._fetch_chunk()):
            stop = self._given + limit - len(taken)
            taken += self._chunk[self._given : stop]
            self._given = min(stop, len(self._chunk))
            self._given_away()
        return taken

    def give_back(self, messages: list[Message]) -> None:
        """Reads these on the next call again."""
        for message in reversed(messages):
            place = (message._topic, message._partition)
            if place in self.positions:
                self._forget_chunk(place)
                self.positions[place] = message._offset

    def records(self, limit: int) -> Records | None:
        """Up to so many records of one partition, as columns."""
        # Its messages were made for nothing; the positions say where to go on.
        self._forget_chunk(self._chunk_place)
        found = self._fetch(limit)
        if found is None:
            return None
        place, records = found
        self.positions[place] = records.next_offset
        return Records(*place, records)

    def _given_away(self) -> None:
        """The position follows what was given away."""
        place = self._chunk_place
        if place is None:
            return
        if self._given == len(self._chunk):
            # After what compaction has removed, too.
            self.positions[place] = self._chunk_end
            self._forget_chunk(place)
        else:
            self.positions[place] = self._chunk[self._given]._offset

    def _fetch_chunk(self) -> bool:
        found = self._fetch(_CHUNK_RECORDS)
        if found is None:
            return False
        self._chunk_place, records = found
        self._chunk = messages(*self._chunk_place, records)
        self._given = 0
        self._chunk_end = records.next_offset
        return True

    def _forget_chunk(self, place: Place | None) -> None:
        if place == self._chunk_place:
            self._chunk, self._given, self._chunk_place = [], 0, None

    def _fetch(self, limit: int) -> tuple[Place, _native.LogRecords] | None:
        """Records of the first partition in turn that has any."""
        for turn, place in enumerate(self._turns):
            if place in self.paused or place in self.held:
                continue
            try:
                records = self._fetch_from(place, limit)
            except UnknownTopicOrPartitionError:
                if self.skip_missing:
                    continue
                raise
            if len(records):
                del self._turns[turn]
                self._turns.append(place)
                return place, records
            # Compaction may have removed all that there was up to the end.
            self.positions[place] = records.next_offset
        return None

    def _fetch_from(self, place: Place, limit: int) -> _native.LogRecords:
        position = self.positions[place]
        if position is None:
            raise OffsetOutOfRangeError(
                f"the group has committed no offset of partition {place[1]} of {place[0]!r}, and auto_offset_reset is "
                "'error'; seek, or commit one",
                topic=place[0],
                partition=place[1],
            )
        try:
            return self._log.fetch(*place, position, max_records=limit, max_bytes=self._fetch_max_bytes)
        except OffsetOutOfRangeError:
            beginning = self._beginning(place)
            if beginning is None:
                raise
            self.positions[place] = beginning
            return self._log.fetch(*place, beginning, max_records=limit, max_bytes=self._fetch_max_bytes)

    def _beginning(self, place: Place) -> int | None:
        """Where ``auto_offset_reset`` says to begin."""
        if self._reset == "error":
            return None
        partition = self._log.partition(*place)
        return partition.start if self._reset == "earliest" else partition.end
