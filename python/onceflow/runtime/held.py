"""How much the sinks of a worker hold."""

from __future__ import annotations

from collections.abc import Mapping

from onceflow.runtime.delivery import Delivery

__all__ = ["MAX_HELD_BYTES", "MAX_HELD_RECORDS", "holds_half", "holds_much"]

#: While a checkpoint is under way nothing is read when sinks hold more; one begins early when they hold half of it. The
#: decision record takes 1 GiB, and a round's output comes on top.
MAX_HELD_RECORDS = 1_000_000
MAX_HELD_BYTES = 64 << 20


def holds_much(deliveries: Mapping[str, Delivery]) -> bool:
    """Whether sinks hold more, for the checkpoint under way and for the next one, than one of them or all may."""
    return _hold(deliveries, MAX_HELD_RECORDS, MAX_HELD_BYTES)


def holds_half(deliveries: Mapping[str, Delivery]) -> bool:
    """Whether they hold half of that, so that a checkpoint should begin: as much can be held while it is under way."""
    return _hold(deliveries, MAX_HELD_RECORDS // 2, MAX_HELD_BYTES // 2)


def _hold(deliveries: Mapping[str, Delivery], records: int, nbytes: int) -> bool:
    all_of = deliveries.values()
    return (
        any(delivery.holds_much for delivery in all_of)
        or sum(delivery.held + delivery.sealed for delivery in all_of) > records
        or sum(delivery.held_bytes + delivery.sealed_bytes for delivery in all_of) > nbytes
    )
