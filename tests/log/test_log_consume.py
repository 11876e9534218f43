"""Reading: order, positions, resets, columns, waiting."""

from __future__ import annotations

import threading
import time

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from reading_log import everything

from onceflow.clock import ManualClock
from onceflow.exceptions import (
    BackendClosedError,
    ConfigurationError,
    OffsetOutOfRangeError,
    UnknownMemberError,
    UnknownTopicOrPartitionError,
)
from onceflow.log import (
    OFFSET_BEGINNING,
    OFFSET_END,
    OFFSET_INVALID,
    OFFSET_STORED,
    Consumer,
    Log,
    Producer,
    TopicPartition,
)

ONE = TopicPartition("one", 0)


@pytest.fixture
def numbers(producer):
    """``one`` holds 0 to 99 in ten batches, written a second after the other."""
    for batch in range(10):
        values = [f"{number}" for number in range(batch * 10, batch * 10 + 10)]
        producer.produce_many("one", values, timestamps=1000 * (batch + 1))


def offsets(partitions):
    return [each.offset for each in partitions]


def taken(consumer, count=1):
    return [int(consumer.poll(5).value()) for _ in range(count)]


def test_records_come_in_order_and_positions_follow(log, numbers, consumer):
    consumer.assign([ONE])
    assert offsets(consumer.positions()) == [0]
    assert taken(consumer, 15) == list(range(15))
    assert offsets(consumer.positions()) == [15]
    assert [int(message.value()) for message in consumer.consume(10, 1)] == list(range(15, 25))
    found = consumer.position([ONE, TopicPartition("four", 3)])
    assert [(each.place, each.offset) for each in found] == [(("one", 0), 25), (("four", 3), OFFSET_INVALID)]
    records = consumer.consume_batch(10, 1)
    assert records.offsets.tolist() == list(range(25, 35))
    assert taken(consumer, 65) == list(range(35, 100))
    assert consumer.poll(0) is None
    assert consumer.consume(5, 0) == []
    assert consumer.consume_batch(5, 0) is None
    assert offsets(consumer.positions()) == [100]


def test_partitions_take_turns(log, producer, consumer):
    for partition in range(4):
        producer.produce_many("four", [b"%d" % partition] * 100, partition=partition)
    consumer.assign([TopicPartition("four", partition) for partition in range(4)])
    batches = [consumer.consume_batch(10, 0) for _ in range(8)]
    assert [batch.partition for batch in batches] == [0, 1, 2, 3, 0, 1, 2, 3]
    assert len(consumer.consume(1000, 0)) == 320


@pytest.mark.parametrize(
    ("offset", "expected"),
    [(0, 0), (42, 42), (OFFSET_BEGINNING, 0), (OFFSET_STORED, 7), (OFFSET_INVALID, 7)],
)
def test_seek_and_assign_from(log, numbers, consumer, offset, expected):
    consumer.commit(offsets=[TopicPartition("one", 0, 7)])
    consumer.assign([TopicPartition("one", 0, offset)])
    assert taken(consumer) == [expected]
    consumer.poll(0)
    consumer.seek(TopicPartition("one", 0, offset))
    assert taken(consumer, 2) == [expected, expected + 1]


@pytest.mark.parametrize("offset", [-3, -2002, -(1 << 40)])
def test_an_offset_that_means_nothing_is_refused(log, numbers, consumer, offset):
    """Kind: a number that another client counts from the end is taken for the beginning."""
    with pytest.raises(ConfigurationError, match="ask get_watermark_offsets"):
        consumer.assign([TopicPartition("one", 0, offset)])
    consumer.assign([TopicPartition("one", 0, 3)])
    with pytest.raises(ConfigurationError, match="OFFSET_BEGINNING"):
        consumer.seek(TopicPartition("one", 0, offset))


def test_seek_to_the_end(log, producer, numbers, consumer):
    consumer.assign([TopicPartition("one", 0, OFFSET_END)])
    assert consumer.poll(0) is None
    producer.produce_many("one", [b"100"])
    assert taken(consumer) == [100]


@pytest.mark.parametrize(("reset", "expected"), [("earliest", 0), ("latest", 100)])
def test_where_to_begin_without_an_offset(log, producer, numbers, reset, expected):
    with Consumer(log, "new", auto_offset_reset=reset) as consumer:
        consumer.assign([ONE])
        assert consumer.positions()[0].offset == expected
        producer.produce_many("one", [b"100"])
        assert taken(consumer) == [expected]


def test_no_beginning_is_an_error_if_it_shall_be(log, numbers):
    with Consumer(log, "new", auto_offset_reset="error") as consumer:
        consumer.assign([ONE])
        with pytest.raises(OffsetOutOfRangeError):
            consumer.poll(0)
        consumer.seek(TopicPartition("one", 0, 5))
        assert taken(consumer) == [5]


@pytest.mark.parametrize(("reset", "expected"), [("earliest", [1]), ("latest", []), ("error", None)])
def test_a_position_that_retention_has_removed(directory, reset, expected):
    clock = ManualClock(1_000_000)
    with Log.open(directory, clock=clock, upkeep_interval_s=None) as log, Producer(log) as producer:
        log.create_topic("one", retention_ms=60_000)
        producer.produce_many("one", [b"0"])
        clock.advance(100)
        producer.produce_many("one", [b"1"])
        log.maintain()
        with Consumer(log, auto_offset_reset=reset) as consumer:
            consumer.assign([TopicPartition("one", 0, 0)])
            if expected is None:
                with pytest.raises(OffsetOutOfRangeError):
                    consumer.poll(0)
            else:
                assert [int(message.value()) for message in consumer.consume(10, 0)] == expected


def test_pausing(log, producer, consumer):
    producer.produce_many("four", [b"a"] * 5, partition=0)
    producer.produce_many("four", [b"b"] * 5, partition=1)
    first, second = TopicPartition("four", 0), TopicPartition("four", 1)
    consumer.assign([first, second])
    assert consumer.poll(0).value() == b"a"
    consumer.pause([first])
    assert [message.value() for message in consumer.consume(100, 0)] == [b"b"] * 5
    consumer.resume([first])
    assert [message.offset() for message in consumer.consume(100, 0)] == [1, 2, 3, 4]
    for call in (consumer.pause, consumer.resume):
        with pytest.raises(ConfigurationError):
            call([TopicPartition("four", 2)])


def test_offsets_of_a_group(log, numbers, consumer):
    assert offsets(consumer.committed([ONE])) == [OFFSET_INVALID]
    consumer.assign([ONE])
    message = consumer.poll(0)
    assert offsets(consumer.commit(message)) == [1]
    consumer.consume(4, 0)
    consumer.commit()
    assert consumer.committed([ONE])[0].offset == 5
    consumer.commit(offsets=[TopicPartition("one", 0, 9, "nine")])
    with Consumer(log, "readers") as other:
        (found,) = other.committed([ONE])
        assert (found.place, found.offset, found.metadata) == (ONE.place, 9, "nine")
        other.assign([ONE])
        assert taken(other) == [9]
    (group,) = log.groups()
    assert group.offsets["one", 0][0] == 9


def test_asynchronous_commits(log, numbers):
    told = []
    with Consumer(log, "g", on_commit=lambda *result: told.append(result)) as consumer:
        consumer.assign([ONE])
        for _ in range(20):
            consumer.commit(consumer.poll(0), asynchronous=True)
        # A synchronous one comes after them.
        consumer.commit(offsets=[TopicPartition("one", 0, 3)])
        assert consumer.committed([ONE])[0].offset == 3
        consumer.poll(0)
    assert all(error is None for error, _ in told)
    assert offsets(told[-1][1]) == [20]


def test_auto_commit_commits_what_was_returned(log, numbers):
    with Consumer(log, "g", enable_auto_commit=True, auto_commit_interval_ms=1) as consumer:
        consumer.assign([ONE])
        taken(consumer, 5)
        time.sleep(0.01)
        consumer.poll(0)
    with pytest.raises(ZeroDivisionError), Consumer(log, "g", enable_auto_commit=True) as consumer:
        assert consumer.committed([ONE])[0].offset == 6
        consumer.assign([ONE])
        taken(consumer, 5)
        1 / 0  # noqa: B018
    with Consumer(log, "g") as consumer:
        # Nobody knows whether those five were processed.
        assert consumer.committed([ONE])[0].offset == 6


def test_watermarks_and_times(log, numbers, consumer):
    assert consumer.get_watermark_offsets(ONE) == (0, 100)
    asked = [TopicPartition("one", 0, timestamp) for timestamp in (0, 1000, 1001, 10_000, 10_001)]
    assert [each.offset for each in consumer.offsets_for_times(asked)] == [0, 0, 10, 90, OFFSET_END]


def test_columns(log, producer, consumer):
    keys = [b"k1", None, b"k3"]
    headers = [None, {"h": b"1"}, None]
    producer.produce_many("one", ["a", None, "c"], keys, timestamps=[5, 6, 7], headers=headers)
    consumer.assign([ONE])
    records = consumer.consume_batch(timeout=0)
    assert (records.topic, records.partition, len(records), records.next_offset) == ("one", 0, 3, 3)
    assert records.offsets.dtype == np.int64
    assert records.offsets.tolist() == [0, 1, 2]
    assert records.timestamps.tolist() == [5, 6, 7]
    assert records.keys == keys
    assert records.values == [b"a", None, b"c"]
    assert records.headers == [None, [("h", b"1")], None]
    assert records.nbytes >= 6
    assert records.messages() == everything(log, "one")
    batch = pa.record_batch(records)
    assert batch.to_pydict() == {
        "offset": [0, 1, 2],
        "timestamp_ms": [5, 6, 7],
        "key": keys,
        "value": [b"a", None, b"c"],
    }
    assert pl.from_arrow(batch)["value"].to_list() == [b"a", None, b"c"]


def test_columns_go_back_as_they_came(log, producer, consumer):
    producer.produce_many("one", [b"%d" % number for number in range(1000)], [b"k%d" % n for n in range(1000)])
    consumer.assign([ONE])
    batch = pa.record_batch(consumer.consume_batch(timeout=0))
    producer.produce_many("four", batch["value"], batch["key"], timestamps=batch["timestamp_ms"], partition=2)
    copied = everything(log, "four")
    original = everything(log, "one")
    assert [(m.offset(), m.key(), m.value(), m.timestamp()) for m in copied] == [
        (m.offset(), m.key(), m.value(), m.timestamp()) for m in original
    ]


def test_a_batch_ends_at_its_bounds(log, numbers):
    with Consumer(log, fetch_max_bytes=1) as consumer:
        consumer.assign([TopicPartition("one", 0, 0)])
        assert len(consumer.consume_batch(timeout=0)) == 1
        assert len(consumer.consume(1000, 0)) == 99


def test_waiting_ends_with_the_record(log, producer, consumer):
    consumer.assign([ONE])
    assert consumer.poll(0.05) is None
    timer = threading.Timer(0.2, lambda: producer.produce_many("one", [b"a"]))
    start = time.monotonic()
    timer.start()
    assert consumer.poll(30).value() == b"a"
    assert 0.15 < time.monotonic() - start < 5


def test_another_thread_may_close_it(log, consumer):
    consumer.assign([ONE])
    timer = threading.Timer(0.1, consumer.close)
    timer.start()
    with pytest.raises(BackendClosedError):
        consumer.poll(30)


def test_each_record_goes_to_one_of_the_threads(log, numbers, consumer):
    consumer.assign([ONE])
    found = []

    def read():
        while message := consumer.poll(0):
            found.append(int(message.value()))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(100))


def test_read_uncommitted_sees_the_same(log, transactional):
    with Consumer(log, isolation_level="read_uncommitted") as consumer:
        consumer.assign([TopicPartition("one", 0, 0)])
        with transactional.transaction():
            transactional.produce("one", b"a")
            transactional.flush()
            assert consumer.poll(0) is None
        assert consumer.poll(0).value() == b"a"


@pytest.mark.parametrize(
    "arguments",
    [
        {"isolation_level": "serializable"},
        {"auto_offset_reset": "middle"},
        {"partition_assignment_strategy": "fair"},
        {"session_timeout_ms": 0},
        {"fetch_max_bytes": 0},
        {"enable_auto_commit": True},
    ],
)
def test_arguments_that_cannot_be(log, arguments):
    with pytest.raises(ConfigurationError):
        Consumer(log, **arguments)


def test_calls_that_cannot_be(log, numbers, consumer):
    for call in (
        lambda: consumer.seek(ONE),
        lambda: consumer.subscribe([]),
        lambda: consumer.subscribe(["^one("]),
        lambda: consumer.consume(0),
        lambda: consumer.consume_batch(0),
        lambda: consumer.commit(everything(log, "one")[0], [ONE]),
        lambda: consumer.commit(offsets=[ONE]),
    ):
        with pytest.raises(ConfigurationError):
            call()
    with Consumer(log) as alone:
        for call in (
            lambda: alone.subscribe(["one"]),
            alone.commit,
            lambda: alone.committed([ONE]),
            alone.consumer_group_metadata,
        ):
            with pytest.raises(ConfigurationError):
                call()
    for call in (
        lambda: consumer.assign([TopicPartition("nowhere", 0)]),
        lambda: consumer.assign([TopicPartition("one", 1)]),
        lambda: consumer.get_watermark_offsets(TopicPartition("one", 1)),
        lambda: consumer.offsets_for_times([TopicPartition("one", 1, 0)]),
        lambda: consumer.commit(offsets=[TopicPartition("one", 1, 0)]),
    ):
        with pytest.raises(UnknownTopicOrPartitionError):
            call()


def test_a_topic_that_is_deleted_while_it_is_read(log, numbers, consumer):
    consumer.assign([ONE])
    consumer.consume(1000, 0)
    log.delete_topic("one")
    with pytest.raises(UnknownTopicOrPartitionError):
        consumer.poll(5)


def test_a_closed_consumer(log, numbers, consumer):
    consumer.close()
    consumer.close()
    for call in (lambda: consumer.poll(0), lambda: consumer.assign([ONE]), consumer.commit):
        with pytest.raises(BackendClosedError):
            call()


def test_only_members_commit_for_a_group_that_has_some(log, numbers, consumer):
    consumer.subscribe(["one"])
    consumer.poll(5)
    with Consumer(log, "readers") as outsider, pytest.raises(UnknownMemberError):
        outsider.commit(offsets=[TopicPartition("one", 0, 1)])
