"""What a topic may refuse of records, noted once, so that a later check need not look at each of them again."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from onceflow.connectors.kafka.facts import TopicFacts
from onceflow.connectors.kafka.producing import bytes_of
from onceflow.connectors.topics.staged import Headers, Part
from onceflow.exceptions import SinkError

__all__ = ["Bounds"]

#: A batch of one record: its own head, and around the record what is not key, value or headers; each header has two
#: lengths of its own.
_BATCH_BYTES = 61 + 23
_HEADER_BYTES = 10


class Bounds(msgspec.Struct, array_like=True, frozen=True):
    """Of records that are written together.

    Attributes:
        longest: No record has more bytes of key, value and headers.
        highest: The highest partition.
        has_keys: Each record has one.
        first_ms: The lowest of their own timestamps; None: they have none.
        last_ms: The highest.
    """

    longest: int
    highest: int
    has_keys: bool
    first_ms: int | None = None
    last_ms: int | None = None

    @classmethod
    def of(cls, part: Part) -> Bounds:
        """Those of records whose partitions are chosen."""
        values, keys = bytes_of(part.values), None if part.keys is None else bytes_of(part.keys)
        longest = max(map(len, filter(None, values)), default=0)
        longest += 0 if keys is None else max(map(len, filter(None, keys)), default=0)
        if part.headers is not None:
            longest += max(map(_headers_size, part.headers), default=0)
        partitions, times = part.partitions, part.timestamps
        return cls(
            longest,
            max(partitions, default=0) if isinstance(partitions, list) else partitions or 0,
            keys is not None and None not in keys,
            min(times) if times else None,
            max(times) if times else None,
        )

    def check(self, facts: TopicFacts, now_ms: int, part: Callable[[], Part]) -> None:
        """Refuses records that the topic would refuse.

        Args:
            facts: Of the topic.
            now_ms: Timestamps are compared with it.
            part: The records, looked at where the bounds alone do not tell.

        Raises:
            SinkError: One is too large, has a partition that is not there, no key where the topic is compacted, or a
                timestamp too far from now.
        """
        if self.longest > facts.max_bytes - _BATCH_BYTES:
            _check_sizes(part(), facts)
        if "compact" in facts.cleanup and not self.has_keys:
            raise SinkError(
                f"topic {facts.name!r} is compacted (cleanup.policy={facts.cleanup!r}) and takes no record without a "
                "key: give the sink a key"
            )
        if self.highest >= facts.partitions:
            raise SinkError(
                f"a record goes to partition {self.highest}, and topic {facts.name!r} has {facts.partitions}, from 0 on"
            )
        if self.first_ms is not None and self.last_ms is not None and not facts.log_append_time:
            _check_times(self.first_ms, self.last_ms, facts, now_ms)


def _headers_size(headers: Headers | None) -> int:
    return sum(len(name.encode()) + len(content or b"") + _HEADER_BYTES for name, content in headers or ())


def _check_sizes(part: Part, facts: TopicFacts) -> None:
    limit = facts.max_bytes - _BATCH_BYTES
    keys = None if part.keys is None else bytes_of(part.keys)
    for number, value in enumerate(bytes_of(part.values)):
        key = keys[number] if keys else None
        size = len(value or b"") + len(key or b"") + _headers_size(part.headers[number] if part.headers else None)
        if size > limit:
            raise SinkError(
                f"a record of {size:,} bytes (key {key!r:.100}) is too large for topic {facts.name!r}, whose "
                f"max.message.bytes={facts.max_bytes:,} leaves {limit:,} for key, value and headers: raise it, or "
                "write smaller records"
            )


def _check_times(first_ms: int, last_ms: int, facts: TopicFacts, now_ms: int) -> None:
    for time_ms, ahead, bound, setting in (
        (last_ms, 1, facts.future_ms, "message.timestamp.after.max.ms"),
        (first_ms, -1, facts.past_ms, "message.timestamp.before.max.ms"),
    ):
        if (time_ms - now_ms) * ahead > bound:
            raise SinkError(
                f"a record has the timestamp {time_ms} ms, {abs(time_ms - now_ms) / 1000:,.0f} s "
                f"{'after' if ahead > 0 else 'before'} now, and topic {facts.name!r} takes {bound / 1000:,.0f} s at "
                f"most ({setting}): let the topic take it, or give the sink another timestamp"
            )
    if first_ms <= 0:
        # The client takes 0 for "now".
        raise SinkError(f"a record has the timestamp {first_ms} ms, and Kafka takes them from 1 on")
