"""A program of DBOS: each message of a Kafka topic is a workflow that upserts one row, exactly once.

``python dbos_upserts.py DSN BOOTSTRAP TOPIC SECONDS`` in an environment of its own with dbos, psycopg and
confluent-kafka; prints how many messages a second it has done, from its first one on. As its documentation has it: a
consumer of Kafka, and a datasource, whose step commits in one transaction with the record that it was done. Its queue
is asked as often as helps, and transactions are as weak as an upsert may have them.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time

import sqlalchemy as sa
from dbos import DBOS, KafkaMessage, SQLAlchemyDatasource

UPSERT = sa.text(
    "insert into rows (id, name, amount, seen) values (:id, :name, :amount, :seen) on conflict (id) do update "
    "set name = excluded.name, amount = excluded.amount, seen = excluded.seen"
)


def main(dsn: str, bootstrap: str, topic: str, seconds: str) -> None:
    """See the module."""
    DBOS(
        config={
            "name": "upserts",
            "system_database_url": dsn,
            "log_level": "ERROR",
            "kafka_queue_polling_interval_sec": 0.05,
            "sys_db_pool_size": 20,
        }
    )
    source = SQLAlchemyDatasource.create(dsn, {"pool_size": 20})
    lock = threading.Lock()
    done: list[float] = []

    @source.transaction(isolation_level="READ COMMITTED")
    def upsert(row: dict[str, object]) -> None:
        source.sql_session().execute(UPSERT, row)

    @DBOS.kafka_consumer({"bootstrap.servers": bootstrap, "group.id": f"dbos-{topic}"}, [topic])
    @DBOS.workflow()
    def work(message: KafkaMessage) -> None:
        assert message.value is not None
        upsert(json.loads(message.value))
        with lock:
            done.append(time.perf_counter())

    DBOS.launch()
    while not done:
        time.sleep(0.01)
    time.sleep(float(seconds))
    with lock:
        count, took = len(done), done[-1] - done[0]
    print(json.dumps({"rate": count / took, "count": count}), flush=True)
    # It does not wait for what it has begun.
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
