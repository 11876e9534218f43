"""What sinks take of a record: a field by its name, or what a function gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from onceflow.exceptions import SinkError, described

__all__ = ["Field", "field_of"]

#: Name of a field of the record, or a function of the record.
Field: TypeAlias = str | Callable[[Any], Any]


def field_of(record: Any, field: Field, name: str) -> Any:
    """What a record has under the name of a field, or a function says of it.

    Raises:
        SinkError: It has no such field, or the function raises.
    """
    try:
        return field(record) if callable(field) else record[field]
    except Exception as error:
        raise SinkError(f"{name} of a record: {described(error)}") from error
