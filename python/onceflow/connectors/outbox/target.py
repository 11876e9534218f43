"""What a user writes to put a target behind an outbox."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

from onceflow.connectors.outbox.marker import Marker
from onceflow.exceptions import SinkError

__all__ = ["OutboxTarget"]


class OutboxTarget(ABC):
    """A target that can write records and markers in one transaction.

    ``fence`` and ``apply`` each are one transaction, which must be *serializable*: the markers that it reads must not
    be changed by another transaction before it commits (``BEGIN IMMEDIATE`` in SQLite, ``SERIALIZABLE`` or a row lock
    on the owner's fence elsewhere). When they return, it is committed and durable. When they raise, nothing has
    changed, or nobody knows: the job ends, and the next run reads the markers.

    Called on the job's thread and on the checkpoint thread, one call at a time: a client that belongs to one thread
    must be told not to mind (``sqlite3.connect(..., check_same_thread=False)``).

    What they raise stops the job, with its cause.

    Attributes:
        shown: Where its markers lie, for messages, without secrets: a database, but not its table. Empty: it is not
            told.
    """

    shown: str = ""

    @abstractmethod
    def read_markers(self, owner: str) -> Mapping[str, str]:
        """Key → text of all markers that are kept for an owner; nothing if there is none. Changes nothing."""

    @abstractmethod
    def fence(self, marker: Marker) -> None:
        """Shuts older runs out: in one transaction, if ``marker.is_due(self.read_markers(marker.owner))``, keeps
        ``marker.text`` under ``marker.owner`` and ``marker.key``, in place of what is there."""

    @abstractmethod
    def apply(self, records: list[Any], marker: Marker) -> None:
        """Writes the output of a checkpoint: in one transaction, if
        ``marker.is_due(self.read_markers(marker.owner))``, writes the records in order and keeps the marker as
        ``fence`` does. Else it changes nothing.

        Args:
            records: All that a worker has written for the checkpoint; of values that the default codec knows.
            marker: Says whose they are.
        """

    def check(self, records: list[Any]) -> None:  # noqa: B027 - optional
        """Called before the decision, after which there is no way back: raises ``SinkError`` for records that ``apply``
        would refuse. Changes nothing."""

    def owners(self) -> Iterable[str]:
        """The owners of all markers that are kept here, for ``onceflow doctor``; by default it is not told."""
        return ()

    def forget(self, owner: str) -> None:
        """Removes all markers of an owner that ``owners`` has told, in one transaction: of a sink that nobody has any
        more."""
        raise SinkError(f"{type(self).__name__} has owners() and no forget(): the markers of {owner!r} stay")

    def how_to_forget(self, owner: str) -> str:
        """For messages: how a person does what ``forget`` does, such as a statement of SQL; empty: it is not told."""
        return ""

    def close(self) -> None:  # noqa: B027 - optional
        """Releases the connection; also called where another method has raised."""
