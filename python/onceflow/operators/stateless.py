"""Steps that keep nothing: map, filter, flat_map, and their forms for whole batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import chain, compress
from typing import Any

import numpy as np

from onceflow._native import _any_moved
from onceflow.columns import Columns, as_mask, rows_of
from onceflow.copies import FIXED
from onceflow.exceptions import OnceflowError, StateError, UserFunctionError, described
from onceflow.operators.base import EventTimes, Operator, OperatorContext, Output
from onceflow.operators.calls import dead_letter, each, each_or_failure
from onceflow.types import Batch

__all__ = ["Filter", "FilterBatch", "FlatMap", "Inspect", "Map", "MapBatch", "Union"]


class _FunctionStep(Operator):
    """Base: calls a function.

    Args:
        function: Of one record, or of a batch.
        dead_letters: Records that the function raises for leave by the side output ``dead_letters``, and the stream
            goes on without them; else the exception ends the run.
    """

    def __init__(self, function: Callable[[Any], Any], *, dead_letters: bool = False) -> None:
        self._function = function
        self._dead_letters = dead_letters
        self._step_id = ""

    def open(self, context: OperatorContext) -> None:
        self._step_id = context.step_id

    def _called(
        self, function: Callable[[Any], Any], records: Batch, times: EventTimes, out: Output
    ) -> tuple[list[Any], Batch, EventTimes]:
        """Results of the function, and the records and event times that they are results of."""
        rows = rows_of(records)
        if not self._dead_letters:
            return each(self._step_id, function, rows), records, times
        results, failures = each_or_failure(function, rows)
        if failures:
            bad = np.fromiter(failures, np.int64, len(failures))
            letters = [dead_letter(self._step_id, rows[row], error) for row, error in failures.items()]
            out.emit_side("dead_letters", letters, None if times is None else times[bad])
            good = np.ones(len(rows), bool)
            good[bad] = False
            records = records.filter(good) if isinstance(records, Columns) else list(compress(records, good))
            times = None if times is None else times[good]
        return results, records, times


class Map(_FunctionStep):
    """One record for each record."""

    def process(self, records: Batch, times: EventTimes, out: Output) -> None:
        results, _, times = self._called(self._function, records, times, out)
        out.emit(results, times)


class Filter(_FunctionStep):
    """The records for which the function is true."""

    def process(self, records: Batch, times: EventTimes, out: Output) -> None:
        kept, records, times = self._called(lambda record: bool(self._function(record)), records, times, out)
        mask = np.fromiter(kept, bool, len(kept))
        if isinstance(records, Columns):
            out.emit(records.filter(mask), None if times is None else times[mask])
        else:
            out.emit(list(compress(records, kept)), None if times is None else times[mask])


class FlatMap(_FunctionStep):
    """Any number of records for each record."""

    def process(self, records: Batch, times: EventTimes, out: Output) -> None:
        lists, _, times = self._called(lambda record: list(self._function(record)), records, times, out)
        if times is not None:
            times = times.repeat([len(items) for items in lists])
        out.emit(list(chain.from_iterable(lists)), times)


class MapBatch(_FunctionStep):
    """One batch for each batch, of as many records in the same order where they have event times."""

    def process(self, records: Batch, times: EventTimes, out: Output) -> None:
        # A list of its own: sorted in place, the records would be elsewhere for us, too.
        given = list(records) if isinstance(records, list) else records
        result = _call(self._step_id, self._function, given)
        if not isinstance(result, (list, Columns)):
            raise UserFunctionError(
                f"step {self._step_id!r}: map_batch must return a list or Columns, not {type(result).__name__}",
                step_id=self._step_id,
            )
        if times is not None and len(result) != len(records):
            raise UserFunctionError(
                f"step {self._step_id!r}: map_batch made {len(result)} records of {len(records)}, so their event times "
                "are not known; use filter_batch or flat_map",
                step_id=self._step_id,
            )
        if times is not None and isinstance(records, list) and isinstance(result, list):
            moved = _moved(records, result)
            if moved is not None:
                raise UserFunctionError(
                    f"step {self._step_id!r}: map_batch has put record {moved[0]} of its batch in the place of record "
                    f"{moved[1]} (counted from 0). The n-th result belongs to the n-th record and has its event time: "
                    "return the results in the order of the records",
                    step_id=self._step_id,
                )
        out.emit(result, times)


class FilterBatch(_FunctionStep):
    """The records of a batch where the function's mask is true; not those where it is missing."""

    def process(self, records: Batch, times: EventTimes, out: Output) -> None:
        mask = _call(self._step_id, self._function, list(records) if isinstance(records, list) else records)
        try:
            mask = as_mask(mask, len(records))
        except StateError as error:
            raise UserFunctionError(
                f"step {self._step_id!r}: filter_batch must return {len(records)} bools, one a record: {error}",
                step_id=self._step_id,
            ) from error
        kept = records.filter(mask) if isinstance(records, Columns) else list(compress(records, mask))
        out.emit(kept, None if times is None else times[mask])


class Inspect(_FunctionStep):
    """Calls a function with each record and passes the records on."""

    def process(self, records: Batch, times: EventTimes, out: Output) -> None:
        each(self._step_id, self._function, rows_of(records))
        out.emit(records, times)


class Union(Operator):
    """Passes on what comes from several inputs."""


def _moved(records: list[Any], results: list[Any]) -> tuple[int, int] | None:
    """Where a record was that has left its place for another one, and where it is; known by its identity."""
    if not _any_moved(records, results):
        return None
    elsewhere = [row for row, (record, result) in enumerate(zip(records, results, strict=True)) if record is not result]
    # What comes several times may be one object.
    often = Counter(map(id, records))
    places = {
        id(records[row]): row for row in elsewhere if type(records[row]) not in FIXED and often[id(records[row])] == 1
    }
    return next(((places[id(results[row])], row) for row in elsewhere if id(results[row]) in places), None)


def _call(step_id: str, function: Callable[[Any], Any], records: Batch) -> Any:
    try:
        return function(records)
    except OnceflowError:
        raise
    except Exception as error:
        arrow = isinstance(error, (TypeError, AttributeError)) and "pyarrow" in described(error)
        hint = ". To compare and compute with a column, take batch.numpy(name) instead of batch[name]" if arrow else ""
        raise UserFunctionError(
            f"step {step_id!r}: {described(error)}{hint}; the batch has {len(records)} records",
            step_id=step_id,
        ) from error
