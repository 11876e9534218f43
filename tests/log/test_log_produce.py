"""Producing outside of transactions: one by one through the buffer, and in batches."""

from __future__ import annotations

import threading
import time

import numpy as np
import pyarrow as pa
import pytest
from reading_log import everything, values

from onceflow.exceptions import (
    BackendClosedError,
    BufferFullError,
    ConfigurationError,
    InvalidTransactionStateError,
    LengthMismatchError,
    RecordTooLargeError,
    TypeMismatchError,
    UnknownTopicOrPartitionError,
)
from onceflow.log import TIMESTAMP_CREATE_TIME, Log, Produced, Producer, partition_of


def test_records_are_as_they_were_produced(log, producer):
    producer.produce("one", b"bytes", b"k", timestamp=123, headers={"trace": b"\x01", "none": None, "text": "é"})
    producer.produce("one", "text é", "key é", headers=[("same", b"1"), ("same", b"2")])
    producer.produce("one", None, b"deleted")
    producer.produce("one")
    producer.flush()
    first, second, third, fourth = everything(log, "one")
    assert (first.value(), first.key(), first.timestamp()) == (b"bytes", b"k", (TIMESTAMP_CREATE_TIME, 123))
    assert first.headers() == [("trace", b"\x01"), ("none", None), ("text", "é".encode())]
    assert (first.topic(), first.partition(), first.offset(), first.error(), len(first)) == ("one", 0, 0, None, 5)
    assert (second.value(), second.key()) == ("text é".encode(), "key é".encode())
    assert second.headers() == [("same", b"1"), ("same", b"2")]
    assert abs(second.timestamp()[1] / 1000 - time.time()) < 60
    assert (third.value(), third.key(), third.headers(), len(third)) == (None, b"deleted", None, 0)
    assert (fourth.value(), fourth.key()) == (None, None)


def test_reports_tell_where_each_record_is(log, producer):
    reports = []
    for number in range(1000):
        key = f"k{number % 7}" if number % 3 else None
        partition = 2 if number % 10 == 0 else -1
        producer.produce("four", f"{number}", key, partition, on_delivery=lambda *report: reports.append(report))
        producer.produce("one", f"{number}")
    assert producer.flush() == 0
    assert len(producer) == 0
    assert all(error is None for error, _ in reports)
    told = {(message.partition(), message.offset()): message.value() for _, message in reports}
    assert told == {(message.partition(), message.offset()): message.value() for message in everything(log, "four")}
    assert [int(message.value()) for _, message in reports] == list(range(1000))
    assert values(log, "one") == [b"%d" % number for number in range(1000)]


def test_keys_choose_partitions_and_the_rest_is_spread(log, producer):
    for number in range(40):
        producer.produce("four", b"keyed", f"k{number}")
    producer.flush()
    for message in everything(log, "four"):
        assert message.partition() == partition_of(message.key(), 4)
    for _ in range(40):
        producer.produce("four", b"unkeyed", on_delivery=lambda *_: None)
        producer.flush()
    unkeyed = [message.partition() for message in everything(log, "four") if message.key() is None]
    assert sorted(set(unkeyed)) == [0, 1, 2, 3]


def test_the_background_writes_without_a_flush(log, producer):
    producer.produce("one", b"alone")
    until = time.monotonic() + 10
    while not log.partition("one", 0).records:
        assert time.monotonic() < until
        time.sleep(0.005)


def test_poll_waits_for_a_report(log):
    with Producer(log, linger_s=0.05) as producer:
        reports = []
        producer.produce("one", b"a", on_delivery=lambda error, message: reports.append(message.offset()))
        assert producer.poll(0) == 0
        assert producer.poll(10) == 1
        assert reports == [0]
        assert producer.poll(10) == 0


def test_many_threads_lose_nothing(log, producer):
    def produce(name):
        for number in range(500):
            producer.produce("four", f"{name}-{number}", name)

    threads = [threading.Thread(target=produce, args=(f"t{name}",)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    producer.flush()
    found = [message.value().decode() for message in everything(log, "four")]
    for name in range(4):
        own = [value for value in found if value.startswith(f"t{name}-")]
        assert own == [f"t{name}-{number}" for number in range(500)]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("nowhere", b"v"), UnknownTopicOrPartitionError),
        (("four", b"v", None, 4), UnknownTopicOrPartitionError),
        (("four", b"v", None, -2), UnknownTopicOrPartitionError),
        (("one", b"v" * (2 << 20)), RecordTooLargeError),
        (("one", 1.5), TypeMismatchError),
        (("one", b"v", 7), TypeMismatchError),
    ],
)
def test_what_cannot_be_produced_is_refused_at_once(log, producer, arguments, error):
    with pytest.raises(error):
        producer.produce(*arguments)
    producer.produce("one", b"good")
    producer.flush()
    assert values(log, "one") == [b"good"]


@pytest.mark.parametrize("headers", [5, [b"a"], [("a", 1)], [(1, b"v")], {"a": 1.0}])
def test_headers_that_cannot_be(producer, headers):
    with pytest.raises(TypeMismatchError):
        producer.produce("one", b"v", headers=headers)


def test_a_bad_record_among_good_ones_spoils_none_of_them(log, producer):
    """Headers count for the size too, which only the log measures."""
    reports = []

    def report(error, message):
        reports.append((message.value(), type(error)))

    for number in range(5):
        headers = {"large": b"h" * (2 << 20)} if number == 2 else None
        producer.produce("one", f"{number}", headers=headers, on_delivery=report)
    producer.flush()
    assert values(log, "one") == [b"0", b"1", b"3", b"4"]
    expected = [type(None), type(None), RecordTooLargeError, type(None), type(None)]
    assert reports == [(b"%d" % number, kind) for number, kind in enumerate(expected)]


def test_without_a_callback_the_next_call_tells(log, producer):
    producer.produce("one", b"warm")
    producer.flush()
    log.delete_topic("one")
    producer.produce("one", b"lost")
    with pytest.raises(UnknownTopicOrPartitionError):
        producer.flush()
    assert producer.flush() == 0


def test_the_buffer_is_bounded(log):
    with Producer(log, linger_s=60, max_buffered_records=10, max_block_s=5) as producer:
        for number in range(100):
            producer.produce("one", f"{number}")
            assert len(producer) <= 10
        producer.flush()
    assert len(values(log, "one")) == 100


def test_the_buffer_is_bounded_in_bytes(log):
    with Producer(log, linger_s=60, max_buffered_bytes=10_000, max_block_s=5) as producer:
        for number in range(100):
            producer.produce("one", b"%4d" % number * 250)
            assert len(producer) <= 10
        producer.produce("one", b"l" * 20_000)
    assert len(values(log, "one")) == 101


def test_reports_that_nobody_asks_for_fill_the_buffer_until_produce_calls_them(log):
    reports = []
    with Producer(log, max_buffered_records=10) as producer:
        for number in range(100):
            producer.produce("one", f"{number}", on_delivery=lambda error, message: reports.append(message.offset()))
        assert len(reports) >= 90
    assert reports == list(range(100))


def test_a_full_buffer_says_so(log, transactional):
    with Producer(log, linger_s=60, max_buffered_records=10, max_block_s=0) as producer:
        with pytest.raises(BufferFullError) as raised:
            for number in range(11):
                producer.produce("one", f"{number}")
        assert isinstance(raised.value, BufferError)
        assert raised.value.retriable()


def test_a_callback_may_produce(log, producer):
    def again(error, message):
        producer.produce("four", message.value())

    producer.produce("one", b"first", on_delivery=again)
    producer.flush()
    producer.flush()
    assert values(log, "four") == [b"first"]


def test_a_callback_that_raises_loses_no_other(producer):
    reports = []

    def fail(error, message):
        raise ValueError("mine")

    producer.produce("one", b"a", on_delivery=fail)
    producer.produce("one", b"b", on_delivery=lambda error, message: reports.append(message.value()))
    with pytest.raises(ValueError, match="mine"):
        producer.flush()
    producer.poll(0)
    assert reports == [b"b"]


def arrow(kind):
    return lambda strings: pa.array(strings, kind)


@pytest.mark.parametrize(
    "column",
    [
        list,
        tuple,
        lambda strings: [string.decode() for string in strings],
        lambda strings: np.frombuffer(b"".join(strings), np.uint8).reshape(len(strings), -1),
        arrow(pa.binary()),
        arrow(pa.large_binary()),
        arrow(pa.binary(4)),
        lambda strings: pa.array([string.decode() for string in strings], pa.string()),
    ],
    ids=["list", "tuple", "str", "numpy", "binary", "large_binary", "fixed", "string"],
)
def test_batches_of_every_kind(log, producer, column):
    strings = [b"%04d" % number for number in range(100)]
    (placed,) = producer.produce_many("one", column(strings), column(strings), timestamps=np.arange(100))
    assert placed == Produced("one", 0, 0, 100)
    found = everything(log, "one")
    assert [message.value() for message in found] == strings
    assert [message.key() for message in found] == strings
    assert [message.timestamp()[1] for message in found] == list(range(100))


def test_a_batch_over_partitions(log, producer):
    keys = [f"k{number}" for number in range(50)]
    places = producer.produce_many("four", None, keys)
    assert sum(place.count for place in places) == 50
    producer.produce_many("four", ["a", "b", "c"], partition=np.array([3, 0, 3]), headers=[None, {"h": b"1"}, None])
    producer.produce_many("four", ["d"], partition=1, timestamps=5)
    found = [message for message in everything(log, "four") if message.key() is None]
    assert [(message.partition(), message.value()) for message in found] == [
        (0, b"b"),
        (1, b"d"),
        (3, b"a"),
        (3, b"c"),
    ]
    assert found[0].headers() == [("h", b"1")]
    assert producer.produce_many("four", []) == []


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"values": [b"v", b"v"], "keys": [b"k"]}, LengthMismatchError),
        ({"values": [b"v", 1]}, TypeMismatchError),
        ({"values": b"one string"}, TypeMismatchError),
        ({"values": [b"v"], "partition": 9}, UnknownTopicOrPartitionError),
        ({"values": [b"v"], "partition": [0, 1]}, LengthMismatchError),
        ({"values": [b"v"], "timestamps": [1, 2]}, LengthMismatchError),
        ({"values": [b"v", b"v" * (2 << 20)]}, RecordTooLargeError),
        ({}, ConfigurationError),
    ],
)
def test_a_batch_that_is_refused_leaves_nothing(log, producer, arguments, error):
    with pytest.raises(error):
        producer.produce_many("four", **arguments)
    assert values(log, "four") == []
    producer.produce_many("four", [b"good"])


def test_a_batch_comes_after_what_was_produced_before(log, producer):
    producer.produce("one", b"a")
    producer.produce_many("one", [b"b"])
    producer.produce("one", b"c")
    producer.flush()
    assert values(log, "one") == [b"a", b"b", b"c"]


def test_closing_writes_what_is_in_the_buffer(log):
    producer = Producer(log, linger_s=60)
    producer.produce("one", b"a")
    producer.close()
    producer.close()
    assert values(log, "one") == [b"a"]
    for call in (lambda: producer.produce("one", b"b"), producer.flush, lambda: producer.produce_many("one", [b"b"])):
        with pytest.raises(BackendClosedError):
            call()


def test_an_idempotent_producer_has_no_transactions(producer):
    for call in (producer.init_transactions, producer.begin_transaction, producer.commit_transaction):
        with pytest.raises(InvalidTransactionStateError):
            call()


@pytest.mark.parametrize("arguments", [{"linger_s": -1}, {"max_buffered_records": 0}, {"max_buffered_bytes": 0}])
def test_arguments_that_cannot_be(log, arguments):
    with pytest.raises(ConfigurationError):
        Producer(log, **arguments)


def test_what_was_acknowledged_is_there_after_the_log_was_closed(directory):
    with Log.open(directory) as log:
        log.create_topic("one")
        with Producer(log) as producer:
            producer.produce("one", b"a")
    with Log.open(directory) as log:
        assert values(log, "one") == [b"a"]
