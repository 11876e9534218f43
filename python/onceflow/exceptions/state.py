"""What tables of state refuse."""

from __future__ import annotations

from onceflow.exceptions.base import OnceflowError

__all__ = [
    "CapacityExceededError",
    "LengthMismatchError",
    "NotANumberError",
    "SchemaMismatchError",
    "SerializationError",
    "StateError",
    "StateOverflowError",
    "TypeMismatchError",
    "UnknownNameError",
]


class StateError(OnceflowError):
    """A batch that a state table refused. The table is untouched."""

    kind = "state"


class TypeMismatchError(StateError, TypeError):
    """Keys or values of another type than the table's key or column."""

    kind = "type_mismatch"
    kafka_code = -154


class LengthMismatchError(StateError, ValueError):
    """Arrays of one batch differ in length."""

    kind = "length_mismatch"


class StateOverflowError(StateError, OverflowError):
    """A sum would leave the range of its column."""

    kind = "overflow"


class NotANumberError(StateError, ValueError):
    """A NaN was offered to a float column, or an infinity to a sum."""

    kind = "not_a_number"


class UnknownNameError(StateError, KeyError):
    """A table, column or other name that does not exist; the text lists those that do.

    Attributes:
        name: The one that was asked for.
    """

    kind = "unknown_name"

    def __init__(self, message: str = "", *, name: str | None = None) -> None:
        super().__init__(message)
        self.name = name

    def __str__(self) -> str:
        # KeyError shows the repr of its argument; people want the sentence.
        return str(self.args[0]) if self.args else ""


class SchemaMismatchError(StateError):
    """A table exists under this name with another key or other columns."""

    kind = "schema_mismatch"


class CapacityExceededError(StateError):
    """A bound in bytes or entries would be passed; the text says what can be done.

    Attributes:
        setting: The one that raises the bound; None also where nothing does.
        needed: Bytes or entries that there would be.
        limit: The bound.
    """

    kind = "capacity_exceeded"

    def __init__(
        self, message: str = "", *, setting: str | None = None, needed: int | None = None, limit: int | None = None
    ) -> None:
        super().__init__(message)
        self.setting = setting
        self.needed = needed
        self.limit = limit


class SerializationError(StateError):
    """A state value that the codec cannot write or read."""

    kind = "serialization"
