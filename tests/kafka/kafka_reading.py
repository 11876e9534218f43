"""A job that reads a topic of a real Kafka into files, and what it has read."""

from __future__ import annotations

from pathlib import Path

import msgspec

import onceflow as of
from onceflow.connectors.files import JsonLinesSink, read_parts
from onceflow.connectors.kafka import KafkaSource

__all__ = ["read", "written"]


def read(source: KafkaSource, state: Path, **arguments: object) -> tuple[list[object], of.JobResult]:
    """What a run of a job hands out of a source, all runs of the state before included."""
    flow = of.Dataflow("reads")
    out = state.with_name(state.name + "-out")
    flow.source("in", source).map(_plain).sink("out", JsonLinesSink(out))
    result = of.run(flow, state=state, checkpoint_interval_s=0.05, **arguments)
    return written(out), result


def written(out: Path) -> list[object]:
    """What a directory of JSON Lines has."""
    return [msgspec.json.decode(line) for line in read_parts(out).splitlines()]


def _plain(record: object) -> object:
    return record.decode() if isinstance(record, bytes) else record
