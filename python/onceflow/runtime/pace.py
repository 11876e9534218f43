"""How a batch is cut into pieces, so that a job with slow functions hears of what happens meanwhile."""

from __future__ import annotations

from onceflow.columns import Columns
from onceflow.types import Batch

__all__ = ["Pace"]

#: A piece takes about so long.
_PIECE_S = 0.1
_FIRST_RECORDS = 64
#: Of records that go through functions one by one: should these become slow, no more than so many are under way. With
#: fewer the cost of a piece itself would show.
_MOST_ROWS = 4096


class Pace:
    """Learns how long records take. Fast ones are not cut: then a piece is the whole batch."""

    def __init__(self) -> None:
        self._records = _FIRST_RECORDS

    def piece(self, records: Batch) -> int:
        """How many records of a batch to process before looking up."""
        return self._records if isinstance(records, Columns) else min(self._records, _MOST_ROWS)

    def took(self, records: int, seconds: float) -> None:
        """So many records took so long."""
        if records < _FIRST_RECORDS and seconds < _PIECE_S:
            return  # So few say more of what a piece costs than of records.
        self._records = max(int(records * _PIECE_S / max(seconds, 1e-9)), 1)
