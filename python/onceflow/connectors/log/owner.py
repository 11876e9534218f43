"""Who writes to a topic for a sink, and up to which checkpoint: the marker inside the sink's own transactions.

It is the note of an offset that a private group has committed in partition 0 of the topic: so it is part of the same
transaction of the log as the records of a checkpoint, and goes when the topic is deleted.
"""

from __future__ import annotations

import msgspec

from onceflow._native import Log

__all__ = ["Marker", "group_of", "marker_of", "markers_of"]


class Marker(msgspec.Struct, frozen=True):
    """Attributes:
    job_epoch: Of the newest run of the job that has recovered here.
    run: Tells that run from any other, also of a copy of the job's state.
    checkpoint: The newest one whose output is in the topic; 0 if there is none.
    """

    job_epoch: int
    run: str
    checkpoint: int

    def note(self) -> str:
        """As it is kept."""
        return msgspec.json.encode(self).decode()


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
