"""The benchmark of logs runs from end to end, on all that are compared. What the figures are is not its claim."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from embedded_log import EmbeddedLog
from log_under_test import payloads

from harness.queues import QUEUES, Queue

BENCHES = Path(__file__).parents[2] / "benches"


@pytest.mark.parametrize("kind", ["lists", "columns", *QUEUES])
def test_what_is_produced_is_what_is_read(tmp_path, kind):
    if kind in QUEUES:
        log = Queue(kind, str(tmp_path))
    else:
        log = EmbeddedLog(str(tmp_path / "log"), columns=kind == "columns")
    values = [number.to_bytes(8, "little") + value[8:] for number, value in enumerate(payloads(3_000, 100))]
    log.create_topic("t")
    producer = log.producer("t", transactional=False)
    for first in range(0, 3_000, 1_000):
        producer.produce_many(log.batch(values[first : first + 1_000]))
    producer.flush()
    producer.close()
    consumer = log.consumer("t")
    read, stamps = [], []
    while len(read) < 3_000:
        found = consumer.poll(700, 1.0)
        stamps += consumer.stamps(found).tolist()
        read += found if isinstance(found, list) else found.to_pylist()
    consumer.close()
    assert read == values
    assert stamps == list(range(3_000))
    log.delete_topic("t")


def test_a_transaction_shows_at_its_commit(tmp_path):
    log = EmbeddedLog(str(tmp_path / "log"))
    log.create_topic("t")
    producer = log.producer("t", transactional=True)
    consumer = log.consumer("t")
    producer.begin()
    producer.produce_many(log.batch([b"1", b"2"]))
    assert consumer.poll(10, 0.05) == []
    producer.commit()
    assert consumer.poll(10, 1.0) == [b"1", b"2"]
    consumer.close()
    producer.close()


def test_the_suite_gives_tables_and_a_plot(tmp_path):
    command = [sys.executable, str(BENCHES / "report.py"), "--quick", "--log"]
    command += ["--output", str(tmp_path), "--state-dir", str(tmp_path / "state")]
    ran = subprocess.run(command, check=False, capture_output=True, text=True, timeout=280)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    tables = json.loads((tmp_path / "benches" / "results" / "results.json").read_text())["tables"]
    assert set(tables) == {"log_rates", "log_transactions", "log_delivery"}
    ours = {"onceflow, lists", "onceflow, columns"}
    for table in tables.values():
        assert ours < {row["values"]["what"] for row in table["rows"]} | {"another"}
    assert set(QUEUES) < {row["values"]["what"] for row in tables["log_rates"]["rows"]}
    assert (tmp_path / "docs" / "images" / "log_transactions.png").stat().st_size > 10_000
