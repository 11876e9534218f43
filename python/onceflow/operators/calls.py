"""Calls of user functions: as fast as a comprehension, and an exception names its record."""

from __future__ import annotations

from collections.abc import Callable
from operator import length_hint
from typing import Any

from onceflow.columns import Columns
from onceflow.exceptions import OnceflowError, UserFunctionError, described
from onceflow.types import Batch

__all__ = ["dead_letter", "each", "each_or_failure", "failed", "shown"]

_SHOWN = 300


def each(step_id: str, function: Callable[[Any], Any], records: list[Any]) -> list[Any]:
    """``[function(record) for record in records]``.

    Raises:
        UserFunctionError: Whatever the function raised, with step and record.
    """
    rest = iter(records)
    try:
        return [function(record) for record in rest]
    except OnceflowError:
        raise
    except Exception as error:
        raise failed(step_id, error, records, len(records) - length_hint(rest) - 1) from error


def each_or_failure(function: Callable[[Any], Any], records: list[Any]) -> tuple[list[Any], dict[int, Exception]]:
    """The results of the records for which the function returned, and what it raised for the others, by their index.

    Errors of onceflow itself are not about a record: they end the run.
    """
    results: list[Any] = []
    failures: dict[int, Exception] = {}
    for index, record in enumerate(records):
        try:
            results.append(function(record))
        except OnceflowError:
            raise
        except Exception as error:
            failures[index] = error
    return results, failures


def dead_letter(step_id: str, record: Any, error: Exception) -> dict[str, Any]:
    """What ``flow.dead_letters(step_id)`` hands out for a record."""
    return {"step": step_id, "reason": described(error), "record": record}


def failed(step_id: str, error: Exception, records: Batch, index: int) -> UserFunctionError:
    """The error to raise for what a user function raised at ``records[index]``."""
    return UserFunctionError(
        f"step {step_id!r}: {described(error)}; record {index} of the batch is {shown(records, index)}",
        step_id=step_id,
    )


def shown(records: Batch, index: int) -> str:
    """A record for people, not too long."""
    record = records.slice(index, index + 1).to_rows()[0] if isinstance(records, Columns) else records[index]
    try:
        text = repr(record)
    except Exception as error:
        text = f"a {type(record).__name__} (its repr() raises {type(error).__name__})"
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
