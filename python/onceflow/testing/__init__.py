"""Sources and sinks for tests of dataflows and of your own connectors; ``histories`` for tests of logs."""

from onceflow.testing.contracts import (
    IdempotentSinkContract,
    PlainSinkContract,
    SourceContract,
    TransactionalSinkContract,
)
from onceflow.testing.sinks import IdempotentTestingSink, PlainTestingSink, TransactionalTestingSink
from onceflow.testing.sources import ABORT, EOF, PAUSE, AbortedError, TestingSource

__all__ = [
    "ABORT",
    "EOF",
    "PAUSE",
    "AbortedError",
    "IdempotentSinkContract",
    "IdempotentTestingSink",
    "PlainSinkContract",
    "PlainTestingSink",
    "SourceContract",
    "TestingSource",
    "TransactionalSinkContract",
    "TransactionalTestingSink",
]
