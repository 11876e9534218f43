"""Transactions: all at once or nothing, with offsets, whoever fails where."""

from __future__ import annotations

import threading
import time

import pytest
from reading_log import everything, values

from onceflow.clock import ManualClock
from onceflow.exceptions import (
    ConfigurationError,
    InvalidTransactionStateError,
    ProducerFencedError,
    RecordTooLargeError,
    TransactionAbortedError,
    TransactionTimedOutError,
    UnknownMemberError,
)
from onceflow.log import Consumer, ConsumerGroupMetadata, Log, Producer, TopicPartition


def test_nothing_is_there_before_the_commit_and_all_of_it_after(log, transactional):
    transactional.begin_transaction()
    for number in range(100):
        transactional.produce("four", f"{number}", f"k{number}")
    transactional.produce_many("one", [b"a", b"b"])
    transactional.flush()
    assert values(log, "four") == values(log, "one") == []
    transactional.commit_transaction()
    assert len(values(log, "four")) == 100
    assert values(log, "one") == [b"a", b"b"]


def test_a_reader_never_sees_half_a_transaction(log, transactional):
    """A thread reads all partitions again and again while transactions of 3 records are committed."""
    torn = []
    done = threading.Event()

    def watch():
        while not done.is_set():
            # Read backwards: a transaction that is seen in a later partition was committed before the earlier are read.
            ends = [log.partition("four", partition).end for partition in (3, 2, 1, 0)]
            if sorted(ends) != ends:
                torn.append(ends)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(60):
        with transactional.transaction():
            transactional.produce_many("four", [b"v"] * 4, partition=[0, 1, 2, 3])
    done.set()
    watcher.join()
    assert not torn
    assert [log.partition("four", partition).end for partition in range(4)] == [60] * 4


def test_an_abort_leaves_nothing(log, transactional):
    transactional.begin_transaction()
    transactional.produce_many("one", [b"x" * 100_000] * 400)  # so much that it is staged on the disk
    assert log.transactions()[0].staged_bytes > 0
    transactional.abort_transaction()
    assert values(log, "one") == []
    while log.maintain().more:
        pass
    assert log.transactions()[0].staged_bytes == 0
    with transactional.transaction():
        transactional.produce("one", b"after")
    (message,) = everything(log, "one")
    assert (message.offset(), message.value()) == (0, b"after")


def test_a_transaction_larger_than_the_buffer(log):
    with Producer(log, transactional_id="large", max_buffered_bytes=100_000) as producer:
        producer.init_transactions()
        with producer.transaction():
            for number in range(2_000):
                producer.produce("one", b"%06d" % number * 100)
            assert values(log, "one") == []
    found = values(log, "one")
    assert [int(value[:6]) for value in found] == list(range(2_000))


def test_reports_that_nobody_asks_for_come_with_the_commit(log, transactional):
    reports = []

    def report(error, message):
        reports.append((error, message.partition(), message.offset(), message.value()))

    with transactional.transaction():
        for number in range(50):
            transactional.produce("four", f"{number}", f"k{number}", on_delivery=report)
        assert reports == []
    assert all(error is None for error, *_ in reports)
    told = sorted(rest for _, *rest in reports)
    found = everything(log, "four")
    assert told == sorted([message.partition(), message.offset(), message.value()] for message in found)


def test_reports_come_before_the_commit(log, transactional):
    """A program that waits for its reports before it commits waited for ever."""
    reports = []

    def report(error, message):
        reports.append((error, message.value(), message.offset()))

    with transactional.transaction():
        for number in range(3):
            transactional.produce("one", f"{number}", on_delivery=report)
        until = time.monotonic() + 30
        while len(transactional):
            assert time.monotonic() < until
            transactional.poll(0.1)
        assert reports == [(None, b"%d" % number, None) for number in range(3)]
        assert transactional.flush() == 0
        transactional.produce("one", "3", on_delivery=report)
    # Nobody had asked for the last one before its offset was known.
    assert reports[3:] == [(None, b"3", 3)]
    assert [message.value() for message in everything(log, "one")] == [b"0", b"1", b"2", b"3"]


def test_reports_say_no_offset_that_is_another_records(log, transactional):
    """Where a transaction also has records without callbacks, reports said the offsets of those."""
    reports = []
    with transactional.transaction():
        transactional.produce("one", "a")
        transactional.flush()
        transactional.produce("one", "b", on_delivery=lambda error, message: reports.append(message.offset()))
        transactional.produce("four", "c", partition=1)
        transactional.produce(
            "four", "d", partition=2, on_delivery=lambda error, message: reports.append(message.offset())
        )
    assert values(log, "one") == [b"a", b"b"]
    assert reports == [None, 0]


def test_a_commit_that_is_interrupted(log, transactional, monkeypatch):
    """Ctrl-C just after it was applied: the reports of the next transaction are about its own records."""
    reports = []

    def report(error, message):
        reports.append((type(error), message.value(), message.offset()))

    transactional.begin_transaction()
    transactional.produce("one", b"a", on_delivery=report)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(transactional._sender, "end", _interrupt)
        transactional.commit_transaction()
    with transactional.transaction():
        transactional.produce("one", b"b", on_delivery=report)
    assert values(log, "one") == [b"a", b"b"]
    assert reports[-1] == (type(None), b"b", 1)


def _interrupt(*_):
    raise KeyboardInterrupt


def test_reports_of_an_abort(log, transactional):
    reports = []
    transactional.begin_transaction()
    for number in range(3):
        transactional.produce("one", f"{number}", on_delivery=lambda error, message: reports.append((error, message)))
        if number == 1:
            transactional.flush()
    transactional.abort_transaction()
    # Two were in the transaction, and their reports asked for, before it was aborted.
    assert [type(error) for error, _ in reports] == [type(None), type(None), TransactionAbortedError]
    assert all(message.offset() is None and message.error() is error for error, message in reports)
    assert len(transactional) == 0


def test_a_block_that_raises_aborts(log, transactional):
    with pytest.raises(ZeroDivisionError) as raised, transactional.transaction():
        transactional.produce("one", b"a")
        1 / 0  # noqa: B018
    assert not hasattr(raised.value, "__notes__")
    assert not transactional.in_transaction
    assert values(log, "one") == []


def test_a_block_may_end_its_transaction_itself(log, transactional):
    with transactional.transaction():
        transactional.produce("one", b"a")
        transactional.commit_transaction()
    with transactional.transaction():
        transactional.produce("one", b"b")
        transactional.abort_transaction()
    with pytest.raises(ZeroDivisionError), transactional.transaction():
        transactional.abort_transaction()
        1 / 0  # noqa: B018
    assert values(log, "one") == [b"a"]


def test_a_block_whose_abort_fails_too_says_both(log, transactional):
    """The one that fenced this producer has aborted it already."""
    with pytest.raises(ZeroDivisionError) as raised, transactional.transaction():
        transactional.produce_many("one", [b"x" * 100_000] * 400)
        _take_over(log)
        1 / 0  # noqa: B018
    assert "could not be aborted either" in raised.value.__notes__[0]
    assert values(log, "one") == []


def test_a_refused_record_spoils_its_transaction(log, transactional):
    with pytest.raises(InvalidTransactionStateError) as raised, transactional.transaction():
        transactional.produce("one", b"good")
        transactional.produce("one", b"bad", headers={"large": b"h" * (2 << 20)})
    assert isinstance(raised.value.__cause__, RecordTooLargeError)
    assert not transactional.in_transaction
    assert values(log, "one") == []
    with transactional.transaction():
        transactional.produce("one", b"next")
    assert values(log, "one") == [b"next"]


def test_an_empty_transaction(log, transactional):
    with transactional.transaction():
        pass
    transactional.begin_transaction()
    transactional.abort_transaction()


def test_the_order_of_calls(log, transactional):
    with Producer(log, transactional_id="new") as new:
        for call in (new.begin_transaction, lambda: new.produce("one", b"v"), new.commit_transaction):
            with pytest.raises(InvalidTransactionStateError):
                call()
    for call in (
        lambda: transactional.produce("one", b"v"),
        lambda: transactional.produce_many("one", [b"v"]),
        transactional.commit_transaction,
        transactional.abort_transaction,
        lambda: transactional.send_offsets_to_transaction([TopicPartition("one", 0, 0)], group_id="g"),
    ):
        with pytest.raises(InvalidTransactionStateError):
            call()
    transactional.begin_transaction()
    for call in (transactional.begin_transaction, transactional.init_transactions):
        with pytest.raises(InvalidTransactionStateError):
            call()
    transactional.abort_transaction()
    transactional.init_transactions()
    assert values(log, "one") == []


def _take_over(log: Log) -> None:
    with Producer(log, transactional_id="tx") as newer:
        newer.init_transactions()
        with newer.transaction():
            newer.produce("four", b"newer", partition=0)


def test_a_newer_producer_fences_the_older_one(log, transactional):
    transactional.begin_transaction()
    transactional.produce("one", b"old")
    _take_over(log)
    reports = []
    transactional.produce("one", b"older", on_delivery=lambda error, message: reports.append(error))
    with pytest.raises(ProducerFencedError):
        transactional.commit_transaction()
    transactional.poll(0)
    assert isinstance(reports[0], ProducerFencedError)
    for call in (transactional.begin_transaction, transactional.init_transactions, transactional.abort_transaction):
        with pytest.raises(ProducerFencedError):
            call()
    assert values(log, "one") == []
    assert values(log, "four") == [b"newer"]


def test_a_transaction_that_is_open_for_too_long(directory):
    clock = ManualClock(1_000_000)
    with Log.open(directory, clock=clock, upkeep_interval_s=None) as log:
        log.create_topic("one")
        with Producer(log, transactional_id="slow", transaction_timeout_ms=1000) as producer:
            producer.init_transactions()
            producer.begin_transaction()
            producer.produce_many("one", [b"x" * 100_000] * 400)
            clock.advance(2)
            assert log.maintain().timed_out == 1
            with pytest.raises(TransactionTimedOutError):
                producer.commit_transaction()
            producer.init_transactions()
            with producer.transaction():
                producer.produce("one", b"after")
        assert values(log, "one") == [b"after"]


# ---- offsets -------------------------------------------------------------------------------------


def offset(log, group, topic="one", partition=0):
    with Consumer(log, group) as consumer:
        return consumer.committed([TopicPartition(topic, partition)])[0]


def test_offsets_are_committed_with_the_transaction_or_not_at_all(log, producer, transactional):
    positions = [TopicPartition("one", 0, 3, "note")]
    with pytest.raises(ZeroDivisionError), transactional.transaction():
        transactional.send_offsets_to_transaction(positions, group_id="g")
        1 / 0  # noqa: B018
    assert offset(log, "g").offset < 0
    with transactional.transaction():
        transactional.send_offsets_to_transaction(positions, ConsumerGroupMetadata("g"))
        assert offset(log, "g").offset < 0
    found = offset(log, "g")
    assert (found.offset, found.metadata) == (3, "note")


def test_positions_know_their_member(log, producer, transactional, consumer):
    """Only with it can the log refuse a consumer that was declared dead, and accept one that lives."""
    producer.produce_many("one", [b"a", b"b"])
    consumer.subscribe(["one"])
    assert consumer.poll(5).value() == b"a"
    with transactional.transaction():
        transactional.send_offsets_to_transaction(consumer.positions(), group_id="readers")
    assert offset(log, "readers").offset == 1
    with pytest.raises(UnknownMemberError), transactional.transaction():
        transactional.produce("four", b"never")
        transactional.send_offsets_to_transaction(list(consumer.positions()), group_id="readers")
    assert not transactional.in_transaction
    stale = consumer.positions()
    consumer.close()
    with pytest.raises(UnknownMemberError), transactional.transaction():
        transactional.produce("four", b"never")
        transactional.send_offsets_to_transaction(stale, group_id="readers")
    assert values(log, "four") == []


@pytest.mark.parametrize(
    ("positions", "arguments"),
    [
        ([TopicPartition("one", 0, 1)], {}),
        ([TopicPartition("one", 0)], {"group_id": "g"}),
        ([TopicPartition("one", 0, 1)], {"group_metadata": ConsumerGroupMetadata("g"), "group_id": "h"}),
    ],
)
def test_offsets_that_cannot_be_committed(transactional, positions, arguments):
    transactional.begin_transaction()
    with pytest.raises(ConfigurationError):
        transactional.send_offsets_to_transaction(positions, **arguments)
    transactional.abort_transaction()
