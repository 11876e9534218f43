"""Digests that tell records from others, so that a source notices when what it has read is not there any more.

Of values that msgspec can write: scalars, containers, dataclasses and the like. Of other objects only the type counts,
since nothing else of them is sure to be the same in another process.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import msgspec
import numpy as np

__all__ = ["digest_of", "digested"]


def _other(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray)) and value.dtype.kind in "biufSU":
        return value.tolist()
    return _type_of(value)


def _type_of(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


# Sets, and dicts by their keys, in an order of their own: that of a set is another one in each process.
_ENCODER = msgspec.msgpack.Encoder(enc_hook=_other, order="deterministic")


def digested(digest: blake2b, records: Sequence[Any]) -> None:
    """Adds records to a digest."""
    for record in records:
        try:
            digest.update(_ENCODER.encode(record))
        except (TypeError, ValueError, OverflowError, RecursionError):
            # What is in it cannot be written, or sorted.
            digest.update(_type_of(record).encode())


def digest_of(records: Sequence[Any]) -> bytes:
    """The digest of these records, 8 bytes."""
    digest = blake2b(digest_size=8)
    digested(digest, records)
    return digest.digest()
