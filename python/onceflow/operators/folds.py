"""Aggregates of values that no native column holds: one by one, in Python, and to the same results.

What a native column computes of whole numbers or of floats, these compute of them too, to the last bit: so a key's
result does not depend on which of the two it went through.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Context, Decimal, DivisionByZero, FloatOperation, Inexact, InvalidOperation, Overflow
from itertools import chain
from typing import Any

from onceflow.operators.values import RefusedValueError, Values, is_nan

__all__ = ["fold", "quotient"]

#: Sums of Decimals are exact; more digits than this are refused.
_DIGITS = 1000
_EXACT = Context(prec=_DIGITS, traps=[DivisionByZero, FloatOperation, Inexact, InvalidOperation, Overflow])
_QUOTIENT = Context(prec=28)

_ADDED = (int, float, Decimal, timedelta)
#: Types of which each value compares with each other one, or raises; floats and Decimals may be NaN.
_QUICKLY_ORDERED = frozenset({int, bool, str, bytes, date, datetime, time, timedelta})
_ORDERED = (int, float, Decimal, str, bytes, date, time, timedelta, tuple, list)


def fold(kind: str, totals: dict[Any, Any], keys: list[Any], values: Values) -> dict[Any, Any]:
    """What changes in ``totals`` by a batch.

    Args:
        kind: Of the aggregate.
        totals: By key, of those that have a value so far. It is brought up to date.
        keys: One for each value.
        values: The values.

    Raises:
        RefusedValueError: One that the aggregate does not take.
    """
    objects = values.objects()
    if kind == "last":
        changed = dict(zip(keys, objects, strict=True))
        totals.update(changed)
        return changed
    quick = _quick(kind, totals, keys, objects)
    if quick is not None:
        totals.update(quick)
        return quick
    changed = {}
    step, takes = _STEPS[kind]
    index = 0
    try:
        for index, (key, value) in enumerate(zip(keys, objects, strict=True)):
            if not isinstance(value, takes):
                raise RefusedValueError(values.row(index), f"and {kind} takes {_TAKEN[takes]}. {_ADVICE}")
            before = totals.get(key, _NONE)
            after = step(before, value)
            if after is not before:
                totals[key] = changed[key] = after
    except (TypeError, ArithmeticError, ValueError) as error:
        before = totals.get(keys[index], _NONE)
        beside = "" if before is _NONE else f", with {before!r} before it"
        raise RefusedValueError(values.row(index), f"which {kind} cannot take{beside}: {error}. {_ADVICE}") from error
    return changed


def _quick(kind: str, totals: dict[Any, Any], keys: list[Any], objects: list[Any]) -> dict[Any, Any] | None:
    """What changes, without a call for each value, where all are of types that need no look at each; else None."""
    kinds = {*map(type, objects), *map(type, totals.values())}
    now = dict(totals)
    get = now.get
    changed: dict[Any, Any] = {}
    try:
        if kind == "sum" and kinds <= {int, float}:
            for key, value in zip(keys, objects, strict=True):
                before = get(key)
                now[key] = changed[key] = value if before is None else before + value
            return changed if all(map(math.isfinite, changed.values())) else None
        if len(kinds) != 1 or not kinds <= _QUICKLY_ORDERED:
            return None
        if kinds == {datetime} and not all(map(_is_instant, chain(objects, totals.values()))):
            return None
        if kind == "min":
            for key, value in zip(keys, objects, strict=True):
                before = get(key)
                if before is None or value < before:
                    now[key] = changed[key] = value
            return changed
        if kind == "max":
            for key, value in zip(keys, objects, strict=True):
                before = get(key)
                if before is None or value > before:
                    now[key] = changed[key] = value
            return changed
    except (TypeError, OverflowError):
        # Said of the value by a look at each.
        pass
    return None


def quotient(total: Any, number: int) -> Any:
    """The mean of values with this sum."""
    if isinstance(total, Decimal):
        return _QUOTIENT.divide(total, Decimal(number))
    return total / number


_NONE: Any = object()

_ADVICE = (
    "If the whole column is text, as where CsvSource found values that are not plain numbers, say its type at the "
    "source (types={...}); else make the values of one kind by a function in place of the field's name, or filter such "
    "records out"
)


def _sum(total: Any, value: Any) -> Any:
    if isinstance(value, bool):
        value = int(value)
    if total is _NONE:
        return value
    if isinstance(total, Decimal) or isinstance(value, Decimal):
        if isinstance(total, float) or isinstance(value, float):
            raise TypeError("floats and Decimals have no exact sum")
        try:
            return _EXACT.add(_decimal(total), _decimal(value))
        except Inexact:
            raise OverflowError(f"the sum has more than {_DIGITS} digits") from None
    after = total + value
    if isinstance(after, float) and not math.isfinite(after):
        if math.isinf(after) and math.isfinite(total) and math.isfinite(value):
            raise OverflowError("the sum is beyond the range of floats")
        if math.isnan(after) and not math.isnan(total) and not math.isnan(value):
            raise OverflowError("infinities of both signs have no sum")
    return after


def _decimal(value: Any) -> Decimal:
    if isinstance(value, (int, Decimal)):
        return Decimal(value)
    raise TypeError(f"a Decimal and a {type(value).__name__} have no sum")


def _sum_of_mean(total: Any, value: Any) -> Any:
    if isinstance(value, Decimal) and isinstance(total, float) and total.is_integer():
        # Whole numbers were added up in floats so far.
        total = int(total)
    elif isinstance(value, int) and not isinstance(total, Decimal):
        value = float(value)
    return _sum(total, value)


def _is_instant(value: datetime) -> bool:
    """True if it compares with others as the instant that it is, whatever their zone."""
    return value.tzinfo is None or type(value.tzinfo) is timezone


def _placed(value: Any) -> Any:
    """What to compare a value by.

    Python compares datetimes of one zone by what the clock shows, which in the hour that it shows twice, when summer
    time ends, is another order than that of the instants.
    """
    if isinstance(value, (tuple, list)):
        return type(value)(map(_placed, value)) if type(value) in (tuple, list) else value
    if not isinstance(value, datetime) or _is_instant(value) or value.utcoffset() is None:
        return value
    try:
        return value.astimezone(UTC)
    except OverflowError:
        # At either end of the years: of no hour that is shown twice.
        return value


def _least(least: Any, value: Any) -> Any:
    if least is _NONE or is_nan(least):
        return value
    return least if is_nan(value) or not _placed(value) < _placed(least) else value


def _greatest(greatest: Any, value: Any) -> Any:
    if greatest is _NONE:
        return value
    if is_nan(greatest):
        return greatest
    return value if is_nan(value) or _placed(value) > _placed(greatest) else greatest


def _first(first: Any, value: Any) -> Any:
    return value if first is _NONE else first


_STEPS: dict[str, tuple[Callable[[Any, Any], Any], Any]] = {
    "sum": (_sum, _ADDED),
    "mean": (_sum_of_mean, _ADDED),
    "min": (_least, _ORDERED),
    "max": (_greatest, _ORDERED),
    "first": (_first, object),
}

_TAKEN = {
    _ADDED: "numbers, bools, Decimals and timedeltas",
    _ORDERED: "what has an order: numbers, strings, bytes, times, Decimals, bools and tuples",
}
