"""Batches on their way from one worker to another, as bytes.

Both ends are one version of one program, and nothing is kept: the form may change with every version.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from onceflow.codec import Codec
from onceflow.columns import Columns
from onceflow.operators.base import EventTimes
from onceflow.types import Batch
from onceflow.watermarks import Times

__all__ = ["decode_batch", "encode_batch"]

_ROWS, _TUPLES, _COLUMNS = range(3)
_NUMPY, _MASKED, _OBJECTS, _ARROW = range(4)
#: Kinds of numpy arrays that are their bytes.
_FLAT_KINDS = frozenset("biufcmMSU")


def encode_batch(records: Batch, times: EventTimes, codec: Codec) -> bytes:
    """The bytes of a batch.

    Raises:
        SerializationError: A record is not of values that the codec writes.
    """
    kind, body = _body(records, codec)
    values = None if times is None else times.values.tobytes()
    marks = None if times is None or times.watermarks is None else times.watermarks.tobytes()
    return msgspec.msgpack.encode((kind, body, values, marks))


def decode_batch(data: bytes, codec: Codec) -> tuple[Batch, EventTimes]:
    """The batch that ``encode_batch`` was given."""
    kind, body, values, marks = msgspec.msgpack.decode(data)
    times = None
    if values is not None:
        times = Times(_micros(values), None if marks is None else _micros(marks))
    if kind == _COLUMNS:
        return _columns(body, codec), times
    rows = codec.decode(body)
    return list(zip(*rows, strict=True)) if kind == _TUPLES else rows, times


def _micros(data: bytes) -> Any:
    return np.frombuffer(data, np.int64)


def _body(records: Batch, codec: Codec) -> tuple[int, Any]:
    if isinstance(records, Columns):
        return _COLUMNS, _parts(records, codec)
    # Tuples of one length are written a column at a time: codecs mark each tuple otherwise.
    if set(map(type, records)) == {tuple} and len(set(map(len, records))) == 1 and records[0]:
        return _TUPLES, codec.encode(list(map(list, zip(*records, strict=True))))
    return _ROWS, codec.encode(records)


def _parts(columns: Columns, codec: Codec) -> list[Any]:
    """What each column is, in their order, and one block of all that are Arrow's."""
    parts: list[Any] = []
    arrow: list[Any] = []
    for name, array in columns.arrays.items():
        if not isinstance(array, np.ndarray):
            parts.append((name, _ARROW, len(arrow)))
            arrow.append(array)
        elif isinstance(array, np.ma.MaskedArray) and array.dtype.kind in _FLAT_KINDS:
            mask = np.ma.getmaskarray(array).tobytes()
            parts.append((name, _MASKED, (array.dtype.str, np.ascontiguousarray(array.data).tobytes(), mask)))
        elif array.dtype.kind in _FLAT_KINDS:
            parts.append((name, _NUMPY, (array.dtype.str, np.ascontiguousarray(array).tobytes())))
        else:
            parts.append((name, _OBJECTS, codec.encode(array.tolist())))
    return [parts, _arrow_block(arrow) if arrow else None]


def _arrow_block(arrays: list[Any]) -> bytes:
    import pyarrow as pa  # noqa: PLC0415 - only where Arrow arrays already are

    batch = pa.record_batch(arrays, names=[str(number) for number in range(len(arrays))])
    out = pa.BufferOutputStream()
    with pa.ipc.new_stream(out, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(out.getvalue())


def _columns(body: list[Any], codec: Codec) -> Columns:
    parts, block = body
    arrow: Any = None
    if block is not None:
        import pyarrow as pa  # noqa: PLC0415 - the other end has it

        with pa.ipc.open_stream(block) as reader:
            arrow = reader.read_next_batch()
    return Columns({name: _array(kind, data, arrow, codec) for name, kind, data in parts})


def _array(kind: int, data: Any, arrow: Any, codec: Codec) -> Any:
    if kind == _ARROW:
        return arrow.column(data)
    if kind == _OBJECTS:
        values = codec.decode(data)
        array = np.empty(len(values), object)
        array[:] = values
        return array
    flat = np.frombuffer(data[1], np.dtype(data[0]))
    return flat if kind == _NUMPY else np.ma.MaskedArray(flat, mask=np.frombuffer(data[2], np.bool_))
