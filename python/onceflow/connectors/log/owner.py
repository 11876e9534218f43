"""Who writes to a topic for a sink, and up to which checkpoint: the marker inside the sink's own transactions.

It is the note of an offset that a private group has committed in partition 0 of the topic: so it is part of the same
transaction of the log as the records of a checkpoint, and goes when the topic is deleted.
"""

from __future__ import annotations

import msgspec

from onceflow._native import Log

__all__ = ["Marker", "Written", "group_of", "marker_of", "markers_of"]


class Marker(msgspec.Struct, frozen=True):
    """Attributes:
    job_epoch: Of the newest run of the job that has recovered here.
    run: Tells that run from any other, also of a copy of the job's state.
    checkpoint: The newest one of the lineage whose output is in the topic; 0 if there is none.
    lineage: Of that run; None where an older version did not say.
    state: Identity of the run's state directory; empty where it is not known.
    """

    job_epoch: int
    run: str
    checkpoint: int
    lineage: int | None = None
    state: str = ""

    def note(self) -> str:
        """As it is kept."""
        return msgspec.json.encode(self).decode()


class Written(msgspec.Struct, frozen=True):
    """What a checkpoint keeps of a sink, so that a log which has gone back is noticed.

    Attributes:
        log: Identity of the log.
        topic: Its name.
        number: Of the topic: one that is made anew has a higher one.
        lineage: Of the run.
        newest: The newest checkpoint that has output in the topic, once this one is committed; 0 if none.
    """

    log: str
    topic: str
    number: int
    lineage: int
    newest: int


def group_of(job: str, sink: str) -> str:
    """Name of the private group, and of the transactional id. The upkeep knows it by its beginning, and keeps it."""
    return f"onceflow/{job}/{sink}"


def marker_of(log: Log, group: str, topic: str) -> Marker | None:
    """The marker in a topic; None if nothing was ever written for this sink."""
    found = log.committed(group, topic, 0)
    return None if found is None else msgspec.json.decode(found[1], type=Marker)


def markers_of(log: Log, group: str) -> dict[str, Marker]:
    """The markers in all topics that this sink has ever written to."""
    for known in log.groups():
        if known.group == group:
            return {topic: msgspec.json.decode(note, type=Marker) for (topic, _), (_, note, _) in known.offsets.items()}
    return {}
