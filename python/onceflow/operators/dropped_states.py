"""Restored state of a processor, without the states that it no longer has or that begin anew."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec
import numpy as np

from onceflow._native import StateBackend, Table
from onceflow.codec import Codec
from onceflow.operators.keys import other_keys
from onceflow.operators.values import pick
from onceflow.state import Processor

__all__ = ["drop_states"]


def drop_states(
    backend: StateBackend, codec: Codec, step_id: str, processor: Processor, names: Collection[str]
) -> None:
    """Removes states of all keys; a key that has no other is forgotten.

    Args:
        backend: Has the tables of the step.
        codec: Of their values.
        step_id: Of the step.
        processor: As it is now: says when what is left expires.
        names: Of the states.
    """
    tables = backend.tables()
    for name in (step_id, other_keys(step_id)):
        if name in tables:
            table = backend.table(name, key=tables[name].key, columns=tables[name].columns)
            _drop_cells(table, codec, processor, names)
    chunks = f"{step_id}/entries"
    if chunks in tables:
        table = backend.table(chunks, key=tables[chunks].key, columns=tables[chunks].columns)
        gone = [key for key in table.scan().keys if msgspec.msgpack.decode(key)[1] in names]
        if gone:
            table.delete(gone)


def _drop_cells(table: Table, codec: Codec, processor: Processor, names: Collection[str]) -> None:
    rows = table.scan()
    keys: Any = rows.key_columns() if isinstance(table.schema.key, tuple) else rows.keys
    changed: list[int] = []
    empty: list[int] = []
    left: list[dict[str, Any]] = []
    for row, data in enumerate(rows.columns["value"]):
        cells = codec.decode(data)
        kept = {name: cell for name, cell in cells.items() if name not in names}
        if not kept:
            empty.append(row)
        elif len(kept) < len(cells):
            changed.append(row)
            left.append(kept)
    if changed:
        columns: dict[str, Any] = {"value": codec.encode_all(left)}
        if "expires" in table.schema.columns:
            columns["expires"] = [processor.expires({name: cell[:2] for name, cell in cells.items()}) for cells in left]
        table.put(pick(keys, np.array(changed, dtype=np.int64)), **columns)
    if empty:
        table.delete(pick(keys, np.array(empty, dtype=np.int64)))
