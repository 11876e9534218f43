"""Aggregates of keyed records: each keeps one or two typed columns in a state table.

An aggregate reads a field (a column's name) or what a function returns. Numbers are i64 if the first values are
integers and f64 otherwise; give ``type="f64"`` when integers come first and fractions later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np

from onceflow.codec import Codec
from onceflow.columns import Columns
from onceflow.exceptions import ConfigurationError, DataflowChangedError, TypeMismatchError
from onceflow.operators.calls import each
from onceflow.types import Batch

__all__ = ["Aggregate", "AggregateColumns", "count", "first", "last", "max", "mean", "min", "shape_of", "sum"]

Field = str | Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Aggregate:
    """What to compute; made by ``count``, ``sum`` and so on.

    Attributes:
        kind: Name of the aggregate.
        field: Column or function; None for ``count``.
        type: Type of the state column; None: by the first values.
    """

    kind: str
    field: Field | None = None
    type: str | None = None


def count() -> Aggregate:
    """Number of records."""
    return Aggregate("count")


def sum(field: Field, *, type: str | None = None) -> Aggregate:
    """Sum of a field. Overflow is an error, never a wrong number."""
    return _numeric("sum", field, type)


def min(field: Field, *, type: str | None = None) -> Aggregate:
    """Least value of a field of numbers."""
    return _numeric("min", field, type)


def max(field: Field, *, type: str | None = None) -> Aggregate:
    """Greatest value of a field of numbers."""
    return _numeric("max", field, type)


def mean(field: Field) -> Aggregate:
    """Mean of a field of numbers: an f64 sum by an i64 count."""
    return Aggregate("mean", field, "f64")


def first(field: Field, *, type: str | None = None) -> Aggregate:
    """The value that came first; any value that the codec knows."""
    return _typed("first", field, type, ("i64", "f64", "u64", "bytes"))


def last(field: Field, *, type: str | None = None) -> Aggregate:
    """The value that came last; any value that the codec knows."""
    return _typed("last", field, type, ("i64", "f64", "u64", "bytes"))


def _numeric(kind: str, field: Field, column: str | None) -> Aggregate:
    return _typed(kind, field, column, ("i64", "f64", "u64"))


def _typed(kind: str, field: Field, column: str | None, known: tuple[str, ...]) -> Aggregate:
    if column is not None and column not in known:
        raise ConfigurationError(f"{kind} has no type {column!r}: choose from {', '.join(known)}")
    if not isinstance(field, str) and not callable(field):
        raise ConfigurationError(f"{kind} needs a column's name or a function, not {field!r}")
    return Aggregate(kind, field, column)


_ARROW = (("int", "i64"), ("uint", "u64"), ("float", "f64"), ("double", "f64"), ("halffloat", "f64"))
_OPERATIONS = {"sum": "add", "min": "min", "max": "max", "first": "first", "last": "last"}


def shape_of(aggregates: Mapping[str, Aggregate]) -> str:
    """What is computed under which name."""
    return ", ".join(f"{name}={aggregates[name].kind}" for name in sorted(aggregates))


class AggregateColumns:
    """The state columns of several aggregates: types, updates from a batch, results.

    Args:
        step_id: For errors.
        aggregates: By the name of the result.
        codec: For values of ``first`` and ``last`` that are no numbers.
    """

    def __init__(self, step_id: str, aggregates: Mapping[str, Aggregate], codec: Codec) -> None:
        self._step_id = step_id
        self._aggregates = dict(aggregates)
        self._codec = codec
        self._types: dict[str, str] = {}

    def restore(self, columns: Mapping[str, str]) -> None:
        """The types of a table that exists.

        Raises:
            DataflowChangedError: An aggregate asks for another type.
        """
        for name, aggregate in self._aggregates.items():
            known = columns.get(name)
            if aggregate.type is not None and known is not None and aggregate.type != known:
                raise DataflowChangedError(
                    f"step {self._step_id!r} has state of type {known} for {aggregate.kind} {name!r}, which now asks "
                    f"for type {aggregate.type}. Give the step another id, or start over with fresh state"
                )
        self._types = dict(columns)

    def values(self, records: Batch) -> dict[str, Any]:
        """What each aggregate reads, by its name."""
        rows: list[Any] | None = None
        found: dict[str, Any] = {}
        for name, aggregate in self._aggregates.items():
            field = aggregate.field
            if field is None:
                continue
            if isinstance(records, Columns):
                if isinstance(field, str):
                    found[name] = records[field]
                    continue
                rows = records.to_rows() if rows is None else rows
            else:
                rows = records
            found[name] = each(self._step_id, itemgetter(field) if isinstance(field, str) else field, rows)
        return found

    def columns(self, values: Mapping[str, Any]) -> dict[str, str]:
        """Types of the state columns, chosen by the first batch."""
        if not self._types:
            for name, aggregate in self._aggregates.items():
                if aggregate.kind == "count":
                    self._types[name] = "i64"
                elif aggregate.kind == "mean":
                    self._types[f"{name}.sum"] = "f64"
                    self._types[f"{name}.count"] = "i64"
                else:
                    self._types[name] = aggregate.type or self._infer(name, aggregate.kind, values[name])
        return self._types

    def _infer(self, name: str, kind: str, values: Any) -> str:
        if isinstance(values, np.ndarray):
            types = {"i": "i64", "u": "u64", "f": "f64"}
            found = types.get(values.dtype.kind)
        elif hasattr(values, "__arrow_c_array__"):
            text = str(values.type)
            found = next((column for start, column in _ARROW if text.startswith(start)), None)
        else:
            kinds = set(map(type, values))
            integers = {kind for kind in kinds if kind is int or issubclass(kind, np.integer)}
            floats = {kind for kind in kinds if issubclass(kind, (float, np.floating))}
            found = None if kinds - integers - floats else "f64" if floats else "i64"
        if found is None and kind in ("first", "last"):
            return "bytes"
        if found is None:
            raise TypeMismatchError(f"{kind} {name!r} needs numbers, and the first batch has others (None?)")
        return found

    def updates(self, values: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
        """What ``Table.update`` takes."""
        updates: dict[str, tuple[str, Any]] = {}
        for name, aggregate in self._aggregates.items():
            if aggregate.kind == "count":
                updates[name] = ("count", None)
            elif aggregate.kind == "mean":
                updates[f"{name}.sum"] = ("add", values[name])
                updates[f"{name}.count"] = ("count", None)
            else:
                given = values[name]
                if self._types[name] == "bytes":
                    listed = given if isinstance(given, list) else given.tolist()
                    given = [self._codec.encode(value) for value in listed]
                updates[name] = (_OPERATIONS[aggregate.kind], given)
        return updates

    def results(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        """Result columns from state columns."""
        results: dict[str, Any] = {}
        for name, aggregate in self._aggregates.items():
            if aggregate.kind == "mean":
                results[name] = columns[f"{name}.sum"] / columns[f"{name}.count"]
            elif self._types[name] == "bytes":
                values = np.empty(len(columns[name]), dtype=object)
                values[:] = [self._codec.decode(value) for value in columns[name]]
                results[name] = values
            else:
                results[name] = columns[name]
        return results
