"""``consume`` that waits for more than one record: how many come, and that none is lost on the way to its user."""

from __future__ import annotations

import threading
import time

import pytest

from onceflow.exceptions import ConfigurationError
from onceflow.log import Consumer, TopicPartition

ONE = TopicPartition("one", 0)


def later(call, after_s=0.2):
    """Makes a call in a while, in another thread."""
    thread = threading.Timer(after_s, call)
    thread.start()
    return thread


def test_it_waits_for_as_many_as_were_asked_for(log, producer, consumer):
    consumer.assign([ONE])
    producer.produce_many("one", [b"1", b"2"])
    thread = later(lambda: producer.produce_many("one", [b"3", b"4"]))
    assert [each.value() for each in consumer.consume(3, 30, min_messages=3)] == [b"1", b"2", b"3"]
    thread.join()
    assert [each.value() for each in consumer.consume(10, 0)] == [b"4"]


def test_it_waits_no_longer_than_it_may(log, producer, consumer):
    consumer.assign([ONE])
    producer.produce_many("one", [b"1", b"2"])
    began = time.monotonic()
    assert len(consumer.consume(5, 0.3, min_messages=5)) == 2
    assert time.monotonic() - began >= 0.3
    assert consumer.consume(5, 0.05, min_messages=5) == []
    with pytest.raises(ConfigurationError, match="min_messages"):
        consumer.consume(5, 0, min_messages=0)


def test_a_rebalance_comes_after_the_records_that_were_taken(log, producer):
    """Partitions that go while records of them wait in the call would be committed, by ``on_revoke``, unseen."""
    seen, committed = [], []
    producer.produce_many("four", [b"%d" % number for number in range(4)], partition=[0, 1, 2, 3])
    first, second = (Consumer(log, "g", session_timeout_ms=1_000) for _ in range(2))

    def goes(consumer, partitions):
        committed.extend((each.place, each.offset, len(seen)) for each in partitions)

    first.subscribe(["four"], on_revoke=goes)
    assert len(first.consume(4, 30, min_messages=4)) == 4
    producer.produce_many("four", [b"%d" % number for number in range(4)], partition=[0, 1, 2, 3])
    second.subscribe(["four"])
    thread = later(lambda: second.poll(0))
    seen += first.consume(100, 30, min_messages=100)
    thread.join()
    assert len(seen) == 4
    assert committed == []
    until = time.monotonic() + 20
    while len(second.assignment()) < 2:
        assert time.monotonic() < until
        first.poll(0.05)
        second.poll(0.05)
    assert [(offset, count) for _, offset, count in committed] == [(2, 4)] * 2
    first.close()
    second.close()


def test_who_is_interrupted_gets_them_again(log, producer, consumer, monkeypatch):
    """Records that were taken before Ctrl-C, or an error, and that nobody ever saw."""
    consumer.assign([ONE, TopicPartition("four", 1)])
    producer.produce_many("one", [b"1", b"2"])
    producer.produce_many("four", [b"a"], partition=1)

    def interrupt(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(consumer, "_wait", interrupt)
        consumer.consume(5, 30, min_messages=5)
    assert sorted(each.value() for each in consumer.consume(3, 30, min_messages=3)) == [b"1", b"2", b"a"]


def test_who_waits_for_more_polls(log, producer):
    """A member that waits within a call for longer than it may not poll."""
    producer.produce_many("one", [b"1"])
    with Consumer(log, "g", max_poll_interval_ms=1_000, session_timeout_ms=1_000) as member:
        member.subscribe(["one"])
        assert len(member.consume(2, 2.2, min_messages=2)) == 1
        member.commit()
