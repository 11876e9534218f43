"""Streams of Redis as a source.

A position says which entry was read last, by its id and a digest of its fields, and how many entries the stream had
ever got up to it. A server counts what was ever added to a stream, and what is left of it. So a stream is told from one
that was cut further than it was read, was deleted and made anew, or lies on a server that was put back from an older
copy. Position, count and entries are read in one step.

Entries that were removed one by one (XDEL), and not by a cut, are not missed: somebody did not want them to be read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from typing import Any, Literal, TypeAlias

import msgspec
import numpy as np

from onceflow.checks import CheckContext, Finding
from onceflow.connectors.event_time import micros
from onceflow.connectors.files.malformed import MalformedPolicy, Rejections, check_policy
from onceflow.connectors.redis.server import RedisAddress, RedisClient
from onceflow.connectors.redis.stream import Place, StreamInfo, digest_of, numbers_of, shown
from onceflow.exceptions import ConfigurationError, SourceChangedError, SourceError, SourceWaitingWarning, described
from onceflow.sources import Source, SourceBatch, SourceContext, SourceReader
from onceflow.types import LAST_MICROS, Plain

__all__ = ["RedisStreamSource"]

#: An entry: ``{"id": "1700000000000-0", "fields": {b"name": b"value"}}``.
Entry: TypeAlias = dict[str, Any]
#: Makes a record of an entry.
Decode: TypeAlias = Callable[[Entry], Any]
#: The time of a record, as text in ISO 8601, as a datetime or in seconds since 1970.
EventTime: TypeAlias = Callable[[Any], Any]

#: Entries are read as a whole, so not as many at once as a batch may have.
_READ_AT_ONCE = 5000


class RedisStreamSource(Source):
    """Entries of streams, in order; each stream is a partition. Needs Redis 7 or newer.

    Consumer groups of the server have no part in it: the place of a job is in its checkpoints.

    Args:
        url: See ``RedisSink``.
        streams: The key of a stream, or several.
        decode: What a record is. None: a dict with ``id``, a text, and ``fields``, a dict of bytes. ``"json"``: the
            field ``value``, read as JSON, which is what ``RedisStreamSink`` writes. Or a function of that dict.
        event_time: ``"id"``: the time in the entries' ids, which is the server's at their addition. Or a function that
            gives the time of a record (ISO text, a datetime, or seconds since 1970).
        stop_at_end: Each stream ends at what was its last entry when the job first opened it. False: the source follows
            the streams until the job is stopped, or in runs ``until="caught_up"`` to what is there.
        on_malformed: What to do with an entry that ``decode`` or ``event_time`` raises for: ``"fail"``, ``"skip"`` (and
            count it), or ``"dead_letter"``.
        timeout_s: See ``RedisSink``.
        attempts: See ``RedisSink``.

    Raises:
        ConfigurationError: Settings that cannot be.
        MissingExtraError: redis is not installed.
    """

    def __init__(
        self,
        url: str,
        streams: str | Sequence[str],
        *,
        decode: Literal["json"] | Decode | None = None,
        event_time: Literal["id"] | EventTime | None = None,
        stop_at_end: bool = True,
        on_malformed: MalformedPolicy = "fail",
        timeout_s: float = 30.0,
        attempts: int = 20,
    ) -> None:
        self._address = RedisAddress(url, timeout_s, attempts)
        names = [streams] if isinstance(streams, str) else list(streams)
        if not names or len(set(names)) != len(names) or not all(isinstance(name, str) and name for name in names):
            raise ConfigurationError(
                f"streams={streams!r}: give the key of a stream, or a list of different ones", setting="streams"
            )
        if decode is not None and decode != "json" and not callable(decode):
            raise ConfigurationError(f"decode={decode!r}: give 'json' or a function of an entry", setting="decode")
        if event_time is not None and event_time != "id" and not callable(event_time):
            raise ConfigurationError(
                f"event_time={event_time!r}: give 'id' or a function of a record", setting="event_time"
            )
        self._streams = names
        self._decode: Decode | None = _json_value if decode == "json" else decode
        self._event_time = event_time
        self._stop_at_end = stop_at_end
        self._policy: MalformedPolicy = check_policy(on_malformed)
        self.deterministic = not (callable(decode) or callable(event_time))
        self.has_event_time = event_time is not None
        self.has_dead_letters = self._policy == "dead_letter"

    def partitions(self) -> list[str]:
        """The streams."""
        return self._streams

    def open(self, partition: str, position: Plain) -> SourceReader:
        """See ``Source``."""
        return self.open_with_context(partition, position, SourceContext())

    def open_with_context(self, partition: str, position: Plain, context: SourceContext) -> SourceReader:
        """See ``Source``."""
        who = f"source '{context.job}/{context.step_id}'"
        client = self._address.connect(self._address.waiting(who, SourceWaitingWarning))
        try:
            return self._reader(client, partition, position, caught_up=context.until == "caught_up")
        except BaseException:
            client.close()
            raise

    def check(self, context: CheckContext) -> Iterable[Finding]:
        """See ``Source``: whether the streams are there."""
        with closing(self._address.connect()) as client, self._address.told(SourceError):
            for stream in self._streams:
                info = StreamInfo.of(client, self._address, stream)
                text = f"has {info.length} entries of {info.added} that were ever added"
                yield Finding("ok", f"stream {stream!r}", text)

    def _reader(self, client: RedisClient, stream: str, position: Plain, *, caught_up: bool) -> SourceReader:
        with self._address.told(SourceError):
            info = StreamInfo.of(client, self._address, stream)
        if position is None:
            place = Place("0-0", info.removed, "", info.last if self._stop_at_end else None)
        else:
            try:
                place = msgspec.convert(position, Place)
            except msgspec.ValidationError as error:
                raise SourceError(f"{position!r} is not a position in a stream: {error}") from error
            place.end = place.end if self._stop_at_end else None
        end = info.last if caught_up else place.end
        reader = _StreamReader(client, self._address, stream, place, end, self._decode, self._event_time, self._policy)
        reader.check(info)
        return reader


class _StreamReader(SourceReader):
    def __init__(
        self,
        client: RedisClient,
        address: RedisAddress,
        stream: str,
        place: Place,
        end: str | None,
        decode: Decode | None,
        event_time: str | EventTime | None,
        policy: MalformedPolicy,
    ) -> None:
        self._client = client
        self._address = address
        self._stream = stream
        self._place = place
        self._end = end
        self._decode = decode
        self._event_time = event_time
        self._policy = policy

    def read(self, max_records: int) -> SourceBatch | None:
        place, end = self._place, self._end
        if end is not None and numbers_of(place.id) >= numbers_of(end):
            return None
        with self._address.told(SourceError):
            # In one step: what was cut is not cut in between.
            step = self._client.pipeline(transaction=True)
            step.xrange(self._stream, f"({place.id}", end or "+", count=min(max_records, _READ_AT_ONCE))
            step.xinfo_stream(self._stream)
            step.xrange(self._stream, place.id, place.id)
            entries, found, last = step.execute()
        info = StreamInfo.made(self._address, found)
        self.check(info, last)
        if entries:
            place.id, place.digest = shown(entries[-1][0]), digest_of(entries[-1][1])
            # What was removed by itself is not counted here, so the last one's number is taken where it is known.
            place.number = info.added if place.id == info.last else place.number + len(entries)
        elif end is not None:
            # Its last entry was removed meanwhile.
            place.id = end
            place.digest = ""
            return None
        return self._batch([{"id": shown(name), "fields": fields} for name, fields in entries])

    def check(self, info: StreamInfo, last: Any = None) -> None:
        """Refuses a stream that is not the one that was read, or lacks what was not.

        Raises:
            SourceChangedError: It is, or does.
        """
        place = self._place
        where = f"stream {self._stream!r} of {self._address.shown}"
        start_over = "to go on without them, start over with resume_from='none'"
        if numbers_of(info.last) < numbers_of(place.id) or info.added < place.number:
            raise self._changed(
                f"{where} has got {info.added} entries, the last one {info.last}, and {place.number} were read, up to "
                f"{place.id}: the server was put back from an older copy or has lost writes, or the stream was made "
                "anew. Put the newest one back; or start over with resume_from='none'"
            )
        if info.removed > place.number:
            raise self._changed(
                f"{where} was cut: {info.removed} entries of {info.added} are gone, and only {place.number} were read. "
                f"Cut it (MAXLEN, MINID) before the slowest reader; {start_over}"
            )
        if not place.digest or info.removed == place.number:
            return
        if last is None:
            with self._address.told(SourceError):
                last = self._client.xrange(self._stream, place.id, place.id)
        if last and digest_of(last[0][1]) != place.digest:
            raise self._changed(
                f"{where} has another entry {place.id} than the one that was read: the server was put back from an "
                f"older copy and written to since. Put the newest one back; {start_over}"
            )
        if not last and numbers_of(info.deleted) < numbers_of(place.id):
            raise self._changed(
                f"{where} does not have entry {place.id}, which was read last, though nothing was cut or removed up to "
                f"it: the stream was deleted and made anew, and what was not read of the old one is lost; {start_over}"
            )

    def _changed(self, text: str) -> SourceChangedError:
        return SourceChangedError(text, partition=self._stream, position=self._place.number)

    def _batch(self, entries: list[Entry]) -> SourceBatch:
        rejections = Rejections(self._policy, self._stream)
        records, times = [], []
        for entry in entries:
            try:
                record = entry if self._decode is None else self._decode(entry)
                time = self._time(entry, record)
            except Exception as error:
                rejections.add(entry["id"], described(error), repr(entry["fields"]).encode())
                continue
            records.append(record)
            times.append(time)
        taken = None if self._event_time is None else np.array(times, dtype=np.int64)
        return SourceBatch(records, taken, rejections.records, rejections.skipped)

    def _time(self, entry: Entry, record: Any) -> int:
        if self._event_time is None:
            return 0
        if callable(self._event_time):
            return micros(self._event_time(record))
        time = numbers_of(entry["id"])[0] * 1000
        if time > LAST_MICROS:
            raise ValueError(f"the id {entry['id']} is not of a time up to the year 9999")
        return time

    def position(self) -> Plain:
        # A copy: it is kept while reading goes on.
        return msgspec.to_builtins(self._place)  # type: ignore[no-any-return]

    def close(self) -> None:
        self._client.close()


def _json_value(entry: Entry) -> Any:
    fields = entry["fields"]
    if b"value" not in fields:
        raise ValueError("the entry has no field 'value'")
    return msgspec.json.decode(fields[b"value"])
