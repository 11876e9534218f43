"""Forgets what has expired, without a pause and without a cost that grows with the state."""

from __future__ import annotations

from typing import Any

from onceflow.operators.key_table import KeyTable
from onceflow.types import Micros

__all__ = ["Sweep"]

#: Rows looked at for each record that is processed. A pass over the table then ends within half as many records as it
#: has rows, so that expired rows never outnumber by far what came in since they expired.
_ROWS_A_RECORD = 2

#: A pass begins when time has moved by this part of the time to live: more often it would find little.
_PASSES_A_PERIOD = 4


class Sweep:
    """Finds the expired rows of a table, some key groups at a time.

    When a row is found is left to chance (it depends on where the job was resumed), so a step must treat a row as gone
    from the moment at which it expires, found or not.

    Args:
        table: Where to look.
        column: An i64 column with a time in microseconds.
        key_groups: Number of key groups of the table.
        period_us: How long a row lives, in microseconds.
    """

    def __init__(self, table: KeyTable, column: str, key_groups: int, period_us: int) -> None:
        self._table = table
        self._column = column
        self._groups = key_groups
        self._least_step = period_us // _PASSES_A_PERIOD
        self._next = key_groups
        self._began: Micros | None = None
        self._credit = 0

    def expired(self, bound: Micros, records: int) -> list[Any]:
        """Keys of some of the rows whose time is at most ``bound``; called after each batch of so many records."""
        if self._next == self._groups:
            if self._began is not None and bound - self._began < self._least_step:
                return []
            self._began, self._next, self._credit = bound, 0, 0
        self._credit += _ROWS_A_RECORD * records
        found: list[Any] = []
        while self._credit > 0 and self._next < self._groups:
            keys, rows = self._table.keys_upto(self._next, self._column, bound)
            self._next += 1
            self._credit -= rows + 1
            found.extend(keys)
        return found
