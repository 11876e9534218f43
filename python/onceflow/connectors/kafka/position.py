"""Where a partition was read to, as a checkpoint keeps it.

The offset of the next record, with the id of the topic (one that was deleted and made again is another one), the offset
at which the source ends if it does, and offset and digest of the record that was read last: where a log was cut and
written to since, another record lies there.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import msgspec

from onceflow.exceptions import SourceError
from onceflow.types import Plain

__all__ = ["LastRecord", "Position", "digest_of"]


@dataclass(frozen=True, slots=True)
class LastRecord:
    """The record that was read last.

    Attributes:
        offset: Of it.
        digest: Of its timestamp, key and value.
    """

    offset: int
    digest: str


@dataclass(frozen=True, slots=True)
class Position:
    """See the module."""

    topic_id: str
    offset: int
    end: int | None
    last: LastRecord | None
    #: Of the topic, where state is kept by key: as many as when it was begun.
    partitions: int | None = None

    def plain(self) -> Plain:
        """For a checkpoint."""
        plain: dict[str, Plain] = {"topic": self.topic_id, "offset": self.offset, "end": self.end}
        if self.last is not None:
            plain["last"] = [self.last.offset, self.last.digest]
        if self.partitions is not None:
            plain["partitions"] = self.partitions
        return plain

    @classmethod
    def of(cls, plain: Plain) -> Position:
        """What ``plain`` has written.

        Raises:
            SourceError: Something else has.
        """
        try:
            found = msgspec.convert(plain, _Kept)
        except msgspec.ValidationError:
            raise SourceError(
                f"{plain!r} is not a position in a topic of Kafka; start over with resume_from='none'"
            ) from None
        last = None if found.last is None else LastRecord(*found.last)
        return cls(found.topic, found.offset, found.end, last, found.partitions)

    def is_same_place(self, other: Position) -> bool:
        """Whether the same records lie before both: there may be offsets without a record between them."""
        if self.topic_id != other.topic_id:
            return False
        if self.last is None or other.last is None:
            return self.last is other.last
        return self.last.offset == other.last.offset


class _Kept(msgspec.Struct, forbid_unknown_fields=True):
    topic: str
    offset: int
    end: int | None
    last: tuple[int, str] | None = None
    partitions: int | None = None


def digest_of(timestamp_ms: int, key: bytes | None, value: bytes | None) -> str:
    """What tells a record from others that had its offset."""
    return hashlib.blake2b(msgspec.msgpack.encode([timestamp_ms, key, value]), digest_size=8).hexdigest()
