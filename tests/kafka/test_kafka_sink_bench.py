"""The benchmark of the Kafka sink runs from end to end. What the figures are is not its claim."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHES = Path(__file__).parents[2] / "benches"


@pytest.mark.usefixtures("kafka")
def test_the_suite_gives_a_table(tmp_path):
    command = [sys.executable, str(BENCHES / "report.py"), "--quick", "--only", "kafka,postgres,durable_execution"]
    command += ["--output", str(tmp_path), "--state-dir", str(tmp_path / "state")]
    ran = subprocess.run(command, check=False, capture_output=True, text=True, timeout=280)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    tables = json.loads((tmp_path / "benches" / "results" / "results.json").read_text())["tables"]
    latencies = [row["values"] for row in tables["kafka_latency"]["rows"]]
    assert all(0 < latency["p50"] <= latency["p99"] for latency in latencies)
    assert len(latencies) == 4
    rows = tables["kafka_guarantees"]["rows"]
    found = {row["values"]["what"]: row["values"] for row in rows}
    assert set(found) == {"client, idempotent", "client, transactions", "job, at_least_once", "job, exactly_once"}
    assert found["job, at_least_once"]["of at_least_once"] == 1
