"""Libraries that belong to an extra and are missing."""

from __future__ import annotations

import sys

import pytest

from onceflow.connectors.extras import require
from onceflow.connectors.kafka.settings import client_library
from onceflow.connectors.log import LogSource
from onceflow.connectors.sql import SqlSink
from onceflow.exceptions import MissingExtraError


@pytest.mark.parametrize(
    ("module", "extra", "make"),
    [
        ("pyarrow", "arrow", lambda: LogSource("log", "topic", as_columns=True)),
        ("confluent_kafka", "kafka", client_library),
        ("sqlalchemy", "sql", lambda: SqlSink("sqlite:///some.db", "t")),
        ("tenacity", "sql", lambda: SqlSink("sqlite:///some.db", "t")),
    ],
    ids=["arrow", "kafka", "sql", "sql-retries"],
)
def test_missing_library_is_named_with_its_extra(monkeypatch, module, extra, make):
    """A connector without its library must say what to install, when it is made."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'onceflow\[{extra}\]'"):
        make()


def test_module_within_a_library():
    """What is asked for is the module itself, not the package that it lies in."""
    assert require("pyarrow.parquet", extra="arrow", purpose="a test").__name__ == "pyarrow.parquet"
