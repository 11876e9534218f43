"""The measurements of logs, in small, on a real Kafka."""

from __future__ import annotations

import pytest
from kafka_log import KafkaLog
from log_under_test import consume_rate, delivery, payloads, produce_rate, transaction_cost


@pytest.mark.parametrize("reports", [False, True])
def test_rates(kafka, reports):
    log = KafkaLog(kafka.bootstrap, reports=reports)
    topic = f"rates-{reports}"
    assert produce_rate(log, topic, 3_000, 100) > 0
    assert consume_rate(log, topic, 3_000) > 0
    log.delete_topic(topic)


def test_what_a_transaction_costs(kafka):
    cost = transaction_cost(KafkaLog(kafka.bootstrap), 100, 0.05, rounds=1, duration_s=0.3)
    assert cost.transactional > 0
    assert cost.low == cost.kept == cost.high == cost.transactional / cost.idempotent


def test_delivery_waits_for_the_commit(kafka):
    took = delivery(KafkaLog(kafka.bootstrap), 100, 0.3, rate=1_000, duration_s=1.0)
    assert took.records > 100
    # A record waits half an interval on average.
    assert 100 < took.p50_ms < took.p99_ms


def test_payloads_differ_and_have_their_size():
    values = payloads(1_000, 100)
    assert {len(value) for value in values} == {100}
    assert len(set(values)) == 1_000
