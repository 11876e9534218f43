"""The states of a processor by key, with the chunks of its lists and dicts."""

from __future__ import annotations

from typing import Any

import msgspec

from onceflow._native import Table
from onceflow.entries import CHUNK_ENTRIES, ListEntries, MapEntries
from onceflow.exceptions import StoreCorruptError
from onceflow.operators.base import OperatorContext
from onceflow.operators.keyed_cache import KeyedCache
from onceflow.operators.keys import AgreedType, encode_key, plain_key
from onceflow.state import ListState, MapState, Processor

__all__ = ["CellCache"]


class CellCache(KeyedCache):
    """The states of a processor by key.

    A key has a row of its values and heads; the chunks of lists and dicts are rows of a table of their own, which is
    made when it is first needed.

    Args:
        context: The step's.
        key_type: Of the keys.
        processor: Whose states they are.
    """

    def __init__(self, context: OperatorContext, key_type: AgreedType, processor: Processor) -> None:
        super().__init__(context, key_type, processor.expires)
        self._kinds = {
            name: ListEntries if kind == ListState.__name__ else MapEntries
            for name, kind in processor.states.items()
            if kind in (ListState.__name__, MapState.__name__)
        }
        self._chunks_name = f"{context.step_id}/entries"
        self._chunks = self._chunk_table() if self._chunks_name in context.backend.tables() else None
        #: Key → name of a state → how many chunks the table has; of keys whose values are here, where there are any.
        self._rows: dict[Any, dict[str, int]] = {}

    def _chunk_table(self) -> Table:
        return self._context.backend.table(self._chunks_name, key="bytes", columns={"value": "bytes"})

    def _after_load(self, keys: list[Any]) -> None:
        wanted: list[tuple[Any, str, int]] = []
        for key in keys:
            cells = self.values.get(key)
            if cells is None:
                continue
            rows = _chunk_rows(cells)
            wanted.extend((key, name, number) for name, count in rows.items() for number in range(count))
            if rows:
                self._rows[key] = rows
        chunks = self._read_chunks(wanted)
        for key in keys:
            for name, cell in self.values.get(key, {}).items():
                kind = self._kinds.get(name)
                if kind is not None:
                    self.values[key][name] = [self._entries(kind, cell, chunks.get((key, name), [])), cell[1]]

    @staticmethod
    def _entries(kind: type[ListEntries | MapEntries], cell: list[Any], chunks: list[Any]) -> ListEntries | MapEntries:
        head = cell[0]
        if not chunks and len(head) >= CHUNK_ENTRIES:
            # Of a version that kept all of it in one piece.
            return kind.of(head.items() if isinstance(head, dict) else head)
        return kind(head, chunks)

    def _read_chunks(self, wanted: list[tuple[Any, str, int]]) -> dict[tuple[Any, str], list[Any]]:
        chunks: dict[tuple[Any, str], list[Any]] = {}
        if wanted:
            table = self._chunk_table() if self._chunks is None else self._chunks
            for place, data in zip(
                wanted, table.get_bytes([_row_key(*place) for place in wanted], "value"), strict=True
            ):
                if data is None:
                    raise StoreCorruptError(
                        f"step {self._context.step_id!r}: chunk {place[2]} of the state {place[1]!r} of key "
                        f"{place[0]!r} is missing; resume from an older checkpoint"
                    )
                chunks.setdefault(place[:2], []).append(self._context.codec.decode(data))
        return chunks

    def _stored(self, value: dict[str, list[Any]]) -> dict[str, list[Any]]:
        stored = {}
        for name, (state, written) in value.items():
            if name not in self._kinds:
                stored[name] = [state, written]
            elif state.chunks:
                stored[name] = [state.head, written, len(state.chunks)]
            else:
                stored[name] = [state.head, written]
        return stored

    def _before_write(self, keys: list[Any]) -> None:
        new: list[tuple[Any, str, int]] = []
        chunks: list[Any] = []
        old: list[bytes] = []
        for key in keys:
            rows: dict[str, int] = {}
            cells = self.values.get(key, {})
            for name in self._kinds.keys() & cells.keys():
                entries = cells[name][0]
                if entries.chunks:
                    rows[name] = len(entries.chunks)
                changed = sorted(entries.changed)
                new.extend((key, name, number) for number in changed)
                chunks.extend(entries.chunks[number] for number in changed)
                entries.changed = set()
            before = self._rows.pop(key, {})
            old.extend(
                _row_key(key, name, number)
                for name, count in before.items()
                for number in range(rows.get(name, 0), count)
            )
            if rows:
                self._rows[key] = rows
        if new:
            if self._chunks is None:
                self._chunks = self._chunk_table()
            data = self._encode_all([key for key, _, _ in new], chunks)
            self._chunks.put([_row_key(*place) for place in new], value=data)
        if old and self._chunks is not None:
            self._chunks.delete(old)

    def _before_forget(self, keys: list[Any]) -> None:
        if self._chunks is None or not len(self._chunks):
            return
        rows = {key: self._rows.pop(key, {}) for key in keys if key in self.values}
        unknown = [key for key in keys if key not in rows]
        for key, data in zip(unknown, self.table.get_bytes(unknown, "value"), strict=True):
            if data is not None:
                rows[key] = _chunk_rows(self._context.codec.decode(data))
        places = [
            (key, name, number) for key, of in rows.items() for name, count in of.items() for number in range(count)
        ]
        if places:
            self._chunks.delete([_row_key(*place) for place in places])

    def _clear(self) -> None:
        super()._clear()
        self._rows.clear()


def _chunk_rows(cells: dict[str, list[Any]]) -> dict[str, int]:
    """How many chunks there are of each state, where there are any; from what ``_stored`` made."""
    return {name: cell[2] for name, cell in cells.items() if len(cell) > 2}


def _row_key(key: Any, name: str, number: int) -> bytes:
    return msgspec.msgpack.encode([encode_key(plain_key(key)), name, number])
