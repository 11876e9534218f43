"""Streams of keys and values, the same for every contender: seeded, made before the clock starts."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["BATCH", "COLUMNS", "Batch", "batches", "endless", "fill", "label", "updates"]

#: Records of a batch of columns.
BATCH = 16_384

Batch: TypeAlias = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]

#: Columns of the table that every suite keeps: 24 bytes a key.
COLUMNS = {"sum": "f64", "count": "i64"}


def updates(values: Any) -> dict[str, tuple[str, Any]]:
    """Sum and count by key, in one pass."""
    return {"sum": ("add", values), "count": ("count", None)}


def batches(
    keys: int, *, records: int, distribution: str = "uniform", batch: int = BATCH, seed: int = 1
) -> list[Batch]:
    """Random keys below ``keys``, with a value each.

    ``zipf`` has an exponent of about 1 (by inversion); its popular keys lie anywhere, as they would in a stream.
    """
    random = np.random.default_rng(seed)
    made: list[Batch] = []
    for _ in range(max(1, records // batch)):
        if distribution == "uniform":
            found = random.integers(0, keys, batch)
        else:
            rank = np.minimum(np.power(float(keys), random.random(batch)).astype(np.int64), keys - 1)
            found = rank * 2_654_435_761 % keys
        made.append((found, random.random(batch)))
    return made


def endless(made: list[Batch]) -> Iterator[Batch]:
    """The batches again and again."""
    return cycle(made)


def fill(table: Any, keys: int, *, batch: int = 1 << 16) -> None:
    """One row a key, so that what is measured is the update of keys that are there."""
    for start in range(0, keys, batch):
        some = np.arange(start, min(start + batch, keys), dtype=np.int64)
        table.update(some, updates(np.zeros(len(some))))


def label(number: int) -> str:
    """``100 k``, ``10 M``."""
    if number % 1_000_000 == 0:
        return f"{number // 1_000_000} M"
    return f"{number // 1_000} k" if number % 1_000 == 0 else f"{number:,}"
