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

import hashlib
from collections.abc import Callable, Iterable
from itertools import compress
from typing import Any, ClassVar, Literal, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from onceflow._native import Log, LogRecords, WakeHandle
from onceflow.checks import CheckContext, Finding
from onceflow.columns import Columns
from onceflow.connectors.event_time import in_range, micros, millis_to_micros
from onceflow.connectors.extras import require
from onceflow.connectors.files.malformed import MalformedPolicy, Rejections, check_policy
from onceflow.connectors.log.directory import LogDirectory, directory_of, topic_of
from onceflow.connectors.log.inspection import look_at_source
from onceflow.exceptions import (
    ConfigurationError,
    LogError,
    OffsetOutOfRangeError,
    SourceChangedError,
    SourceError,
    StoreMissingError,
    described,
)
from onceflow.sources import Source, SourceBatch, SourceContext, SourceReader
from onceflow.types import Plain

__all__ = ["LogSource"]

#: Makes a record of a message: a dict, see ``LogSource``.
Decode: TypeAlias = Callable[[dict[str, Any]], Any]
#: The time of a record, as text in ISO 8601, as a datetime or in seconds since 1970.
EventTime: TypeAlias = Callable[[Any], Any]


class LogSource(Source):
    """Records of a topic; each of its partitions is a partition.

    Partitions that the topic gets while a job runs are read from its next run on.

    Args:
        log: Directory of the log, or an open log.
        topic: Its name.
        decode: What a record is. None: a dict with ``partition``, ``offset``, ``timestamp_ms``, ``key``, ``value`` and
            ``headers``. ``"json"``: the value, read as JSON (None for a null value). ``"value"``: the value. Or a
            function of that dict.
        as_columns: Batches are columns ``partition``, ``offset``, ``timestamp_ms`` (numpy), ``key`` and ``value``
            (Arrow arrays of binary): no Python object for a record. Needs ``onceflow[arrow]``.
        event_time: ``"timestamp"``: the timestamps of the records. Or a function that gives the time of a record (ISO
            text, a datetime, or seconds since 1970); with ``as_columns`` a function that gives an int64 array of
            microseconds for a batch of columns.
        stop_at_end: Each partition ends at what was its end when the job first opened it. False: the source goes on
            for ever, until the job is stopped. In runs ``until="caught_up"`` it ends, both ways, at what was its end
            when that run opened it.
        on_malformed: What to do with a record that ``decode`` or ``event_time`` raises for: ``"fail"``, ``"skip"`` (and
            count it), or ``"dead_letter"``.

    Raises:
        ConfigurationError: Settings that cannot be.
    """

    wakes: ClassVar[bool] = True

    def __init__(
        self,
        log: LogDirectory,
        topic: str,
        *,
        decode: Literal["json", "value"] | Decode | None = None,
        as_columns: bool = False,
        event_time: Literal["timestamp"] | EventTime | None = None,
        stop_at_end: bool = True,
        on_malformed: MalformedPolicy = "fail",
    ) -> None:
        self._directory = directory_of(log)
        self._topic = topic_of(topic)
        self._decode = _decoder(decode)
        self._as_columns = as_columns
        self._event_time = event_time
        self.deterministic = not (callable(decode) or callable(event_time))
        self._stop_at_end = stop_at_end
        self._policy: MalformedPolicy = check_policy(on_malformed)
        self.has_event_time = event_time is not None
        self.has_dead_letters = self._policy == "dead_letter"
        if as_columns and decode is not None:
            raise ConfigurationError("columns hold keys and values as they are: give as_columns=True or decode")
        if event_time is not None and event_time != "timestamp" and not callable(event_time):
            raise ConfigurationError(f"event_time={event_time!r}: give 'timestamp' or a function of a record")
        if as_columns:
            _pyarrow()

    def partitions(self) -> list[str]:
        """``"0"``, ``"1"`` and so on."""
        with self._open() as log:
            return [str(number) for number in range(self._known(log).partitions)]

    def open(self, partition: str, position: Plain) -> SourceReader:
        """See ``Source``."""
        return self.open_with_context(partition, position, SourceContext())

    def open_with_context(self, partition: str, position: Plain, context: SourceContext) -> SourceReader:
        """See ``Source``."""
        log = self._open()
        try:
            if isinstance(context.wake, WakeHandle):
                log.wake(context.wake)
            return self._reader(log, int(partition), position, caught_up=context.until == "caught_up")
        except BaseException:
            log.close()
            raise

    def check(self, context: CheckContext) -> Iterable[Finding]:
        """See ``Source``."""
        with self._open(read_only=True) as log:
            yield from look_at_source(log, self._known(log))

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

    def _reader(self, log: Log, partition: int, position: Plain, *, caught_up: bool) -> SourceReader:
        number = self._known(log).number
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
        if caught_up:
            end, kept_end = found.end, None
        last = None if position is None else _fields(position).get("last")
        self._check_last(log, partition, found.start, last)
        settings = (self._decode, self._as_columns, self._event_time, self._policy)
        return _LogReader(log, self._topic, number, partition, offset, end, kept_end, last, *settings)

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
                f"topic {self._topic!r} was deleted and made again since the checkpoint, so offset "
                f"{fields['offset']} of partition {partition} means nothing any more; start over with "
                f"resume_from='none'",
                position=fields["offset"],
            )
        return fields["offset"], fields["end"]


def _fields(position: Plain) -> dict[str, Any]:
    if not isinstance(position, dict) or not isinstance(position.get("offset"), int):
        raise SourceError(f"{position!r} is no position in a topic; start over with resume_from='none'")
    return position


def _digest(timestamp: int, key: bytes | None, value: bytes | None) -> str:
    """What tells a record from others that had its offset."""
    return hashlib.blake2b(msgspec.msgpack.encode([timestamp, key, value]), digest_size=8).hexdigest()


_REMOVED = (
    "retention has removed what is between. Give the topic a longer retention; to go on without these records, start "
    "over with resume_from='none'"
)


def _decoder(decode: str | Decode | None) -> Decode | None:
    if decode == "json":
        read = msgspec.json.Decoder().decode
        return lambda message: None if message["value"] is None else read(message["value"])
    if decode == "value":
        return lambda message: message["value"]
    if decode is not None and not callable(decode):
        raise ConfigurationError(f"decode={decode!r}: give 'json', 'value' or a function of a message")
    return decode


def _pyarrow() -> Any:
    return require("pyarrow", extra="arrow", purpose="as_columns")


class _LogReader(SourceReader):
    def __init__(
        self,
        log: Log,
        topic: str,
        number: int,
        partition: int,
        offset: int,
        end: int | None,
        kept_end: int | None,
        last: Any,
        decode: Decode | None,
        as_columns: bool,
        event_time: str | EventTime | None,
        policy: MalformedPolicy,
    ) -> None:
        self._log = log
        self._topic = topic
        self._number = number
        self._partition = partition
        self._offset = offset
        self._end = end
        #: What positions say of it.
        self._kept_end = kept_end
        #: Offset and digest of the record that was read last.
        self._last = last
        self._decode = decode
        self._event_time = event_time
        self._policy = policy
        self._as_columns = as_columns

    def read(self, max_records: int) -> SourceBatch | None:
        end = self._end
        if end is not None:
            if self._offset >= end:
                return None
            max_records = min(max_records, end - self._offset)
        try:
            found = self._log.fetch(self._topic, self._partition, self._offset, max_records=max_records)
        except OffsetOutOfRangeError as error:
            raise SourceChangedError(f"{error}: {_REMOVED}", position=self._offset) from error
        offsets = found.offsets
        # Where compaction has removed records, so many reach beyond the end.
        count = len(offsets) if end is None else int(np.searchsorted(offsets, end))
        first = int(offsets[0]) if count else self._offset
        batch = self._columns(found, count) if self._as_columns else self._rows(found, count)
        batch.first_record = first
        self._offset = found.next_offset if end is None else min(found.next_offset, end)
        return batch

    def _columns(self, found: LogRecords, count: int) -> SourceBatch:
        arrow = _pyarrow().record_batch(found).slice(0, count)
        if count:
            self._note_last(*(column[count - 1].as_py() for column in arrow.columns))
        columns = Columns(
            {
                "partition": np.full(count, self._partition, dtype=np.int32),
                "offset": found.offsets[:count],
                "timestamp_ms": found.timestamps[:count],
                "key": arrow.column("key"),
                "value": arrow.column("value"),
            }
        )
        if self._event_time is None:
            return SourceBatch(columns)
        if isinstance(self._event_time, str):
            times, valid = millis_to_micros(found.timestamps[:count])
        else:
            times = self._event_time(columns)
            if not isinstance(times, np.ndarray) or times.dtype != np.int64 or times.shape != (count,):
                raise SourceError(
                    f"event_time of {self._topic!r} must give an int64 array of {count} times in microseconds since "
                    f"1970 for a batch of columns, not {times!r}"
                )
            valid = in_range(times)
        rejections = Rejections(self._policy, str(self._partition))
        for row in np.flatnonzero(~valid).tolist():
            self._reject_time(rejections, int(found.offsets[row]), int(found.timestamps[row]), found.values[row])
        if not valid.all():
            columns, times = columns.filter(valid), times[valid]
        return SourceBatch(columns, times, rejections.records, rejections.skipped)

    def _reject_time(self, rejections: Rejections, offset: int, timestamp: int, value: bytes | None) -> None:
        shown = f"the timestamp {timestamp} ms" if self._event_time == "timestamp" else "an event time"
        rejections.add(offset, f"has {shown}, which is not in the years 1 to 9999", value or b"")

    def _rows(self, found: LogRecords, count: int) -> SourceBatch:
        partition = self._partition
        messages = [
            {
                "partition": partition,
                "offset": offset,
                "timestamp_ms": timestamp,
                "key": key,
                "value": value,
                "headers": headers,
            }
            for offset, timestamp, key, value, headers in zip(
                found.offsets[:count].tolist(),
                found.timestamps[:count].tolist(),
                found.keys[:count],
                found.values[:count],
                found.headers[:count],
                strict=True,
            )
        ]
        if messages:
            last = messages[-1]
            self._note_last(last["offset"], last["timestamp_ms"], last["key"], last["value"])
        rejections = Rejections(self._policy, str(partition))
        try:
            records, times = self._made(messages)
            taken: npt.NDArray[np.int64] | slice = slice(None)
        except Exception:
            records, times, taken = self._each_made(messages, rejections)
        if self._event_time == "timestamp":
            millis = found.timestamps[:count][taken]
            times, valid = millis_to_micros(millis)
            if not valid.all():
                offsets, values = found.offsets[:count][taken], np.array(found.values[:count], dtype=object)[taken]
                for row in np.flatnonzero(~valid).tolist():
                    self._reject_time(rejections, int(offsets[row]), int(millis[row]), values[row])
                records, times = list(compress(records, valid)), times[valid]
        return SourceBatch(records, times, rejections.records, rejections.skipped)

    def _made(self, messages: list[dict[str, Any]]) -> tuple[list[Any], npt.NDArray[np.int64] | None]:
        """The records of messages, and their times if a function gives them. Raises what the functions do."""
        decode, event_time = self._decode, self._event_time
        records = messages if decode is None else list(map(decode, messages))
        if not callable(event_time):
            return records, None
        return records, np.fromiter((micros(event_time(record)) for record in records), np.int64, len(records))

    def _each_made(
        self, messages: list[dict[str, Any]], rejections: Rejections
    ) -> tuple[list[Any], npt.NDArray[np.int64] | None, npt.NDArray[np.int64]]:
        """The same one by one, without those that are refused, and which messages are left."""
        records: list[Any] = []
        times, taken = [], []
        for number, message in enumerate(messages):
            try:
                made, time = self._made([message])
            except Exception as error:
                rejections.add(message["offset"], described(error), message["value"] or b"")
                continue
            records += made
            taken.append(number)
            if time is not None:
                times.append(time)
        return records, np.concatenate(times) if times else self._no_times(), np.array(taken, dtype=np.int64)

    def _no_times(self) -> npt.NDArray[np.int64] | None:
        return np.empty(0, dtype=np.int64) if callable(self._event_time) else None

    def position(self) -> Plain:
        position: dict[str, Plain] = {"topic": self._number, "offset": self._offset, "end": self._kept_end}
        position["log"] = self._log.id
        if self._last is not None:
            position["last"] = self._last
        return position

    def _note_last(self, offset: int, timestamp: int, key: bytes | None, value: bytes | None) -> None:
        self._last = [offset, _digest(timestamp, key, value)]

    def close(self) -> None:
        self._log.close()
