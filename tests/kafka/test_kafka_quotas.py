"""Brokers that hold a client back by a quota, and who is told of it."""

from __future__ import annotations

import json
import warnings

import pytest
import topics
from confluent_kafka import ThrottleEvent
from counting_kafka import Job
from kafka_reading import read

from onceflow.connectors.kafka import KafkaSource, quota
from onceflow.exceptions import SinkWaitingWarning, SourceWaitingWarning

#: Of the broker: what a client takes in eleven seconds comes through at once.
BYTES_PER_S = 20_000
RECORDS = 300


@pytest.fixture(scope="module")
def limited(kafka):
    """The name of clients that the broker holds back: no other test has it."""
    client = topics.name("limited")
    rates = f"producer_byte_rate={BYTES_PER_S},consumer_byte_rate={BYTES_PER_S}"
    kafka.tool(
        "ConfigCommand",
        *("--bootstrap-server", kafka.bootstrap, "--alter", "--add-config", rates),
        *("--entity-type", "clients", "--entity-name", client),
    )
    return client


@pytest.fixture(autouse=True)
def _soon_told(monkeypatch):
    monkeypatch.setattr(quota, "_PATIENCE_S", 1.0)


def test_a_quota_slows_a_sink_down_which_is_told_and_stops_nothing(kafka, limited, tmp_path):
    """Kind (K25): answers that come late by the broker's will are taken for a broker that is away; or a job is slow,
    and nobody says why."""
    job = Job.make(
        kafka.bootstrap,
        tmp_path / "job",
        rows=RECORDS + 60,
        value=lambda record: {**record, "rest": "x" * 1_000},
        config={"client.id": limited},
    )
    with pytest.warns(SinkWaitingWarning, match=r"/out-0' is held back by a quota .*raise producer_byte_rate") as told:
        job.run()
    # A word a minute.
    assert len([each for each in told if "held back" in str(each.message)]) == 1
    job.check()


def test_a_quota_slows_a_source_down_which_is_told_and_stops_nothing(kafka, limited, tmp_path):
    """Kind (K25): the same where it is the job's input that comes late."""
    name = topics.name("limited-input")
    topics.create(kafka.bootstrap, name)
    # A batch that is larger than what the quota allows in its eleven seconds would never come through.
    producer = topics.producer(kafka.bootstrap, None, **{"batch.size": 10_000})
    for number in range(RECORDS):
        producer.produce(name, json.dumps({"n": number, "rest": "x" * 1_000}))
    assert producer.flush(30) == 0
    config = {"client.id": limited, "max.partition.fetch.bytes": BYTES_PER_S}
    source = KafkaSource(kafka.bootstrap, name, decode="json", config=config)
    with pytest.warns(SourceWaitingWarning, match=r"held back by a quota .*raise consumer_byte_rate"):
        found, _ = read(source, tmp_path / "state")
    assert [record["n"] for record in found] == list(range(RECORDS))


def test_what_holds_nobody_up_is_not_told(monkeypatch):
    """Kind: a warning for every answer that came a little late, or all of a day's added up."""
    now_s = [1000.0]
    monkeypatch.setattr(quota.time, "monotonic", lambda: now_s[0])
    held = quota.Quota("sink 'a/b'", "producer_byte_rate", SinkWaitingWarning)

    def passes(seconds: float, throttle_s: float, times: int) -> list[str]:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            for _ in range(times):
                now_s[0] += seconds
                held.heard(ThrottleEvent("broker", 1, throttle_s))
                held.tell()
        return [str(each.message) for each in told]

    assert passes(30, 0.5, 1000) == []
    assert passes(90, 2.0, 1000) == []
    # All the time: at once, after a minute, after two more, four more, eight more.
    assert len(passes(1, 1.0, 1000)) == 5
    assert held.hint() == "; a quota of the brokers holds this client back (producer_byte_rate)"
    now_s[0] += 61
    assert held.hint() == ""
