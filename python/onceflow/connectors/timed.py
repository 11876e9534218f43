"""What a source was given as rows or as columns, with event times: one way for both, and for what has no valid time."""

from __future__ import annotations

from operator import itemgetter
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from onceflow.columns import Columns
from onceflow.connectors.event_time import EventTimeParser, arrow_micros, arrow_reason, in_range, numpy_micros
from onceflow.connectors.files.malformed import MalformedPolicy, Rejections
from onceflow.connectors.files.record_times import EventTime, times_of_columns, times_of_records
from onceflow.exceptions import OnceflowError, SourceError
from onceflow.sources import SourceBatch
from onceflow.types import Batch

__all__ = ["TimedBatches"]


class TimedBatches:
    """Makes batches of one partition.

    Args:
        event_time: What gives the time of a record: the name of a member or column, or a function; None: nothing does.
        policy: What becomes of records that have no valid time.
        partition: Its name.
    """

    def __init__(self, event_time: EventTime | None, policy: MalformedPolicy, partition: str) -> None:
        self._event_time = event_time
        self._time_of: Any = itemgetter(event_time) if isinstance(event_time, str) else event_time
        self._policy: MalformedPolicy = policy
        self._partition = partition
        self._parser = EventTimeParser()

    def batch(self, records: Batch, first: int) -> SourceBatch:
        """The batch of records of which the first has this number in the partition.

        Raises:
            MalformedRecordError: One has no valid time, and the policy is to fail.
            SourceError: A column of times is missing or holds something else, or a function of columns raises.
        """
        if self._event_time is None:
            return SourceBatch(records, first_record=first)
        rejections = Rejections(self._policy, self._partition)
        kept: Batch
        if isinstance(records, Columns):
            kept, times = self._columns(records, first, rejections)
        else:
            kept, times = self._rows(records, first, rejections)
        return SourceBatch(kept, times, rejections.records, rejections.skipped, first)

    def _rows(self, records: list[Any], first: int, rejections: Rejections) -> tuple[list[Any], npt.NDArray[np.int64]]:
        try:
            return records, times_of_records(self._time_of, records, self._parser)
        except ValueError:
            pass
        kept, times = [], []
        for number, record in enumerate(records, first):
            try:
                times.append(times_of_records(self._time_of, [record], self._parser)[0])
            except ValueError as error:
                rejections.add(f"record {number}", f"has no event time by {error}", _text(record))
            else:
                kept.append(record)
        return kept, np.array(times, dtype=np.int64)

    def _columns(self, columns: Columns, first: int, rejections: Rejections) -> tuple[Columns, npt.NDArray[np.int64]]:
        times, valid = self._times(columns)
        if valid.all():
            return columns, times
        for row in np.flatnonzero(~valid).tolist():
            rejections.add(f"record {first + row}", self._reason(columns, row), _text_of_row(columns, row))
        return columns.filter(valid), times[valid]

    def _times(self, columns: Columns) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        if not isinstance(self._event_time, str):
            times = times_of_columns(self._time_of, columns, f"partition {self._partition!r}")
            return times, in_range(times)
        if self._event_time not in columns:
            raise SourceError(f"no column {self._event_time!r} to take the event time from: there are {list(columns)}")
        column = columns[self._event_time]
        if isinstance(column, np.ndarray):
            return numpy_micros(column)
        try:
            return arrow_micros(column)
        except TypeError as error:
            raise SourceError(f"column {self._event_time!r} holds the event time and {error}") from error

    def _reason(self, columns: Columns, row: int) -> str:
        if not isinstance(self._event_time, str):
            return "has an event time that is not in the years 1 to 9999"
        column = columns[self._event_time]
        why = f"{column[row]!r} is not a time" if isinstance(column, np.ndarray) else arrow_reason(column, row)
        return f"column {self._event_time!r} holds the event time and {why}"


def _text_of_row(columns: Columns, row: int) -> bytes:
    try:
        return _text(columns.slice(row, row + 1).to_rows()[0])
    except OnceflowError:
        # A time that Python has no object for.
        return _text({name: str(columns[name][row]) for name in columns})


def _text(record: Any) -> bytes:
    """For people; objects whose own text fails too."""
    try:
        return msgspec.json.encode(record, enc_hook=str)
    except Exception:
        try:
            return repr(record).encode(errors="backslashreplace")
        except Exception:
            return f"<{type(record).__qualname__}>".encode()
