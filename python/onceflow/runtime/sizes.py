"""How much memory records take, about: for bounds, not for accounts."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from onceflow.columns import Columns
from onceflow.types import Batch

__all__ = ["estimated_bytes"]

#: Records of a batch that are looked at, and items of each container in them.
_SAMPLE = 8
_DEPTH = 4


def estimated_bytes(records: Batch) -> int:
    """Bytes of the arrays of columns; of a list, from a sample of its records spread over the whole."""
    if isinstance(records, Columns):
        return sum(_array_bytes(array) for array in records.arrays.values())
    return _sampled(records, _DEPTH)


def _array_bytes(array: Any) -> int:
    if isinstance(array, np.ndarray) and array.dtype == object:
        return array.nbytes + _sampled(array, _DEPTH)
    return int(array.nbytes)


def _sampled(items: Any, depth: int) -> int:
    count = len(items)
    if count <= _SAMPLE:
        return sum(_bytes_of(item, depth) for item in items)
    chosen = [items[index * (count - 1) // (_SAMPLE - 1)] for index in range(_SAMPLE)]
    return sum(_bytes_of(item, depth) for item in chosen) * count // _SAMPLE


def _bytes_of(value: Any, depth: int) -> int:
    size = sys.getsizeof(value, 64)
    if depth == 0 or isinstance(value, (str, bytes, bytearray)):
        return size
    if isinstance(value, Mapping):
        shown = list(islice(value.values(), _SAMPLE))
        return size + sum(_bytes_of(item, depth - 1) for item in shown) * len(value) // max(len(shown), 1)
    if isinstance(value, Sequence):
        return size + _sampled(value, depth - 1)
    if isinstance(value, np.ndarray):
        return max(size, int(value.nbytes))  # The former counts what the array owns itself.
    fields = getattr(value, "__dict__", None)
    return size if not fields else size + sum(_bytes_of(item, depth - 1) for item in islice(fields.values(), _SAMPLE))
