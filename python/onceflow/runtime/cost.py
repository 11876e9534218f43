"""What a checkpoint has cost, as far as it is known when it is decided: kept in it for who looks at it later."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onceflow._native import CheckpointInfo, CheckpointStats

__all__ = ["COST_BLOB", "Cost", "CutCost", "WriteCost", "costs"]

#: Name of its blob in a decision record.
COST_BLOB = "cost"


@dataclass(frozen=True, slots=True)
class CutCost:
    """What a checkpoint took of the worker, in seconds.

    Attributes:
        start_delay_s: From its barriers' coming into being to the first one that the worker saw.
        alignment_s: From the first to the last.
        sync_s: For so long the worker did nothing else: tables were frozen, positions taken, sinks sealed.
    """

    start_delay_s: float = 0.0
    alignment_s: float = 0.0
    sync_s: float = 0.0


@dataclass(frozen=True, slots=True)
class WriteCost:
    """What was done beside the worker.

    Attributes:
        checkpoint_id: Of which checkpoint.
        async_s: Seconds of encoding and writing.
        durable_s: Seconds from the cut until it was decided.
        bytes_written: Of state.
    """

    checkpoint_id: int
    async_s: float
    durable_s: float
    bytes_written: int

    @classmethod
    def of(cls, stats: CheckpointStats) -> WriteCost:
        """Of what the store says."""
        return cls(stats.id, stats.encode_s + stats.commit_s, stats.durable_s, stats.bytes_written)


@dataclass(frozen=True, slots=True)
class Cost:
    """The blob.

    Attributes:
        cut: Of this checkpoint.
        before: Of the checkpoint before, in the same attempt: of its own writing no checkpoint can tell.
    """

    cut: CutCost
    before: WriteCost | None

    def encode(self) -> bytes:
        """The blob."""
        import msgspec  # noqa: PLC0415 - not needed by every command

        return msgspec.msgpack.encode(asdict(self))


def costs(info: CheckpointInfo, later: list[CheckpointInfo]) -> dict[str, Any]:
    """What is known of the cost of a checkpoint, by the names of the fields above; None for what is not.

    Args:
        info: The checkpoint.
        later: Those after it, the next one first; that one tells what its writing took.
    """
    import msgspec  # noqa: PLC0415 - not needed by every command

    found: dict[str, Any] = dict.fromkeys(
        (*CutCost.__slots__, *(name for name in WriteCost.__slots__ if name != "checkpoint_id"))
    )
    if blob := info.blobs.get(COST_BLOB):
        found |= asdict(msgspec.msgpack.decode(blob, type=Cost).cut)
    for each in later:
        if each.damage is None and (blob := each.blobs.get(COST_BLOB)):
            before = msgspec.msgpack.decode(blob, type=Cost).before
            if before is not None and before.checkpoint_id == info.id:
                found |= asdict(before)
                found.pop("checkpoint_id")
                break
    return found
