"""Lines of the server's output plugin ``test_decoding`` as records.

It is part of every PostgreSQL, and prints a line for each change, with the names as SQL quotes them and the values as
texts of their types.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

from onceflow.connectors.postgres.exact import json_of
from onceflow.exceptions import SourceError

__all__ = ["SESSION_OPTIONS", "UNCHANGED", "changes_of"]

#: Of the session that decodes, so that texts have one form.
SESSION_OPTIONS = (
    "-c timezone=UTC -c datestyle=ISO -c intervalstyle=postgres -c extra_float_digits=3 -c bytea_output=hex"
)
#: A large value that an update did not touch is not in the server's log.
UNCHANGED = "unchanged-toast-datum"

_NAME = r'(?:"(?:[^"]|"")+"|[^".,:\s\[]+)'
_TABLE = re.compile(rf"table ({_NAME})\.({_NAME}): (INSERT|UPDATE|DELETE): ?")
#: One statement empties several tables, also by CASCADE.
_TRUNCATE = re.compile(rf"table ((?:{_NAME}\.{_NAME}(?:, )?)+): TRUNCATE: ")
_TRUNCATED = re.compile(rf"({_NAME})\.({_NAME})(?:, )?")
_COLUMN = re.compile(rf"({_NAME})\[(.+?)\]:(null|{UNCHANGED}|B?'(?:[^']|'')*'|[^ ]+)(?: |$)", re.DOTALL)
_OLD, _NEW = "old-key: ", "new-tuple: "


def _moment(text: str) -> Any:
    # Beyond Python's times, such as infinity or a year before Christ, a text stays one.
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return text


def _day(text: str) -> Any:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return text


_VALUES: dict[str, Callable[[str], Any]] = {
    "smallint": int,
    "integer": int,
    "bigint": int,
    "oid": int,
    "boolean": lambda text: text == "true",
    "real": float,
    "double precision": float,
    "numeric": Decimal,
    "timestamp with time zone": _moment,
    "timestamp without time zone": _moment,
    "date": _day,
    "time without time zone": time.fromisoformat,
    "uuid": UUID,
    "json": json_of,
    "jsonb": json_of,
    "bytea": lambda text: bytes.fromhex(text.removeprefix("\\x")),
}


def changes_of(line: str) -> list[dict[str, Any]]:
    """Changes as records: one, several where a statement empties several tables, or none, such as where a transaction
    begins.

    Returns:
        Dicts of ``table`` ("public.orders"), ``action`` ("insert", "update", "delete", "truncate"), ``row``: columns
        and values after it, None where there is none; ``key``: columns of the old key of an update that changes it, or
        of a delete. A large value that an update did not touch is left out of ``row``.

    Raises:
        SourceError: The line is none of the plugin.
    """
    if line.startswith(("BEGIN", "COMMIT")):
        return []
    if (truncated := _TRUNCATE.match(line)) is not None:
        tables = _TRUNCATED.findall(truncated[1])
        return [_change(schema, table, "truncate") for schema, table in tables]
    found = _TABLE.match(line)
    if found is None:
        raise SourceError(f"a change of the slot cannot be read: {line[:200]!r}: its plugin must be test_decoding")
    schema, table, action = found.groups()
    rest = line[found.end() :]
    change = _change(schema, table, action.lower())
    if rest.startswith(_OLD):
        change["key"], at = _columns(rest, len(_OLD))
        rest = rest[at:].removeprefix(_NEW)
    if rest == "(no-tuple-data)":
        return [change]
    columns, at = _columns(rest, 0)
    if at != len(rest):
        raise SourceError(f"a change of the slot cannot be read from {rest[at : at + 100]!r} on: {line[:200]!r}")
    change["key" if action == "DELETE" else "row"] = columns
    return [change]


def _change(schema: str, table: str, action: str) -> dict[str, Any]:
    return {"table": f"{_unquoted(schema)}.{_unquoted(table)}", "action": action, "row": None, "key": None}


def _columns(text: str, at: int) -> tuple[dict[str, Any], int]:
    """Columns from a place on, and the place behind them."""
    columns = {}
    while found := _COLUMN.match(text, at):
        if text.startswith(_NEW, at):
            break
        name, kind, value = found.groups()
        if value != UNCHANGED:
            columns[_unquoted(name)] = _value(kind, value)
        at = found.end()
    return columns, at


def _value(kind: str, text: str) -> Any:
    if text == "null":
        return None
    if text.startswith(("'", "B'")):
        text = text[text.index("'") + 1 : -1].replace("''", "'")
    return _VALUES.get(kind.partition("(")[0].strip(), str)(text)


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name
