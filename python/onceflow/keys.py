"""Keys of records: how they are chosen, and which key type their values ask for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

import numpy as np

from onceflow.columns import Columns
from onceflow.exceptions import ConfigurationError, TypeMismatchError
from onceflow.operators.calls import each
from onceflow.types import Batch

__all__ = [
    "KeySelector",
    "KeyType",
    "all_fit",
    "can_be_written",
    "fits",
    "is_text",
    "key_list",
    "key_type_of",
    "same_kind",
]

#: ``"i64"``, ``"u64"``, ``"str"``, ``"bytes"``, or a tuple of two or more of these.
KeyType = str | tuple[str, ...]

_INTEGERS = {"i64": (-(1 << 63), (1 << 63) - 1), "u64": (0, (1 << 64) - 1)}


class KeySelector:
    """Chooses the key of each record: a function, or the names of one or several columns.

    Args:
        by: A function of a record, or names.

    Raises:
        ConfigurationError: Neither.
    """

    def __init__(self, by: Callable[[Any], Any] | Sequence[str]) -> None:
        self.function: Callable[[Any], Any] | None = None
        if callable(by):
            self.function = by
            self.names: tuple[str, ...] = ()
        else:
            self.names = tuple(by)
            if not self.names or not all(isinstance(name, str) for name in self.names):
                raise ConfigurationError(f"key_by needs a function or names of columns, not {by!r}")
            self.function = None if not self.names else itemgetter(*self.names)

    @property
    def fields(self) -> tuple[str, ...]:
        """Names for the key in results."""
        return self.names or ("key",)

    @property
    def shape(self) -> str:
        """What of it must not change while there is state by it; of functions nothing can be known."""
        return f"by {', '.join(self.names)}" if self.names else "by a function"

    def keys(self, step_id: str, records: Batch) -> Any:
        """One key a record, in a form that ``Table`` takes: a list, an array, or a tuple of arrays."""
        if isinstance(records, Columns):
            if len(self.names) == 1:
                return records[self.names[0]]
            if self.names:
                return tuple(records[name] for name in self.names)
            records = records.to_rows()
        if self.function is None:
            raise ConfigurationError(f"step {step_id!r} has no key")
        return each(step_id, self.function, records)


def key_type_of(keys: Any) -> KeyType:
    """The key type that these keys ask for.

    Raises:
        TypeMismatchError: None, floats, or anything else that is no key.
    """
    if isinstance(keys, tuple):
        return tuple(_element_type(array) for array in keys)
    found: KeyType = _element_type(keys, allow_tuple=True)
    return found


def _element_type(values: Any, *, allow_tuple: bool = False) -> Any:  # noqa: PLR0911 - one a kind
    if isinstance(values, np.ndarray) and values.dtype.kind in "iu":
        return "u64" if values.dtype == np.uint64 else "i64"
    if hasattr(values, "__arrow_c_array__"):
        kind = str(values.type)
        if "string" in kind:
            return "str"
        if "binary" in kind:
            return "bytes"
        return "u64" if kind == "uint64" else "i64"
    first = values[0]
    if isinstance(first, (bool, np.bool_)):
        pass
    elif isinstance(first, (int, np.integer)):
        return "i64"
    elif isinstance(first, str):
        return "str"
    elif isinstance(first, bytes):
        return "bytes"
    elif isinstance(first, tuple) and allow_tuple and len(first) > 1:
        return tuple(_element_type([element]) for element in first)
    raise TypeMismatchError(
        f"{first!r} cannot be a key; keys are int, str, bytes or tuples of two or more of these. Filter out records "
        "without a key"
    )


def fits(key_type: KeyType, key: Any) -> bool:
    """True if a key is of this type."""
    if isinstance(key_type, tuple):
        return isinstance(key, tuple) and len(key) == len(key_type) and all(map(fits, key_type, key))
    if key_type in _INTEGERS:
        low, high = _INTEGERS[key_type]
        return isinstance(key, (int, np.integer)) and not isinstance(key, bool) and low <= int(key) <= high
    return is_text(key) if key_type == "str" else isinstance(key, bytes)


def is_text(key: Any) -> bool:
    """True for a str that can be written as UTF-8: lone surrogates cannot."""
    return isinstance(key, str) and can_be_written([key])


def can_be_written(texts: Sequence[str]) -> bool:
    """True if all of them can be written as UTF-8."""
    text = "".join(texts)
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def all_fit(key_type: KeyType, keys: Sequence[Any]) -> bool:
    """True if all keys are of this type; a dict would take 1, 1.0 and True for one key."""
    kinds = set(map(type, keys))
    if isinstance(key_type, tuple):
        return (
            all(issubclass(kind, tuple) for kind in kinds)
            and set(map(len, keys)) <= {len(key_type)}
            and all(map(all_fit, key_type, zip(*keys, strict=True)))
        )
    if key_type in _INTEGERS:
        low, high = _INTEGERS[key_type]
        return (
            bool not in kinds
            and all(issubclass(kind, (int, np.integer)) for kind in kinds)
            and (not keys or (low <= int(min(keys)) and int(max(keys)) <= high))
        )
    if key_type == "str":
        return all(issubclass(kind, str) for kind in kinds) and can_be_written(keys)
    return all(issubclass(kind, bytes) for kind in kinds)


def same_kind(known: KeyType, other: KeyType) -> bool:
    """True if keys that look like ``other`` may be of type ``known``: of integers only the table knows the type."""
    if isinstance(known, tuple) or isinstance(other, tuple):
        return (
            isinstance(known, tuple)
            and isinstance(other, tuple)
            and len(known) == len(other)
            and all(map(same_kind, known, other))
        )
    return known == other or (known in _INTEGERS and other in _INTEGERS)


def key_list(keys: Any) -> list[Any]:
    """The keys as Python objects, hashable and sortable."""
    if isinstance(keys, tuple):
        return list(zip(*(key_list(array) for array in keys), strict=True))
    if isinstance(keys, list):
        return keys
    if isinstance(keys, np.ndarray):
        listed: list[Any] = keys.tolist()
        return listed
    return list(keys.to_pylist())
