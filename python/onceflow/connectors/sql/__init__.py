"""Tables of databases that SQLAlchemy reaches as a sink (extra ``sql``)."""

from onceflow.connectors.sql.sink import SqlSink

__all__ = ["SqlSink"]
