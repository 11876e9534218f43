"""Records on their way into a topic, as an outbox stages them.

Keys and values are the bytes of each record, or an Arrow array, which stays one: as an Arrow stream.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

__all__ = ["ArrowColumn", "Headers", "Part", "Rows", "Strings", "arrow_column"]

#: Name and value of each header of a record.
Headers: TypeAlias = list[tuple[str, bytes | None]]


class Rows(msgspec.Struct, tag=True, array_like=True):
    """Bytes of each record."""

    rows: list[bytes | None]

    def take(self) -> Any:
        """Bytes or strings of each record: a list, or an Arrow array."""
        return self.rows

    def nbytes(self) -> int:
        """Bytes in it."""
        return sum(map(len, filter(None, self.rows)))


class ArrowColumn(msgspec.Struct, tag=True, array_like=True):
    """An Arrow array of binary or strings."""

    stream: bytes

    def take(self) -> Any:
        """Bytes or strings of each record: a list, or an Arrow array."""
        import pyarrow as pa  # noqa: PLC0415 - only where Arrow arrays came from

        return pa.ipc.open_stream(self.stream).read_next_batch().column(0)

    def nbytes(self) -> int:
        """Bytes in it."""
        return len(self.stream)


Strings: TypeAlias = Rows | ArrowColumn


def arrow_column(array: Any) -> ArrowColumn:
    """An Arrow array; of a slice only what it shows."""
    import pyarrow as pa  # noqa: PLC0415 - only where Arrow arrays already are

    batch = pa.record_batch([array], names=["column"])
    out = pa.BufferOutputStream()
    with pa.ipc.new_stream(out, batch.schema) as stream:
        stream.write_batch(batch)
    return ArrowColumn(out.getvalue().to_pybytes())


class Part(msgspec.Struct, array_like=True):
    """Records that were written together.

    Attributes:
        values: One a record.
        keys: One a record; None: no record has a key.
        timestamps: Milliseconds since 1970, one a record; None: the time at which the output was staged.
        headers: One a record; None: no record has headers.
        partitions: One for all, or one a record; None: the key chooses it.
    """

    values: Strings
    keys: Strings | None = None
    timestamps: list[int] | None = None
    headers: list[Headers | None] | None = None
    partitions: int | list[int] | None = None

    def nbytes(self) -> int:
        """Bytes of keys and values, about."""
        return self.values.nbytes() + (0 if self.keys is None else self.keys.nbytes())

    @property
    def count(self) -> int:
        """How many records."""
        return len(self.values.take())

    def extend(self, other: Part) -> bool:
        """Appends another part, if it is of the same form: the log writes few large batches faster than many small."""
        mine, others = self._lists(), other._lists()
        if mine is None or others is None or (isinstance(self.partitions, int) and self.partitions != other.partitions):
            return False
        if [each is None for each in mine] != [each is None for each in others]:
            return False
        for one, more in zip(mine, others, strict=True):
            if one is not None and more is not None:
                one.extend(more)
        return True

    def _lists(self) -> list[list[Any] | None] | None:
        """What there is one of for each record; None if some of it is no list."""
        if not isinstance(self.values, Rows) or isinstance(self.keys, ArrowColumn):
            return None
        keys = None if self.keys is None else self.keys.rows
        partitions = self.partitions if isinstance(self.partitions, list) else None
        return [self.values.rows, keys, self.timestamps, self.headers, partitions]
