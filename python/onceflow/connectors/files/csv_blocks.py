"""Many rows of CSV at once, where they have one reading only.

Blocks of whole lines are read in Rust, without a line of Python for each row. What is unusual in any way (a row with
another number of fields, a value in another form, text that does not decode) is refused there, and the reader takes the
same lines by Python's module: so the result depends on nothing but the file.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from onceflow._native import _CsvBlocks
from onceflow.columns import Columns
from onceflow.connectors.files.lines import Block, LineReader
from onceflow.types import Batch

__all__ = ["CsvBlockReader", "CsvRowsAtOnce"]

# In which a byte of ASCII is its character wherever it stands.
_ASCII_ALONE = ("utf-8", "ascii", "iso8859-", "cp125")


class CsvRowsAtOnce(NamedTuple):
    """Rows that follow one another, with their event times if a column holds them.

    Attributes:
        batch: The rows.
        times: One a row.
        records: How many records they are in the file, with the blank lines.
        lines: How many lines they have, to be taken.
        size: Bytes of these.
    """

    batch: Batch
    times: npt.NDArray[np.int64] | None
    records: int
    lines: int
    size: int


class CsvBlockReader:
    """Reads the rows of one file.

    Args:
        lines: The file; what is read of it is for the caller to take.
        header: The names of all columns.
        names: Those of the columns that are handed out.
        types: Of these, and of the event time's.
        exact: Those whose type was inferred.
        nulls: Texts that mean "missing".
        time_column: Holds the event time; None if no column does.
        delimiter: One character.
        encoding: As ``check_encoding`` names it.
        as_columns: Hand out ``Columns``, not dicts.
        max_record_bytes: Longer records are left to others.
    """

    def __init__(
        self,
        lines: LineReader,
        header: Sequence[str],
        names: Sequence[str],
        types: Mapping[str, str],
        exact: Collection[str],
        nulls: Collection[str],
        *,
        time_column: str | None,
        delimiter: str,
        encoding: str,
        as_columns: bool,
        max_record_bytes: int,
    ) -> None:
        self._lines = lines
        self._names = names
        self._as_columns = as_columns
        self._max_bytes = max_record_bytes
        self._blocks: _CsvBlocks | None = None
        if not (delimiter.isascii() and encoding.startswith(_ASCII_ALONE)):
            return

        def asked(name: str) -> tuple[str, int, str, bool]:
            return name, header.index(name), types[name], name in exact

        self._blocks = _CsvBlocks(
            width=len(header),
            delimiter=delimiter,
            columns=[asked(name) for name in names],
            nulls=[*nulls],
            event_time=None if time_column is None else asked(time_column),
            is_utf8=encoding == "utf-8",
        )

    def block(self, count: int) -> Block | None:
        """Bytes with the next ``count`` lines; None if somebody else must look at them."""
        return None if self._blocks is None else self._lines.block(count)

    def read(self, block: Block, start: int, count: int, batch_bytes: int) -> CsvRowsAtOnce | None:
        """The rows that begin in ``count`` lines of a block; None if something may have another reading.

        Args:
            block: As ``block`` gave it.
            start: Where the first of them begins.
            count: How many lines.
            batch_bytes: No more bytes of lines, but at least one line.
        """
        assert self._blocks is not None
        read = self._blocks.columns if self._as_columns else self._blocks.rows
        found = read(
            block.data, start, count, batch_bytes=batch_bytes, record_bytes=self._max_bytes, is_end=block.is_end
        )
        if found is None:
            return None
        values, times, (records, lines, size) = found
        batch = Columns(dict(zip(self._names, values, strict=True))) if self._as_columns else values
        return CsvRowsAtOnce(batch, times, records, lines, size)
