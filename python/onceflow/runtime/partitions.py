"""The partitions of a job's sources, opened: a task for each, where the checkpoint has it or at its beginning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import msgspec

from onceflow.exceptions import SourceError
from onceflow.graph.division import check_partition_counts
from onceflow.graph.graph import Graph, SourceStep
from onceflow.process import closing
from onceflow.runtime.source_task import SourceTask, source_errors
from onceflow.runtime.workers.share import Share
from onceflow.sources import SourceContext
from onceflow.types import Plain

__all__ = ["list_partitions", "open_partitions", "saved_positions"]


def list_partitions(graph: Graph) -> dict[str, list[str]]:
    """By source, what ``partitions`` returns.

    Raises:
        SourceError: There is nothing to read, or it has names that cannot be.
    """
    return {step.step_id: _partitions(step) for step in graph.sources()}


def open_partitions(
    graph: Graph,
    listed: Mapping[str, Sequence[str]],
    blobs: Mapping[str, bytes],
    batch_size: int,
    contexts: Mapping[str, SourceContext],
    resources: ExitStack,
    share: Share | None = None,
) -> list[SourceTask]:
    """The tasks of all partitions, in the order of the sources and of what ``partitions`` returns.

    Args:
        graph: Has the sources.
        listed: Their partitions.
        blobs: Of the checkpoint to resume from; empty for the beginning.
        batch_size: Records that a task is asked for.
        contexts: By source.
        resources: Closes the tasks.
        share: Those of one worker only; ``blobs`` are of all.

    Raises:
        SourceError: It cannot be read, or a partition that the checkpoint has a position of is gone.
    """
    tasks: list[SourceTask] = []
    saved = {name: msgspec.msgpack.decode(blob) for name, blob in blobs.items() if name.startswith("source/")}
    known = set(saved)
    for step in graph.sources():
        for partition in listed[step.step_id]:
            known.discard(f"source/{step.step_id}/{partition}")
            if share is not None and not share.owns(step.step_id, partition):
                continue
            state = saved.get(f"source/{step.step_id}/{partition}")
            task = SourceTask(step, partition, state, batch_size, contexts[step.step_id])
            resources.push(closing(task.close))
            tasks.append(task)
        with source_errors(step.step_id):
            step.source.restore(saved_positions(blobs, step.step_id))
    check_partition_counts(graph)
    if known:
        raise SourceError(
            f"partitions that the checkpoint has positions of are gone: {sorted(known)}; put the files back, or "
            "start over with resume_from='none'"
        )
    # What cannot be read says so before anything is processed, of as many as are read at first.
    for step in graph.sources():
        for task in [task for task in tasks if task.step is step][: step.source.max_open_partitions]:
            task.open()
    return tasks


def saved_positions(blobs: Mapping[str, bytes], step_id: str) -> dict[str, Plain]:
    """By partition of a source, where a checkpoint with these blobs has it."""
    prefix = f"source/{step_id}/"
    return {
        name.removeprefix(prefix): msgspec.msgpack.decode(blob)["position"]
        for name, blob in blobs.items()
        if name.startswith(prefix)
    }


def _partitions(step: SourceStep) -> list[str]:
    with source_errors(step.step_id):
        partitions = step.source.partitions()
    # An instance of a job may have none yet.
    if not partitions and step.source.job_instance is None:
        raise SourceError(f"source {step.step_id!r} has no partitions; give it something to read")
    for partition in partitions:
        if not isinstance(partition, str):
            raise SourceError(f"source {step.step_id!r}: partition {partition!r} is not a str; name partitions by str")
        try:
            partition.encode()
        except UnicodeEncodeError:
            raise SourceError(
                f"source {step.step_id!r}: the name of partition {partition!r} cannot be written in UTF-8, so no "
                "checkpoint can hold its position; give it another name"
            ) from None
    if len(set(partitions)) != len(partitions):
        twice = sorted({partition for partition in partitions if partitions.count(partition) > 1})
        raise SourceError(f"source {step.step_id!r} names partitions twice: {twice}; each needs a name of its own")
    return partitions
