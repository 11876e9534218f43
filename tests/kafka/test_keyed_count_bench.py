"""The benchmark of the keyed count runs from end to end, and sees wrong counts. What its figures are is not tested."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from confluent_kafka import Producer
from word_topics import check_counts, create_topics

BENCHES = Path(__file__).parents[2] / "benches"


@pytest.mark.usefixtures("kafka")
def test_the_suite_gives_its_tables(tmp_path):
    """Kind: a benchmark that has ceased to run."""
    command = [sys.executable, str(BENCHES / "report.py"), "--quick", "--only", "keyed_count"]
    command += ["--output", str(tmp_path), "--state-dir", str(tmp_path / "state")]
    ran = subprocess.run(command, check=False, capture_output=True, text=True, timeout=280)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    tables = json.loads((tmp_path / "benches" / "results" / "results.json").read_text())["tables"]
    rates, recovery = ([row["values"] for row in tables[name]["rows"]] for name in ("keyed_count", "recovery_on_kafka"))
    assert [row["what"].split()[0].rstrip(",") for row in rates] == ["onceflow", "onceflow", "Quix"]
    assert [row["what"].split()[0].rstrip(",") for row in recovery] == ["onceflow", "Quix"]
    assert all(row["rate"] > 0 for row in rates[:2])
    assert recovery[0]["longest"] > 0


@pytest.mark.parametrize(
    ("found", "refused"),
    [
        ([("a", 1), ("a", 2), ("b", 1)], None),
        ([("a", 1), ("a", 1), ("a", 2), ("b", 1)], "a: 1 after 1"),
        ([("a", 2), ("b", 1)], "a: 2 after 0"),
        ([("a", 1), ("b", 1)], "2 words were counted of 3"),
    ],
    ids=["right", "doubled", "skipped", "lost"],
)
def test_wrong_counts_are_seen(kafka, request, found, refused):
    """Kind: figures of a contender that is not exactly once."""
    topic = f"checked-{request.node.callspec.id}"
    create_topics(kafka.bootstrap, topic)
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    for word, count in found:
        producer.produce(topic, str(count), word)
    producer.flush(30)
    if refused is None:
        assert check_counts(kafka.bootstrap, topic, Counter(a=2, b=1), each=True) == len(found)
    else:
        with pytest.raises(AssertionError, match=refused):
            check_counts(kafka.bootstrap, topic, Counter(a=2, b=1), each=True)
