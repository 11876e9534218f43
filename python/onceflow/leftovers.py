"""What a dead job left behind in the systems that it read and wrote: the words of ``Source.leftovers`` and
``Sink.leftovers``.

A run of the job finds and resolves all of it by itself. It matters where no run will come soon, or ever: a directory
fills, an open transaction holds readers up, a server keeps its log for a slot that nobody reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from onceflow.clock import Clock, SystemClock
from onceflow.sinks import Committable
from onceflow.types import Plain

__all__ = ["Fate", "Leftover", "LeftoverContext", "SourceLeftoverContext"]

#: ``"removable"``: nothing needs it, and it can be resolved. ``"decided"``: output that the next run makes visible.
#: ``"kept"``: somebody else's, or needed, or it cannot be known that it is not. The last two are never touched.
Fate: TypeAlias = Literal["removable", "decided", "kept"]


@dataclass(frozen=True, slots=True)
class Leftover:
    """One thing that was left. Nothing in it is a secret.

    Attributes:
        fate: See ``Fate``.
        subject: What it is: ``file out/.onceflow/open-0001-000000000007-3.csv``.
        text: Where it comes from, and what becomes of it.
        resolve: Of what is removable: removes it, also if it is gone already. Called only while the state directory of
            the job is owned, with a job epoch above all that have left something. Raises what the system does.
    """

    fate: Fate
    subject: str
    text: str
    resolve: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True)
class LeftoverContext:
    """Who looks for what was left of a sink, and what the job's state knows.

    Attributes:
        job: Name of the dataflow.
        sink: Step id of the sink.
        state_id: Identity of the state directory.
        job_epoch: Of the newest run that may have left something. What a newer one has is of a newer state.
        decided: Of all checkpoints of the state, what was staged for this sink: none of it may be touched. Empty for
            sinks that are not transactional.
        complete: Whether all checkpoints could be read; else it is not known what was decided, and nothing may be.
        known_sinks: Of the dataflow and of all its checkpoints.
        clock: Where the time comes from.
        dropped_sinks: Of the known ones, those that only checkpoints have.
    """

    job: str
    sink: str
    state_id: str
    job_epoch: int
    decided: tuple[Committable, ...] = ()
    complete: bool = True
    known_sinks: frozenset[str] = frozenset()
    clock: Clock = field(default_factory=SystemClock)
    dropped_sinks: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class SourceLeftoverContext:
    """Who looks for what was left of a source, and what the job's state knows.

    Attributes:
        job: Name of the dataflow.
        source: Step id of the source.
        state_id: Identity of the state directory.
        positions: Of each checkpoint of the state that has the source, oldest first: its positions by partition. A run
            may resume from any of them.
        complete: Whether all checkpoints could be read; else others may have positions as well.
        known_sources: Of the dataflow and of all its checkpoints.
        clock: Where the time comes from.
    """

    job: str
    source: str
    state_id: str
    positions: tuple[Mapping[str, Plain], ...] = ()
    complete: bool = True
    known_sources: frozenset[str] = frozenset()
    clock: Clock = field(default_factory=SystemClock)
