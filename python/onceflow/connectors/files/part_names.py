"""The names in the directory of a file sink, and what they say; ``part_directory`` shows them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

__all__ = ["Output", "PartName", "Run", "Staging", "newest_name", "read_names", "staged_name", "worker_tag"]

_FENCE = re.compile(r"epoch-(\d+)-(\d+)-([0-9a-f]+)")
_NEWEST = re.compile(r"newest-(\d+)-(\d+)(?:_w(\d+))?")
#: Older versions left out the lineage of an open file, and the job epoch of a staged one.
_OPEN = re.compile(r"open-(?:(\d+)-)?(\d+)-\d+(?:_w\d+)?(?:\..*)?")
_STAGED = re.compile(r"staged-(\d+)-(?:(\d+)-)?\d+(?:_w\d+)?(?:_\d+)?(?:\..*)?")
_NAME = re.compile(r"(\d+)-(\d+)(?:_w(\d+))?((?:_\d+)?(?:\.[^/]*)?)")


@dataclass(frozen=True, slots=True, order=True)
class Run:
    """Who may write: of two runs the higher one."""

    lineage: int
    epoch: int
    token: str


@dataclass(slots=True)
class Staging:
    """What is in ``.onceflow``."""

    runs: list[Run] = field(default_factory=list)
    #: Worker → (lineage, checkpoint) of the newest output of it that was made visible.
    newest: dict[int, tuple[int, int]] = field(default_factory=dict)
    #: Name → (lineage, job epoch) of the run that made it; 0 where an older version did not say.
    left: dict[str, tuple[int, int]] = field(default_factory=dict)
    #: Names that only say something by being the highest of their kind: of runs, and of each worker's output.
    fences: dict[str, tuple[int, int]] = field(default_factory=dict)
    marks: dict[str, tuple[int, tuple[int, int]]] = field(default_factory=dict)

    @property
    def newest_of_all(self) -> tuple[int, int]:
        """Of the newest output of any worker."""
        return max(self.newest.values(), default=(0, 0))


@dataclass(frozen=True, slots=True)
class Output:
    """What a worker has written for a checkpoint."""

    lineage: int
    checkpoint: int
    worker: int = 0

    @property
    def rank(self) -> tuple[int, int]:
        """Of two outputs of a worker the later one has the higher."""
        return self.lineage, self.checkpoint


@dataclass(frozen=True, slots=True)
class PartName:
    """The name of a part file without what tells staged from visible: ``0001-000000000042.csv``."""

    output: Output
    ending: str

    def __str__(self) -> str:
        return f"{self.output.lineage:04d}-{self._rest()}"

    def of_run(self, epoch: int) -> str:
        """The same with the job epoch of who wrote it."""
        return f"{self.output.lineage:04d}-{epoch:012d}-{self._rest()}"

    def _rest(self) -> str:
        return f"{self.output.checkpoint:012d}{worker_tag(self.output.worker)}{self.ending}"

    @classmethod
    def parse(cls, text: object) -> PartName | None:
        """None if it is none."""
        found = _NAME.fullmatch(text) if isinstance(text, str) else None
        return None if found is None else cls(Output(int(found[1]), int(found[2]), int(found[3] or 0)), found[4])


def read_names(names: Iterable[str]) -> Staging:
    """What the names in ``.onceflow`` say."""
    found = Staging()
    for name in names:
        if match := _FENCE.fullmatch(name):
            found.runs.append(Run(int(match[1]), int(match[2]), match[3]))
            found.fences[name] = (int(match[1]), int(match[2]))
        elif match := _NEWEST.fullmatch(name):
            worker, rank = int(match[3] or 0), (int(match[1]), int(match[2]))
            found.marks[name] = (worker, rank)
            found.newest[worker] = max(rank, found.newest.get(worker, rank))
        elif match := _OPEN.fullmatch(name) or _STAGED.fullmatch(name):
            found.left[name] = (int(match[1] or 0), int(match[2] or 0))
    return found


def worker_tag(worker: int) -> str:
    """What a worker adds to the names of its files; the first one nothing, as when there was only one."""
    return f"_w{worker:04d}" if worker else ""


def staged_name(name: PartName, epoch: int | None) -> str:
    """Of a prepared part; an older version did not say whose it is."""
    return f"staged-{name}" if epoch is None else f"staged-{name.of_run(epoch)}"


def newest_name(output: Output) -> str:
    """Says that the output of a worker is visible up to this one."""
    return f"newest-{output.lineage:04d}-{output.checkpoint:012d}{worker_tag(output.worker)}"
