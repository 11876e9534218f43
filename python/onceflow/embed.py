"""Parts for a stream processor of your own: each stands alone, and none needs a dataflow.

- ``StateBackend`` with its ``Table``: keyed state in memory, updated by whole batches, with asynchronous, incremental
  checkpoints. ``PendingCheckpoint`` is one under way, ``CheckpointStats`` what it cost, ``CheckpointInfo`` what is kept
  of it, ``Recovery`` where an opened backend began. ``Rows`` are what tables give back.
- ``Deduplicator``: the sequences of producers; ``Verdicts`` says of each batch whether it is new.
- ``BarrierAligner``: a consistent cut over several input channels; it answers with ``AlignerAction``.
- ``CheckpointCoordinator``: the protocol between tasks, store and sinks, as a pure state machine; it answers with
  ``CoordinatorEffect``.
"""

from __future__ import annotations

from onceflow._native import (
    AlignerAction,
    BarrierAligner,
    CheckpointCoordinator,
    CheckpointInfo,
    CheckpointStats,
    CoordinatorEffect,
    Deduplicator,
    PendingCheckpoint,
    Recovery,
    Rows,
    StateBackend,
    Table,
    TableSchema,
    Verdicts,
    key_group,
)

__all__ = [
    "AlignerAction",
    "BarrierAligner",
    "CheckpointCoordinator",
    "CheckpointInfo",
    "CheckpointStats",
    "CoordinatorEffect",
    "Deduplicator",
    "PendingCheckpoint",
    "Recovery",
    "Rows",
    "StateBackend",
    "Table",
    "TableSchema",
    "Verdicts",
    "key_group",
]
