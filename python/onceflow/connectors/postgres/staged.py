"""Rows on their way into a table, as an outbox stages them: as COPY reads them, so they are encoded once."""

from __future__ import annotations

import msgspec

__all__ = ["Part"]


class Part(msgspec.Struct, array_like=True):
    """Of one checkpoint.

    Attributes:
        schema, table: Where they go.
        columns: In the order of each row; those of the key come first.
        types: Of the columns, as the server's catalogue said them.
        rows: Lines to append, some in each text; unused with a key.
        keys: How many columns the key has; 0: rows are appended.
        keyed: Text of the key → text of the other columns, None where the row is to be deleted. The last one wins.
    """

    schema: str
    table: str
    columns: list[str]
    types: list[str]
    rows: list[str]
    keys: int = 0
    keyed: dict[str, str | None] = {}

    def deletes(self) -> bool:
        """Whether any row is to be deleted."""
        return None in self.keyed.values()

    def text(self) -> tuple[list[str], int]:
        """The lines, some in each text, and how many there are."""
        if self.keys:
            lines = self.lines()
            return lines, len(lines)
        # What ends a line within a value is escaped.
        return self.rows, sum(text.count("\n") + 1 for text in self.rows)

    def lines(self) -> list[str]:
        """Lines for COPY; where rows are deleted, too, each begins with whether it is to be."""
        if not self.keys:
            return "\n".join(self.rows).split("\n")
        if not self.deletes():
            return [f"{key}{rest}" for key, rest in self.keyed.items()]
        nothing = "\t\\N" * (len(self.columns) - self.keys)
        return [f"t\t{key}{nothing}" if rest is None else f"f\t{key}{rest}" for key, rest in self.keyed.items()]

    def row_of(self, line: str) -> dict[str, str | None]:
        """What a line has, for people."""
        texts = line.split("\t")[1 if self.deletes() else 0 :]
        return {name: None if text == "\\N" else text for name, text in zip(self.columns, texts, strict=True)}
