"""A look at a topic of Kafka that a sink writes to, before a start. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterator

from onceflow.checks import CheckContext, Finding
from onceflow.connectors.kafka.facts import Admin, TopicFacts
from onceflow.connectors.kafka.markers import marker_topic_of
from onceflow.connectors.kafka.settings import KafkaSettings

__all__ = ["look_at_target"]

#: For an answer.
_ANSWER_S = 10.0


def look_at_target(
    settings: KafkaSettings, name: str, partitions: int | None, context: CheckContext, *, markers: bool
) -> Iterator[Finding]:
    """Whether a sink can write to a topic, and what may be lost there.

    Args:
        settings: Of the cluster.
        name: Of the topic.
        partitions: The sink makes a missing topic with so many; None: it makes none.
        context: Who looks.
        markers: The sink keeps markers, in a topic of its own.
    """
    beside = marker_topic_of(context.job, context.step_id)
    found = Admin(settings, _ANSWER_S).topics([name, beside])
    subject = f"topic {name!r}"
    facts = found.get(name)
    if facts is None and partitions is None:
        yield Finding(
            "error",
            subject,
            f"there is none at {settings.bootstrap}",
            "make it, or give the sink partitions=N, which makes it",
        )
    elif facts is None:
        yield Finding("ok", subject, f"will be made with {partitions} partitions")
    else:
        yield Finding("ok", subject, f"has {facts.partitions} partitions, takes {facts.max_bytes:,} bytes a record")
        if partitions is not None and partitions != facts.partitions:
            yield Finding(
                "warning", subject, f"has {facts.partitions} partitions, and the sink would have made {partitions}"
            )
        yield from _safety(subject, facts)
    if markers and (kept := found.get(beside)) is not None:
        subject = f"topic {beside!r}"
        if kept.cleanup != "compact":
            yield Finding(
                "error",
                subject,
                f"has the markers of this sink and cleanup.policy={kept.cleanup!r}, which removes them",
                "set it to 'compact' and nothing else",
            )
        else:
            yield Finding("ok", subject, "has the markers of this sink")
        yield from _safety(subject, kept)


def _safety(subject: str, facts: TopicFacts) -> Iterator[Finding]:
    """What a broker may lose by itself, after it has said that it is there."""
    if facts.unclean:
        yield Finding(
            "warning",
            subject,
            "unclean.leader.election.enable=true: records that were committed are lost where a replica that lacks them "
            "becomes the leader",
            "set it to false",
        )
    if facts.replicas < 2:
        yield Finding("warning", subject, "has one replica: it goes with the disk of its broker", "give it three")
    elif facts.min_insync < 2:
        yield Finding(
            "warning",
            subject,
            f"min.insync.replicas={facts.min_insync}: one of {facts.replicas} brokers may confirm a record alone",
            "set it to 2",
        )
