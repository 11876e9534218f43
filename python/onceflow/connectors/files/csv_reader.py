"""The rows of one CSV file, as dicts or as columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from onceflow.columns import Columns
from onceflow.connectors.event_time import EventTimeParser, out_of_range
from onceflow.connectors.files.arrow import require_arrow
from onceflow.connectors.files.csv_blocks import CsvBlockReader
from onceflow.connectors.files.csv_records import PARTS, CsvRecords, CsvRows
from onceflow.connectors.files.csv_types import Agreed, convert
from onceflow.connectors.files.lines import Block, LineReader
from onceflow.connectors.files.malformed import MalformedPolicy, Rejections
from onceflow.connectors.files.record_times import times_of_columns, times_of_records
from onceflow.sources import SourceBatch, SourceReader
from onceflow.types import Batch, Plain

if TYPE_CHECKING:
    from onceflow.connectors.files.csv import CsvSource

__all__ = ["SAMPLE_ROWS", "CsvReader"]

#: Of each file, by which types are inferred.
SAMPLE_ROWS = 1000
#: What a value that does not convert raises.
_MISFIT = (ValueError, KeyError, OverflowError)
#: So few rows are read one by one if one of them is unusual; behind it parts become longer again by this factor.
_PART_ROWS = 32
_GROWTH = 4
#: More such parts than these, and than one in so many lines, and all rows of the batch may be so.
_PARTS_BY_ROW = 4
_LINES_BETWEEN = 256


def _arrow_type(kind: str) -> Any:
    pa = require_arrow()
    if kind == "datetime_utc":
        return pa.timestamp("us", "UTC")
    return {"int": pa.int64(), "float": pa.float64(), "bool": pa.bool_(), "datetime": pa.timestamp("us")}.get(
        kind, pa.string()
    )


class CsvReader(SourceReader):
    def __init__(
        self,
        source: CsvSource,
        policy: MalformedPolicy,
        lines: LineReader,
        records: CsvRecords,
        header: list[str],
        agreed: Agreed,
        record: int,
    ) -> None:
        self._policy = policy
        self._lines = lines
        self._records = records
        self._header = header
        self._types = {name: agreed.types[name] for name in header if name in agreed.types}
        self._exact = agreed.exact & set(header)
        self._untyped = agreed.untyped
        self._record = record
        self._nulls = source.null_values
        self._as_columns = source.as_columns
        self._names = source.columns or header
        self._wanted = [(header.index(name), name) for name in self._names]
        self._by = "the header" if source.names is None else "and names says"
        self._event_time = source.event_time
        self._times = EventTimeParser()
        self._blocks = CsvBlockReader(
            lines,
            header,
            self._names,
            self._types,
            self._exact,
            self._nulls,
            time_column=source.time_column,
            delimiter=source.delimiter,
            encoding=source.encoding,
            as_columns=source.as_columns,
            max_record_bytes=source.max_record_bytes,
        )

    def read(self, max_records: int) -> SourceBatch | None:
        block = self._blocks.block(max_records)
        if block is None:
            return self._read_each(max_records)
        found = self._blocks.read(block, block.start, max_records, block.batch_bytes)
        if found is None:
            # A function of columns gets those of a whole batch.
            return self._read_each(max_records) if callable(self._event_time) else self._read_parts(block, max_records)
        try:
            times = self._times_by_function(found.batch) if callable(self._event_time) else found.times
        except ValueError:
            return self._read_each(max_records)
        self._lines.take_block(found.lines, found.size)
        return self._handed_out([(found.batch, times)], found.records)

    def _handed_out(
        self,
        parts: list[tuple[Batch, npt.NDArray[np.int64] | None]],
        records: int,
        rejections: Rejections | None = None,
    ) -> SourceBatch:
        """Rows that were taken, so many records in the file."""
        batches = [batch for batch, _ in parts]
        times = [times for _, times in parts if times is not None]
        batch: Batch = batches[0]
        if len(batches) > 1:
            columns = [batch for batch in batches if isinstance(batch, Columns)]
            batch = Columns.concat(columns) if columns else list(chain.from_iterable(batches))
        refused, skipped = ([], 0) if rejections is None else (rejections.records, rejections.skipped)
        first, self._record = self._record, self._record + records
        return SourceBatch(batch, np.concatenate(times) if times else None, refused, skipped, first)

    def _read_parts(self, block: Block, max_records: int) -> SourceBatch | None:
        """What cannot be read at once because of some of its rows: those row by row, and what lies between at once."""
        rejections = Rejections(self._policy, self._lines.path)
        count = len(self._lines.peek(max_records))
        parts: list[tuple[Batch, npt.NDArray[np.int64] | None]] = []
        start, taken, records, each = block.start, 0, 0, 0
        size = -(-count // PARTS)
        while taken < count:
            size = min(size, count - taken)
            found = self._blocks.read(block, start, size, len(block.data))
            if found is not None:
                parts.append((found.batch, found.times))
                start, taken, records = start + found.size, taken + found.lines, records + found.records
                size *= _GROWTH
                continue
            are_few = each < _PARTS_BY_ROW + taken // _LINES_BETWEEN
            if are_few and size > _PART_ROWS:
                size = -(-size // PARTS)
                continue
            rows = self._records.peek(size if are_few else count - taken, taken)
            if rows.lines == taken:
                break
            parts.append(self._batch_of_good(rows, rejections))
            start, taken = start + self._records.size(taken, rows.lines), rows.lines
            records += len(rows.fields)
            each += 1
        if not taken:
            return self._read_each(max_records)
        # What was read at once is to be taken line by line, too.
        self._lines.peek(1, taken - 1)
        self._lines.take(taken)
        return self._handed_out(parts, records, rejections)

    def _read_each(self, max_records: int) -> SourceBatch | None:
        rows = self._records.peek(max_records)
        if not rows.lines and self._lines.is_complete():
            self._records.check_open_quote()
            return None
        rejections = Rejections(self._policy, self._lines.path)
        batch, times = self._batch_of_good(rows, rejections)
        self._lines.take(rows.lines)
        first, self._record = self._record, self._record + len(rows.fields)
        return SourceBatch(batch, times, rejections.records, rejections.skipped, first)

    def _batch_of_good(self, rows: CsvRows, rejections: Rejections) -> tuple[Batch, npt.NDArray[np.int64] | None]:
        """The rows that can be handed out; the others are refused, in their order."""
        # Those that cannot be read are as blank ones here.
        misfits: set[int] = set()
        found = None
        try:
            found = self._batch(rows.fields)
        except _MISFIT:
            misfits = self._misfits(rows.fields)
        starts = rows.starts()
        for number in sorted({*rows.refused, *misfits}):
            reason = rows.refused.get(number) or self._why_not(rows.fields[number])
            if reason is None:
                misfits.remove(number)
                continue
            data = self._records.data(starts[number], starts[number + 1])
            rejections.add(self._lines.line + starts[number], reason, data)
        return found or self._batch([row for number, row in enumerate(rows.fields) if number not in misfits])

    def _misfits(self, rows: list[list[str]]) -> set[int]:
        """Numbers of the rows that cannot be handed out; values are looked at by columns."""
        width = len(self._header)
        bad = {number for number, row in enumerate(rows) if len(row) not in (0, width)}
        numbers = [number for number, row in enumerate(rows) if len(row) == width]
        for index, name in self._wanted:
            texts = [rows[number][index] for number in numbers]
            bad.update(numbers[at] for at in _refused(partial(self._column, name=name), texts))
        if self._event_time is not None:
            numbers = [number for number in numbers if number not in bad]
            bad.update(numbers[at] for at in _refused(self._batch, [rows[number] for number in numbers]))
        return bad

    def _why_not(self, row: list[str]) -> str | None:
        if not row:
            return None
        if len(row) != len(self._header):
            return f"has {len(row)} fields, {self._by} {len(self._header)}"
        return self._wrong_value(row) or self._wrong_time(row)

    def _wrong_value(self, row: list[str]) -> str | None:
        for index, name in self._wanted:
            try:
                self._column((row[index],), name)
            except _MISFIT:
                kind = self._types[name]
                reason = f"has {row[index]!r} in column {name!r}, which is {kind}"
                if name not in self._exact:
                    return reason
                return (
                    f"{reason} by the first {SAMPLE_ROWS} rows of each file. Read it so by types={{{name!r}: "
                    f"{kind!r}}}, or start over with resume_from='none' and {{{name!r}: 'str'}}"
                )
        return None

    def _wrong_time(self, row: list[str]) -> str | None:
        try:
            self._batch([row])
        except ValueError as error:
            if callable(self._event_time):
                return f"has no event time by {error}"
            return f"has {row[self._header.index(self._event_time or '')]!r} as event time {self._event_time!r}"
        return None

    def _batch(self, rows: list[list[str]]) -> tuple[Batch, npt.NDArray[np.int64] | None]:
        """Rows as records, with their event times.

        Raises:
            ValueError, KeyError, OverflowError: A row has another number of fields, or a value does not convert.
        """
        width = len(self._header)
        widths = set(map(len, rows))
        if 0 in widths:
            rows = list(filter(None, rows))
        if not widths <= {0, width}:
            raise ValueError("another number of fields")
        fields: list[tuple[str, ...]] = list(zip(*rows, strict=True)) if rows else [()] * width
        values = [self._column(fields[index], name) for index, name in self._wanted]
        if self._as_columns:
            batch: Batch = Columns(dict(zip(self._names, values, strict=True)))
        else:
            # dict(zip(names, row)) of each row, without a line of Python for each.
            batch = list(map(dict, map(zip, repeat(self._names), zip(*values, strict=True))))
        return batch, self._event_times(batch, fields)

    def _values(self, texts: Sequence[str], name: str) -> Sequence[Any]:
        return convert(texts, self._types[name], self._nulls, exact=name in self._exact)

    def _column(self, texts: Sequence[str], name: str) -> Any:
        values = self._values(texts, name)
        return require_arrow().array(values, _arrow_type(self._types[name])) if self._as_columns else values

    def _event_times(self, batch: Batch, fields: Sequence[Sequence[str]]) -> npt.NDArray[np.int64] | None:
        name = self._event_time
        if name is None:
            return None
        if isinstance(name, str):
            texts = fields[self._header.index(name)]
            return self._times.parse(self._values(texts, name) if self._types[name] in ("int", "float") else texts)
        return self._times_by_function(batch)

    def _times_by_function(self, batch: Batch) -> npt.NDArray[np.int64]:
        """Raises ``ValueError`` if a record has no time."""
        function: Any = self._event_time
        if not isinstance(batch, Columns):
            return times_of_records(function, batch, self._times)
        times = times_of_columns(function, batch, self._lines.path)
        if out_of_range(times) is not None:
            raise ValueError("event_time: not in the years 1 to 9999")
        return times

    def position(self) -> Plain:
        return {
            **self._lines.position(),
            "record": self._record,
            "header": list(self._header),
            "types": dict(self._types),
            "exact": [*sorted(self._exact)],
            "open_quote_at": self._records.open_quote_at,
            **({"untyped": True} if self._untyped and not self._record else {}),
        }

    def close(self) -> None:
        self._lines.close()


def _refused(convert: Callable[[list[Any]], object], items: list[Any]) -> Iterator[int]:
    """Numbers of the items that do not convert, looked for in ever smaller parts."""
    try:
        convert(items)
    except _MISFIT:
        if len(items) == 1:
            yield 0
            return
        part = -(-len(items) // PARTS)
        for start in range(0, len(items), part):
            for number in _refused(convert, items[start : start + part]):
                yield start + number
