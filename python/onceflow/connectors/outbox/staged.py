"""Output on its way into a target, as the decision record keeps it, and what a checkpoint keeps of it."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec

from onceflow.connectors.outbox.marker import Slot
from onceflow.types import Plain

__all__ = ["Place", "Staged", "Written"]

Parts = TypeVar("Parts")


class Place(msgspec.Struct, frozen=True):
    """Where in a target output goes; a target that has one place only leaves all of it empty.

    Attributes:
        name: Such as a topic's.
        number: Rises where a place is deleted and made anew under its name.
        target: Identity of the target.
    """

    name: str = ""
    number: int = 0
    target: str = ""


class Staged(msgspec.Struct, Generic[Parts], array_like=True):
    """The output of one checkpoint.

    Attributes:
        place: Name of where it goes.
        number: Of the place.
        run: Of the job that staged it.
        staged_ms: When, by the wall clock.
        parts: The records, in order, as the target takes them.
        after: The checkpoint whose output was the worker's newest there then; None where an older version did not say.
        lineage: Of that run; None where an older version did not say.
        target: Identity of the target; empty where it has none, or an older version did not say.
        worker: Who staged it.
    """

    place: str
    number: int
    run: str
    staged_ms: int
    parts: Parts
    after: int | None = None
    lineage: int | None = None
    target: str = ""
    worker: int = 0

    @property
    def slot(self) -> Slot:
        """Where the marker of it lies."""
        return self.place, self.worker


class Written(msgspec.Struct, frozen=True):
    """What a checkpoint keeps of a sink, so that a target which has gone back is noticed.

    Attributes:
        target: Identity of the target.
        place: Name of where it wrote.
        number: Of the place.
        lineage: Of the run.
        newest: The newest checkpoint that has output there, once this one is committed; 0 if none.
        worker: Whose output it is.
    """

    target: str
    place: str
    number: int
    lineage: int
    newest: int
    worker: int = 0

    @classmethod
    def read(cls, learnt: Plain) -> Written | None:
        """What a checkpoint has kept; None if it has nothing, or something of another kind of sink."""
        # The first version was of logs and topics only.
        fields: Any = learnt
        if isinstance(fields, dict) and "topic" in fields:
            fields = {**fields, "target": fields.get("log"), "place": fields["topic"]}
        try:
            return msgspec.convert(fields, cls)
        except msgspec.ValidationError:
            return None
