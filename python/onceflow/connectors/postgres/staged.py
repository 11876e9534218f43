"""Rows on their way into a table, as an outbox stages them: as COPY reads them, so they are encoded once."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

__all__ = ["Part", "Row"]

_NULL = b"\\N"


class Row(NamedTuple):
    """One of a part.

    Attributes:
        line: For COPY; of a row that is to be deleted of its key alone.
        is_gone: Whether it is to be deleted.
    """

    line: bytes
    is_gone: bool = False


class Part(msgspec.Struct, array_like=True):
    """Of one checkpoint.

    Attributes:
        schema, table: Where they go.
        columns: In the order of each row; those of the key come first.
        types: Of the columns, as the server's catalogue said them.
        keys: How many columns the key has; 0: rows are appended.
        blocks: Lines for COPY, some in each.
        rows: How many lines these are.
        gone: Lines of keys whose rows are to be deleted.
        keyed: Until it is staged, key → line, None where the row is to be deleted. The last one wins.
    """

    schema: str
    table: str
    columns: list[str]
    types: list[str]
    keys: int = 0
    blocks: list[bytes] = []
    rows: int = 0
    gone: list[bytes] = []
    keyed: dict[bytes, bytes | None] = {}

    def stage(self) -> None:
        """Fixes the rows of a key."""
        if not self.keyed:
            return
        self.gone = [key + b"\n" for key, line in self.keyed.items() if line is None]
        self.rows = len(self.keyed) - len(self.gone)
        self.blocks = [b"".join(line for line in self.keyed.values() if line is not None)]
        self.keyed = {}

    def each(self) -> list[Row]:
        """The rows, one by one."""
        # What ends a line within a value is escaped.
        lines = b"".join(self.blocks).splitlines(keepends=True)
        return [Row(line, is_gone=True) for line in self.gone] + [Row(line) for line in lines]

    def texts_of(self, row: Row) -> dict[str, str | None]:
        """What a row has, for people."""
        texts = row.line.rstrip(b"\n").split(b"\t")
        names = self.columns[: self.keys] if row.is_gone else self.columns
        return {name: None if text == _NULL else text.decode() for name, text in zip(names, texts, strict=True)}
