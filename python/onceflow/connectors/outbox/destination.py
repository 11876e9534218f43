"""What the writer of an outbox needs to know of its target, and has done by it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from onceflow.connectors.outbox.marker import Slot, Standing
from onceflow.connectors.outbox.staged import Place, Staged
from onceflow.types import Batch, Plain

__all__ = ["Destination", "Standings", "Words"]

Part = TypeVar("Part")

#: All markers of a sink.
Standings = Mapping[Slot, Standing]


@dataclass(frozen=True, slots=True)
class Words:
    """How messages name what a person has to do with.

    Attributes:
        store: What a backup is put back of: "the log".
        thing: What can be deleted, so that the output begins anew: "the topic".
        own: What another job could be given: "a topic of its own".
        apart: Another way than other names by which two sinks of one name have markers apart: ", or ...".
    """

    store: str
    thing: str
    own: str
    apart: str = ""


class Destination(ABC, Generic[Part]):
    """A target, as one writer sees it."""

    words: Words
    #: A marker cannot be lost, or go back, while the output that it is about stays: they lie in one place.
    markers_are_with_output: bool = True

    @abstractmethod
    def where(self, place: str) -> str:
        """A place in words."""

    @abstractmethod
    def markers_of(self, job: str) -> str:
        """The markers of a job with a sink of this name, and how to delete them: "the markers of 'job/sink'"."""

    def elsewhere(self, place: str) -> str:
        """In words the target that the markers of a place are about, where this sink writes to another one now."""
        return "" if place == self.place().name else self.where(place)

    @abstractmethod
    def place(self) -> Place:
        """Where new output goes."""

    @abstractmethod
    def number_of(self, place: str) -> int:
        """The number of a place now; of a missing one it is above all."""

    @abstractmethod
    def standings(self) -> dict[Slot, Standing]:
        """All markers of this sink."""

    def jobs(self) -> Iterable[str]:
        """Jobs that keep markers of a sink of this name for the place where new output goes, as far as the target
        tells; for ``Checks.check_division``."""
        return ()

    def settled(self) -> bool:
        """Whether ``standings`` has all that may be there: False while something of an earlier run may still show."""
        return True

    @abstractmethod
    def make(self) -> None:
        """Called when this run may write: makes what is missing."""

    @abstractmethod
    def fence(self, judge: Callable[[Standings], Mapping[Slot, int]]) -> None:
        """Shuts older runs out for good.

        Args:
            judge: Raises if this run may not write, also because of a marker that has changed meanwhile; says up to
                which checkpoint the output of each slot stands.
        """

    @abstractmethod
    def standing(self, slot: Slot) -> Standing:
        """A marker, if it is this run that writes.

        Raises:
            FencedError: It is another one.
            SinkError: The target does not know this job any more.
        """

    @abstractmethod
    def write(self, parts: list[Part], records: Batch) -> int:
        """Appends records to parts as they are to be staged; returns how many bytes that adds, about."""

    def stage(self, parts: list[Part]) -> None:
        """Brings parts into the form that the decision record keeps, off the job's thread; nothing is added later."""

    @abstractmethod
    def wall_ms(self) -> int:
        """The time that is noted for what is staged."""

    @abstractmethod
    def check(self, staged: Staged[list[Part]]) -> None:
        """Refuses, before the decision, what the target would refuse after it."""

    def handle(self, staged: Staged[list[Part]]) -> Plain:
        """What the decision record keeps: bytes, or a list of bytes, which is joined there."""
        return msgspec.msgpack.encode(staged)

    @abstractmethod
    def read(self, handle: Any) -> Staged[list[Part]]:
        """What was staged, of what ``handle`` has given; raises what msgspec does, or TypeError."""

    @abstractmethod
    def apply(self, staged: Staged[list[Part]], checkpoint_id: int, is_due: Callable[[], bool]) -> None:
        """Writes output and marker in one transaction, if ``is_due`` says so right before it."""

    @abstractmethod
    def close(self) -> None:
        """Releases the target."""
