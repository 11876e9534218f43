"""An Arrow array that is not what it says is refused: it comes as pointers, and believing them is a signal."""

from __future__ import annotations

import struct

import numpy as np
import pyarrow as pa
import pytest

from onceflow.exceptions import TypeMismatchError

COLUMNS = {"i": "i64", "f": "f64", "y": "bytes"}


class Foreign:
    """An array of a library that is not pyarrow, so that only the pointers are seen."""

    def __init__(self, array):
        self._array = array

    def __arrow_c_array__(self, requested_schema=None):
        return self._array.__arrow_c_array__(requested_schema)


class ForeignStream:
    def __init__(self, array):
        self._array = pa.chunked_array([array])

    def __arrow_c_stream__(self, requested_schema=None):
        return self._array.__arrow_c_stream__(requested_schema)


def buffers(kind, rows, *parts):
    return pa.Array.from_buffers(kind, rows, [None, *(pa.py_buffer(part) for part in parts)])


def views(*parts):
    """Views of strings of 20 bytes: (index of a buffer, offset)."""
    return b"".join(struct.pack("<i4sii", 20, b"xxxx", index, offset) for index, offset in parts)


ARRAYS = {
    "view of a buffer that is not there": buffers(pa.string_view(), 2, views((0, 0), (7, 0)), b"x" * 20),
    "view past the end of its buffer": buffers(pa.string_view(), 2, views((0, 0), (0, 2**30)), b"x" * 20),
    "view before its buffer": buffers(pa.string_view(), 2, views((0, 0), (0, -5)), b"x" * 20),
    "binary view of a negative buffer": buffers(pa.binary_view(), 2, views((0, 0), (-1, 0)), b"x" * 20),
    "index past the end of the dictionary": pa.DictionaryArray.from_arrays(pa.array([0, 9]), ["a"], safe=False),
    "negative index of a dictionary": pa.DictionaryArray.from_arrays(pa.array([0, -1]), ["a"], safe=False),
    "index into a dictionary of numbers": pa.DictionaryArray.from_arrays(pa.array([0, 9], pa.int8()), [5], safe=False),
    "offsets that go back": buffers(pa.string(), 2, struct.pack("<iii", 0, 3, 1), b"abc"),
    "offsets below zero": buffers(pa.binary(), 2, struct.pack("<iii", 0, -4, 3), b"abc"),
    "large offsets that go back": buffers(pa.large_string(), 2, struct.pack("<qqq", 0, 3, 1), b"abc"),
    "no UTF-8": buffers(pa.string(), 2, struct.pack("<iii", 0, 1, 3), b"\xffab"),
    "a character cut in two": buffers(pa.string(), 2, struct.pack("<iii", 0, 1, 2), "é".encode()),
}


@pytest.mark.parametrize("form", [lambda array: array, Foreign, ForeignStream], ids=["pyarrow", "array", "stream"])
@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_that_is_not_valid(backend, name, form):
    """An invalid string view was a segmentation fault, an index out of its dictionary a panic."""
    array = form(ARRAYS[name])
    texts = backend.table("s", key="str", columns=COLUMNS)
    numbers = backend.table("n", key="i64", columns=COLUMNS)
    pairs = backend.table("p", key=("str", "i64"), columns=COLUMNS)
    for call in (
        lambda: texts.put(array, i=1),
        lambda: texts.get(array),
        lambda: numbers.put(array, i=1),
        lambda: numbers.put([1, 2], y=array),
        lambda: numbers.put([1, 2], i=array),
        lambda: numbers.put([1, 2], f=array),
        lambda: pairs.put((array, [1, 2]), i=1),
    ):
        with pytest.raises(TypeMismatchError, match=r"invalid|is needed|are needed"):
            call()
    assert (len(texts), len(numbers), len(pairs)) == (0, 0, 0)


class Broken:
    def __arrow_c_array__(self, requested_schema=None):
        raise RuntimeError("nothing to give")


class Lying:
    def __arrow_c_array__(self, requested_schema=None):
        return (1, 2)


@pytest.mark.parametrize("values", [Broken(), Lying()])
def test_an_object_that_gives_no_array(backend, values):
    table = backend.table("n", key="i64", columns=COLUMNS)
    with pytest.raises(TypeMismatchError, match="not an Arrow array that can be read"):
        table.put(values, i=1)
    with pytest.raises(TypeMismatchError, match="not an Arrow array that can be read"):
        table.put([1], i=values)


@pytest.mark.parametrize(
    "array",
    [
        pa.array([[1], [2]]),
        pa.array([{"a": 1}, {"a": 2}]),
        pa.array([None, None]),
        pa.array([1.5, 2.5]).cast(pa.decimal128(5, 1)),
        pa.array(["a", "b"]).cast(pa.large_string()),
        pa.RunEndEncodedArray.from_arrays(pa.array([2], pa.int32()), pa.array([5])),
        pa.array([1, 2], pa.duration("s")),
        pa.array([np.float16(1), np.float16(2)], pa.float16()),
        pa.UnionArray.from_sparse(pa.array([0, 0], pa.int8()), [pa.array([1, 2])]),
    ],
    ids=lambda array: str(array.type),
)
def test_types_that_no_column_has(backend, array):
    table = backend.table("n", key="i64", columns={"i": "i64"})
    with pytest.raises(TypeMismatchError):
        table.put([1, 2], i=array)
    with pytest.raises(TypeMismatchError):
        table.put(array, i=1)
