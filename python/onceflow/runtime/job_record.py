"""What a run keeps in each checkpoint about its job."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from onceflow.exceptions import ConfigurationError
from onceflow.types import Plain

__all__ = ["JOB_BLOB", "SINK_BLOB", "WATERMARKS_BLOB", "WORKER_BLOB", "JobRecord", "of_worker", "step_of"]

#: Name of its blob in a decision record.
JOB_BLOB = "job"
#: And, followed by the step id, of what a sink has learnt.
SINK_BLOB = "sink/"
#: Of how far event time had come, by source and step.
WATERMARKS_BLOB = "watermarks"

#: And, followed by its number, of where one of several workers has its part.
WORKER_BLOB = "worker/"

_FORMAT = 1


def of_worker(step_id: str, worker: int) -> str:
    """What a decision record calls what is a worker's of a sink. The first one bears no number, as when it is alone."""
    return f"{step_id}/{worker}" if worker else step_id


def step_of(name: str) -> str:
    """The step id in what ``of_worker`` made."""
    return name.partition("/")[0]


@dataclass(frozen=True, slots=True)
class JobRecord:
    """The job up to a checkpoint.

    Attributes:
        guarantee, codec, batch_size: What it was started with, and must be resumed with.
        steps: The planner's fingerprint of its dataflow.
        finished: All sources had ended: the job is over.
        counts: ``records_in``, ``records_out``, ``rejected``, ``skipped``, ``raised`` of all runs.
        late: By window step, the records of all runs that came too late.
        waited: Partitions were passed over because they had nothing to read: in which order the worker took the records
            of several partitions was a matter of time.
        settings: What the state of its steps means besides (see ``settings_of``).
        done: What of the setting ``on_change`` has been done, while it stays (see ``has_been_done``).
        workers: How many ran the job.
        agreed: By step, what it has agreed on once: types of keys, names and kinds of states (see ``Operator.agreed``).
    """

    guarantee: str
    codec: str
    batch_size: int
    steps: dict[str, str]
    finished: bool
    counts: dict[str, int]
    #: Not in the records of earlier versions, which do not know.
    waited: bool = True
    #: Nor are late records.
    late: dict[str, int] = field(default_factory=dict)
    #: Nor is this, which they kept with the steps' own state.
    agreed: dict[str, dict[str, Plain]] = field(default_factory=dict)
    #: And this, which they did not compare.
    settings: dict[str, dict[str, dict[str, str]]] = field(default_factory=dict)
    #: And this, by which a setting that stays allowed any change.
    done: list[str] = field(default_factory=list)
    #: Nor is this, when there was always one.
    workers: int = 1

    def encode(self) -> bytes:
        """The blob."""
        import msgspec  # noqa: PLC0415 - not needed by every command

        return msgspec.msgpack.encode({"format": _FORMAT, **{name: getattr(self, name) for name in self.__slots__}})

    @classmethod
    def decode(cls, blob: bytes) -> JobRecord:
        """The record in a blob.

        Raises:
            ConfigurationError: Another version of this package wrote it.
            msgspec.MsgspecError, KeyError, TypeError: It is something else.
        """
        import msgspec  # noqa: PLC0415 - not needed by every command

        job: dict[str, Any] = msgspec.msgpack.decode(blob)
        if job["format"] != _FORMAT:
            raise ConfigurationError(f"the job was written in format {job['format']}; this version reads {_FORMAT}")
        return cls(**{name: job[name] for name in cls.__slots__ if name in job})
