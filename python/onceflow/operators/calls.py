"""Calls of user functions: as fast as a comprehension, and an exception names its record."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import length_hint
from typing import Any

from onceflow.exceptions import OnceflowError, UserFunctionError

__all__ = ["each", "failed"]

_SHOWN = 300


def each(step_id: str, function: Callable[[Any], Any], records: list[Any]) -> list[Any]:
    """``[function(record) for record in records]``.

    Raises:
        UserFunctionError: Whatever the function raised, with step and record.
    """
    rest = iter(records)
    try:
        return [function(record) for record in rest]
    except Exception as error:
        raise failed(step_id, error, records, len(records) - length_hint(rest) - 1) from error


def failed(step_id: str, error: Exception, records: Iterable[Any], index: int) -> Exception:
    """The error to raise for what a user function raised at ``records[index]``."""
    if isinstance(error, OnceflowError):
        return error
    record = next((record for number, record in enumerate(records) if number == index), None)
    shown = repr(record)
    shown = shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "…"
    return UserFunctionError(
        f"step {step_id!r}: {type(error).__name__}: {error}; record {index} of the batch is {shown}", step_id=step_id
    )
