"""PostgreSQL: tables as sinks. Needs ``pip install 'onceflow[postgres]'``."""

from onceflow.connectors.extras import require

require("psycopg", extra="postgres", purpose="onceflow.connectors.postgres")
require("tenacity", extra="postgres", purpose="onceflow.connectors.postgres")

from onceflow.connectors.postgres.sink import PostgresSink  # noqa: E402 - the error above says what to install

__all__ = ["PostgresSink"]
