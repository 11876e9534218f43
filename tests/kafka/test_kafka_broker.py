"""The broker that tests get keeps its data across a kill, and a machine that cannot run one says what it lacks."""

from __future__ import annotations

import pytest
from recording import RecordingConsumer, RecordingProducer, create_topics
from services.kafka import install
from services.process import ServerUnavailableError

from onceflow.testing.histories import History, Recorder, check


def test_acknowledged_records_survive_a_kill_of_the_broker(kafka, tmp_path):
    create_topics(kafka.bootstrap, kept=1)
    producer = RecordingProducer(kafka.bootstrap, tmp_path, "producer")
    for number in range(100):
        producer.send("kept", f"before {number}", 0)
    producer.flush()
    before = kafka.pid
    kafka.kill()
    kafka.start()
    assert kafka.pid != before
    for number in range(100):
        producer.send("kept", f"after {number}", 0)
    producer.flush()
    reader = RecordingConsumer(kafka.bootstrap, Recorder(tmp_path, "reader"), [("kept", 0)])
    assert len(reader.read_to_the_end()) == 200
    reader.close()
    report = check(History.load(tmp_path), atomic_commits=False)
    report.raise_anomalies()
    assert (report.acknowledged, report.unseen) == (200, 0)


def test_a_machine_without_java_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServerUnavailableError, match=r"needs java and mvn.*apt-get install"):
        install()
