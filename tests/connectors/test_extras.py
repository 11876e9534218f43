"""Libraries that belong to an extra and are missing: said in the same words by all, when a source or a sink is made.

Of PostgreSQL it is said when the module is imported.
"""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest

import onceflow
from onceflow.cli.export import write_arrow
from onceflow.connectors.extras import require
from onceflow.connectors.files import ArrowIpcSource, CsvSource, ParquetSink, ParquetSource
from onceflow.connectors.http import HttpSink
from onceflow.connectors.kafka import AvroCodec, KafkaPlainSink, KafkaSink, KafkaSource, ProtobufCodec
from onceflow.connectors.log import LogSource
from onceflow.connectors.postgres import PostgresChanges
from onceflow.connectors.redis import RedisSink, RedisStreamSink, RedisStreamSource, RedisUpsertSink
from onceflow.connectors.sql import SqlSink
from onceflow.exceptions import MissingExtraError
from onceflow.metrics import JobMetrics

DSN, URL, BROKER = "postgresql://user@127.0.0.1:1/db", "redis://127.0.0.1:1/0", "127.0.0.1:1"


def import_anew(name):
    """A module as it is imported for the first time."""
    importlib.reload(importlib.import_module(name))


#: What is made, the library that it needs, and the extra that brings it.
NEEDS = [
    ("log columns", "pyarrow", "arrow", lambda: LogSource("log", "topic", as_columns=True)),
    ("csv columns", "pyarrow", "arrow", lambda: CsvSource("in.csv", as_columns=True)),
    ("parquet source", "pyarrow", "arrow", lambda: ParquetSource("in.parquet")),
    ("ipc source", "pyarrow", "arrow", lambda: ArrowIpcSource("in.arrow")),
    ("parquet sink", "pyarrow", "arrow", lambda: ParquetSink("out")),
    ("arrow of a dump", "pyarrow", "arrow", lambda: write_arrow(None, None, 1, None)),
    ("kafka source", "confluent_kafka", "kafka", lambda: KafkaSource(BROKER, "t")),
    ("kafka sink", "confluent_kafka", "kafka", lambda: KafkaSink(BROKER, "t")),
    ("kafka plain sink", "confluent_kafka", "kafka", lambda: KafkaPlainSink(BROKER, "t")),
    ("avro", "confluent_kafka.schema_registry.avro", "schema-registry", lambda: AvroCodec(None)),
    ("protobuf", "confluent_kafka.schema_registry.protobuf", "schema-registry", lambda: ProtobufCodec(None)),
    ("postgres", "psycopg", "postgres", lambda: import_anew("onceflow.connectors.postgres")),
    ("postgres retries", "tenacity", "postgres", lambda: import_anew("onceflow.connectors.postgres")),
    ("postgres changes", "psycopg2", "postgres-changes", lambda: PostgresChanges(DSN, "slot")),
    ("redis", "redis", "redis", lambda: RedisSink(URL, key="k")),
    ("redis upserts", "redis", "redis", lambda: RedisUpsertSink(URL, key="k")),
    ("redis stream sink", "redis", "redis", lambda: RedisStreamSink(URL, "s")),
    ("redis stream", "redis", "redis", lambda: RedisStreamSource(URL, "s")),
    ("http", "httpx", "http", lambda: HttpSink("http://127.0.0.1:1")),
    ("http retries", "tenacity", "http", lambda: HttpSink("http://127.0.0.1:1")),
    ("sql", "sqlalchemy", "sql", lambda: SqlSink("sqlite:///some.db", "t")),
    ("sql retries", "tenacity", "sql", lambda: SqlSink("sqlite:///some.db", "t")),
    ("metrics", "prometheus_client", "metrics", lambda: JobMetrics("job")),
]


@pytest.mark.parametrize(("module", "extra", "make"), [need[1:] for need in NEEDS], ids=[need[0] for need in NEEDS])
def test_missing_library_is_named_with_its_extra(monkeypatch, module, extra, make):
    """Kind: a connector without its library says so when a job already runs, or not what to install."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"\w needs \w.*: pip install 'onceflow\[{extra}\]' \("):
        make()


def test_each_extra_is_one_of_the_package():
    """Kind: advice to install an extra that there is not."""
    extras = set(re.findall(r"^([a-z-]+) = \[", _optional_dependencies(), flags=re.MULTILINE))
    # Without cloudpickle most flows can be sent to workers all the same; which step cannot is told.
    assert {extra for _, _, extra, _ in NEEDS} == extras - {"workers"}


def _optional_dependencies():
    text = (Path(onceflow.__file__).parents[2] / "pyproject.toml").read_text()
    return text.partition("[project.optional-dependencies]")[2].partition("\n[")[0]


def test_module_within_a_library():
    """What is asked for is the module itself, not the package that it lies in."""
    assert require("pyarrow.parquet", extra="arrow", purpose="a test").__name__ == "pyarrow.parquet"
