"""A dataflow on its way to the processes of its workers."""

from __future__ import annotations

import pickle
from types import ModuleType
from typing import Any

from onceflow.exceptions import ConfigurationError, described
from onceflow.graph.graph import Graph, OperatorStep

__all__ = ["pickled"]


def pickled(graph: Graph) -> bytes:
    """The bytes of a dataflow: functions that have a name in a module go by it, all others with cloudpickle.

    Raises:
        ConfigurationError: Something in it cannot be sent; says which step has it.
    """
    for step in graph.sinks():
        if step.sink.is_in_memory:
            raise ConfigurationError(
                f"sink {step.step_id!r} is a {type(step.sink).__name__}, which keeps what it gets in this process, and "
                "workers are others: give it files, or run the job with one worker",
                setting="workers",
            )
    by = _cloudpickle() or pickle
    try:
        return _dumps(by, graph)
    except Exception as error:
        step_id, reason = _first_that_cannot(by, graph) or (graph.name, error)
        advice = "make it where it is used, such as within the function, or in open()"
        if by is pickle:
            advice = "install onceflow[workers], which sends functions without a name too"
        raise ConfigurationError(
            f"step {step_id!r} cannot be sent to the processes of its workers: {described(reason)}; {advice}",
            setting="workers",
        ) from error


def _dumps(by: ModuleType, value: Any) -> bytes:
    data: bytes = by.dumps(value, protocol=5)
    return data


def _cloudpickle() -> ModuleType | None:
    try:
        import cloudpickle  # type: ignore[import-untyped] # noqa: PLC0415 - an extra
    except ImportError:
        return None
    return cloudpickle  # type: ignore[no-any-return]


def _first_that_cannot(by: ModuleType, graph: Graph) -> tuple[str, Exception] | None:
    for step_id, step in graph.steps.items():
        try:
            _dumps(by, (step.spec, step.inputs) if isinstance(step, OperatorStep) else step)
        except Exception as error:
            return step_id, error
    return None
