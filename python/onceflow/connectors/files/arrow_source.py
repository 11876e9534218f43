"""Parquet and Arrow IPC files as sources (extra ``arrow``).

Files of others are read, never mapped: to touch a map of a file that somebody has cut kills the process. What was read
is what is decoded, and what the checksum in the position is of: the footer, and of the groups before the position what
was read of them.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from types import ModuleType
from typing import Any, BinaryIO, ClassVar

import msgspec
import numpy as np
import numpy.typing as npt

from onceflow.columns import Columns
from onceflow.connectors.event_time import arrow_micros, arrow_reason, in_range
from onceflow.connectors.files.arrow import require_arrow
from onceflow.connectors.files.content import Content
from onceflow.connectors.files.malformed import MalformedPolicy, Rejections
from onceflow.connectors.files.names import check_names
from onceflow.connectors.files.partitions import FileSource, NotYetReader, Paths, open_file
from onceflow.connectors.files.record_times import EventTime, times_of_columns
from onceflow.exceptions import SourceChangedError, SourceError
from onceflow.sources import SourceBatch, SourceContext, SourceReader
from onceflow.types import Plain

__all__ = ["ArrowIpcSource", "ParquetSource"]

_FINGERPRINT_BYTES = 4096


def _parquet() -> ModuleType:
    return importlib.import_module("pyarrow.parquet")


class _ArrowFileSource(FileSource):
    """Batches of columns of a file that is complete.

    A position is a group and a row in it, and what shows that footer and groups before are the same.

    Args:
        paths: A file, a pattern, or several; each file is a partition.
        event_time: Column that holds the time of a row: a timestamp, a date, or seconds since 1970. Or a function that
            gives an int64 array of microseconds since 1970 for a batch of columns.
        columns: The columns to hand out; all by default.
        on_malformed: What to do with rows that have no valid event time: ``"fail"``, ``"skip"`` (and count them), or
            ``"dead_letter"``.

    Raises:
        ConfigurationError: Settings that cannot be.
    """

    def __init__(
        self,
        paths: Paths,
        *,
        event_time: EventTime | None = None,
        columns: Sequence[str] | None = None,
        on_malformed: MalformedPolicy = "fail",
    ) -> None:
        super().__init__(paths, event_time, on_malformed)
        self._columns = None if columns is None else check_names("columns", columns)
        require_arrow()

    #: Its last bytes say what is in it: one that has grown is another file.
    grows: ClassVar[bool] = False

    def open_with_context(self, partition: str, position: Plain, context: SourceContext) -> SourceReader:
        """See ``Source``: of a file without a byte nothing was written yet."""
        if position is None and context.until == "caught_up":
            file = open_file(partition)
            if os.fstat(file.fileno()).st_size == 0:
                return NotYetReader(file.close)
            file.close()
        return self.open(partition, position)

    def open(self, partition: str, position: Plain) -> SourceReader:
        """See ``Source``."""
        start: dict[str, Any] = position if isinstance(position, dict) else {}
        file = open_file(partition)
        try:
            fingerprint = _fingerprint(file)
            if start and start["file"] != fingerprint:
                raise SourceChangedError(
                    f"{partition} is another file than when the checkpoint was taken, so resuming would not be exact. "
                    "Put the file back, or start over with resume_from='none'"
                )
            with _source_errors(partition, self._kind):
                groups = self._open(file, partition, start)
            settings = (self.event_time, self._columns, self._policy)
            return _GroupReader(groups, partition, self._kind, start, fingerprint, *settings)
        except BaseException:
            file.close()
            raise

    _kind: ClassVar[str]

    @abstractmethod
    def _open(self, file: BinaryIO, path: str, start: dict[str, Any]) -> _Groups:
        """The file; raises what pyarrow raises."""


class _Groups(ABC):
    """A file as a sequence of groups of rows (row groups, record batches), one in memory at a time."""

    schema: Any
    count: int
    content: Content

    @abstractmethod
    def begin(self, columns: list[str], start: dict[str, Any]) -> None:
        """Makes ``content`` that of the groups before a position, of which these columns are read."""

    @abstractmethod
    def load(self, number: int, columns: list[str]) -> Any:
        """One group as a ``pyarrow.Table`` of these columns."""

    @abstractmethod
    def position(self) -> dict[str, Plain]:
        """What ``begin`` needs to find the same content again."""

    @abstractmethod
    def close(self) -> None:
        """Closes the file."""


class _Window(io.RawIOBase):
    """A file as pyarrow reads it, some of whose bytes are in memory already."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file
        self._at = 0
        self.size = os.fstat(file.fileno()).st_size
        #: Offsets and bytes in memory.
        self.blocks: list[tuple[int, bytes]] = []

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence] + offset
        return self._at

    def read(self, count: int = -1) -> Any:
        count = max(0, self.size - self._at) if count < 0 else count
        data = self.look(self._at, count)
        self._at += len(data)
        return data

    def look(self, offset: int, count: int) -> bytes | memoryview:
        """These bytes, from memory if they are there."""
        for start, block in self.blocks:
            if start <= offset and offset + count <= start + len(block):
                return memoryview(block)[offset - start : offset - start + count]
        return self.fetch(offset, count)

    def fetch(self, offset: int, count: int) -> bytes:
        """These bytes of the file, or those that are there."""
        # Damaged metadata may ask for more than there is, or than memory holds.
        count = min(count, self.size - offset)
        parts = []
        while count > 0 and (data := os.pread(self._file.fileno(), count, offset)):
            parts.append(data)
            offset, count = offset + len(data), count - len(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """pyarrow is not to close the file: who opened it does."""


class _ParquetGroups(_Groups):
    def __init__(self, file: BinaryIO, path: str) -> None:
        self._binary, self._path = file, path
        self._window = _Window(file)
        # Each column chunk is read by itself: ranges of several, with what lies between, depend on the version.
        self._file = _parquet().ParquetFile(self._window, pre_buffer=False)
        self._metadata = self._file.metadata
        self.schema = self._file.schema_arrow
        self.count = self._file.num_row_groups
        self._columns: list[str] = []
        self._read_leaves: list[int] = []
        #: How many groups the content has.
        self._loaded = 0

    def begin(self, columns: list[str], start: dict[str, Any]) -> None:
        size = self._window.size
        footer = (size - 8 - int.from_bytes(self._window.fetch(size - 8, 4), "little"), size)
        self._loaded = start.get("group", 0) + (start.get("row", 0) > 0)
        before = start.get("columns", columns)
        for names, kept in ((before, start), (columns, None)) if before != columns else ((columns, start),):
            # What was read before is the same; of other columns than then, there is a new checksum.
            leaves = self._leaves(names)
            ranges = [footer, *(chunk for number in range(self._loaded) for chunk in self._chunks(number, leaves))]
            self.content = Content(self._binary, self._path, ranges, kept)
        self.content.keep(footer[0], self._window.fetch(footer[0], footer[1] - footer[0]))
        self._columns, self._read_leaves = columns, leaves

    def _leaves(self, columns: list[str]) -> list[int]:
        """Numbers of the columns of the file that make up these, as pyarrow chooses them: nested ones have several."""
        schema, wanted = self._metadata.schema, set(columns)
        paths = [schema.column(number).path for number in range(self._metadata.num_columns)]
        return [
            number
            for number, path in enumerate(paths)
            if path in wanted or any(path.startswith(f"{column}.") for column in columns)
        ]

    def _chunks(self, number: int, leaves: list[int]) -> list[tuple[int, int]]:
        """Where these columns of a row group lie, as few ranges."""
        group = self._metadata.row_group(number)
        ranges: list[tuple[int, int]] = []
        for chunk in map(group.column, leaves):
            start = chunk.data_page_offset
            if chunk.has_dictionary_page and chunk.dictionary_page_offset:
                start = min(start, chunk.dictionary_page_offset)
            stop = min(start + chunk.total_compressed_size, self._window.size)
            if ranges and ranges[-1][1] == start:
                ranges[-1] = (ranges[-1][0], stop)
            else:
                ranges.append((start, stop))
        return ranges

    def load(self, number: int, columns: list[str]) -> Any:
        for start, stop in self._chunks(number, self._read_leaves):
            data = self._window.fetch(start, stop - start)
            if number >= self._loaded:
                self.content.add(start, data)
            self._window.blocks.append((start, data))
        self._loaded = max(self._loaded, number + 1)
        try:
            return self._file.read_row_group(number, columns=columns)
        finally:
            self._window.blocks = []

    def position(self) -> dict[str, Plain]:
        return {"columns": [*self._columns], **self.content.at()}

    def close(self) -> None:
        self._file.close(force=True)
        self._binary.close()


class ParquetSource(_ArrowFileSource):
    """Rows of Parquet files as columns; one row group of a file is in memory at a time.

    See the base class for arguments.
    """

    _kind = "Parquet"

    def _open(self, file: BinaryIO, path: str, start: dict[str, Any]) -> _Groups:
        return _ParquetGroups(file, path)


class _IpcWindow(_Window):
    """Also keeps the checksum of all that was read, from the beginning of the file on."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.content: Content | None = None
        self.read_to = 0

    def look(self, offset: int, count: int) -> bytes | memoryview:
        if self.content is None or offset + count <= self.read_to:
            return super().look(offset, count)
        if offset > self.read_to:
            self._add(self.read_to, self.fetch(self.read_to, offset - self.read_to))
        data = self.fetch(offset, count)
        self._add(self.read_to, data[self.read_to - offset :])
        return data

    def _add(self, offset: int, data: bytes) -> None:
        if self.content is not None:
            self.content.add(offset, data)
        self.read_to = offset + len(data)


class _IpcGroups(_Groups):
    def __init__(self, file: BinaryIO, path: str) -> None:
        self._binary, self._path = file, path
        self._window = _IpcWindow(file)
        self._file = importlib.import_module("pyarrow.ipc").open_file(self._window)
        self.schema = self._file.schema
        self.count = self._file.num_record_batches

    def begin(self, columns: list[str], start: dict[str, Any]) -> None:
        size = self._window.size
        footer = (size - 10 - int.from_bytes(self._window.fetch(size - 10, 4), "little"), size)
        read_to = start.get("read_to", 0)
        self.content = Content(self._binary, self._path, [footer, (0, read_to)] if read_to else [footer], start)
        self.content.keep(footer[0], self._window.fetch(footer[0], footer[1] - footer[0]))
        self._window.content, self._window.read_to = self.content, read_to

    def load(self, number: int, columns: list[str]) -> Any:
        table = require_arrow().Table.from_batches([self._file.get_batch(number)]).select(columns)
        # The bytes become arrays as they are; offsets that point nowhere would kill who follows them.
        table.validate(full=True)
        return table

    def position(self) -> dict[str, Plain]:
        return {"read_to": self._window.read_to, **self.content.at()}

    def close(self) -> None:
        self._binary.close()


class ArrowIpcSource(_ArrowFileSource):
    """Rows of Arrow IPC files (Feather 2) as columns; one record batch of a file is in memory at a time.

    See the base class for arguments.
    """

    _kind = "Arrow IPC"

    def _open(self, file: BinaryIO, path: str, start: dict[str, Any]) -> _Groups:
        return _IpcGroups(file, path)


class _GroupReader(SourceReader):
    def __init__(
        self,
        groups: _Groups,
        path: str,
        kind: str,
        start: dict[str, Any],
        fingerprint: bytes,
        event_time: EventTime | None,
        columns: list[str] | None,
        policy: MalformedPolicy,
    ) -> None:
        names = groups.schema.names
        time_column = [event_time] if isinstance(event_time, str) else []
        wanted = {*(columns or ()), *time_column}
        missing = sorted(wanted - set(names))
        if missing:
            raise SourceError(f"{path} has no column {missing}; it has {names}")
        if len(set(names)) != len(names):
            raise SourceError(f"{path} names a column twice: {names}")
        self._groups = groups
        self._path = path
        self._kind = kind
        self._fingerprint = fingerprint
        #: The next group to load, or the loaded one; the next row in it, and in the file.
        self._group: int = start.get("group", 0)
        self._row: int = start.get("row", 0)
        self._record: int = start.get("record", 0)
        self._table: Any = None
        self._event_time = event_time
        self._columns = columns or names
        self._loaded = list(dict.fromkeys([*self._columns, *time_column]))
        self._policy: MalformedPolicy = policy
        groups.begin(self._loaded, start)

    def read(self, max_records: int) -> SourceBatch | None:
        parts: list[Any] = []
        left = max_records
        # A batch is cut by its number of rows alone, also over groups.
        while left and self._group < self._groups.count:
            if self._table is None:
                with _source_errors(self._path, self._kind):
                    self._table = self._groups.load(self._group, self._loaded)
            part = self._table.slice(self._row, left)
            parts.append(part)
            left -= part.num_rows
            self._row += part.num_rows
            if self._row >= self._table.num_rows:
                self._group, self._row, self._table = self._group + 1, 0, None
        first, self._record = self._record, self._record + max_records - left
        if not parts and self._groups.content.is_same():
            return None
        return self._batch(parts, first)

    def _batch(self, parts: list[Any], first: int) -> SourceBatch:
        with _source_errors(self._path, self._kind):
            parts = parts or [self._groups.schema.empty_table().select(self._loaded)]
            table = parts[0] if len(parts) == 1 else require_arrow().concat_tables(parts).combine_chunks()
        rejections = Rejections(self._policy, self._path)
        times = None
        if self._event_time is not None:
            times, valid = self._times(table)
            if not valid.all():
                self._reject(table, valid, first, rejections)
                table, times = table.filter(require_arrow().array(valid)).combine_chunks(), times[valid]
        return SourceBatch(self._handed_out(table), times, rejections.records, rejections.skipped, first)

    def _handed_out(self, table: Any) -> Columns:
        return Columns({name: _one_array(table.column(name)) for name in self._columns})

    def _times(self, table: Any) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        if callable(self._event_time):
            times = times_of_columns(self._event_time, self._handed_out(table), self._path)
            return times, in_range(times)
        try:
            return arrow_micros(_one_array(table.column(self._event_time)))
        except TypeError as error:
            raise SourceError(f"{self._path}: column {self._event_time!r} holds the event time and {error}") from error

    def _reject(self, table: Any, valid: npt.NDArray[np.bool_], first: int, rejections: Rejections) -> None:
        for row in np.flatnonzero(~valid).tolist():
            if callable(self._event_time):
                reason = "has an event time that is not in the years 1 to 9999"
            else:
                times = _one_array(table.column(self._event_time))
                reason = f"column {self._event_time!r} holds the event time and {arrow_reason(times, row)}"
            text = msgspec.json.encode({name: _shown(table.column(name)[row]) for name in self._loaded}, enc_hook=str)
            rejections.add(f"row {first + row}", reason, text)

    def position(self) -> Plain:
        return {
            "group": self._group,
            "row": self._row,
            "record": self._record,
            "file": self._fingerprint,
            **self._groups.position(),
        }

    def close(self) -> None:
        self._groups.close()


def _one_array(chunked: Any) -> Any:
    if chunked.num_chunks == 0:
        return require_arrow().array([], chunked.type)
    return chunked.chunk(0) if chunked.num_chunks == 1 else require_arrow().concat_arrays(chunked.chunks)


def _shown(scalar: Any) -> Any:
    """A value for people; those that Python has no object for as they are stored."""
    try:
        return scalar.as_py()
    except (ValueError, OverflowError):
        return getattr(scalar, "value", None) or str(scalar)


@contextlib.contextmanager
def _source_errors(path: str, kind: str) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from error
    except (OSError, require_arrow().ArrowException) as error:
        raise SourceError(f"{path} is not a readable {kind} file: {error}") from error


def _fingerprint(file: BinaryIO) -> bytes:
    """Of size and end: a file of another size, or with another footer, is told at once."""
    size = os.fstat(file.fileno()).st_size
    tail = os.pread(file.fileno(), _FINGERPRINT_BYTES, max(0, size - _FINGERPRINT_BYTES))
    return blake2b(tail + str(size).encode(), digest_size=16).digest()
