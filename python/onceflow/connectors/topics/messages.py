"""Messages of a topic, whosever it is, as records: what ``decode``, ``as_columns`` and ``event_time`` make of them.

The embedded log and Kafka are read by the same rules, so a job gives the same results on both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any, Literal, Protocol, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from onceflow.columns import Columns
from onceflow.connectors.event_time import in_range, micros, millis_to_micros
from onceflow.connectors.extras import require
from onceflow.connectors.files.malformed import MalformedPolicy, Rejections, check_policy
from onceflow.connectors.topics.share import Placement
from onceflow.connectors.topics.typed import TypedFields
from onceflow.exceptions import ConfigurationError, SourceError, described
from onceflow.sources import SourceBatch

__all__ = ["Decode", "EventTime", "FromBytes", "Headers", "MessageReading", "Messages", "pyarrow"]

#: Makes a record of a message: of a dict, see ``LogSource``.
Decode: TypeAlias = Callable[[dict[str, Any]], Any]
#: The time of a record, as text in ISO 8601, as a datetime or in seconds since 1970.
EventTime: TypeAlias = Callable[[Any], Any]
Headers: TypeAlias = "list[tuple[str, bytes | None]] | None"
#: Makes a key or a value of its bytes.
FromBytes: TypeAlias = Callable[[bytes], Any]


class Messages(Protocol):
    """Messages of one partition that were read at once, in the order of their offsets."""

    @property
    def offsets(self) -> npt.NDArray[np.int64]: ...
    @property
    def timestamps(self) -> npt.NDArray[np.int64]: ...
    @property
    def keys(self) -> Sequence[bytes | None]: ...
    @property
    def values(self) -> Sequence[bytes | None]: ...
    @property
    def headers(self) -> Sequence[Headers]: ...
    def arrow(self) -> tuple[Any, Any]:
        """Keys and values as Arrow arrays of binary."""


def pyarrow() -> Any:
    """pyarrow.

    Raises:
        MissingExtraError: It is not installed.
    """
    return require("pyarrow", extra="arrow", purpose="as_columns")


@dataclass(frozen=True, slots=True)
class MessageReading:
    """How messages become records; ``LogSource`` says what the arguments mean.

    Args:
        topic: For messages.
        key_of: Makes a key of its bytes; a key that is None stays so. None: bytes stay bytes. Of columns: makes text.
        value_of: The same for values. With ``fields``: makes their rows.
        fields: Makes columns of the fields of values.
        placement: Where records must lie; None: anywhere.

    Raises:
        ConfigurationError: Settings that cannot be.
        MissingExtraError: Columns need pyarrow.
    """

    topic: str
    decode: Literal["json", "value"] | Decode | None = None
    as_columns: bool = False
    event_time: Literal["timestamp"] | EventTime | None = None
    policy: MalformedPolicy = "fail"
    key_of: FromBytes | None = None
    value_of: FromBytes | None = None
    fields: TypedFields | None = None
    placement: Placement | None = None

    def __post_init__(self) -> None:
        check_policy(self.policy)
        if self.decode not in (None, "json", "value") and not callable(self.decode):
            raise ConfigurationError(
                f"decode={self.decode!r}: give 'json', 'value' or a function of a message", setting="decode"
            )
        if self.as_columns and self.decode is not None:
            raise ConfigurationError("columns hold keys and values as they are: give as_columns=True or decode")
        if self.event_time not in (None, "timestamp") and not callable(self.event_time):
            raise ConfigurationError(
                f"event_time={self.event_time!r}: give 'timestamp' or a function of a record", setting="event_time"
            )
        if self.as_columns:
            pyarrow()

    @property
    def is_deterministic(self) -> bool:
        """Whether no function of the user's has a say."""
        return not (callable(self.decode) or callable(self.event_time))

    def batch(self, partition: int, found: Messages) -> SourceBatch:
        """The records of messages of a partition.

        Raises:
            MalformedRecordError: One is refused, and the policy is to fail.
            SourceError: One does not lie where it must.
        """
        batch = self._columns(partition, found) if self.as_columns else self._rows(partition, found)
        if self.placement is not None:
            self.placement.check(partition, batch.records)
        return batch

    def _columns(self, partition: int, found: Messages) -> SourceBatch:
        rejections = Rejections(self.policy, str(partition))
        offsets, timestamps, values = found.offsets, found.timestamps, found.values
        try:
            arrays = self._arrays(found)
        except SourceError:
            raise
        except Exception:
            arrays, taken = self._each_in_arrays(found, rejections)
            offsets, timestamps, values = offsets[taken], timestamps[taken], [values[row] for row in taken.tolist()]
        count = len(offsets)
        columns = Columns(
            {
                "partition": np.full(count, partition, dtype=np.int32),
                "offset": offsets,
                "timestamp_ms": timestamps,
                **arrays,
            }
        )
        if self.event_time is None:
            return SourceBatch(columns, None, rejections.records, rejections.skipped)
        if isinstance(self.event_time, str):
            times, valid = millis_to_micros(timestamps)
        else:
            times = self.event_time(columns)
            if not isinstance(times, np.ndarray) or times.dtype != np.int64 or times.shape != (count,):
                raise SourceError(
                    f"event_time of {self.topic!r} must give an int64 array of {count} times in microseconds since "
                    f"1970 for a batch of columns, not {times!r}"
                )
            valid = in_range(times)
        for row in np.flatnonzero(~valid).tolist():
            self._reject_time(rejections, int(offsets[row]), int(timestamps[row]), values[row])
        if not valid.all():
            columns, times = columns.filter(valid), times[valid]
        return SourceBatch(columns, times, rejections.records, rejections.skipped)

    def _arrays(self, found: Messages) -> dict[str, Any]:
        """Keys and values, or their fields, as columns. Raises what the decoders do."""
        if self.key_of is None and self.value_of is None:
            keys, values = found.arrow()
            return {"key": keys, "value": values}
        return self._in_arrays(_each(self.key_of, found.keys), _each(self.value_of, found.values))

    def _each_in_arrays(self, found: Messages, rejections: Rejections) -> tuple[dict[str, Any], npt.NDArray[np.int64]]:
        """The same without those that are refused, and which messages are left."""
        keys, values, taken = [], [], []
        for row, (key, value) in enumerate(zip(found.keys, found.values, strict=True)):
            try:
                made = _each(self.key_of, [key]), _each(self.value_of, [value])
                self._in_arrays(*made)
            except SourceError:
                # It is not the record that is at fault.
                raise
            except Exception as error:
                rejections.add(int(found.offsets[row]), described(error), value or b"")
                continue
            keys += made[0]
            values += made[1]
            taken.append(row)
        return self._in_arrays(keys, values), np.array(taken, dtype=np.int64)

    def _in_arrays(self, keys: list[Any], values: list[Any]) -> dict[str, Any]:
        arrow = pyarrow()
        binary, text = arrow.large_binary(), arrow.large_string()
        made = {"key": arrow.array(keys, binary if self.key_of is None else text)}
        if self.fields is not None:
            return made | self.fields.arrays(values)
        return made | {"value": arrow.array(values, binary if self.value_of is None else text)}

    def _reject_time(self, rejections: Rejections, offset: int, timestamp: int, value: bytes | None) -> None:
        shown = f"the timestamp {timestamp} ms" if self.event_time == "timestamp" else "an event time"
        rejections.add(offset, f"has {shown}, which is not in the years 1 to 9999", value or b"")

    def _rows(self, partition: int, found: Messages) -> SourceBatch:
        offsets, timestamps, values = found.offsets, found.timestamps, found.values
        rejections = Rejections(self.policy, str(partition))
        try:
            records, times = self._made(partition, found, slice(None))
            taken: npt.NDArray[np.int64] | slice = slice(None)
        except Exception:
            records, times, taken = self._each_made(partition, found, rejections)
        if self.event_time == "timestamp":
            millis = timestamps[taken]
            times, valid = millis_to_micros(millis)
            if not valid.all():
                of_taken, shown = offsets[taken], np.array(values, dtype=object)[taken]
                for row in np.flatnonzero(~valid).tolist():
                    self._reject_time(rejections, int(of_taken[row]), int(millis[row]), shown[row])
                records, times = list(compress(records, valid)), times[valid]
        return SourceBatch(records, times, rejections.records, rejections.skipped)

    def _made(self, partition: int, found: Messages, rows: slice) -> tuple[list[Any], npt.NDArray[np.int64] | None]:
        """The records of messages, and their times if a function gives them. Raises what the functions do."""
        decode, values = self.decode, _each(self.value_of, found.values[rows])
        if decode == "json":
            records = _each(_from_json, values)
        elif decode == "value":
            records = values
        else:
            offsets, timestamps = found.offsets[rows].tolist(), found.timestamps[rows].tolist()
            keys = _each(self.key_of, found.keys[rows])
            records = [
                {
                    "partition": partition,
                    "offset": offset,
                    "timestamp_ms": timestamp,
                    "key": key,
                    "value": value,
                    "headers": headers,
                }
                for offset, timestamp, key, value, headers in zip(
                    offsets, timestamps, keys, values, found.headers[rows], strict=True
                )
            ]
            if decode is not None:
                records = list(map(decode, records))
        event_time = self.event_time
        if not callable(event_time):
            return records, None
        return records, np.fromiter((micros(event_time(record)) for record in records), np.int64, len(records))

    def _each_made(
        self, partition: int, found: Messages, rejections: Rejections
    ) -> tuple[list[Any], npt.NDArray[np.int64] | None, npt.NDArray[np.int64]]:
        """The same one by one, without those that are refused, and which messages are left."""
        records: list[Any] = []
        times, taken = [], []
        for row, offset in enumerate(found.offsets.tolist()):
            try:
                made, time = self._made(partition, found, slice(row, row + 1))
            except SourceError:
                # It is not the record that is at fault.
                raise
            except Exception as error:
                rejections.add(offset, described(error), found.values[row] or b"")
                continue
            records += made
            taken.append(row)
            if time is not None:
                times.append(time)
        return records, np.concatenate(times) if times else self._no_times(), np.array(taken, dtype=np.int64)

    def _no_times(self) -> npt.NDArray[np.int64] | None:
        return np.empty(0, dtype=np.int64) if callable(self.event_time) else None


_from_json = msgspec.json.Decoder().decode


def _each(made_of: FromBytes | None, data: Sequence[bytes | None]) -> list[Any]:
    if made_of is None:
        return list(data)
    return [None if item is None else made_of(item) for item in data]
