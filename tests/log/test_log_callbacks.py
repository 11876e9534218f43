"""Callbacks that call back: a poll inside of one does not recurse, and nothing is called twice or forgotten."""

from __future__ import annotations

import pytest

from onceflow.exceptions import BufferFullError
from onceflow.log import Consumer, Producer


@pytest.mark.parametrize("call", ["poll", "flush"])
def test_a_poll_inside_of_a_delivery_callback(log, call):
    """A poll inside a delivery callback recursed, one level for each report, until it broke."""
    told, deepest, depth = [], 0, 0

    def delivered(error, message):
        nonlocal deepest, depth
        depth += 1
        deepest = max(deepest, depth)
        assert producer.poll(0) == 0
        if call == "flush":
            producer.flush()
        told.append(message.value())
        depth -= 1

    with Producer(log) as producer:
        for number in range(3000):
            producer.produce("one", b"%d" % number, on_delivery=delivered)
        producer.flush()
    assert deepest == 1
    assert told == [b"%d" % number for number in range(3000)]


def test_a_callback_may_produce(log):
    """Each report brings a record, also while the buffer is full of reports."""
    told = []

    def delivered(error, message):
        told.append(int(message.value()))
        if told[-1] < 500:
            producer.produce("one", b"%d" % (told[-1] + 100), on_delivery=delivered)

    with Producer(log, max_buffered_records=100) as producer:
        for number in range(100):
            producer.produce("one", b"%d" % number, on_delivery=delivered)
        while len(producer):
            producer.flush()
    assert sorted(told) == list(range(600))


def test_a_callback_that_produces_more_than_there_is_room_for_is_told(log):
    """The reports that fill the buffer wait for this very callback: no endless loop."""
    caught = []

    def delivered(error, message):
        for _ in range(20):
            try:
                producer.produce("one", b"more", on_delivery=lambda *_: None)
            except BufferFullError as full:
                caught.append(full)
                return

    with Producer(log, max_buffered_records=10, max_block_s=0.05) as producer:
        for _ in range(10):
            producer.produce("one", b"x", on_delivery=delivered)
        producer.flush()
        while len(producer):
            producer.flush()
    assert caught


def test_a_poll_inside_of_callbacks_of_a_consumer(log, producer):
    """A poll inside of ``on_revoke`` began the same rebalance again, until it broke."""
    events = []

    def came(consumer, partitions):
        events.append(("came", len(partitions)))
        consumer.poll(0)

    def goes(consumer, partitions):
        events.append(("goes", len(partitions)))
        consumer.poll(0)
        consumer.commit(offsets=partitions)

    producer.produce_many("four", [b"x"] * 4, partition=[0, 1, 2, 3])
    first = Consumer(log, "readers", on_commit=lambda error, offsets: first.poll(0))
    first.subscribe(["four"], on_assign=came, on_revoke=goes)
    first.poll(0)
    assert events == [("came", 4)]
    with Consumer(log, "readers") as second:
        second.subscribe(["four"])
        while len(second.assignment()) < 2:
            second.poll(0.05)
            first.poll(0.05)
            first.commit(asynchronous=True)
        assert events == [("came", 4), ("goes", 2)]
        first.close()
    assert events == [("came", 4), ("goes", 2), ("goes", 2)]
