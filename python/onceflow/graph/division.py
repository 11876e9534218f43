"""A dataflow that several runs divide among them: the graph of one of them, if it can be divided.

The runs exchange nothing. So what comes together in a step by its key must come to one run: the sources' partitions
must have been divided by that key, and no step in between may have changed it. A function that is handed records may
change them all the same, so where there is one each record is looked at once more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from onceflow.exceptions import ConfigurationError, SourceError, UserFunctionError
from onceflow.graph.graph import Graph, OperatorStep, SourceStep, StreamRef
from onceflow.graph.partitioning import ByKey
from onceflow.graph.steps import (
    AggregateSpec,
    AssignTimestampsSpec,
    DropDuplicatesSpec,
    FilterBatchSpec,
    FilterSpec,
    InspectSpec,
    UnionSpec,
    WindowSpec,
)
from onceflow.instances import REPARTITION, Instance
from onceflow.sources import Source
from onceflow.types import Batch

__all__ = ["ShareCheck", "check_partition_counts", "divided", "instance_in", "share_check"]

#: These hand on the records that come to them.
_PASSING = FilterSpec | FilterBatchSpec | InspectSpec | UnionSpec | AssignTimestampsSpec | DropDuplicatesSpec


def divided(graph: Graph, asked: Instance | None) -> Graph:
    """The graph of one instance: its job's name, and its share of each source. The same graph if it is all of the job.

    Args:
        graph: Of all of the job.
        asked: By who runs it; None: the sources say it, or nobody does.

    Raises:
        ConfigurationError: It cannot be divided.
    """
    instance = instance_in(graph, asked)
    if instance is None:
        return graph
    keys = _keys_by_source(graph, instance)
    steps = {
        step_id: replace(step, source=step.source.shared(instance, keys[step_id]))
        if isinstance(step, SourceStep)
        else step
        for step_id, step in graph.steps.items()
    }
    own = Graph(instance.job(graph.name), steps, graph.deterministic)
    for operator, sources in _together(own):
        fields = {source.source.partitioned_by for source in sources}
        if len(fields) > 1:
            raise ConfigurationError(
                f"step {operator.step_id!r} takes records of sources {_names(sources)}, whose topics are partitioned "
                f"by different fields ({', '.join(sorted(map(repr, fields)))}), so records of one key come to "
                f"different instances: {REPARTITION}"
            )
        ways = {source.source.partitioner for source in sources}
        if len(ways) > 1:
            raise ConfigurationError(
                f"step {operator.step_id!r} takes records of sources {_names(sources)}, whose topics are partitioned "
                f"in different ways ({', '.join(sorted(map(str, ways)))}), so records of one key come to different "
                f"instances: {REPARTITION}"
            )
    return own


@dataclass(frozen=True, slots=True)
class ShareCheck:
    """Looks at records which come to a step with state by key, where functions of the user's may have changed them.

    Attributes:
        step: The step.
        functions: Ids of the steps that call them.
        source: One of those that the records come from: where they meet, all divide keys in one way.
    """

    step: OperatorStep
    functions: tuple[str, ...]
    source: Source

    def check(self, records: Batch) -> None:
        """Raises ``UserFunctionError`` if another instance has the state of a key that one has."""
        try:
            self.source.check_share(records)
        except SourceError as error:
            names = " or ".join(map(repr, self.functions))
            raise UserFunctionError(
                f"step {self.step.step_id!r}: {error}. A function of step {names} has changed records that it was "
                "given, and their key with them. Let it leave the key as it is; change records in the source's "
                f"decode=, or behind the steps by key; or {REPARTITION}",
                step_id=self.step.step_id,
            ) from error


def share_check(graph: Graph, step: OperatorStep) -> ShareCheck | None:
    """What a step of an instance must check of its records; None: they have the keys that they were read with."""
    source = next((source.source for source in graph.origins(step)), None)
    if not step.keys or source is None or source.job_instance is None:
        return None
    functions = [
        before.step_id
        for before in graph.upstream(step)
        if before is not step and isinstance(before, OperatorStep) and before.may_change_records
    ]
    return ShareCheck(step, tuple(reversed(functions)), source) if functions else None


def check_partition_counts(graph: Graph) -> None:
    """After the sources of an instance have named their partitions: those whose records meet have as many.

    Raises:
        SourceError: They have not.
    """
    for operator, sources in _together(graph):
        counts = {source.step_id: source.source.all_partitions for source in sources}
        if len(set(counts.values())) > 1:
            shown = ", ".join(f"{step_id!r} has {count}" for step_id, count in counts.items())
            raise SourceError(
                f"step {operator.step_id!r} takes records of several topics ({shown} partitions), and records of one "
                f"key come to one instance only where all have as many; or {REPARTITION}"
            )


def instance_in(graph: Graph, asked: Instance | None) -> Instance | None:
    """Which instance a run is: as it is asked for, or as its sources say; None: it is all of the job.

    Raises:
        ConfigurationError: They say different ones.
    """
    said = {step.step_id: step.source.job_instance for step in graph.sources() if step.source.job_instance is not None}
    for step_id, instance in said.items():
        asked = asked or instance
        if instance != asked:
            raise ConfigurationError(
                f"source {step_id!r} has share={instance.index, instance.count}, and this run is instance {asked}: all "
                "sources of a run have the same share; leave share= out, and give the run its instance"
            )
    return asked


def _together(graph: Graph) -> Iterator[tuple[OperatorStep, list[SourceStep]]]:
    """The steps where records of several shared sources meet by their key."""
    for operator in graph.operators():
        if operator.keys:
            sources = list(graph.origins(operator))
            if len(sources) > 1 and all(source.source.job_instance is not None for source in sources):
                yield operator, sources


def _keys_by_source(graph: Graph, instance: Instance) -> dict[str, list[tuple[str, frozenset[str]]]]:
    """By source: each step that has state by a key of its records, and which fields, unchanged, that key has."""
    found: dict[str, list[tuple[str, frozenset[str]]]] = {step.step_id: [] for step in graph.sources()}
    for operator in graph.operators():
        for edge in operator.inputs:
            if isinstance(edge.partitioning, ByKey):
                names = frozenset(edge.partitioning.selector.names)
                if not names:
                    raise _refusal(operator, instance, "is keyed by a function, which says nothing of how records lie")
                for source_id, fields in _sources(graph, operator, edge.origin, names, instance):
                    found[source_id].append((operator.step_id, fields))
    return found


def _sources(
    graph: Graph, keyed: OperatorStep, origin: StreamRef, names: frozenset[str], instance: Instance
) -> Iterator[tuple[str, frozenset[str]]]:
    """The sources behind an output, and which fields of these names come from there as they are."""
    step = graph.steps[origin.step_id]
    if origin.side == "dead_letters":
        raise _refusal(keyed, instance, f"takes dead letters of {origin.step_id!r}, which lie by no key")
    if isinstance(step, SourceStep):
        yield step.step_id, names
        return
    assert isinstance(step, OperatorStep), "a sink has no output"
    if isinstance(step.spec, AggregateSpec | WindowSpec):
        if origin.side is None:
            # Of its results only the key is as it was.
            names &= frozenset(name for key in step.keys for name in key.selector.names)
    elif not isinstance(step.spec, _PASSING):
        raise _refusal(
            keyed,
            instance,
            f"comes after {step.kind} {step.step_id!r}, whose function may change the key. Put key_by before it, or "
            "what it does into the source's decode=",
        )
    for edge in step.inputs:
        yield from _sources(graph, keyed, edge.origin, names, instance)


def _refusal(step: OperatorStep, instance: Instance, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"step {step.step_id!r} {why}, and in instance {instance} it would have only a part of a key's records. If the "
        f"topic is not partitioned by a field of the records that is also the key, {REPARTITION}",
        setting="instance",
    )


def _names(sources: Iterable[SourceStep]) -> str:
    return ", ".join(repr(source.step_id) for source in sources)
