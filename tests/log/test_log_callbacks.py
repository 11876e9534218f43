"""Callbacks that call back: a poll inside of one does not recurse, and nothing is called twice or forgotten."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest

from onceflow.exceptions import BackendClosedError, BufferFullError, ConfigurationError, UnknownMemberError
from onceflow.log import Consumer, Producer, ProducerState, TopicPartition


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


def elsewhere(call):
    """Makes a call in another thread and waits for it: a lock that this thread has would keep it out for ever."""
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()


def test_callbacks_of_a_producer_run_outside_of_its_locks(log):
    """A delivery callback that waits for another thread which uses the producer."""
    done = []

    def delivered(error, message):
        if message.value() != b"outer":
            return
        for call in (
            lambda: producer.produce("one", b"inner", on_delivery=delivered),
            lambda: producer.produce_many("one", [b"inner"]),
            producer.list_topics,
            lambda: producer.poll(0),
            producer.flush,
            producer.purge,
            lambda: len(producer),
            log.topics,
        ):
            elsewhere(call)
            call()
            done.append(call)

    with Producer(log) as producer:
        producer.produce("one", b"outer", on_delivery=delivered)
        producer.flush()
    assert len(done) == 8


@pytest.mark.parametrize("end", ["commit_transaction", "abort_transaction"])
def test_callbacks_of_a_transaction_run_outside_of_its_locks(log, transactional, end):
    """A delivery callback, called by the end of its transaction, that waits for a thread which begins the next one."""
    done = []

    def delivered(error, message):
        elsewhere(transactional.begin_transaction)
        elsewhere(lambda: transactional.produce("one", b"next"))
        elsewhere(transactional.commit_transaction)
        done.append(transactional.state)

    transactional.begin_transaction()
    transactional.produce("one", b"first", on_delivery=delivered)
    getattr(transactional, end)()
    assert done == [ProducerState.READY]


def everything_of(consumer, partition):
    """Calls that leave a member where it is."""
    return (
        lambda: consumer.poll(0),
        lambda: consumer.consume(5, 0),
        lambda: consumer.consume_batch(5, 0),
        consumer.positions,
        lambda: consumer.position([partition]),
        consumer.assignment,
        lambda: consumer.committed([partition]),
        consumer.memberid,
        lambda: consumer.state,
        consumer.list_topics,
        lambda: consumer.get_watermark_offsets(partition, cached=True),
        lambda: consumer.offsets_for_times([partition]),
        consumer.consumer_group_metadata,
    )


def test_callbacks_of_a_consumer_run_outside_of_its_lock(log, producer):
    """A callback that waits for another thread which uses the consumer, as pools of workers do in ``on_revoke``."""
    called = []

    def every_call(of, consumer, partition):
        for call in everything_of(consumer, partition):
            elsewhere(call)
            call()
        called.append(of)

    def goes(consumer, partitions):
        elsewhere(lambda: consumer.commit(offsets=partitions))
        every_call("goes", consumer, partitions[0])

    producer.produce_many("one", [b"x"] * 3)
    consumer = Consumer(log, "g", on_commit=lambda error, offsets: every_call("committed", consumer, offsets[0]))
    consumer.subscribe(
        ["one"],
        on_assign=lambda consumer, partitions: every_call("came", consumer, partitions[0]),
        on_revoke=goes,
        on_lost=lambda consumer, partitions: every_call("lost", consumer, TopicPartition("one", 0)),
    )
    consumer.poll(5)
    consumer.commit(asynchronous=True)
    while "committed" not in called:
        consumer.poll(0.05)
    log.native.leave_group("g", consumer.memberid(), now_ms=log.now_ms())
    with pytest.raises(UnknownMemberError):
        consumer.commit()
    with pytest.raises(UnknownMemberError):
        consumer.poll(0)
    consumer.poll(0)
    consumer.close()
    assert called == ["came", "committed", "lost", "came", "goes"]


@pytest.mark.parametrize("call", ["close", "unsubscribe", "subscribe"])
@pytest.mark.parametrize("of", ["came", "goes"])
def test_another_thread_may_leave_while_a_callback_runs(log, producer, call, of):
    """The callback's own call finds itself in another group, or none, and takes nothing there that it should not."""

    left = []

    def leave(consumer, partitions):
        if not left:
            left.append(call)
            arguments = [["one"]] if call == "subscribe" else []
            elsewhere(lambda: getattr(consumer, call)(*arguments))

    producer.produce_many("four", [b"x"] * 8, partition=[0, 1, 2, 3] * 2)
    consumer = Consumer(log, "g")
    with Consumer(log, "g") as other:
        consumer.subscribe(["four"], **{"on_assign" if of == "came" else "on_revoke": leave})
        with contextlib.suppress(BackendClosedError):
            consumer.poll(0)
        if of == "goes":
            other.subscribe(["four"])
            other.poll(0)
        until = time.monotonic() + 20
        while not left:
            assert time.monotonic() < until
            with contextlib.suppress(BackendClosedError):
                consumer.poll(0.05)
        if call == "close":
            with pytest.raises(BackendClosedError):
                consumer.poll(0)
        else:
            assert consumer.poll(0) is None
            assert consumer.assignment() == ([TopicPartition("one", 0)] if call == "subscribe" else [])
        other.subscribe(["four"])
        while len(other.assignment()) < 4:
            assert time.monotonic() < until
            other.poll(0.05)
    consumer.close()


def test_nothing_is_read_of_partitions_that_a_callback_is_about(log, producer):
    """Another thread that read them before ``on_assign`` has said where, or after ``on_revoke`` had its positions."""
    producer.produce_many("one", [b"%d" % number for number in range(10)])
    read = []

    def look(consumer):
        elsewhere(lambda: read.extend(consumer.consume(10, 0.05)))
        read.extend(consumer.consume(10, 0))

    def came(consumer, partitions):
        look(consumer)
        partitions[0].offset = 5
        consumer.assign(partitions)
        look(consumer)

    with Consumer(log, "g") as consumer:
        consumer.subscribe(["one"], on_assign=came, on_revoke=lambda consumer, partitions: look(consumer))
        assert consumer.poll(5).value() == b"5"
    assert read == []


def test_a_callback_that_raises_holds_nothing_back(log, producer):
    """Partitions that nobody reads any more after it."""
    producer.produce_many("one", [b"x"])

    def fail(consumer, partitions):
        raise ZeroDivisionError

    with Consumer(log, "g") as consumer:
        consumer.subscribe(["one"], on_assign=fail)
        with pytest.raises(ZeroDivisionError):
            consumer.poll(0)
        assert consumer.poll(5).value() == b"x"


def test_a_callback_assigns_only_what_it_is_about(log, producer):
    """One that would read partitions of other members."""
    refused = []

    def came(consumer, partitions):
        for call in (consumer.assign, consumer.incremental_assign, consumer.incremental_unassign):
            with pytest.raises(ConfigurationError, match="not among those"):
                call([TopicPartition("one", 0)])
            refused.append(call)

    with Consumer(log, "g") as consumer:
        consumer.subscribe(["four"], on_assign=came)
        consumer.poll(0)
        assert len(refused) == 3
        assert len(consumer.assignment()) == 4
