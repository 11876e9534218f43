"""What a decision record has of each of several workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from onceflow._native import PendingCheckpoint, StateBackend
from onceflow.runtime.job_record import SINK_BLOB, WATERMARKS_BLOB, WORKER_BLOB, of_worker
from onceflow.runtime.workers.messages import Part, PartDurable
from onceflow.types import Micros

__all__ = ["common_watermarks", "keep_part", "keep_positions", "known_parts", "part_of", "positions_in"]

_SOURCE = "source/"
#: Name of the blob that says which worker reads each partition.
_DEALT = f"{WORKER_BLOB}dealt"


def keep_part(pending: PendingCheckpoint, rank: int, durable: PartDurable) -> None:
    """Where a worker has its part, what its output needs to be committed, and what its sinks have learnt."""
    for step_id, staged in durable.staged.items():
        pending.stage(of_worker(step_id, rank), list(staged))
    for step_id, learnt in durable.learnt.items():
        pending.put_blob(f"{SINK_BLOB}{of_worker(step_id, rank)}", learnt)
    pending.put_blob(f"{WORKER_BLOB}{rank}", msgspec.msgpack.encode(durable.part))


def common_watermarks(of_workers: Sequence[Mapping[str, Micros | None]]) -> dict[str, Micros]:
    """How far event time has come in sources, and in steps before any exchange, over all workers: a partition that one
    of them gets later is held back by what the others have.

    Args:
        of_workers: Of each that has partitions of it, where event time is; None: not known yet.
    """
    names = dict.fromkeys(name for each in of_workers for name in each)
    found = {name: [each[name] for each in of_workers if name in each] for name in names}
    return {
        name: min(known) for name, marks in found.items() if (known := [m for m in marks if m is not None]) == marks
    }


def keep_positions(
    pending: PendingCheckpoint,
    positions: Mapping[str, bytes],
    dealt: Mapping[str, int],
    watermarks: Mapping[str, Micros],
) -> None:
    """Where all partitions are, by the names of their blobs, who reads them, and how far event time has come."""
    for name, blob in positions.items():
        pending.put_blob(name, blob)
    pending.put_blob(_DEALT, msgspec.msgpack.encode(dealt))
    pending.put_blob(WATERMARKS_BLOB, msgspec.msgpack.encode(watermarks))


def positions_in(blobs: Mapping[str, bytes]) -> tuple[dict[str, bytes], dict[str, int], dict[str, Micros]]:
    """What ``keep_positions`` has kept."""
    positions = {name: blob for name, blob in blobs.items() if name.startswith(_SOURCE)}
    dealt = msgspec.msgpack.decode(blobs[_DEALT], type=dict[str, int])
    return positions, dealt, msgspec.msgpack.decode(blobs[WATERMARKS_BLOB], type=dict[str, int])


def part_of(blobs: Mapping[str, bytes], rank: int) -> Part:
    """Where a worker has its part of the checkpoint with these blobs."""
    return msgspec.msgpack.decode(blobs[f"{WORKER_BLOB}{rank}"], type=Part)


def known_parts(backend: StateBackend, workers: int) -> list[frozenset[int]]:
    """The numbers of all parts that checkpoints know, of each worker."""
    known = [record.blobs for record in backend.checkpoints() if record.damage is None]
    return [
        frozenset(part_of(blobs, rank).checkpoint for blobs in known if f"{WORKER_BLOB}{rank}" in blobs)
        for rank in range(workers)
    ]
