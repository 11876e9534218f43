"""Lists and dicts of user state, in chunks: what a change costs does not grow with how much is there.

The head of a list or dict is kept with the other states of its key; it holds the newest entries and says how many
chunks there are. A full head becomes a chunk, in a row of its own, which is written again only when something in it
changes.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, islice
from typing import Any, Generic, TypeVar

__all__ = ["CHUNK_ENTRIES", "Entries", "ListEntries", "MapEntries"]

#: Entries of a full chunk: a change writes so many at most, and that many share what a row costs.
CHUNK_ENTRIES = 64

#: A dict is packed anew when its chunks are less full than this part.
_LEAST_FULL = 4

Chunk = TypeVar("Chunk", list[Any], dict[Any, Any])


class Entries(Generic[Chunk]):
    """What both kinds share.

    Attributes:
        head: The newest entries.
        chunks: The older ones, in order.
        changed: Numbers of chunks that differ from their rows.
    """

    head: Chunk
    chunks: list[Chunk]
    changed: set[int]

    def __init__(self, head: Chunk, chunks: list[Chunk]) -> None:
        self.head, self.chunks, self.changed = head, chunks, set()

    def _seal(self, empty: Chunk) -> int | None:
        """Makes a full head a chunk; returns its number."""
        if len(self.head) < CHUNK_ENTRIES:
            return None
        number = len(self.chunks)
        self.chunks.append(self.head)
        self.changed.add(number)
        self.head = empty
        return number


class ListEntries(Entries[list[Any]]):
    """A list."""

    @classmethod
    def of(cls, values: Iterable[Any]) -> ListEntries:
        """All of it changed."""
        entries = cls([], [])
        rest = iter(values)
        while True:
            entries.head = list(islice(rest, CHUNK_ENTRIES))
            if entries._seal([]) is None:
                return entries

    def append(self, value: Any) -> None:
        """Adds to the end."""
        self.head.append(value)
        self._seal([])

    def all(self) -> list[Any]:
        """A copy of the list."""
        return [*chain.from_iterable(self.chunks), *self.head]


class MapEntries(Entries[dict[Any, Any]]):
    """A dict, in the order of its insertions."""

    def __init__(self, head: dict[Any, Any], chunks: list[dict[Any, Any]]) -> None:
        super().__init__(head, chunks)
        self._chunk_of = {name: number for number, chunk in enumerate(chunks) for name in chunk}

    @classmethod
    def of(cls, values: Iterable[tuple[Any, Any]]) -> MapEntries:
        """All of it changed."""
        entries = cls({}, [])
        for name, value in values:
            entries.put(name, value)
        return entries

    def get(self, name: Any, default: Any) -> Any:
        """The value of a name."""
        number = self._chunk_of.get(name)
        return (self.head if number is None else self.chunks[number]).get(name, default)

    def put(self, name: Any, value: Any) -> None:
        """Sets the value of a name, which keeps its place."""
        number = self._chunk_of.get(name)
        if number is not None:
            self.chunks[number][name] = value
            self.changed.add(number)
            return
        self.head[name] = value
        sealed = self._seal({})
        if sealed is not None:
            self._chunk_of.update(dict.fromkeys(self.chunks[sealed], sealed))

    def remove(self, name: Any) -> None:
        """Forgets a name."""
        number = self._chunk_of.pop(name, None)
        if number is None:
            self.head.pop(name, None)
            return
        del self.chunks[number][name]
        self.changed.add(number)
        if len(self._chunk_of) * _LEAST_FULL < len(self.chunks) * CHUNK_ENTRIES:
            packed = MapEntries.of(self.all().items())
            self.head, self.chunks, self.changed = packed.head, packed.chunks, packed.changed
            self._chunk_of = packed._chunk_of

    def all(self) -> dict[Any, Any]:
        """A copy of the dict."""
        whole: dict[Any, Any] = {}
        for chunk in self.chunks:
            whole.update(chunk)
        whole.update(self.head)
        return whole
