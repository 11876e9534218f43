"""Exactly once into a target that has transactions but no two phases, such as a database.

Derive from ``OutboxTarget``, which says by three methods how output and markers reach the target in one transaction,
and give it to ``OutboxSink``.
"""

from onceflow.connectors.outbox.marker import Marker
from onceflow.connectors.outbox.sink import OutboxSink
from onceflow.connectors.outbox.target import OutboxTarget

__all__ = ["Marker", "OutboxSink", "OutboxTarget"]
