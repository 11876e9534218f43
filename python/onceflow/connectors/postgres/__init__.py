"""PostgreSQL: tables as sinks and sources. Needs ``pip install 'onceflow[postgres]'``."""

from onceflow.connectors.extras import require

require("psycopg", extra="postgres", purpose="onceflow.connectors.postgres")
require("tenacity", extra="postgres", purpose="onceflow.connectors.postgres")

from onceflow.connectors.postgres.changes import PostgresChanges  # noqa: E402 - the error above says what to install
from onceflow.connectors.postgres.sink import PostgresSink  # noqa: E402
from onceflow.connectors.postgres.source import PostgresSource  # noqa: E402

__all__ = ["PostgresChanges", "PostgresSink", "PostgresSource"]
