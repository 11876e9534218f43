"""Waiting readers hear of commits of other processes within milliseconds, and cost nothing meanwhile."""

from __future__ import annotations

import statistics
import time

from onceflow.log import Consumer, TopicPartition


def test_a_commit_of_another_process_wakes_a_reader(log, directory, start):
    writer = start("pinger.py", directory, "one", 30)
    delays = []
    with Consumer(log) as consumer:
        consumer.assign([TopicPartition("one", 0, 0)])
        for _ in range(30):
            message = consumer.poll(30)
            delays.append(time.monotonic_ns() - int(message.value()))
    writer.end()
    # The time of the sync is in it.
    assert statistics.median(delays) < 50e6


def test_waiting_costs_no_cpu(log, consumer):
    consumer.subscribe(["four"])
    consumer.poll(0)
    before = time.process_time()
    assert consumer.poll(1.5) is None
    assert time.process_time() - before < 0.15
