"""Which server it is, and which history of it: after a failover the old one may come back and take writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import psycopg
from psycopg.rows import tuple_row

from onceflow.exceptions import SinkError
from onceflow.types import Plain

__all__ = ["Histories", "Identity", "identity_of"]

_IDENTITY = """
select s.system_identifier::text, ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int,
       s.system_identifier::text || '/' || d.oid
  from pg_control_system() s, pg_catalog.pg_database d where d.datname = current_database()
"""


class Identity(msgspec.Struct, frozen=True):
    """Attributes:
    system: The server's identifier, the same of all replicas; empty where it is not told.
    timeline: Raised by each promotion of a replica.
    database: The database within it.
    """

    system: str = ""
    timeline: int = 0
    database: str = ""


def identity_of(session: psycopg.Connection[Any]) -> Identity:
    """Of the server that a session has come to.

    Raises:
        SinkError: It is a replica, or too old.
    """
    if session.info.server_version < 130000:
        raise SinkError(f"PostgreSQL is of version {session.info.server_version}; 13 is the first that can be written")
    with session.cursor(row_factory=tuple_row) as cursor:
        (replica,) = cursor.execute("select pg_is_in_recovery()").fetchone() or (False,)
        if replica:
            raise psycopg.errors.ReadOnlySqlTransaction("this server is a replica and takes no writes")
        try:
            row = cursor.execute(_IDENTITY).fetchone()
        except (psycopg.errors.InsufficientPrivilege, psycopg.errors.FeatureNotSupported):
            # A managed service that does not tell.
            row = None
    return Identity(*row) if row else Identity()


@dataclass(slots=True)
class Histories:
    """The newest that is known; older ones are refused."""

    newest: Identity

    @classmethod
    def restored(cls, state: Plain) -> Histories:
        """From what a checkpoint has kept."""
        kept: Any = state.get("server") if isinstance(state, dict) else None
        try:
            return cls(msgspec.convert(kept, Identity))
        except msgspec.ValidationError:
            return cls(Identity())

    def meet(self, found: Identity, shown: str) -> None:
        """Takes note of a server.

        Raises:
            SinkError: It has been replaced by a replica of it, in which the output has gone on.
        """
        if found.system and found.system == self.newest.system and found.timeline < self.newest.timeline:
            raise SinkError(
                f"PostgreSQL {shown} is on timeline {found.timeline}, and the output went on in timeline "
                f"{self.newest.timeline} of the same server: this one was replaced by a replica, and what is written "
                "here is lost. Connect to the one that has replaced it"
            )
        self.newest = found
