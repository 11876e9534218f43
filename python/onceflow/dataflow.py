"""The public API of dataflows: sources, streams, keyed streams, windows, sinks."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from datetime import timedelta
from itertools import count
from typing import Any, Literal

from onceflow.aggregates import Aggregate
from onceflow.checks import Checked
from onceflow.clock import SystemClock
from onceflow.exceptions import ConfigurationError
from onceflow.graph.division import divided
from onceflow.graph.explanation import Explanation
from onceflow.graph.graph import Edge, Graph, OperatorStep, SinkStep, SourceStep, StreamRef
from onceflow.graph.guarantees import explained
from onceflow.graph.inspection import looks
from onceflow.graph.partitioning import FORWARD, ByKey, KeySelector, KeyTypeName, Partitioning, check_key_type
from onceflow.graph.pictures import mermaid, svg
from onceflow.graph.steps import (
    AggregateSpec,
    AssignTimestampsSpec,
    DropDuplicatesSpec,
    Emit,
    FilterBatchSpec,
    FilterSpec,
    FlatMapSpec,
    InspectSpec,
    MapBatchSpec,
    MapSpec,
    ProcessSpec,
    StatefulMapSpec,
    StepSpec,
    UnionSpec,
    WindowSpec,
)
from onceflow.instances import Instance
from onceflow.sinks import IdempotentSink, PlainSink, Sink, TransactionalSink
from onceflow.sources import Source
from onceflow.state import Processor
from onceflow.types import Batch, Guarantee, GuaranteeName
from onceflow.windows import Tumbling, micros_of

__all__ = ["Dataflow", "KeyedStream", "Stream", "WindowedStream"]

_PICTURES = {"mermaid": mermaid, "svg": svg}
_STEP_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,99}")


class Dataflow:
    """What to do with records on their way from sources to sinks. Building it runs nothing.

    Args:
        name: Name of the job; its state directory belongs to this name.
        deterministic: The same input gives the same output on every run: no function of the dataflow goes by the time,
            by random numbers, or by anything else that may differ. It is needed in one case only: when the state of a
            checkpoint is damaged whose output is written already, a job can go on by processing its input again without
            output if that gives the same state. A dataflow without functions need not say so.
    """

    def __init__(self, name: str, deterministic: bool = False) -> None:
        if not isinstance(deterministic, bool):
            raise ConfigurationError(f"deterministic is {deterministic!r}; give True or False", setting="deterministic")
        self._graph = Graph(_checked("a dataflow's name", name), deterministic=deterministic)

    @property
    def name(self) -> str:
        """Name of the job."""
        return self._graph.name

    @property
    def graph(self) -> Graph:
        """The steps, as data."""
        return self._graph

    def source(
        self,
        step_id: str,
        source: Source,
        *,
        max_out_of_orderness: timedelta = timedelta(0),
        idle_after: timedelta | None = None,
    ) -> Stream:
        """Where records enter.

        Args:
            step_id: Names the source's positions for ever.
            source: Where from.
            max_out_of_orderness: How far a record's event time may lie behind the newest one of its partition without
                being late.
            idle_after: A partition from which nothing has come for so long, though it was asked, holds windows open no
                longer. What it hands out later is late for what was closed meanwhile. None: all wait for it.
        """
        if not isinstance(source, Source):
            raise ConfigurationError(f"source {step_id!r} is a {type(source).__name__}, which is not a Source")
        _checked("a step id", step_id)
        delay = micros_of(f"source {step_id!r}: max_out_of_orderness", max_out_of_orderness)
        idle = None if idle_after is None else micros_of(f"source {step_id!r}: idle_after", idle_after)
        if idle == 0:
            raise ConfigurationError(f"source {step_id!r}: idle_after is {idle_after}; give a time above 0, or None")
        self._add(SourceStep(step_id, source, delay, idle))
        return Stream(self, StreamRef(step_id))

    def dead_letters(self, step_id: str) -> Stream:
        """The records that a step refused, as dicts.

        Of a source with ``on_malformed="dead_letter"``: ``source``, ``partition``, ``position``, ``reason``, ``text``.
        Of a function with ``dead_letters=step_id``: ``step``, ``reason`` and the ``record`` that it raised for.
        """
        step = self._step(step_id)
        if not isinstance(step, SourceStep) and not (isinstance(step, OperatorStep) and "dead_letters" in step.sides):
            raise ConfigurationError(
                f"{step_id!r} has no dead letters; they come from sources, and from steps with dead_letters={step_id!r}"
            )
        return Stream(self, StreamRef(step_id, "dead_letters"))

    def late(self, step_id: str) -> Stream:
        """The records that came too late for a window step."""
        step = self._step(step_id)
        if not isinstance(step, OperatorStep) or "late" not in step.sides:
            raise ConfigurationError(f"{step_id!r} is not a window step of this dataflow")
        return Stream(self, StreamRef(step_id, "late"))

    def explain(
        self,
        guarantee: Guarantee | GuaranteeName = Guarantee.EXACTLY_ONCE,
        *,
        format: Literal["text", "json", "mermaid", "svg"] = "text",
        instance: tuple[int, int] | None = None,
    ) -> str:
        """Path by path, which guarantee holds and what it stands on; names what is missing, and what could be done.

        Of more than 100 paths the first one from each source to each sink, which stands for all between them.

        Args:
            guarantee: What is to be promised.
            format: ``"text"`` for people; ``"json"``: what ``Explanation.as_dict`` gives; ``"mermaid"``: a flowchart;
                ``"svg"``: the same as a picture, drawn by Graphviz.
            instance: Of one of several runs that divide its topics among them; see ``run``.

        Raises:
            ConfigurationError: The dataflow is not whole, or cannot be divided, there is no such format, or Graphviz is
                not there.
        """
        explanation = self.explanation(guarantee, instance=instance)
        if format == "json":
            return json.dumps(explanation.as_dict(), indent=2)
        if format in _PICTURES:
            return _PICTURES[format](explanation)
        if format != "text":
            raise ConfigurationError(f"format is {format!r}; give 'text', 'json', 'mermaid' or 'svg'", setting="format")
        return str(explanation)

    def explanation(
        self,
        guarantee: Guarantee | GuaranteeName = Guarantee.EXACTLY_ONCE,
        *,
        instance: tuple[int, int] | None = None,
    ) -> Explanation:
        """What ``explain`` says, as data.

        Raises:
            ConfigurationError: The dataflow is not whole, or cannot be divided.
        """
        return explained(self._divided(instance), Guarantee(guarantee))

    def check(
        self,
        guarantee: Guarantee | GuaranteeName = Guarantee.EXACTLY_ONCE,
        *,
        instance: tuple[int, int] | None = None,
    ) -> list[Checked]:
        """Looks at the real systems that sources and sinks reach, and changes nothing there.

        Returns:
            Of each source, then of each sink, what it found. A job whose findings have no error may start; what
            happens to the systems meanwhile nobody knows.
        """
        return [look.checked() for look in looks(self._divided(instance), Guarantee(guarantee), SystemClock())]

    def _divided(self, instance: tuple[int, int] | None) -> Graph:
        return divided(self._graph, None if instance is None else Instance.checked("instance", instance))

    def _step(self, step_id: str) -> SourceStep | OperatorStep | SinkStep | None:
        return self._graph.steps.get(step_id) if isinstance(step_id, str) else None

    def _add(self, step: SourceStep | OperatorStep | SinkStep) -> None:
        if step.step_id in self._graph.steps:
            raise ConfigurationError(f"two steps are called {step.step_id!r}; state belongs to a name, so names differ")
        self._graph.steps[step.step_id] = step

    def __repr__(self) -> str:
        return repr(self._graph)

    def _operator(self, spec: StepSpec, inputs: tuple[Edge, ...], step_id: str | None = None) -> Stream:
        if step_id is None:
            numbers = count(len(self._graph.steps))
            step_id = next(name for number in numbers if (name := f"{spec.kind}-{number}") not in self._graph.steps)
        step_id = _checked("a step id", step_id)
        self._add(OperatorStep(step_id, spec, inputs))
        return Stream(self, StreamRef(step_id))


def _checked(what: str, name: str) -> str:
    if not isinstance(name, str) or _STEP_ID.fullmatch(name) is None:
        raise ConfigurationError(
            f"{name!r} cannot be {what}: 1 to 100 letters, digits, '_', '-' or '.', beginning with a letter or digit"
        )
    return name


class Stream:
    """Records on their way. Functions of one record get Python objects; ``*_batch`` functions get whole batches."""

    def __init__(self, flow: Dataflow, origin: StreamRef) -> None:
        self._flow = flow
        self._origin = origin

    def _then(self, spec: StepSpec, step_id: str | None = None, partitioning: Partitioning = FORWARD) -> Stream:
        return self._flow._operator(spec, (Edge(self._origin, partitioning),), step_id)

    def map(self, function: Callable[[Any], Any], *, dead_letters: str | None = None) -> Stream:
        """One record for each record.

        Args:
            function: Makes the new record. It may change the record in place: other branches of the stream do not see
                that. An exception in it ends the run, or else:
            dead_letters: A step id; records that the function raises for leave by ``flow.dead_letters(step_id)``.
        """
        return self._then(MapSpec(function, dead_letters is not None), dead_letters)

    def filter(self, function: Callable[[Any], Any], *, dead_letters: str | None = None) -> Stream:
        """The records for which the function is true; for ``dead_letters`` see ``map``."""
        return self._then(FilterSpec(function, dead_letters is not None), dead_letters)

    def flat_map(self, function: Callable[[Any], Any], *, dead_letters: str | None = None) -> Stream:
        """All items of what the function returns for each record; for ``dead_letters`` see ``map``."""
        return self._then(FlatMapSpec(function, dead_letters is not None), dead_letters)

    def map_batch(self, function: Callable[[Any], Batch]) -> Stream:
        """One batch (a list, or ``Columns``) for each batch, of as many records.

        The n-th result belongs to the n-th record: its event time is that one's, and a batch must not be sorted. Where
        rows are found in each other's places the run ends; among columns, numbers and texts that cannot be seen.
        """
        return self._then(MapBatchSpec(function))

    def filter_batch(self, function: Callable[[Any], Any]) -> Stream:
        """The records where the function's mask is true: bools in a list, or a numpy or Arrow array.

        As in SQL, a record is left out where the mask is missing (None, null, masked).
        """
        return self._then(FilterBatchSpec(function))

    def inspect(self, function: Callable[[Any], Any]) -> Stream:
        """Calls a function with each record, for looking at it. It is called again for replayed records.

        What it changes in the record goes on with it, and is not seen by other branches of the stream.
        """
        return self._then(InspectSpec(function))

    def union(self, *others: Stream) -> Stream:
        """The records of this and other streams."""
        for other in others:
            if not isinstance(other, Stream):
                raise ConfigurationError(f"union takes streams of this dataflow, not {other!r}")
        if any(other._flow is not self._flow for other in others):
            raise ConfigurationError("streams of two dataflows cannot be joined")
        inputs = tuple(Edge(stream._origin) for stream in (self, *others))
        return self._flow._operator(UnionSpec(), inputs)

    def assign_timestamps(
        self,
        step_id: str,
        event_time: str | Callable[[Any], Any],
        *,
        max_out_of_orderness: timedelta = timedelta(0),
        dead_letters: bool = False,
    ) -> Stream:
        """Gives records event times, where their source has none or another one is meant.

        Watermarks are kept for each partition of the sources, as they are for a source with ``event_time=``. Sources
        that have event time themselves are also read together in it.

        Args:
            step_id: Names the watermarks for ever.
            event_time: Name of a field, or a function of a record, that gives its time: ISO text (UTC without a zone),
                a datetime or date, or seconds since 1970.
            max_out_of_orderness: How far a record's time may lie behind the newest one of its partition without being
                late.
            dead_letters: Records without a valid time leave by ``flow.dead_letters(step_id)``. Else they end the run.
        """
        if not isinstance(event_time, str) and not callable(event_time):
            raise ConfigurationError(
                f"step {step_id!r}: event_time={event_time!r}: give a field's name, or a function of a record"
            )
        delay = micros_of(f"step {step_id!r}: max_out_of_orderness", max_out_of_orderness)
        return self._then(AssignTimestampsSpec(event_time, delay, dead_letters), step_id)

    def key_by(
        self, *by: str | Callable[[Any], Any], key_type: KeyTypeName | tuple[KeyTypeName, ...] | None = None
    ) -> KeyedStream:
        """Gives each record a key.

        Args:
            by: A function of a record, or one or several names of columns.
            key_type: ``"i64"``, ``"u64"``, ``"str"``, ``"bytes"``, ``"bool"``, ``"date"``, ``"datetime"`` (it has a
                zone), ``"naive datetime"``, or a tuple of these; by the first keys if not given. Of whatever type, a
                key and any element of a tuple may also be None.
        """
        check_key_type(key_type)
        if len(by) == 1 and callable(by[0]):
            selector = KeySelector(by[0])
        else:
            selector = KeySelector([name for name in by if isinstance(name, str)])
            if len(selector.names) != len(by):
                raise ConfigurationError("key_by takes one function, or names of columns")
        return KeyedStream(self, ByKey(selector, key_type))

    def drop_duplicates(self, step_id: str, key: Callable[[Any], Any] | Sequence[str], *, horizon: timedelta) -> Stream:
        """Passes on the first record of each key; another one only ``horizon`` later.

        Args:
            step_id: Names the state for ever.
            key: What makes records equal: a function, or names of columns.
            horizon: How long a key is remembered, in event time where records have it. A record that is late by more
                than ``max_out_of_orderness`` of its source may find its key forgotten, and passes again.
        """
        selector = KeySelector([key] if isinstance(key, str) else key)
        micros = micros_of(f"step {step_id!r}: the horizon", horizon)
        return self._then(DropDuplicatesSpec(micros), step_id, ByKey(selector))

    def sink(self, step_id: str, sink: Sink) -> None:
        """Where records leave.

        Args:
            step_id: Names what the sink has prepared and committed, for ever.
            sink: Where to.
        """
        if not isinstance(sink, (PlainSink, IdempotentSink, TransactionalSink)):
            raise ConfigurationError(
                f"sink {step_id!r} is a {type(sink).__name__}; derive it from PlainSink, IdempotentSink or "
                "TransactionalSink, by what its target can do"
            )
        self._flow._add(SinkStep(_checked("a step id", step_id), sink, (Edge(self._origin),)))


def _no_state() -> None:
    """The state of a new key, where nothing else is said. Not a lambda, so that a dataflow can be pickled."""


class KeyedStream:
    """Records with a key; what follows keeps state by it."""

    def __init__(self, stream: Stream, key: ByKey) -> None:
        self._stream = stream
        self._key = key

    def aggregate(self, /, step_id: str, *, emit: Emit = "changes", **aggregates: Aggregate) -> Stream:
        """Totals by key.

        Args:
            step_id: Names the state for ever.
            emit: ``"changes"``: after each batch the totals of its keys; ``"final"``: all totals sorted by key, once,
                when the input has ended (so not in runs ``until="caught_up"``, which refuse it).
            aggregates: What to compute, by the name of the result.
        """
        if emit not in ("changes", "final"):
            raise ConfigurationError(f"emit={emit!r}: 'changes' or 'final'", setting="emit")
        _check_aggregates(aggregates, self._key.selector)
        return self._stream._then(AggregateSpec(aggregates, emit), step_id, self._key)

    def stateful_map(
        self,
        step_id: str,
        function: Callable[[Any, Any], tuple[Any, Any]],
        initial: Callable[[], Any] = _no_state,
    ) -> Stream:
        """``function(state, record) -> (state, result)`` with one state a key.

        Args:
            step_id: Names the state for ever.
            function: Returns the new state (None: forget it) and the result. It may change the state in place:
                where the result is a number, a text, or a list, tuple or dict of such, it is copied as far as needed,
                else the state is, each time. So beside other results a state of many items is cheaper in a
                ``Processor`` with a ``ListState`` or ``MapState``.
            initial: Makes the state of a new key.
        """
        return self._stream._then(StatefulMapSpec(function, initial), step_id, self._key)

    def process(self, step_id: str, processor: Callable[[], Processor]) -> Stream:
        """A ``Processor`` with named states; see ``onceflow.state``.

        Args:
            step_id: Names the state for ever.
            processor: The class, or a function that makes an instance.
        """
        return self._stream._then(ProcessSpec(processor), step_id, self._key)

    def window(self, step_id: str, window: Tumbling, *, allowed_lateness: timedelta = timedelta(0)) -> WindowedStream:
        """Groups records by window and key; ``aggregate`` must follow.

        Args:
            step_id: Names the state for ever.
            window: Which windows.
            allowed_lateness: How long a window stays open after the watermark has passed its end.
        """
        lateness_us = micros_of(f"step {step_id!r}: allowed_lateness", allowed_lateness)
        return WindowedStream(self._stream, self._key, step_id, _window(step_id, window), lateness_us)


class WindowedStream:
    """Records by window and key."""

    def __init__(self, stream: Stream, key: ByKey, step_id: str, window: Tumbling, lateness_us: int) -> None:
        self._stream = stream
        self._key = key
        self._step_id = step_id
        self._window = window
        self._lateness_us = lateness_us

    def aggregate(self, /, **aggregates: Aggregate) -> Stream:
        """One record a key and window when the window closes: key, ``window_start``, ``window_end``, results.

        Records that come after that go to ``flow.late(step_id)``.
        """
        _check_aggregates(aggregates, self._key.selector)
        return self._stream._then(WindowSpec(aggregates, self._window, self._lateness_us), self._step_id, self._key)


def _window(step_id: str, window: Tumbling) -> Tumbling:
    if not isinstance(window, Tumbling):
        raise ConfigurationError(f"step {step_id!r}: {window!r} is not a window; give one such as Tumbling(days=1)")
    return window.checked(step_id)


def _check_aggregates(aggregates: dict[str, Aggregate], selector: KeySelector) -> None:
    if not aggregates:
        raise ConfigurationError("aggregate needs at least one result, such as flights=count()")
    for name, aggregate in aggregates.items():
        if not isinstance(aggregate, Aggregate):
            raise ConfigurationError(
                f"{name}={aggregate!r} is not an aggregate; use count(), sum('column'), ...", setting=name
            )
        if name in selector.fields or name in ("window_start", "window_end"):
            raise ConfigurationError(f"the result {name!r} has the name of the key or window; choose another")
