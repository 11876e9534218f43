"""Runs a dataflow for some time."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import onceflow as of
from harness.connectors import EndlessSource
from harness.rounds import Rate
from onceflow.dataflow import Stream
from onceflow.types import Batch

__all__ = ["rate_of"]


def rate_of(
    build: Callable[[Stream], None],
    records: Batch,
    directory: Path,
    seconds: float,
    *,
    interval_s: float,
    guarantee: str = "exactly_once",
    batch_size: int = 8192,
    warm_s: float = 0.0,
) -> Rate:
    """Records a second, from the first read until the last checkpoint is complete and its output visible.

    Args:
        build: Adds steps and a sink to the source's stream.
        records: Handed out again and again.
        directory: Emptied first; the state directory is ``state`` in it.
        seconds: After which the source ends.
        interval_s: Of checkpoints.
        guarantee: As for ``run``.
        batch_size: As for ``run``.
        warm_s: Before that, so long is not measured.
    """
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    source = EndlessSource(records, seconds, warm_s)
    flow = of.Dataflow("bench")
    build(flow.source("in", source))
    result = of.run(
        flow, directory / "state", checkpoint_interval_s=interval_s, guarantee=guarantee, batch_size=batch_size
    )
    took, cpu = time.perf_counter() - source.begun, time.process_time() - source.begun_cpu
    if not result.finished:
        raise RuntimeError("the job was interrupted")
    records_in = result.records_in - source.before
    return Rate(records_in / took, records_in / cpu)
