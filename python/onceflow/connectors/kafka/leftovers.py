"""What a dead job left in Kafka: an open transaction, which holds up readers; markers of sinks that it has no more."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from contextlib import closing

from onceflow.connectors.kafka.destination import transactional_id_of
from onceflow.connectors.kafka.facts import Admin, TopicFacts
from onceflow.connectors.kafka.markers import MarkerTopic, marker_topic_of, marker_topics
from onceflow.connectors.kafka.settings import KafkaSettings
from onceflow.connectors.kafka.transaction import TransactionalProducer
from onceflow.connectors.outbox.leftovers import left_markers
from onceflow.exceptions import SinkError
from onceflow.leftovers import Leftover, LeftoverContext

__all__ = ["left_in_kafka"]

#: A transaction that is ending has ended by then.
_ENDING_S = 2.0
_PAUSE_S = 0.1


def left_in_kafka(
    settings: KafkaSettings, topic: str, timeout_s: float, context: LeftoverContext
) -> Iterator[Leftover]:
    """Open transactions in the topics of this sink; topics with markers of sinks that the job has no more."""
    admin = Admin(settings, timeout_s)
    yield from _left_transactions(settings, admin, topic, timeout_s, context)
    yield from _left_markers(settings, admin, timeout_s, context)


def _left_transactions(
    settings: KafkaSettings, admin: Admin, topic: str, timeout_s: float, context: LeftoverContext
) -> Iterator[Leftover]:
    """Whose they are no client can tell: to take the ids of this sink ends its own, and nobody else's."""
    markers = marker_topic_of(context.job, context.sink)
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


def _left_markers(
    settings: KafkaSettings, admin: Admin, timeout_s: float, context: LeftoverContext
) -> Iterator[Leftover]:
    """Whose a topic is, its markers say; its name may be another's, too."""
    own = marker_topic_of(context.job, context.sink)
    needed = {marker_topic_of(context.job, sink) for sink in context.known_sinks - context.dropped_sinks} - {own}
    for facts in admin.topics(set(marker_topics(admin.names(), context.job)) - needed).values():
        where = f"topic {facts.name!r} of {settings.bootstrap}"
        with closing(MarkerTopic(settings, admin, context.job, context.sink, timeout_s, name=facts.name)) as markers:
            try:
                markers.notice(facts)
                is_settled, records = markers.settled(), markers.records()
            except SinkError as error:
                yield Leftover("kept", where, f"cannot be read, so it is not known whose it is: {error}")
                continue
        if any(marker_topic_of(each.job, each.sink) != facts.name or each.format != 1 for each in records):
            yield Leftover("kept", where, "has markers that are not of its name, or of a newer version")
        elif records and records[0].job != context.job:
            continue
        elif facts.name != own and not is_settled:
            yield Leftover("kept", where, "has an open transaction, so somebody writes there, or died just now")
        elif records:
            standings = {
                f"{each.worker} {topic}": kept.standing.text()
                for each in records
                for topic, kept in each.topics.items()
            }
            owner = f"{context.job}/{records[0].sink}"
            yield from left_markers({owner: standings}, where, context, functools.partial(_delete, admin, facts.name))
        elif facts.name != own:
            yield Leftover("kept", where, "has no marker, so it is not known whose it is")


def _delete(admin: Admin, topic: str, owner: str) -> None:
    admin.delete(topic)
