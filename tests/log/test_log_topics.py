"""Opening a log, its topics and its upkeep."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
from reading_log import values

from onceflow import Log as LazyLog
from onceflow.clock import ManualClock
from onceflow.exceptions import (
    BackendClosedError,
    ConfigurationError,
    StoreForkedError,
    StoreMissingError,
    TopicExistsError,
    UnknownTopicOrPartitionError,
)
from onceflow.log import OFFSET_BEGINNING, Consumer, Log, Producer, TopicPartition


def test_the_package_offers_it_lazily():
    assert LazyLog is Log


def test_topics_have_settings(log):
    log.create_topic("kept", partitions=2, retention_ms=1000, retention_bytes=5000, max_record_bytes=10)
    topic = log.topic("kept")
    assert (topic.partitions, topic.retention_ms, topic.retention_bytes, topic.max_record_bytes) == (2, 1000, 5000, 10)
    assert [each.name for each in log.topics()] == ["four", "kept", "one"]


def test_alter_changes_what_is_given(log):
    log.create_topic("kept", partitions=2, retention_ms=1000, cleanup_policy="compact")
    log.alter_topic("kept", partitions=3, retention_ms=None)
    topic = log.topic("kept")
    assert (topic.partitions, topic.retention_ms, topic.cleanup_policy) == (3, None, "compact")


@pytest.mark.parametrize(
    ("name", "settings", "error"),
    [
        ("one", {}, TopicExistsError),
        ("a b", {}, ConfigurationError),
        ("", {}, ConfigurationError),
        ("x" * 250, {}, ConfigurationError),
        ("new", {"partitions": 0}, ConfigurationError),
        ("new", {"cleanup_policy": "keep"}, ConfigurationError),
    ],
)
def test_topics_that_cannot_be(log, name, settings, error):
    with pytest.raises(error):
        log.create_topic(name, **settings)
    assert len(log.topics()) == 2


def test_unknown_topics(log):
    for call in (log.topic, log.delete_topic, lambda name: log.alter_topic(name, partitions=9)):
        with pytest.raises(UnknownTopicOrPartitionError):
            call("nowhere")
    with pytest.raises(UnknownTopicOrPartitionError):
        log.partition("one", 1)


def test_a_deleted_topic_is_gone_and_its_name_free(log, producer):
    producer.produce_many("one", [b"old"])
    log.delete_topic("one")
    with pytest.raises(UnknownTopicOrPartitionError):
        log.partition("one", 0)
    log.create_topic("one")
    assert values(log, "one") == []


def test_retention_by_time(directory):
    clock = ManualClock(1_000_000)
    with Log.open(directory, clock=clock, upkeep_interval_s=None) as log, Producer(log) as producer:
        log.create_topic("brief", retention_ms=60_000)
        producer.produce_many("brief", [b"old"])
        clock.advance(50)
        producer.produce_many("brief", [b"new"])
        clock.advance(20)
        assert log.maintain().removed == 1
        assert values(log, "brief") == [b"new"]
        assert log.partition("brief", 0).start == 1


def test_the_background_does_the_upkeep(directory):
    clock = ManualClock(1_000_000)
    with Log.open(directory, clock=clock, upkeep_interval_s=0.02) as log, Producer(log) as producer:
        log.create_topic("brief", retention_ms=60_000)
        producer.produce_many("brief", [b"old"])
        clock.advance(100)
        until = time.monotonic() + 10
        while log.partition("brief", 0).records:
            assert time.monotonic() < until
            time.sleep(0.01)


def test_compaction_keeps_the_newest_of_each_key(directory):
    clock = ManualClock(1_000_000)
    with Log.open(directory, clock=clock, upkeep_interval_s=None) as log, Producer(log) as producer:
        log.create_topic("table", cleanup_policy="compact")
        for round_ in range(5):
            producer.produce_many("table", [f"{round_}"] * 3, ["a", "b", "c"])
        clock.advance(10_000)
        while log.maintain().more:
            pass
        newest = dict.fromkeys([b"a", b"b", b"c"])
        with Consumer(log) as consumer:
            consumer.assign([TopicPartition("table", 0, OFFSET_BEGINNING)])
            read = consumer.consume(100, 0)
        newest.update({message.key(): message.value() for message in read})
        assert newest == {b"a": b"4", b"b": b"4", b"c": b"4"}
        assert len(read) < 15


def test_a_backup_is_a_log(log, producer, tmp_path):
    producer.produce_many("one", [b"a", b"b"])
    log.backup(tmp_path / "copy")
    with Log.open(tmp_path / "copy") as copy:
        assert values(copy, "one") == [b"a", b"b"]


def test_a_log_that_is_not_there(directory):
    with pytest.raises(StoreMissingError):
        Log.open(directory, create=False)


READ_ONLY = """
import sys
from onceflow.exceptions import StoreReadOnlyError
from onceflow.log import Consumer, Log, Producer, TopicPartition

with Log.open(sys.argv[1], read_only=True) as log:
    with Consumer(log) as consumer:
        consumer.assign([TopicPartition("one", 0)])
        print(consumer.poll(0).value().decode())
    for call in (lambda: log.create_topic("two"), lambda: Producer(log)):
        try:
            call()
        except StoreReadOnlyError:
            print("refused")
"""


def test_a_reader_in_another_process_writes_nothing(log, producer, directory):
    producer.produce_many("one", [b"a"])
    done = subprocess.run([sys.executable, "-c", READ_ONLY, directory], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["a", "refused", "refused"]


def test_a_forked_child_must_open_the_log_anew(log, producer):
    producer.produce_many("one", [b"a"])
    producer.produce("one", b"b")
    producer.flush()
    consumer = Consumer(log, "g")
    child = os.fork()
    if child == 0:
        refused = 0
        for call in (
            log.topics,
            lambda: producer.produce("one", b"c"),
            lambda: producer.produce_many("one", [b"c"]),
            producer.flush,
            lambda: consumer.committed([TopicPartition("one", 0)]),
        ):
            try:
                call()
            except StoreForkedError:
                refused += 1
        os._exit(refused)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
    consumer.close()
    assert values(log, "one") == [b"a", b"b"]


def test_a_closed_log(directory):
    log = Log.open(directory)
    log.close()
    log.close()
    assert log.closed
    with pytest.raises(BackendClosedError):
        log.topics()
