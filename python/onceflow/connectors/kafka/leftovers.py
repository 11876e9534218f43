"""What a dead job left in Kafka: a transaction that is open, which holds up readers of what is committed."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator

from onceflow.connectors.kafka.destination import transactional_id_of
from onceflow.connectors.kafka.facts import Admin, TopicFacts
from onceflow.connectors.kafka.markers import marker_topic_of
from onceflow.connectors.kafka.settings import KafkaSettings
from onceflow.connectors.kafka.transaction import TransactionalProducer
from onceflow.leftovers import Leftover, LeftoverContext

__all__ = ["left_transactions"]

#: A transaction that is ending has ended by then.
_ENDING_S = 2.0
_PAUSE_S = 0.1


def left_transactions(
    settings: KafkaSettings, topic: str, timeout_s: float, context: LeftoverContext
) -> Iterator[Leftover]:
    """Whose they are no client can tell: to take the ids of this sink ends its own, and nobody else's."""
    admin, markers = Admin(settings, timeout_s), marker_topic_of(context.job, context.sink)
    found = admin.topics([topic, markers])
    if markers not in found:
        # No run has ever written.
        return
    for facts in found.values():
        held = _held(admin, facts)
        if held:
            first = min(held)
            text = (
                f"in {len(held)} of its partitions, since offset {held[first]} of partition {first}. One of this "
                "job's ids is ended, and its output, where it was decided, is sent by the next run; another program's "
                "is not touched, and ends by its timeout"
            )
            end = functools.partial(_end, settings, admin, found[markers], timeout_s, context)
            yield Leftover("removable", f"open transaction in topic {facts.name!r} of {settings.bootstrap}", text, end)


def _held(admin: Admin, facts: TopicFacts) -> dict[int, int]:
    """Partitions with an open transaction, and where it begins.

    The broker answers a commit before it has ended the transaction everywhere, so what ends in a moment is not open.
    """
    until = time.monotonic() + _ENDING_S
    while True:
        workers = range(facts.partitions)
        shown, written = (admin.ends(facts.name, workers, committed=committed) for committed in (True, False))
        held = {partition: shown[partition] for partition in workers if shown[partition] < written[partition]}
        if not held or time.monotonic() > until:
            return held
        time.sleep(_PAUSE_S)


def _end(
    settings: KafkaSettings, admin: Admin, markers: TopicFacts, timeout_s: float, context: LeftoverContext
) -> None:
    """Takes the ids of all workers, as the next run does."""
    for worker in range(markers.partitions):
        producer = TransactionalProducer(
            settings, transactional_id_of(context.job, context.sink, worker), timeout_s, admin.waiting
        )
        try:
            producer.take(markers)
        finally:
            producer.drop()
