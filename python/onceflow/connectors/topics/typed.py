"""Fields of values as columns of types that were said: one decoder for all messages, and no dict for any of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias, get_args

import msgspec

from onceflow.connectors.extras import require
from onceflow.exceptions import ConfigurationError

__all__ = ["FieldType", "TypedFields"]

#: Types of fields, by the words of ``CsvSource``. A field that is missing or null is null.
FieldType: TypeAlias = Literal["int", "float", "bool", "str", "bytes"]
#: What the bytes of values are: a decoder is made for these, and anything else is converted.
Format: TypeAlias = Literal["json", "msgpack"]

_PYTHON: dict[str, Any] = {
    "int": Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)],
    # A whole number that no float holds is refused where the column is made, instead of being rounded here.
    "float": int | float,
    "bool": bool,
    "str": str,
    "bytes": bytes,
}
_ARROW = {"int": "int64", "float": "float64", "bool": "bool_", "str": "large_string", "bytes": "large_binary"}
#: Columns that a batch of messages has anyway.
TAKEN = ("partition", "offset", "timestamp_ms", "key")


class TypedFields:
    """Makes columns of the fields that were named; other fields of a value are passed over.

    Args:
        types: Names of fields and their types.
        values: What the bytes of a value are, or what makes an object with these fields of them: a dict, or something
            that has attributes.

    Raises:
        ConfigurationError: Types that cannot be.
    """

    def __init__(self, types: Mapping[str, FieldType], values: Format | Callable[[bytes], Any]) -> None:
        if not isinstance(types, Mapping) or not types or not all(isinstance(name, str) for name in types):
            raise ConfigurationError(
                f"types={types!r}: give names of fields and their types, such as {{'n': 'int'}}", setting="types"
            )
        unknown = {name: kind for name, kind in types.items() if kind not in get_args(FieldType)}
        if unknown:
            raise ConfigurationError(f"unknown types {unknown}: choose from {', '.join(get_args(FieldType))}")
        if both := [name for name in types if name in TAKEN]:
            raise ConfigurationError(
                f"types names {both}, which are columns of every message ({', '.join(TAKEN)}): leave as_columns out, "
                "and name the fields anew in a map"
            )
        if values == "json" and "bytes" in types.values():
            raise ConfigurationError("JSON has no bytes: give 'str' for such fields")
        self._types = dict(types)
        row: Any = msgspec.defstruct(
            "Row",
            [
                (f"field_{number}", _PYTHON[kind] | None, msgspec.field(default=None, name=name))
                for number, (name, kind) in enumerate(types.items())
            ],
        )
        self.row_of: Callable[[bytes], Any]
        if values == "json":
            self.row_of = msgspec.json.Decoder(row).decode
        elif values == "msgpack":
            self.row_of = msgspec.msgpack.Decoder(row).decode
        else:
            self.row_of = lambda data: msgspec.convert(values(data), row, from_attributes=True)
        self._none = row()

    def arrays(self, rows: Sequence[Any]) -> dict[str, Any]:
        """A column for each field.

        Args:
            rows: What ``row_of`` made; of a null value None, which makes nulls of all its fields.
        """
        arrow = require("pyarrow", extra="arrow", purpose="as_columns")
        rows = [self._none if row is None else row for row in rows]
        return {
            name: arrow.array([getattr(row, f"field_{number}") for row in rows], getattr(arrow, _ARROW[kind])())
            for number, (name, kind) in enumerate(self._types.items())
        }
