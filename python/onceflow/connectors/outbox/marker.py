"""What a target keeps beside the output: who may write, and up to which checkpoint each worker's output is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from onceflow.exceptions import FencedError, SinkError

__all__ = ["FENCE", "Marker", "Slot", "Standing"]

#: The worker of a marker that is of no worker, but says which run may write.
FENCE: Final = -1

#: Of so many lineages that were left a marker says how far they came.
_KEPT_LINEAGES = 8

#: Where a marker lies: the name of a place in the target (empty if there is only one), and whose output it is about.
Slot = tuple[str, int]


class Standing(msgspec.Struct, frozen=True):
    """Attributes:
    job_epoch: Of the run that wrote it.
    run: Tells that run from any other, also of a copy of the job's state.
    checkpoint: The newest one of the lineage whose output is there; 0 if there is none.
    lineage: Of that run; None where an older version did not say.
    state: Identity of the run's state directory; empty where it is not known.
    left: Lineages that have written here before → the newest checkpoint of each whose output is there, as many as are
        kept; older versions kept none.
    """

    job_epoch: int
    run: str
    checkpoint: int
    lineage: int | None = None
    state: str = ""
    left: dict[int, int] = {}

    def newest_of(self, lineage: int | None) -> int | None:
        """The newest checkpoint of a lineage whose output is there; None if it has none, or that is not known."""
        if lineage is None:
            return None
        return self.checkpoint if self.lineage == lineage else self.left.get(lineage)

    def left_by(self, lineage: int) -> dict[int, int]:
        """What a marker of a lineage keeps of those before it."""
        if self.lineage is None or self.lineage == lineage:
            return self.left
        left = {**self.left, self.lineage: self.checkpoint}
        return {number: left[number] for number in sorted(left)[-_KEPT_LINEAGES:]}

    def text(self) -> str:
        """As it is kept."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def read(cls, text: str | bytes) -> Standing:
        """What ``text`` gave.

        Raises:
            SinkError: It is damaged.
        """
        try:
            return msgspec.json.decode(text, type=cls)
        except msgspec.DecodeError as error:
            raise SinkError(f"a marker in the target is damaged: {text!r}: {error}") from error


@dataclass(frozen=True, slots=True)
class Marker:
    """What a target keeps in the transaction that it is about: ``text`` under ``owner`` and ``key``.

    There is one of each worker, which says what was applied, and one that says which run may write: the fence.

    Attributes:
        job: Name of the dataflow.
        sink: Step id of the sink.
        worker: Number of the worker whose output it is about, which need not be the one that applies it; -1 for the
            fence.
        lineage: Timeline of the job.
        checkpoint: Whose output is applied; 0 for the fence.
        job_epoch: Of the run.
        run: Identity of the run.
        state: Identity of the job's state directory.
        left: See ``Standing``.
    """

    job: str
    sink: str
    worker: int
    lineage: int
    checkpoint: int
    job_epoch: int
    run: str
    state: str
    left: Mapping[int, int] = field(default_factory=dict)

    @property
    def owner(self) -> str:
        """Job and sink, with a slash between them: two sinks of a job, or two jobs, may share a target."""
        return f"{self.job}/{self.sink}"

    @property
    def key(self) -> str:
        """Which of the owner's markers it is: ``fence``, ``worker-0``, ``worker-1`` and so on."""
        return key_of(self.worker)

    @property
    def text(self) -> str:
        """What is to be kept: JSON, below 600 bytes."""
        left = dict(self.left)
        return Standing(self.job_epoch, self.run, self.checkpoint, self.lineage, self.state, left).text()

    def is_due(self, kept: Mapping[str, str]) -> bool:
        """Whether this is to be applied, and kept: asked in the transaction that does so.

        Args:
            kept: Key → text of the owner's markers, as that transaction reads them.

        Returns:
            False if it was applied before: then nothing is to be changed.

        Raises:
            FencedError: Another run may write to the target, and this one must stop.
            SinkError: The markers were deleted, or are damaged.
        """
        fence = None if (text := kept.get(key_of(FENCE))) is None else Standing.read(text)
        if self.worker == FENCE:
            if fence is not None and (fence.lineage or 0, fence.job_epoch) > (self.lineage, self.job_epoch):
                raise self._fenced(fence)
            return True
        if fence is None:
            raise SinkError(
                f"the target does not know sink {self.owner!r} any more: its markers were deleted. Run the job again"
            )
        if fence.run != self.run:
            raise self._fenced(fence)
        text = kept.get(self.key)
        there = None if text is None else Standing.read(text)
        return there is None or there.lineage != self.lineage or there.checkpoint < self.checkpoint

    def _fenced(self, fence: Standing) -> FencedError:
        return FencedError(
            f"another run of job {self.job!r}, with epoch {fence.job_epoch} of lineage {fence.lineage}, writes to the "
            f"target of sink {self.sink!r}; this process has epoch {self.job_epoch} of lineage {self.lineage} and "
            "must stop",
            epoch=self.job_epoch,
            newer_epoch=fence.job_epoch,
        )


def key_of(worker: int) -> str:
    """See ``Marker.key``."""
    return "fence" if worker == FENCE else f"worker-{worker}"


def worker_of(key: str) -> int:
    """The worker of a key.

    Raises:
        SinkError: It is none.
    """
    number = key.removeprefix("worker-")
    if key == "fence":
        return FENCE
    if not number.isdecimal():
        raise SinkError(f"{key!r} is not the key of a marker: read_markers() gives what fence() and apply() have kept")
    return int(number)
