"""What each kind of step is to do, as data: the runtime makes operators from it, everybody else reads it.

A specification can be pickled where its functions can be, by name or with cloudpickle, so that another process can run
the step. Keys are not in it: by what records are keyed stands on the edge that brings them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, TypeAlias

from onceflow.aggregates import Aggregate, shape_of
from onceflow.graph.shown import shown
from onceflow.state import Processor
from onceflow.windows import Tumbling

__all__ = [
    "AggregateSpec",
    "AssignTimestampsSpec",
    "DropDuplicatesSpec",
    "FilterBatchSpec",
    "FilterSpec",
    "FlatMapSpec",
    "InspectSpec",
    "MapBatchSpec",
    "MapSpec",
    "ProcessSpec",
    "StatefulMapSpec",
    "StepSpec",
    "UnionSpec",
    "WindowSpec",
]


#: When totals are handed out: after each batch that changes them, or when the input has ended.
Emit: TypeAlias = Literal["changes", "final"]


def _field(field: str | Callable[[Any], Any]) -> str:
    return repr(field) if isinstance(field, str) else "a function"


@dataclass(frozen=True, repr=False)
class _Spec:
    """Base of all specifications.

    Attributes:
        kind: What the user called: ``map``, ``aggregate``, ``window`` …; part of what a checkpoint knows of a step.
        stateful: It has tables or snapshots under the step's id, so the id must not change.
    """

    kind: ClassVar[str]
    stateful: ClassVar[bool] = False

    @property
    def sides(self) -> tuple[str, ...]:
        """Names of the side outputs that it can emit to."""
        return ()

    @property
    def shape(self) -> str:
        """What its state means besides by which key, for people: a checkpoint is resumed only with the same."""
        return ""

    @property
    def settings(self) -> dict[str, dict[str, str]]:
        """What else must not change while there is state: by result (empty: of the whole step), by name of the setting.

        Of a function nothing can be known but that it is one.
        """
        return {}

    @property
    def calls_functions(self) -> bool:
        """It calls functions of the user's, which may give something else for the same input."""
        return True

    @property
    def goes_by_batches(self) -> bool:
        """What it emits depends on where batches are cut."""
        return False

    @property
    def emits_at_end(self) -> bool:
        """It emits nothing before its input has ended."""
        return False

    def __repr__(self) -> str:
        told = (f"{each.name}={shown(getattr(self, each.name))}" for each in fields(self))
        return f"{self.kind}({', '.join(told)})"


@dataclass(frozen=True, repr=False)
class _RecordSpec(_Spec):
    """Calls a function of one record.

    Attributes:
        function: Of a record.
        dead_letters: Records that it raises for leave by the side output; else the exception ends the run.
    """

    function: Callable[[Any], Any]
    dead_letters: bool = False

    @property
    def sides(self) -> tuple[str, ...]:
        return ("dead_letters",) if self.dead_letters else ()


class MapSpec(_RecordSpec):
    """One record for each record."""

    kind = "map"


class FilterSpec(_RecordSpec):
    """The records for which the function is true."""

    kind = "filter"


class FlatMapSpec(_RecordSpec):
    """All items of what the function returns for each record."""

    kind = "flat_map"


@dataclass(frozen=True, repr=False)
class _BatchSpec(_Spec):
    """Calls a function of a whole batch.

    Attributes:
        function: Of a batch.
    """

    function: Callable[[Any], Any]

    @property
    def goes_by_batches(self) -> bool:
        return True


class MapBatchSpec(_BatchSpec):
    """One batch for each batch."""

    kind = "map_batch"


class FilterBatchSpec(_BatchSpec):
    """The records where the function's mask is true."""

    kind = "filter_batch"


@dataclass(frozen=True, repr=False)
class InspectSpec(_Spec):
    """Calls a function with each record, whose results nobody sees.

    Attributes:
        function: Of a record.
    """

    kind = "inspect"
    function: Callable[[Any], Any]

    @property
    def calls_functions(self) -> bool:
        return False


class UnionSpec(_Spec):
    """The records of all inputs."""

    kind = "union"

    @property
    def calls_functions(self) -> bool:
        return False


@dataclass(frozen=True, repr=False)
class AssignTimestampsSpec(_Spec):
    """Gives records event times.

    Attributes:
        event_time: Name of a field, or a function of a record.
        max_out_of_orderness_us: How far behind the newest time of its partition a record may come, in microseconds.
        dead_letters: Records without a valid time leave by the side output; else they end the run.
    """

    kind = "assign_timestamps"
    stateful = True
    event_time: str | Callable[[Any], Any]
    max_out_of_orderness_us: int
    dead_letters: bool = False

    @property
    def sides(self) -> tuple[str, ...]:
        return ("dead_letters",) if self.dead_letters else ()

    @property
    def settings(self) -> dict[str, dict[str, str]]:
        return {"": {"event_time": _field(self.event_time)}}

    @property
    def calls_functions(self) -> bool:
        return callable(self.event_time)


@dataclass(frozen=True, repr=False)
class DropDuplicatesSpec(_Spec):
    """The first record of each key.

    Attributes:
        horizon_us: How long a key is remembered, in microseconds.
    """

    kind = "drop_duplicates"
    stateful = True
    horizon_us: int

    @property
    def calls_functions(self) -> bool:
        return False


@dataclass(frozen=True, repr=False)
class _TotalsSpec(_Spec):
    """Totals of keyed records.

    Attributes:
        aggregates: What to compute, by the name of the result.
    """

    stateful = True
    aggregates: Mapping[str, Aggregate]

    @property
    def results(self) -> str:
        """What is computed under which name: the end of the shape."""
        return shape_of(self.aggregates)

    @property
    def shape(self) -> str:
        return self.results

    @property
    def settings(self) -> dict[str, dict[str, str]]:
        return {
            result: {"field": _field(aggregate.field), "nan": aggregate.nan}
            for result, aggregate in self.aggregates.items()
            if aggregate.field is not None
        }

    @property
    def calls_functions(self) -> bool:
        return any(callable(aggregate.field) for aggregate in self.aggregates.values())


@dataclass(frozen=True, repr=False)
class AggregateSpec(_TotalsSpec):
    """Totals by key since the beginning.

    Attributes:
        emit: ``"changes"`` after each batch, or ``"final"`` when the input has ended.
    """

    kind = "aggregate"
    emit: Emit = "changes"

    @property
    def goes_by_batches(self) -> bool:
        return self.emit == "changes"

    @property
    def emits_at_end(self) -> bool:
        return self.emit == "final"


@dataclass(frozen=True, repr=False)
class WindowSpec(_TotalsSpec):
    """Totals by key and window.

    Attributes:
        window: Which windows.
        allowed_lateness_us: How long a window stays open after its end, in microseconds.
    """

    kind = "window"
    window: Tumbling
    allowed_lateness_us: int = 0

    @property
    def sides(self) -> tuple[str, ...]:
        return ("late",)

    @property
    def shape(self) -> str:
        return f"{self.window}, {self.results}"


@dataclass(frozen=True, repr=False)
class StatefulMapSpec(_Spec):
    """``function(state, record) -> (state, result)`` with one state a key.

    Attributes:
        function: Of the state and a record.
        initial: Makes the state of a new key.
    """

    kind = "stateful_map"
    stateful = True
    function: Callable[[Any, Any], tuple[Any, Any]]
    initial: Callable[[], Any]


@dataclass(frozen=True, repr=False)
class ProcessSpec(_Spec):
    """A ``Processor`` of the user's.

    Attributes:
        processor: The class, or a function that makes an instance.
    """

    kind = "process"
    stateful = True
    processor: Callable[[], Processor]


StepSpec: TypeAlias = (
    MapSpec
    | FilterSpec
    | FlatMapSpec
    | MapBatchSpec
    | FilterBatchSpec
    | InspectSpec
    | UnionSpec
    | AssignTimestampsSpec
    | DropDuplicatesSpec
    | AggregateSpec
    | WindowSpec
    | StatefulMapSpec
    | ProcessSpec
)
