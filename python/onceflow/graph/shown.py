"""How a dataflow is printed: functions by name, what users wrote by type, and nothing that may hold a secret."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onceflow.aggregates import Aggregate
from onceflow.windows import Tumbling

__all__ = ["shown"]

_PLAIN = (str, int, float, bool, type(None))


def shown(value: Any) -> str:
    """A value of a specification, for people.

    Strings, numbers, windows and aggregates are said. Of a function its name; of anything else, such as a ``partial``
    with its arguments or a connector with its password, only the name of its type.
    """
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, tuple):
        return f"({', '.join(map(shown, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name}: {shown(item)}' for name, item in value.items())}}}"
    if isinstance(value, Tumbling):
        return str(value)
    if isinstance(value, Aggregate):
        told = {"": value.field, "type=": value.type, "nan=": value.nan if value.nan != "refuse" else None}
        return f"{value.kind}({', '.join(f'{name}{shown(item)}' for name, item in told.items() if item is not None)})"
    return str(getattr(value, "__qualname__", None) or type(value).__name__)
