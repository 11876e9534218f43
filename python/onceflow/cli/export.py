"""Rows of a state table as CSV, JSON Lines or an Arrow IPC stream.

Key groups are written one after the other, so that what is held besides the table is small.
"""

from __future__ import annotations

import base64
import csv
import io
import math
from collections.abc import Callable, Iterator, Mapping
from datetime import date, timedelta
from decimal import Decimal
from itertools import chain
from typing import Any, BinaryIO

import msgspec
import numpy as np

from onceflow._native import Rows, Table
from onceflow.codec import MsgpackCodec
from onceflow.connectors.extras import require
from onceflow.exceptions import ConfigurationError, SerializationError
from onceflow.operators.keys import decode_key, holds_other_keys

__all__ = ["write_arrow", "write_csv", "write_jsonl"]

#: Key groups scanned at once: enough that the cost of a scan does not count.
_GROUPS = 8


def write_csv(file: BinaryIO, table: Table, key_groups: int, codec: str | None) -> None:
    """CSV with a header; a cell that is not set is empty, one that holds lists or dicts is JSON.

    Args:
        file: Where to.
        table: What.
        key_groups: Of the state directory.
        codec: Of the cells of bytes columns; None: plain bytes.
    """
    text = io.TextIOWrapper(file, "utf-8", newline="", write_through=False)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_key_names(table), *table.schema.columns])
    for rows in _rows(table, key_groups, codec):
        writer.writerows([[_csv_cell(cell) for cell in row] for row in rows])
    text.flush()
    text.detach()


def write_jsonl(file: BinaryIO, table: Table, key_groups: int, codec: str | None) -> None:
    """One JSON object a line; a cell that is not set is null. Arguments as for ``write_csv``.

    Raises:
        ConfigurationError: A column has the name of the key.
    """
    names = _distinct_names(table)
    for rows in _rows(table, key_groups, codec):
        file.write(msgspec.json.Encoder().encode_lines([dict(zip(names, row, strict=True)) for row in rows]))


def write_arrow(file: BinaryIO, table: Table, key_groups: int, codec: str | None) -> None:
    """An Arrow IPC stream; cells that are not set are null, bytes stay bytes. Arguments as for ``write_csv``.

    The schema's metadata names the codec of the bytes columns, if there is one.

    Raises:
        MissingExtraError: pyarrow is missing.
    """
    pa = require("pyarrow", extra="arrow", purpose="the format arrow")
    _distinct_names(table)
    batches = (pa.record_batch(batch) for batch in _batches(table, key_groups))
    first = next(batches)
    schema = first.schema if codec is None else first.schema.with_metadata({"onceflow.codec": codec})
    with pa.ipc.new_stream(file, schema) as writer:
        for rows in chain([first], batches):
            writer.write_batch(rows.replace_schema_metadata(schema.metadata))


def _batches(table: Table, key_groups: int) -> Iterator[Rows]:
    for first in range(0, key_groups, _GROUPS):
        yield table.scan(first, min(first + _GROUPS, key_groups))


def _key_names(table: Table) -> list[str]:
    key = table.schema.key
    return ["key"] if isinstance(key, str) else [f"key_{number}" for number in range(len(key))]


def _distinct_names(table: Table) -> list[str]:
    names = [*_key_names(table), *table.schema.columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigurationError(
            f"table {table.name!r} has columns with the name of its key, {twice}; only csv can hold both"
        )
    return names


def _rows(table: Table, key_groups: int, codec: str | None) -> Iterator[list[tuple[Any, ...]]]:
    """Rows of plain values, ready for JSON."""
    decode = _decoder(codec)
    key = table.schema.key
    for batch in _batches(table, key_groups):
        if len(batch) == 0:
            continue
        keys = batch.keys
        parts = [_listed(keys)] if isinstance(key, str) else [list(part) for part in zip(*keys, strict=True)]
        if holds_other_keys(table.name):
            parts[-1] = list(map(decode_key, parts[-1]))
        cells = [list(map(_plain, part)) for part in parts]
        for name, kind in table.schema.columns.items():
            values = _listed(batch.columns[name])
            if kind == "bytes":
                values = [decode(value) for value in values]
            elif kind in ("f64", "f32"):
                values = list(map(_plain, values))
            set_ = batch.validity(name)
            if not set_.all():
                values = [value if there else None for value, there in zip(values, set_.tolist(), strict=True)]
            cells.append(values)
        yield list(zip(*cells, strict=True))


def _listed(values: Any) -> list[Any]:
    listed: list[Any] = values.tolist() if isinstance(values, np.ndarray) else list(values)
    return listed


def _decoder(codec: str | None) -> Callable[[bytes], Any]:
    """Only msgpack is decoded: unpickling runs code, which a look at state must not."""
    if codec != MsgpackCodec.name:
        return _plain
    msgpack = MsgpackCodec()

    def decode(data: bytes) -> Any:
        try:
            return _plain(msgpack.decode(data))
        except SerializationError:
            return _plain(data)

    return decode


def _plain(value: Any) -> Any:  # noqa: PLR0911 - one a kind
    """What JSON can hold, without losing which value it was."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        names = [_csv_cell(_plain(key)) for key in value]
        if len(set(names)) == len(names):
            return dict(zip(names, map(_plain, value.values()), strict=True))
        return [[_plain(key), _plain(item)] for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(map(_plain, value), key=msgspec.json.encode)
    if isinstance(value, (date, timedelta, Decimal)):
        return msgspec.to_builtins(value)
    return value


def _csv_cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    return msgspec.json.encode(value).decode()
