"""From the specification of a step to the operator that does it."""

from __future__ import annotations

from typing import assert_never

from onceflow.graph.graph import OperatorStep
from onceflow.graph.steps import (
    AggregateSpec,
    AssignTimestampsSpec,
    DropDuplicatesSpec,
    FilterBatchSpec,
    FilterSpec,
    FlatMapSpec,
    InspectSpec,
    MapBatchSpec,
    MapSpec,
    ProcessSpec,
    StatefulMapSpec,
    UnionSpec,
    WindowSpec,
)
from onceflow.operators.aggregate import AggregateKeys
from onceflow.operators.base import Operator
from onceflow.operators.deduplicate import DropDuplicates
from onceflow.operators.process import Process
from onceflow.operators.stateful_map import StatefulMap
from onceflow.operators.stateless import Filter, FilterBatch, FlatMap, Inspect, Map, MapBatch, Union
from onceflow.operators.timestamps import AssignTimestamps
from onceflow.operators.window import AggregateWindows

__all__ = ["make_operator"]


def make_operator(step: OperatorStep) -> Operator:
    """The operator of a step, which has not been opened."""
    return _keyed(step) if step.keys else _unkeyed(step)


def _unkeyed(step: OperatorStep) -> Operator:  # noqa: PLR0911 - one a kind
    match step.spec:
        case MapSpec() as spec:
            return Map(spec.function, dead_letters=spec.dead_letters)
        case FilterSpec() as spec:
            return Filter(spec.function, dead_letters=spec.dead_letters)
        case FlatMapSpec() as spec:
            return FlatMap(spec.function, dead_letters=spec.dead_letters)
        case MapBatchSpec() as spec:
            return MapBatch(spec.function)
        case FilterBatchSpec() as spec:
            return FilterBatch(spec.function)
        case InspectSpec() as spec:
            return Inspect(spec.function)
        case UnionSpec():
            return Union()
        case AssignTimestampsSpec() as spec:
            return AssignTimestamps(spec.event_time, spec.max_out_of_orderness_us, dead_letters=spec.dead_letters)
        case DropDuplicatesSpec() | AggregateSpec() | WindowSpec() | StatefulMapSpec() | ProcessSpec():
            raise ValueError(f"step {step.step_id!r} keeps state by key, and no edge brings it keyed records")
        case spec:
            assert_never(spec)


def _keyed(step: OperatorStep) -> Operator:
    key = step.keys[0]
    match step.spec:
        case DropDuplicatesSpec() as spec:
            return DropDuplicates(key.selector, key.key_type, spec.horizon_us)
        case AggregateSpec() as spec:
            return AggregateKeys(key.selector, key.key_type, spec.aggregates, spec.emit)
        case WindowSpec() as spec:
            return AggregateWindows(key.selector, key.key_type, spec.aggregates, spec.window, spec.allowed_lateness_us)
        case StatefulMapSpec() as spec:
            return StatefulMap(key.selector, key.key_type, spec.function, spec.initial)
        case ProcessSpec() as spec:
            return Process(key.selector, key.key_type, spec.processor)
        case _:
            return _unkeyed(step)
