"""What is known of a stream: by a position, and by its server."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from onceflow.connectors.redis.server import RedisAddress, RedisClient
from onceflow.exceptions import SourceError

__all__ = ["Place", "StreamInfo", "digest_of", "numbers_of", "shown"]


class Place(msgspec.Struct):
    """A position.

    Attributes:
        id: Of the entry that was read last; ``0-0`` if none was.
        number: How many entries had ever been added up to it.
        digest: Of its fields; empty if none was read.
        end: Id of the last entry that is to be read; None: the source follows the stream.
    """

    id: str
    number: int
    digest: str
    end: str | None


class StreamInfo(msgspec.Struct):
    """What a server says of a stream.

    Attributes:
        length: Entries that are there.
        added: Entries that were ever added.
        last: Id of the last one that was added.
        deleted: The highest id of an entry that was removed by itself.
    """

    length: int
    added: int
    last: str
    deleted: str

    @property
    def removed(self) -> int:
        return self.added - self.length

    @classmethod
    def of(cls, client: RedisClient, address: RedisAddress, stream: str) -> StreamInfo:
        import redis  # noqa: PLC0415 - an extra

        try:
            found = client.xinfo_stream(stream)
        except redis.ResponseError as error:
            raise SourceError(
                f"{address.shown} has no stream {stream!r} ({error}): it was deleted, or has not been made yet (XADD, "
                "or XGROUP CREATE … MKSTREAM)"
            ) from error
        return cls.made(address, found)

    @classmethod
    def made(cls, address: RedisAddress, found: Mapping[str, Any]) -> StreamInfo:
        if "entries-added" not in found:
            raise SourceError(f"{address.shown} does not count the entries of a stream: Redis does from version 7 on")
        last, deleted = shown(found["last-generated-id"]), shown(found["max-deleted-entry-id"])
        return cls(found["length"], found["entries-added"], last, deleted)


def digest_of(fields: Mapping[bytes, bytes]) -> str:
    """What tells an entry from others that had its id."""
    return hashlib.blake2b(msgspec.msgpack.encode(list(fields.items())), digest_size=8).hexdigest()


def numbers_of(name: str) -> tuple[int, int]:
    """An id as it is compared."""
    millis, _, sequence = name.partition("-")
    return int(millis), int(sequence)


def shown(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name
