"""Exactly-once stream processing for Python on a Rust state backend."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onceflow._native import (
        BarrierAligner,
        Batch,
        CheckpointCoordinator,
        CheckpointInfo,
        CheckpointStats,
        Deduplicator,
        PendingCheckpoint,
        Recovery,
        StateBackend,
        Table,
        TableSchema,
        Verdicts,
        key_group,
    )
    from onceflow.aggregates import count, first, last, max, mean, min, sum
    from onceflow.columns import Columns
    from onceflow.dataflow import Dataflow
    from onceflow.events import JobResult
    from onceflow.log import Consumer, Log, Producer
    from onceflow.runtime.run import run
    from onceflow.types import Guarantee

    __version__: str

__all__ = [  # noqa: RUF022 - sorted by what they are
    "Dataflow",
    "Guarantee",
    "JobResult",
    "Columns",
    "run",
    "count",
    "first",
    "last",
    "max",
    "mean",
    "min",
    "sum",
    "Log",
    "Producer",
    "Consumer",
    "BarrierAligner",
    "Batch",
    "CheckpointCoordinator",
    "CheckpointInfo",
    "CheckpointStats",
    "Deduplicator",
    "PendingCheckpoint",
    "Recovery",
    "StateBackend",
    "Table",
    "TableSchema",
    "Verdicts",
    "key_group",
]

# Public name -> module that has it: loaded when first used, so that the import stays cheap.
_HOMES = {
    "Dataflow": "onceflow.dataflow",
    "Guarantee": "onceflow.types",
    "JobResult": "onceflow.events",
    "Columns": "onceflow.columns",
    "run": "onceflow.runtime.run",
    "count": "onceflow.aggregates",
    "first": "onceflow.aggregates",
    "last": "onceflow.aggregates",
    "max": "onceflow.aggregates",
    "mean": "onceflow.aggregates",
    "min": "onceflow.aggregates",
    "sum": "onceflow.aggregates",
    "Log": "onceflow.log",
    "Producer": "onceflow.log",
    "Consumer": "onceflow.log",
    "BarrierAligner": "onceflow._native",
    "Batch": "onceflow._native",
    "CheckpointCoordinator": "onceflow._native",
    "CheckpointInfo": "onceflow._native",
    "CheckpointStats": "onceflow._native",
    "Deduplicator": "onceflow._native",
    "PendingCheckpoint": "onceflow._native",
    "Recovery": "onceflow._native",
    "StateBackend": "onceflow._native",
    "Table": "onceflow._native",
    "TableSchema": "onceflow._native",
    "Verdicts": "onceflow._native",
    "key_group": "onceflow._native",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("onceflow")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
