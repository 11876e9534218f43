"""HTTP: each record is a request with an ``Idempotency-Key``. Needs ``onceflow[http]``."""

from onceflow.connectors.http.sink import HttpSink

__all__ = ["HttpSink"]
