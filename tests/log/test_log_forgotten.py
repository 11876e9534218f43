"""Clients that nobody closed and nobody has any more leave no thread behind, and do not hold the log."""

from __future__ import annotations

import gc
import time

from log_threads import names

from onceflow.log import Consumer, Log, Producer, TopicPartition


def forgotten():
    gc.collect()
    until = time.monotonic() + 10
    while names():
        assert time.monotonic() < until, names()
        time.sleep(0.01)


def test_a_producer(log):
    producer = Producer(log)
    producer.produce("one", b"a")
    producer.flush()
    assert names() == ["onceflow-producer"]
    del producer
    forgotten()


def test_a_member(log):
    consumer = Consumer(log, "g", session_timeout_ms=1_000)
    consumer.subscribe(["one"])
    consumer.poll(0)
    assert names() == ["onceflow-heartbeat"]
    del consumer
    forgotten()


def test_a_committer(log):
    consumer = Consumer(log, "g")
    consumer.commit(offsets=[TopicPartition("one", 0, 0)], asynchronous=True)
    assert names() == ["onceflow-commits"]
    del consumer
    forgotten()
    with Consumer(log, "g") as another:
        assert another.committed([TopicPartition("one", 0)])[0].offset == 0


def test_a_log(directory):
    log = Log.open(directory, upkeep_interval_s=0.01)
    assert names() == ["onceflow-log-upkeep"]
    time.sleep(0.05)
    del log
    forgotten()
