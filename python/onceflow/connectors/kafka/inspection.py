"""A look at a cluster and a topic before a start. Changes nothing.

Kafka tells nobody its time, so clocks are not compared: a record whose timestamp the broker would refuse is refused
before the decision.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from onceflow.checks import CheckContext, Finding
from onceflow.connectors.kafka.destination import transactional_id_of
from onceflow.connectors.kafka.facts import Admin, TopicFacts
from onceflow.connectors.kafka.markers import MarkerTopic, marker_topic_of
from onceflow.connectors.kafka.rights import rights_lacking, rights_lacking_for_group, transactional_id_refused
from onceflow.connectors.kafka.settings import KafkaSettings
from onceflow.connectors.kafka.transaction import TRANSACTION_MS
from onceflow.connectors.topics.share import Share
from onceflow.exceptions import SinkError

__all__ = ["look_at_replicas", "look_at_source", "look_at_target"]

#: A look waits no longer for an answer.
_TIMEOUT_S = 10.0
_HOUR_MS = 3_600_000
#: Their settings say what the topics do with what is written.
_TO_WRITE = ("WRITE", "DESCRIBE", "DESCRIBE_CONFIGS")
_TO_READ = ("READ", "DESCRIBE", "DESCRIBE_CONFIGS")


def look_at_target(
    settings: KafkaSettings,
    topic: str,
    partitions: int | None,
    *,
    has_keys: bool,
    transactional: bool,
    timeout_s: float,
    context: CheckContext,
) -> Iterator[Finding]:
    """What a sink needs of a topic and of its cluster.

    Args:
        settings: Of the cluster.
        topic: Its name.
        partitions: A missing topic is made with so many; None: it is not made.
        has_keys: Whether records have keys.
        transactional: The sink writes transactions, and markers into a topic of its own.
        timeout_s: Of the sink.
        context: Who looks.
    """
    shown = f"Kafka {settings.bootstrap}"
    timeout_s = min(timeout_s, _TIMEOUT_S)
    admin = Admin(settings, timeout_s)
    admin.cluster()
    yield Finding("ok", shown, "can be reached")
    markers = marker_topic_of(context.job, context.step_id)
    lacking = list(rights_lacking(admin, topic, _TO_WRITE, made_with=partitions))
    if transactional:
        lacking += rights_lacking(admin, markers, ("READ", *_TO_WRITE), made_with=1)
        lacking += rights_lacking_for_group(admin, markers)
        lacking += transactional_id_refused(settings, transactional_id_of(context.job, context.step_id, 0), timeout_s)
    if lacking:
        # What is not allowed cannot be looked at.
        yield from lacking
        return
    if transactional:
        yield from _look_at_transactions(shown, settings, admin.broker_settings())
    found = admin.topics([topic, markers])
    yield from _look_at_topic(topic, found.get(topic), partitions, has_keys=has_keys)
    if not transactional:
        return
    if markers not in found:
        yield Finding("ok", f"topic {markers!r}", "has the markers of this sink, and is made by the first run")
        return
    yield from look_at_replicas(found[markers])
    marker = MarkerTopic(settings, admin, context.job, context.step_id, timeout_s)
    try:
        marker.notice(found[markers])
        kept = [marker.read(worker, settled=False) for worker in range(marker.partitions)]
    except SinkError as error:
        yield Finding("error", f"topic {markers!r}", str(error))
        return
    finally:
        marker.close()
    newest = max((each[topic].standing.checkpoint for each in kept if topic in each), default=0)
    holds = f"output of this sink up to checkpoint {newest}" if newest else "no output of this sink"
    yield Finding("ok", f"topic {markers!r}", f"tells of {holds}")


def look_at_source(
    settings: KafkaSettings, topic: str, *, group: str, committed: bool, timeout_s: float, share: Share
) -> Iterator[Finding]:
    """Whether a topic can be read, and will still have what a job that was down comes back to.

    Args:
        settings: Of the cluster.
        topic: Its name.
        group: What its consumers name.
        committed: Whether only what is committed is read.
        timeout_s: Of the source.
        share: What of it is read.
    """
    shown, subject = f"Kafka {settings.bootstrap}", f"topic {topic!r}"
    admin = Admin(settings, min(timeout_s, _TIMEOUT_S))
    admin.cluster()
    yield Finding("ok", shown, "can be reached")
    lacking = [*rights_lacking(admin, topic, _TO_READ, made_with=None), *rights_lacking_for_group(admin, group)]
    if lacking:
        # What is not allowed cannot be looked at.
        yield from lacking
        return
    facts = admin.topics([topic]).get(topic)
    if facts is None:
        yield Finding("error", subject, "there is none", "make it, or see whether this user may know of it")
        return
    bounds = [f"are older than {facts.retention_ms / _HOUR_MS:.4g} hours"] if facts.retention_ms >= 0 else []
    bounds += [f"lie beyond {facts.retention_bytes:,} bytes of a partition"] if facts.retention_bytes >= 0 else []
    if "delete" in facts.cleanup and bounds:
        text = f"records that {' or '.join(bounds)} are removed, whether the job has read them or not"
        advice = "keep them for longer than the job may be down; what was removed unread is refused when it resumes"
        yield Finding("warning", subject, text, advice)
    if "compact" in facts.cleanup:
        text = "is compacted: of each key only the newest record is kept, so the job may never see the others"
        yield Finding("warning", subject, text, "read it where only the newest value of a key counts")
    workers = range(facts.partitions)
    shows, ends = (admin.ends(topic, workers, committed=each) for each in (True, False))
    held = [partition for partition in workers if shows[partition] < ends[partition]]
    if committed and held:
        text = (
            f"an open transaction holds partition {held[0]} back at offset {shows[held[0]]}: nothing after it is read"
        )
        yield Finding("warning", subject, text, "wait for it, or have it ended")
    yield from look_at_replicas(facts)
    yield Finding("ok", subject, f"can be read: {facts.partitions} partitions, {facts.replicas} replicas")
    yield from share.findings(facts.partitions)


def look_at_replicas(facts: TopicFacts) -> Iterator[Finding]:
    """Whether what was acknowledged can be lost."""
    subject = f"topic {facts.name!r}"
    if facts.replicas == 1:
        text = "has one replica: what was committed is gone with the disk of one broker"
        yield Finding("warning", subject, text, "give it three, where it must survive that")
    elif facts.min_insync < 2:
        text = (
            f"has {facts.replicas} replicas and min.insync.replicas=1: one of them alone may acknowledge what is lost"
        )
        yield Finding("warning", subject, text, "set min.insync.replicas=2")
    elif facts.min_insync >= facts.replicas:
        text = f"min.insync.replicas is {facts.min_insync} of {facts.replicas}: with one broker down nothing is written"
        yield Finding("warning", subject, text, "give it one replica more, or set it lower by one")
    if facts.unclean:
        text = "unclean.leader.election.enable=true: a replica that lacks what was committed may become the leader"
        yield Finding("warning", subject, text, "set it to false")


def _look_at_topic(
    topic: str, facts: TopicFacts | None, partitions: int | None, *, has_keys: bool
) -> Iterator[Finding]:
    subject = f"topic {topic!r}"
    if facts is None:
        if partitions is None:
            yield Finding("error", subject, "there is none", "make it, or give the sink partitions=N, which makes it")
        else:
            yield Finding("ok", subject, f"is made by the first run, with {partitions} partitions")
        return
    if "compact" in facts.cleanup and not has_keys:
        text = "is compacted, and takes no record without a key"
        yield Finding("error", subject, text, "give the sink a key, or set cleanup.policy=delete")
    yield from look_at_replicas(facts)
    if partitions is not None and partitions != facts.partitions:
        text = f"has {facts.partitions} partitions, and the sink would have made {partitions}"
        yield Finding("warning", subject, text)
    text = (
        f"is there: {facts.partitions} partitions, {facts.replicas} replicas, takes {facts.max_bytes:,} bytes a batch"
    )
    yield Finding("ok", subject, text)


def _look_at_transactions(shown: str, settings: KafkaSettings, broker: Mapping[str, str]) -> Iterator[Finding]:
    most, wanted = broker.get("transaction.max.timeout.ms"), settings.get("transaction.timeout.ms")
    wanted_ms = TRANSACTION_MS if wanted is None else int(wanted)
    if most is not None and wanted_ms > int(most):
        text = f"transaction.timeout.ms={wanted_ms} is above the broker's transaction.max.timeout.ms={most}"
        yield Finding("error", shown, text, "lower the first one in config, or raise the second one")
    copies = broker.get("transaction.state.log.replication.factor")
    if copies == "1":
        text = (
            "transaction.state.log.replication.factor=1: the state of transactions is gone with the disk of one broker"
        )
        yield Finding("warning", shown, text, "set it to three before the first transaction")
