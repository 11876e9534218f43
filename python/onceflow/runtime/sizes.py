"""How much memory records take, about: for bounds, not for accounts."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from types import NoneType
from typing import Any

import numpy as np

from onceflow.columns import Columns
from onceflow.types import Batch

__all__ = ["estimated_bytes"]

#: Records of a batch that are looked at, and items of each container in them.
_SAMPLE = 8
_DEPTH = 4
#: What most records hold.
_FLAT = frozenset({NoneType, bool, int, float, str})


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
        return _sum(items, depth)
    return _sum([items[index * (count - 1) // (_SAMPLE - 1)] for index in range(_SAMPLE)], depth) * count // _SAMPLE


def _sum(items: Collection[Any], depth: int) -> int:
    # To ask of each whether it is some container takes longer than all else.
    if _FLAT.issuperset(map(type, items)):
        return sum(map(sys.getsizeof, items))
    return sum(_bytes_of(item, depth) for item in items)


def _bytes_of(value: Any, depth: int) -> int:
    size = sys.getsizeof(value, 64)
    if depth == 0 or isinstance(value, (str, bytes, bytearray)):
        return size
    # Exact types first: to ask of others is slow.
    if type(value) is dict or isinstance(value, Mapping):
        shown = list(islice(value.values(), _SAMPLE))
        return size + _sum(shown, depth - 1) * len(value) // max(len(shown), 1)
    if type(value) in (list, tuple) or isinstance(value, Sequence):
        return size + _sampled(value, depth - 1)
    if isinstance(value, np.ndarray):
        return max(size, int(value.nbytes))  # The former counts what the array owns itself.
    fields = getattr(value, "__dict__", None)
    return size if not fields else size + _sum(list(islice(fields.values(), _SAMPLE)), depth - 1)
