"""stateful_map: one state a key, made anew by a function of it and a record."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from onceflow._native import _flat_copy
from onceflow.columns import rows_of
from onceflow.copies import FIXED
from onceflow.exceptions import OnceflowError
from onceflow.graph.partitioning import KeySelector, KeyType
from onceflow.operators.base import EventTimes, Output
from onceflow.operators.calls import failed
from onceflow.operators.keyed_cache import CachedStep
from onceflow.operators.own_copies import own_copy
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
        #: Of states that cannot be changed: nothing has to be asked of the next one that is like the one before.
        kind: type = int
        try:
            for key, record in zip(keys, rows, strict=True):
                state = get(key)
                if state is None:
                    state = initial()
                    if state is not None:
                        # Keys that share it would carry changes in place from one to the other.
                        state = own_copy(state)
                state, result = function(state, record)
                if type(state) is kind:
                    values[key] = state
                elif state is None:
                    values.pop(key, None)
                elif type(state) in FIXED:
                    kind = type(state)
                    values[key] = state
                else:
                    # A result that is the state, or has a part in common with it, stays what it is when the state goes
                    # on, and so does the state when somebody changes the result.
                    own = _flat_copy(result)
                    if own is None and result is not None:
                        values[key] = own_copy(state)
                    else:
                        values[key], result = state, own
                add(result)
        except OnceflowError:
            raise
        except Exception as error:
            raise failed(self._step_id, error, rows, len(results)) from error
        cache.changed.update(keys)
        out.emit(results, times)
