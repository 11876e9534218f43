"""Who writes to a topic for a sink, and up to which checkpoint: the marker inside the sink's own transactions.

It is the note of an offset that a private group has committed in partition 0 of the topic: so it is part of the same
transaction of the log as the records of a checkpoint, and goes when the topic is deleted. Each worker has a group, and
a transactional id of the same name.
"""

from __future__ import annotations

from onceflow._native import Log
from onceflow.connectors.outbox.marker import Slot, Standing

__all__ = ["group_of", "jobs_of", "standing_of", "standings_of"]


def group_of(job: str, sink: str, worker: int = 0) -> str:
    """Name of the private group, and of the transactional id. The upkeep knows it by its beginning, and keeps it.

    That of the first worker has no number, as when it was the only one.
    """
    return f"onceflow/{job}/{sink}" + (f"/{worker}" if worker else "")


def standing_of(log: Log, job: str, sink: str, slot: Slot) -> Standing | None:
    """The marker of a worker in a topic; None if nothing was ever written for it."""
    topic, worker = slot
    found = log.committed(group_of(job, sink, worker), topic, 0)
    return None if found is None else Standing.read(found[1])


def standings_of(log: Log, job: str, sink: str) -> dict[Slot, Standing]:
    """The markers of all workers in all topics that this sink has ever written to."""
    first = group_of(job, sink)
    found: dict[Slot, Standing] = {}
    for known in log.groups():
        worker = "0" if known.group == first else known.group.removeprefix(f"{first}/")
        # Names of jobs and sinks have no slash.
        if worker.isdecimal() and known.group == group_of(job, sink, int(worker)):
            found |= {(topic, int(worker)): Standing.read(note) for (topic, _), (_, note, _) in known.offsets.items()}
    return found


def jobs_of(log: Log, sink: str, topic: str) -> list[str]:
    """Jobs with a sink of this name that has written to a topic."""
    found = []
    for known in log.groups():
        # Names of jobs and sinks have no slash.
        prefix, *names = known.group.split("/")
        if prefix == "onceflow" and names[1:2] == [sink] and any(name == topic for name, _ in known.offsets):
            found.append(names[0])
    return found
