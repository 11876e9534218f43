"""How much faster than a library for durable execution, from a topic of Kafka into a table of PostgreSQL, exactly once?

Each message is a row that is upserted by its key: on one broker and one server on this machine, by a job that commits
once in a second, and by DBOS's consumer of Kafka, where each message is a workflow with one transaction.
"""

from __future__ import annotations

import itertools
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench_postgres import make_table, rows

import onceflow as of
from harness.figures import Goal, Table
from harness.peers import Peer, PeerUnavailableError
from harness.rounds import interleave, median
from onceflow.connectors.kafka import KafkaSource
from onceflow.connectors.postgres import PostgresSink

MESSAGES = 500_000
INTERVAL_S = 1.0
#: So many times faster.
FASTER = 100.0
PACKAGES = ["dbos", "psycopg[binary]", "confluent-kafka"]

TABLE = Table(
    "durable_execution",
    "From a topic of Kafka into a table of PostgreSQL, exactly once",
    {"what": "text", "rate": "rate", "onceflow is faster by": "times"},
    "Medians of rounds that take turns, against one broker and one server. A message is a JSON object, and one row "
    "that is upserted. onceflow: from the start of the job to its last commit, with a checkpoint each second. DBOS: "
    "messages that its Kafka consumer has done in ten seconds, from the first one on, each in one transaction with "
    "the record that it was done.",
)

_numbers = itertools.count()


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """DSN, and address of a broker."""
    from kafka_log import kafka_broker  # noqa: PLC0415 - of the services' benchmarks alone
    from services.postgres import PostgresServer  # noqa: PLC0415 - as above

    with PostgresServer() as postgres, kafka_broker(tmp_path_factory.mktemp("kafka")) as broker:
        yield postgres.dsn, broker.bootstrap


def fill(bootstrap: str, messages: int) -> str:
    """A topic with rows, as JSON."""
    from kafka_log import KafkaLog  # noqa: PLC0415 - as above

    log, topic = KafkaLog(bootstrap), f"rows-{next(_numbers)}"
    log.create_topic(topic)
    producer = log.producer(topic, transactional=False)
    values = [json.dumps(row).encode() for row in rows(messages)]
    for first in range(0, messages, 10_000):
        producer.produce_many(values[first : first + 10_000])
        producer.flush()
    producer.close()
    return topic


def job_rate(dsn: str, bootstrap: str, topic: str, directory: Path) -> float:
    """Messages a second of a job that reads all of a topic."""
    make_table(dsn, "upsert")
    shutil.rmtree(directory, ignore_errors=True)
    flow = of.Dataflow("upserts")
    source = KafkaSource(bootstrap, topic, decode="json")
    flow.source("in", source).sink("out", PostgresSink(dsn, "rows", mode="upsert", key="id"))
    start = time.perf_counter()
    result = of.run(flow, directory, checkpoint_interval_s=INTERVAL_S, guarantee="exactly_once")
    return result.records_in / (time.perf_counter() - start)


def dbos_rate(peer: Peer, dsn: str, bootstrap: str, topic: str, seconds: float) -> float:
    """Messages a second of DBOS."""
    make_table(dsn, "upsert")
    found = peer.run("dbos_upserts.py", dsn, bootstrap, topic, str(seconds), timeout_s=60 + 2 * seconds)
    return float(found["rate"])


def test_rate_of_upserts(benchmark, record, scale, directory, servers):
    dsn, bootstrap = servers
    full = scale.name == "full"
    topic = fill(bootstrap, MESSAGES if full else 5_000)
    contenders = {"onceflow": lambda: job_rate(dsn, bootstrap, topic, directory / "job")}
    try:
        peer = Peer("dbos", PACKAGES)
    except PeerUnavailableError as error:
        print(error)
        peer = None
    else:
        name = f"DBOS {peer.version('dbos')}"
        # Its group goes on behind what it did before.
        contenders[name] = lambda: dbos_rate(
            peer, dsn, bootstrap, fill(bootstrap, 20_000 if full else 2_000), scale.seconds(10.0, least=1.0)
        )
    found = interleave(benchmark, contenders, min(scale.rounds, 3))
    record(TABLE, {"what": "onceflow", "rate": median(found["onceflow"])})
    if peer is None:
        record(TABLE, {"what": "DBOS (cannot be installed here)"})
        return
    faster = median([one / other for one, other in zip(found["onceflow"], found[name], strict=True)])
    values = {"what": name, "rate": median(found[name]), "onceflow is faster by": faster}
    record(TABLE, values, Goal("onceflow is faster by", FASTER))
