"""A look at a topic of the embedded log, before a start. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from onceflow._native import Log, LogTopic
from onceflow.checks import CheckContext, Finding
from onceflow.connectors.file_system import look_at_directory
from onceflow.connectors.log.owner import standings_of
from onceflow.exceptions import StoreMissingError, UnknownTopicOrPartitionError

__all__ = ["look_at_source", "look_at_target"]

_HOUR_MS = 3_600_000


def look_at_source(log: Log, topic: LogTopic) -> Iterator[Finding]:
    """Whether a topic will still have what a job that was down comes back to."""
    subject = f"topic {topic.name!r}"
    parts = [log.partition(topic.name, number) for number in range(topic.partitions)]
    records = sum(part.records for part in parts)
    yield Finding("ok", subject, f"can be read, {topic.partitions} partitions with {records:,} records")
    if topic.retention_ms is not None or topic.retention_bytes is not None:
        bounds = []
        if topic.retention_ms is not None:
            bounds.append(f"are older than {topic.retention_ms / _HOUR_MS:.4g} hours")
        if topic.retention_bytes is not None:
            bounds.append(f"lie beyond {topic.retention_bytes:,} bytes of a partition")
        yield Finding(
            "warning",
            subject,
            f"records that {' or '.join(bounds)} are removed, whether the job has read them or not",
            "keep them for longer than the job may be down; what was removed unread is refused when it resumes",
        )
    if topic.cleanup_policy == "compact":
        yield Finding(
            "warning",
            subject,
            "it is compacted: of each key only the newest record is kept, so the job may never see the others",
            "read it where only the newest value of a key counts",
        )


def look_at_target(path: Path, name: str, partitions: int | None, context: CheckContext) -> Iterator[Finding]:
    """Whether a sink can write to a topic.

    Args:
        path: Directory of the log.
        name: Of the topic.
        partitions: The sink makes a missing topic with so many; None: it makes none.
        context: Who looks.
    """
    yield from look_at_directory(path)
    subject = f"topic {name!r}"
    missing = Finding(
        "error", subject, f"there is none in {path}", "make it, or give the sink partitions=N, which makes it"
    )
    will_be = Finding("ok", subject, f"will be made with {partitions} partitions")
    try:
        log = Log.open(path, create=False, read_only=True)
    except StoreMissingError:
        yield missing if partitions is None else will_be
        return
    try:
        topic = log.topic(name)
        standings = standings_of(log, context.job, context.step_id)
    except UnknownTopicOrPartitionError:
        yield missing if partitions is None else will_be
        return
    finally:
        log.close()
    newest = max((standing.checkpoint for (place, _), standing in standings.items() if place == name), default=0)
    holds = f"; holds output of this sink up to checkpoint {newest}" if newest else ""
    yield Finding("ok", subject, f"can be written, {topic.partitions} partitions{holds}")
    if partitions is not None and partitions != topic.partitions:
        yield Finding(
            "warning", subject, f"has {topic.partitions} partitions, and the sink would have made {partitions}"
        )
