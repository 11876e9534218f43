"""Topics of the embedded log as a source.

A position is the offset of the next record, with the number of the topic (a topic that was deleted and made again is
another one) and, if the source ends, the offset at which it does: fixed when the partition was opened first, so that a
run that resumes ends where the interrupted one would have ended, whatever was written meanwhile. A run until caught up
ends with what is there when it begins, and fixes nothing for others. It also says which log
it is of, and has a digest of the record that was read last: a log that was put back from an older copy, and written to
since, has other records at the same offsets.

A reader that follows the log hands out an empty batch where nothing is there yet; the next commit of any process wakes
the job.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from onceflow._native import Log, LogRecords, WakeHandle
from onceflow.checks import CheckContext, Finding
from onceflow.connectors.files.malformed import MalformedPolicy
from onceflow.connectors.log.directory import LogDirectory, directory_of, topic_of
from onceflow.connectors.log.inspection import look_at_source
from onceflow.connectors.topics.codecs import Codec, CodecName, reading_of
from onceflow.connectors.topics.messages import Decode, EventTime, Headers, MessageReading, pyarrow
from onceflow.connectors.topics.share import Share
from onceflow.connectors.topics.typed import FieldType
from onceflow.exceptions import (
    LogError,
    OffsetOutOfRangeError,
    SourceChangedError,
    SourceError,
    StoreMissingError,
)
from onceflow.instances import Instance
from onceflow.sources import Source, SourceBatch, SourceContext, SourceReader
from onceflow.types import Batch, Plain

__all__ = ["LogSource"]


class LogSource(Source):
    """Records of a topic; each of its partitions is a partition.

    Partitions that the topic gets while a job follows it are read from their beginning, without a restart.

    Args:
        log: Directory of the log, or an open log.
        topic: Its name.
        decode: What a record is. None: a dict with ``partition``, ``offset``, ``timestamp_ms``, ``key``, ``value`` and
            ``headers``. ``"json"``: the value, read as JSON (None for a null value). ``"value"``: the value. Or a
            function of that dict.
        as_columns: Batches are columns ``partition``, ``offset``, ``timestamp_ms`` (numpy), ``key`` and ``value``
            (Arrow arrays of binary: no Python object for a record; or of text by a codec ``"str"``). Needs
            ``onceflow[arrow]``.
        types: With ``as_columns``: fields of values (JSON, msgpack) that are columns in place of ``value``, and their
            types: ``"int"`` (64 bits), ``"float"``, ``"bool"``, ``"str"`` or ``"bytes"``. Arrow arrays; a field that
            is missing, and any of a null value, is null. A value of another type is malformed.
        event_time: ``"timestamp"``: the timestamps of the records. Or a function that gives the time of a record (ISO
            text, a datetime, or seconds since 1970); with ``as_columns`` a function that gives an int64 array of
            microseconds for a batch of columns.
        stop_at_end: Each partition ends at what was its end when the job first opened it. False: the source goes on
            for ever, until the job is stopped. In runs ``until="caught_up"`` it ends, both ways, at what was its end
            when that run opened it.
        on_malformed: What to do with a record that ``decode`` or ``event_time`` raises for: ``"fail"``, ``"skip"`` (and
            count it), or ``"dead_letter"``.
        key_codec: What the bytes of keys mean: ``"bytes"``, ``"str"``, ``"json"``, ``"msgpack"``, or a codec of your
            own. A null stays None; what cannot be read is malformed.
        value_codec: The same for values.
        share: ``(index, count)``: reads this share of the partitions, where so many runs of the job divide them; see
            ``instance`` of ``run``.
        partitioned_by: Name of the field of the records by which producers choose the partition. Runs that divide a
            topic may key by it; each record that they read is then checked to lie where it must. None: by ``key``,
            where records are dicts of the message, or columns.

    Raises:
        ConfigurationError: Settings that cannot be.
    """

    wakes: ClassVar[bool] = True
    partitioner = "log"

    def __init__(
        self,
        log: LogDirectory,
        topic: str,
        *,
        decode: Literal["json", "value"] | Decode | None = None,
        as_columns: bool = False,
        types: Mapping[str, FieldType] | None = None,
        event_time: Literal["timestamp"] | EventTime | None = None,
        stop_at_end: bool = True,
        on_malformed: MalformedPolicy = "fail",
        key_codec: CodecName | Codec = "bytes",
        value_codec: CodecName | Codec = "bytes",
        share: tuple[int, int] | None = None,
        partitioned_by: str | None = None,
    ) -> None:
        self._directory = directory_of(log)
        self._topic = topic_of(topic)
        self._reading = reading_of(
            self._topic,
            decode=decode,
            as_columns=as_columns,
            types=types,
            event_time=event_time,
            on_malformed=on_malformed,
            key_codec=key_codec,
            value_codec=value_codec,
        )
        self.deterministic = self._reading.is_deterministic
        self._stop_at_end = stop_at_end
        self.has_event_time = event_time is not None
        self.has_dead_letters = on_malformed == "dead_letter"
        if partitioned_by is None and decode is None:
            partitioned_by = "key"
        self.job_instance = None if share is None else Instance.checked("share", share)
        self._share = Share(self._topic, None, partitioned_by, "log")

    def shared(self, instance: Instance, keys: Sequence[tuple[str, frozenset[str]]]) -> Source:
        """See ``Source``: partitions whose number leaves the instance's index, divided by the number of instances."""
        share = self._share.of(instance, keys)
        own = copy.copy(self)
        own.job_instance, own._share, own.partitioned_by = instance, share, share.field
        return own

    def check_share(self, records: Batch) -> None:
        """See ``Source``."""
        self._share.check_unchanged(self.all_partitions or 0, records)

    @property
    def positions_of(self) -> dict[str, str]:
        """The topic."""
        return {"topic": repr(self._topic)}

    def partitions(self) -> list[str]:
        """``"0"``, ``"1"`` and so on, or the share of them."""
        self.all_partitions = self._count()
        return self._mine(self.all_partitions)

    def _count(self) -> int:
        with self._open() as log:
            partitions: int = self._known(log).partitions
            return partitions

    def _mine(self, partitions: int) -> list[str]:
        return [str(number) for number in self._share.numbers(range(partitions))]

    def new_partitions(self, known: Set[str], context: SourceContext) -> list[str] | None:
        """See ``Source``: where it follows the topic."""
        if self._stop_at_end or context.until == "caught_up":
            return None
        there = self._count()
        self._share.check_count(self.all_partitions, there)
        return [partition for partition in self._mine(there) if partition not in known]

    def open(self, partition: str, position: Plain) -> SourceReader:
        """See ``Source``."""
        return self.open_with_context(partition, position, SourceContext())

    def open_with_context(self, partition: str, position: Plain, context: SourceContext) -> SourceReader:
        """See ``Source``."""
        log = self._open()
        try:
            if isinstance(context.wake, WakeHandle):
                log.wake(context.wake)
            return self._reader(log, int(partition), position, context)
        except BaseException:
            log.close()
            raise

    def check(self, context: CheckContext) -> Iterable[Finding]:
        """See ``Source``."""
        with self._open(read_only=True) as log:
            topic = self._known(log)
            yield from look_at_source(log, topic)
            yield from self._share.findings(topic.partitions)
        yield from self._share.sampled(range(topic.partitions), self.open, context.positions)

    def _open(self, *, read_only: bool = False) -> Log:
        try:
            return Log.open(self._directory, create=False, read_only=read_only)
        except StoreMissingError as error:
            raise SourceError(f"no log to read from: {error}") from error

    def _known(self, log: Log) -> Any:
        try:
            return log.topic(self._topic)
        except LogError as error:
            raise SourceError(f"{self._directory} cannot be read from: {error}") from error

    def _reader(self, log: Log, partition: int, position: Plain, context: SourceContext) -> SourceReader:
        topic = self._known(log)
        number, there = topic.number, topic.partitions
        if position is not None or context.resumed:
            self._share.check_count(None if position is None else _fields(position).get("partitions"), there)
        found = log.partition(self._topic, partition)
        offset, end = found.start, found.end if self._stop_at_end else None
        if position is not None:
            offset, kept = self._resumed(number, partition, position)
            if not found.start <= offset <= found.end:
                raise SourceChangedError(
                    f"partition {partition} of {self._topic!r} has offsets {found.start} to {found.end} (the next one "
                    f"to be written), and the checkpoint resumes at {offset}: "
                    f"{_REMOVED if offset < found.start else 'the log is older than the checkpoint'}",
                    position=offset,
                )
            end = kept if self._stop_at_end and kept is not None else end
        kept_end = end
        if context.until == "caught_up":
            end, kept_end = found.end, None
        last = None if position is None else _fields(position).get("last")
        self._check_last(log, partition, found.start, last)
        reading = replace(self._reading, placement=self._share.placement(there))
        kept_count = there if self._share.is_keyed else None
        return _LogReader(log, reading, number, partition, offset, end, kept_end, last, kept_count)

    def _check_last(self, log: Log, partition: int, start: int, last: Any) -> None:
        """Refuses a log that has another record where one was read."""
        if last is None or last[0] < start:
            return
        there = log.fetch(self._topic, partition, last[0], max_records=1)
        # Compaction may have removed it.
        if len(there) and there.offsets[0] == last[0]:
            digest = _digest(int(there.timestamps[0]), there.keys[0], there.values[0])
            if digest != last[1]:
                raise SourceChangedError(
                    f"offset {last[0]} of partition {partition} of {self._topic!r} has another record than the one "
                    "that was read before the checkpoint: the log was put back from an older copy, or made anew, and "
                    "written to since. Put the newest log back; to go on with this one, start over with "
                    "resume_from='none'",
                    position=last[0],
                )

    def _resumed(self, number: int, partition: int, position: Plain) -> tuple[int, int | None]:
        fields = _fields(position)
        if fields["topic"] != number:
            raise SourceChangedError(
                f"topic {self._topic!r} is not the one that was read up to the checkpoint: it was deleted and made "
                f"again since, or the source was pointed at another one. So offset {fields['offset']} of partition "
                f"{partition} means nothing any more; start over with resume_from='none'",
                position=fields["offset"],
            )
        return fields["offset"], fields["end"]


def _fields(position: Plain) -> dict[str, Any]:
    if not isinstance(position, dict) or not isinstance(position.get("offset"), int):
        raise SourceError(f"{position!r} is not a position in a topic; start over with resume_from='none'")
    return position


def _digest(timestamp: int, key: bytes | None, value: bytes | None) -> str:
    """What tells a record from others that had its offset."""
    return hashlib.blake2b(msgspec.msgpack.encode([timestamp, key, value]), digest_size=8).hexdigest()


_REMOVED = (
    "retention has removed what is between. Give the topic a longer retention; to go on without these records, start "
    "over with resume_from='none'"
)


class _Found:
    """The first records of what was read."""

    def __init__(self, found: LogRecords, count: int) -> None:
        self._found = found
        self._count = count

    @property
    def offsets(self) -> npt.NDArray[np.int64]:
        return self._found.offsets[: self._count]

    @property
    def timestamps(self) -> npt.NDArray[np.int64]:
        return self._found.timestamps[: self._count]

    @cached_property
    def keys(self) -> list[bytes | None]:
        return self._found.keys[: self._count]

    @cached_property
    def values(self) -> list[bytes | None]:
        return self._found.values[: self._count]

    @cached_property
    def headers(self) -> list[Headers]:
        return self._found.headers[: self._count]

    @cached_property
    def _arrow(self) -> Any:
        return pyarrow().record_batch(self._found).slice(0, self._count)

    def arrow(self) -> tuple[Any, Any]:
        return self._arrow.column("key"), self._arrow.column("value")


class _LogReader(SourceReader):
    def __init__(
        self,
        log: Log,
        reading: MessageReading,
        number: int,
        partition: int,
        offset: int,
        end: int | None,
        kept_end: int | None,
        last: Any,
        partitions: int | None,
    ) -> None:
        self._log = log
        self._reading = reading
        self._number = number
        self._partition = partition
        self._offset = offset
        self._end = end
        #: What positions say of it.
        self._kept_end = kept_end
        #: Offset and digest of the record that was read last.
        self._last = last
        #: Of the topic, where state is kept by key: as many as when it was begun.
        self._partitions = partitions

    def read(self, max_records: int) -> SourceBatch | None:
        end = self._end
        if end is not None:
            if self._offset >= end:
                return None
            max_records = min(max_records, end - self._offset)
        try:
            found = self._log.fetch(self._reading.topic, self._partition, self._offset, max_records=max_records)
        except OffsetOutOfRangeError as error:
            raise SourceChangedError(f"{error}: {_REMOVED}", position=self._offset) from error
        offsets = found.offsets
        # Where compaction has removed records, so many reach beyond the end.
        count = len(offsets) if end is None else int(np.searchsorted(offsets, end))
        messages = _Found(found, count)
        batch = self._reading.batch(self._partition, messages)
        batch.first_record = int(offsets[0]) if count else self._offset
        if count:
            self._note_last(messages, count - 1)
        self._offset = found.next_offset if end is None else min(found.next_offset, end)
        return batch

    def _note_last(self, messages: _Found, row: int) -> None:
        if self._reading.as_columns:
            key, value = (column[row].as_py() for column in messages.arrow())
        else:
            key, value = messages.keys[row], messages.values[row]
        self._last = [int(messages.offsets[row]), _digest(int(messages.timestamps[row]), key, value)]

    def position(self) -> Plain:
        position: dict[str, Plain] = {"topic": self._number, "offset": self._offset, "end": self._kept_end}
        position["log"] = self._log.id
        if self._last is not None:
            position["last"] = self._last
        if self._partitions is not None:
            position["partitions"] = self._partitions
        return position

    def close(self) -> None:
        self._log.close()
