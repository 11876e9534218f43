"""``assign_timestamps``: event times from records on their way."""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from onceflow.columns import Columns, rows_of, to_list
from onceflow.connectors.event_time import EventTimeParser, arrow_micros
from onceflow.exceptions import OnceflowError
from onceflow.operators.base import EventTimes, Operator, OperatorContext, Output
from onceflow.operators.calls import dead_letter, failed
from onceflow.types import Batch, Micros
from onceflow.watermarks import PartitionWatermark

__all__ = ["AssignTimestamps"]


class AssignTimestamps(Operator):
    """Gives records event times, and each partition that they come from a watermark.

    The task says which partition a batch comes from (``partition``), and which ones have ended.

    Args:
        event_time: Name of a field, or a function of a record, that gives its time.
        delay_us: How far a record may lie behind the newest one of its partition, in microseconds.
        dead_letters: Records without a valid time leave by the side output ``dead_letters``; else they end the run.
    """

    def __init__(self, event_time: str | Callable[[Any], Any], delay_us: int, *, dead_letters: bool) -> None:
        self._field = event_time if isinstance(event_time, str) else None
        self._function: Callable[[Any], Any] = itemgetter(event_time) if isinstance(event_time, str) else event_time
        self._delay = delay_us
        self._dead_letters = dead_letters
        self._parser = EventTimeParser()
        self._partitions: dict[str, PartitionWatermark] = {}
        #: Where the next batch comes from.
        self.partition = ""

    def open(self, context: OperatorContext) -> None:
        self._step_id = context.step_id
        self._partitions = {name: PartitionWatermark(self._delay, time) for name, time in context.marks.items()}

    def process(self, records: Batch, times: EventTimes, out: Output) -> None:
        values = self._read(records)
        if values is None:
            values, records = self._read_each(records, out)
        partition = self._partitions.setdefault(self.partition, PartitionWatermark(self._delay))
        out.emit(records, partition.take(values))

    def watermark(self, partition: str) -> Micros | None:
        """Of a partition; None if it has none yet."""
        known = self._partitions.get(partition)
        return None if known is None else known.value

    def _read(self, records: Batch) -> npt.NDArray[np.int64] | None:
        """The times of all records at once; None if one has no valid time."""
        try:
            if self._field is not None and isinstance(records, Columns):
                column = records[self._field]
                if isinstance(column, np.ndarray):
                    return self._parser.parse(to_list(column))
                found, valid = arrow_micros(column)
                return found if valid.all() else None
            return self._parser.parse(list(map(self._function, rows_of(records))))
        except OnceflowError:
            raise
        except Exception:
            # Which record it is, and why, comes out one by one.
            return None

    def _read_each(self, records: Batch, out: Output) -> tuple[npt.NDArray[np.int64], Batch]:
        rows = rows_of(records)
        values: list[int] = []
        good: list[int] = []
        letters: list[Any] = []
        for number, row in enumerate(rows):
            try:
                values.append(int(self._parser.parse([self._function(row)])[0]))
            except OnceflowError:
                raise
            except Exception as error:
                if not self._dead_letters:
                    raise failed(self._step_id, error, rows, number) from error
                letters.append(dead_letter(self._step_id, row, error))
            else:
                good.append(number)
        out.emit_side("dead_letters", letters)
        kept = records.take(np.array(good, np.int64)) if isinstance(records, Columns) else [rows[row] for row in good]
        return np.array(values, np.int64), kept

    def marks(self) -> dict[str, Micros]:
        return {name: known.newest for name, known in self._partitions.items() if known.newest is not None}
