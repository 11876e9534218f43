"""Aggregates of keyed records: what to compute by key, or by key and window.

An aggregate reads a field (a column's name) or what a function returns. As in SQL, what is missing (None, a null, a
masked value) is passed over: ``count("column")`` counts what is there, and a key without any value has the result None.

The result of a key depends on its own values only, never on how records were batched or whether they came as rows or as
columns: whole numbers give a whole number of any size, one fraction among them makes the result a float. ``type`` sets
one type for all keys instead: then each value is converted if that is exact, and refused otherwise. Values of one
native type (whole numbers of 64 bits, floats) are computed without a Python object a record; others, and mixtures of
numbers, one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from onceflow.exceptions import ConfigurationError

__all__ = ["Aggregate", "count", "first", "last", "max", "mean", "min", "shape_of", "sum"]

Field = str | Callable[[Any], Any]

#: The aggregates that there are.
AggregateKind = Literal["count", "sum", "min", "max", "mean", "first", "last"]
#: What to do with a value that is not a number.
NanPolicy = Literal["refuse", "skip", "keep"]
#: Types of numbers that a column of results can have.
NumberType = Literal["i64", "u64", "f64"]
#: The same, or none: any value that the codec knows.
ValueType = Literal["i64", "u64", "f64", "bytes"]
_NAN = get_args(NanPolicy)


@dataclass(frozen=True, slots=True)
class Aggregate:
    """What to compute; made by ``count``, ``sum`` and so on.

    Attributes:
        kind: Name of the aggregate.
        field: Column or function; None for the number of records.
        type: Type of all results; None: that of each key's values.
        nan: What to do with a value that is not a number: ``"refuse"``, ``"skip"`` or ``"keep"``.
    """

    kind: AggregateKind
    field: Field | None = None
    type: ValueType | None = None
    nan: NanPolicy = "refuse"


def count(field: Field | None = None, *, nan: NanPolicy = "keep") -> Aggregate:
    """Number of records; with a field the number of those in which it is there.

    Args:
        field: Column or function.
        nan: ``"keep"``: NaN is there; ``"skip"``: it is missing; ``"refuse"``: it ends the run.
    """
    return Aggregate("count") if field is None else _aggregate("count", field, None, (), nan)


def sum(field: Field, *, type: NumberType | None = None, nan: NanPolicy = "refuse") -> Aggregate:
    """Sum of a field of numbers, bools (True is 1), Decimals or timedeltas.

    Sums of whole numbers and of Decimals are exact; floats are added in the order of the records.

    Args:
        field: Column or function.
        type: ``"i64"``, ``"u64"`` or ``"f64"`` for all results; a sum beyond it is an error, never a wrong number.
        nan: ``"refuse"``: a NaN ends the run; ``"skip"``: it is passed over; ``"keep"``: the sum becomes NaN.
    """
    return _aggregate("sum", field, type, _NUMBERS, nan)


def min(field: Field, *, type: NumberType | None = None, nan: NanPolicy = "refuse") -> Aggregate:
    """Least value of a field of anything ordered: numbers, strings, bytes, times, Decimals, bools, tuples.

    Of equal values the first one; datetimes with a zone are compared as instants. Arguments as for ``sum``; a NaN that
    is kept is greater than all numbers.
    """
    return _aggregate("min", field, type, _NUMBERS, nan)


def max(field: Field, *, type: NumberType | None = None, nan: NanPolicy = "refuse") -> Aggregate:
    """Greatest value of a field of anything ordered; see ``min``."""
    return _aggregate("max", field, type, _NUMBERS, nan)


def mean(field: Field, *, nan: NanPolicy = "refuse") -> Aggregate:
    """Mean of a field of numbers or bools, computed in floats; of Decimals (28 digits) or timedeltas in their own type.

    ``nan`` as for ``sum``.
    """
    return _aggregate("mean", field, None, (), nan)


def first(field: Field, *, type: ValueType | None = None, nan: NanPolicy = "keep") -> Aggregate:
    """The value that came first, in the order in which records are read; any value that the codec knows.

    Partitions have an order each, and none between them: how they are read together depends on batches.

    Args:
        field: Column or function.
        type: ``"i64"``, ``"u64"``, ``"f64"``, or ``"bytes"``: no native type, whatever the first values are.
        nan: ``"keep"``: NaN is a value; ``"skip"``: it is passed over; ``"refuse"``: it ends the run.
    """
    return _aggregate("first", field, type, (*_NUMBERS, "bytes"), nan)


def last(field: Field, *, type: ValueType | None = None, nan: NanPolicy = "keep") -> Aggregate:
    """The value that came last; see ``first``."""
    return _aggregate("last", field, type, (*_NUMBERS, "bytes"), nan)


_NUMBERS: tuple[ValueType, ...] = ("i64", "f64", "u64")


def _aggregate(
    kind: AggregateKind, field: Field, column: ValueType | None, known: tuple[ValueType, ...], nan: NanPolicy
) -> Aggregate:
    if column is not None and column not in known:
        raise ConfigurationError(f"{kind} has no type {column!r}: choose from {', '.join(known)}")
    if not isinstance(field, str) and not callable(field):
        raise ConfigurationError(f"{kind} needs a column's name or a function, not {field!r}")
    if nan not in _NAN:
        raise ConfigurationError(f"{kind} has nan={nan!r}: choose from {', '.join(_NAN)}")
    return Aggregate(kind, field, column, nan)


def shape_of(aggregates: Mapping[str, Aggregate]) -> str:
    """What is computed under which name."""
    return ", ".join(f"{name}={_shape(aggregates[name])}" for name in sorted(aggregates))


def _shape(aggregate: Aggregate) -> str:
    return "count of a field" if aggregate.kind == "count" and aggregate.field is not None else aggregate.kind
