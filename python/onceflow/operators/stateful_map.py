"""stateful_map: one state a key, made anew by a function of it and a record."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from onceflow.columns import rows_of
from onceflow.copies import is_fixed, own_copy
from onceflow.exceptions import OnceflowError
from onceflow.graph.partitioning import KeySelector, KeyType
from onceflow.operators.base import EventTimes, Output
from onceflow.operators.calls import failed
from onceflow.operators.keyed_cache import CachedStep
from onceflow.types import Batch

__all__ = ["StatefulMap"]


class StatefulMap(CachedStep):
    """``function(state, record) -> (state, result)``; state None means none, and is forgotten."""

    def __init__(
        self,
        selector: KeySelector,
        key_type: KeyType | None,
        function: Callable[[Any, Any], tuple[Any, Any]],
        initial: Callable[[], Any],
    ) -> None:
        super().__init__(selector, key_type)
        self._function = function
        self._initial = initial

    def process(self, records: Batch, times: EventTimes, out: Output) -> None:
        rows = rows_of(records)
        keys, cache = self._loaded(records)
        values, function, initial = cache.values, self._function, self._initial
        results: list[Any] = []
        get, add = values.get, results.append
        try:
            for key, record in zip(keys, rows, strict=True):
                state = get(key)
                state, result = function(own_copy(initial()) if state is None else state, record)
                if state is None:
                    values.pop(key, None)
                elif is_fixed(result):
                    values[key] = state
                else:
                    # A result that is the state, or holds some of it, stays what it is when the state goes on.
                    values[key] = own_copy(state)
                add(result)
        except OnceflowError:
            raise
        except Exception as error:
            raise failed(self._step_id, error, rows, len(results)) from error
        cache.changed.update(keys)
        out.emit(results, times)
