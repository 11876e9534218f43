"""What a decision record has of each of several workers."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from onceflow._native import PendingCheckpoint, StateBackend
from onceflow.runtime.job_record import SINK_BLOB, WORKER_BLOB, of_worker
from onceflow.runtime.workers.messages import Part, PartDurable

__all__ = ["keep_part", "keep_positions", "known_parts", "part_of", "positions_in"]

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


def keep_positions(pending: PendingCheckpoint, positions: Mapping[str, bytes], dealt: Mapping[str, int]) -> None:
    """Where all partitions are, by the names of their blobs, and who reads them."""
    for name, blob in positions.items():
        pending.put_blob(name, blob)
    pending.put_blob(_DEALT, msgspec.msgpack.encode(dealt))


def positions_in(blobs: Mapping[str, bytes]) -> tuple[dict[str, bytes], dict[str, int]]:
    """What ``keep_positions`` has kept."""
    positions = {name: blob for name, blob in blobs.items() if name.startswith(_SOURCE)}
    return positions, msgspec.msgpack.decode(blobs[_DEALT])


def part_of(blobs: Mapping[str, bytes], rank: int) -> Part:
    """Where a worker has its part of the checkpoint with these blobs."""
    return msgspec.msgpack.decode(blobs[f"{WORKER_BLOB}{rank}"], type=Part)


def known_parts(backend: StateBackend, rank: int) -> frozenset[int]:
    """The numbers of all parts of a worker that checkpoints know."""
    known = [record.blobs for record in backend.checkpoints() if record.damage is None]
    return frozenset(part_of(blobs, rank).checkpoint for blobs in known if f"{WORKER_BLOB}{rank}" in blobs)
