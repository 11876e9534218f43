"""How the records of an edge are divided among the workers that take them: data.

How the values of keys are typed, written and kept in tables is the operators' (``onceflow.operators.keys``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from onceflow.exceptions import ConfigurationError
from onceflow.graph.shown import shown

__all__ = [
    "FORWARD",
    "KEY_KINDS",
    "Broadcast",
    "ByKey",
    "Forward",
    "KeySelector",
    "KeyType",
    "KeyTypeName",
    "Partitioning",
    "Rebalance",
    "check_key_type",
]

#: ``"i64"``, ``"u64"``, ``"str"``, ``"bytes"``, ``"bool"``, ``"date"``, ``"datetime"`` (with a zone),
#: ``"naive datetime"``, or a tuple of two or more of these.
KeyType: TypeAlias = str | tuple[str, ...]

#: The types of keys that a user can ask for.
KeyTypeName: TypeAlias = Literal["i64", "u64", "str", "bytes", "bool", "date", "datetime", "naive datetime"]

#: What a key, or an element of one, may be.
KEY_KINDS: tuple[str, ...] = get_args(KeyTypeName)


@dataclass(frozen=True, slots=True, init=False, repr=False)
class KeySelector:
    """Chooses the key of each record: a function, or the names of one or several columns.

    Args:
        by: A function of a record, or names.

    Attributes:
        function: None where the key is columns.
        names: Of the columns; empty where the key is what a function returns.

    Raises:
        ConfigurationError: Neither.
    """

    function: Callable[[Any], Any] | None
    names: tuple[str, ...]

    def __init__(self, by: Callable[[Any], Any] | Sequence[str]) -> None:
        names = () if callable(by) or not isinstance(by, Iterable) else tuple(by)
        if not callable(by) and (not names or not all(isinstance(name, str) for name in names)):
            raise ConfigurationError(f"a key is a function, or names of columns such as ['user'], not {by!r}")
        object.__setattr__(self, "function", by if callable(by) else None)
        object.__setattr__(self, "names", names)

    @property
    def fields(self) -> tuple[str, ...]:
        """Names for the key in results."""
        return self.names or ("key",)

    @property
    def shape(self) -> str:
        """What of it must not change while there is state by it; of functions nothing can be known."""
        return f"by {', '.join(self.names)}" if self.names else "by a function"

    def __repr__(self) -> str:
        return shown(self.function) if self.function is not None else ", ".join(map(repr, self.names))


def check_key_type(key_type: KeyType | None) -> None:
    """Raises ``ConfigurationError`` if there is no such key type."""
    elements = key_type if isinstance(key_type, tuple) else (key_type,)
    if key_type is not None and (key_type == () or not all(element in KEY_KINDS for element in elements)):
        raise ConfigurationError(
            f"key_type={key_type!r}: choose from {', '.join(KEY_KINDS)}, or a tuple of these", setting="key_type"
        )


@dataclass(frozen=True, slots=True)
class Forward:
    """Each record stays with the worker that has it: the step is called on the spot."""

    def __repr__(self) -> str:
        return "forward"


@dataclass(frozen=True, slots=True)
class ByKey:
    """All records of a key come to one worker, in the order in which each sender has them.

    Attributes:
        selector: The key.
        key_type: Its type; None: by the first keys.
    """

    selector: KeySelector
    key_type: KeyType | None = None

    def __repr__(self) -> str:
        typed = "" if self.key_type is None else f", key_type={self.key_type!r}"
        return f"by_key({self.selector!r}{typed})"


@dataclass(frozen=True, slots=True)
class Rebalance:
    """Records are dealt out evenly, whatever they are."""

    def __repr__(self) -> str:
        return "rebalance"


@dataclass(frozen=True, slots=True)
class Broadcast:
    """Every worker gets every record."""

    def __repr__(self) -> str:
        return "broadcast"


FORWARD = Forward()

Partitioning: TypeAlias = Forward | ByKey | Rebalance | Broadcast
