"""What a user must hear of while the job goes on."""

from __future__ import annotations

__all__ = [
    "DamagedCheckpointWarning",
    "FinishedJobWarning",
    "GroupOffsetsWarning",
    "LateRecordsWarning",
    "MissingOutputWarning",
    "NewPartitionsWarning",
    "OnceflowWarning",
    "RefusedRecordsWarning",
    "RepeatedOutputWarning",
    "RestartWarning",
    "SinkWaitingWarning",
    "SourceWaitingWarning",
    "UnknownTopicWarning",
]


class OnceflowWarning(UserWarning):
    """Base of all warnings of this package."""


class UnknownTopicWarning(OnceflowWarning):
    """A consumer has subscribed to a topic that does not exist, and reads nothing of it until somebody creates it."""


class LateRecordsWarning(OnceflowWarning):
    """Records come too late for their windows and are left out, since nothing takes ``flow.late(step_id)``.

    Warned of once a run and step; ``JobResult.late`` counts them.
    """


class DamagedCheckpointWarning(OnceflowWarning):
    """A recovery found damaged checkpoints and worked around them; the output is exact, the disk may not be."""


class MissingOutputWarning(OnceflowWarning):
    """The output of the checkpoint that a job goes on from, on purpose, is not where it was written."""


class RefusedRecordsWarning(OnceflowWarning):
    """A target refuses records, and its sink was told to skip them.

    Warned of once a run and sink; ``JobResult.refused`` counts them.
    """


class RepeatedOutputWarning(OnceflowWarning):
    """A job goes back on purpose, and what a sink holds from after that point stays there and is written again.

    Raised before any sink is touched: as an error it stops the run with nothing changed.
    """


class RestartWarning(OnceflowWarning):
    """A run failed and is begun again from its newest checkpoint, as its restart policy says.

    Warned of at each failure; ``JobResult.restarts`` counts them.
    """


class FinishedJobWarning(OnceflowWarning):
    """A job that had finished was run again: nothing was read or written, whatever may have changed since."""


class NewPartitionsWarning(OnceflowWarning):
    """A topic has got partitions during a run that ends with what was there when it began: it reads nothing of them."""


class SourceWaitingWarning(OnceflowWarning):
    """A source has been waiting for a while: nobody answers, or something holds back what it reads."""


class SinkWaitingWarning(OnceflowWarning):
    """A sink has been waiting for a while for its target to answer; nothing is lost meanwhile. Said again now and then,
    and when the target is back."""


class GroupOffsetsWarning(OnceflowWarning):
    """The offsets of a consumer group do not follow the checkpoints of a job; its output is not concerned."""
