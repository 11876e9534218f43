"""Exactly-once stream processing for Python on a Rust state backend."""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
}

# What embedders use was here once.
_MOVED = {
    "BarrierAligner": "BarrierAligner",
    "Batch": "Rows",
    "CheckpointCoordinator": "CheckpointCoordinator",
    "CheckpointInfo": "CheckpointInfo",
    "CheckpointStats": "CheckpointStats",
    "Deduplicator": "Deduplicator",
    "PendingCheckpoint": "PendingCheckpoint",
    "Recovery": "Recovery",
    "StateBackend": "StateBackend",
    "Table": "Table",
    "TableSchema": "TableSchema",
    "Verdicts": "Verdicts",
    "key_group": "key_group",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("onceflow")
    if name in _MOVED:
        warnings.warn(
            f"onceflow.{name} is in onceflow.embed: from onceflow.embed import {_MOVED[name]}",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(importlib.import_module("onceflow.embed"), _MOVED[name])
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
