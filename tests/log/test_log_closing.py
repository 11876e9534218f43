"""Closed is closed: no descriptor, no map and no thread of the log is left, and every handle says so."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
from log_threads import names

from onceflow.exceptions import BackendClosedError, LogTimeoutError, OnceflowError
from onceflow.log import Consumer, Log, Producer, TopicPartition


def held(directory):
    """What this process has open, or mapped, of a directory."""
    inside = f"{directory}/"
    maps = [line for line in Path("/proc/self/maps").read_text().splitlines() if inside in line]
    links = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            links.append(str(entry.readlink()))
        except OSError:
            continue
    return maps + [link for link in links if inside in link]


def test_a_closed_log_and_producer_hold_nothing(directory):
    """``Producer.close()`` and ``Log.close()`` left the log open until the objects died."""
    log = Log.open(directory, upkeep_interval_s=5)
    log.create_topic("t")
    producer = Producer(log)
    producer.produce("t", b"1")
    transactional = Producer(log, transactional_id="tx")
    transactional.init_transactions()
    consumer = Consumer(log, "readers")
    consumer.subscribe(["t"])
    assert consumer.poll(5).value() == b"1"
    consumer.commit(asynchronous=True)
    assert held(directory)
    for each in (consumer, producer, transactional, log):
        each.close()
    assert held(directory) == []
    assert names() == []
    # A copy that takes the name is not written by anything that is left of the log.
    manifest = (directory / "manifest.json").read_bytes()
    (directory / "manifest.json").unlink()
    del producer, transactional, consumer, log
    gc.collect()
    assert manifest
    assert not (directory / "manifest.json").exists()


def test_closing_the_log_closes_what_was_made_from_it(directory):
    """What was in a buffer is written, what a transaction had open is aborted, a member leaves its group."""
    with Log.open(directory, upkeep_interval_s=None) as log:
        log.create_topic("t")
        producer, transactional = Producer(log, linger_s=1000), Producer(log, transactional_id="tx")
        producer.produce("t", b"buffered")
        transactional.init_transactions()
        transactional.begin_transaction()
        transactional.produce("t", b"aborted")
        consumer = Consumer(log, "readers")
        consumer.subscribe(["t"])
        consumer.poll(0)
    assert held(directory) == []
    with Log.open(directory, upkeep_interval_s=None) as again:
        assert again.native.fetch("t", 0, 0).values == [b"buffered"]
        assert [group.members for group in again.groups()] == [[]]


def test_closing_the_log_tells_what_could_not_be_written(directory, monkeypatch):
    """An error of one client keeps nothing open."""
    log = Log.open(directory, upkeep_interval_s=None)
    log.create_topic("t")
    producers = [Producer(log, linger_s=1000) for _ in range(2)]
    producers[0].produce("t", b"1")
    monkeypatch.setattr(producers[0], "flush", lambda timeout: 1)
    with pytest.raises(LogTimeoutError, match="1 records were not acknowledged"):
        log.close()
    monkeypatch.undo()
    gc.collect()
    assert held(directory) == []


def test_every_handle_says_that_it_is_closed(directory):
    """Nothing is accepted and lost by a handle of what is closed."""
    log = Log.open(directory, upkeep_interval_s=None)
    log.create_topic("t")
    producer, consumer = Producer(log, transactional_id="tx"), Consumer(log)
    producer.init_transactions()
    native = producer._native
    log.close()
    log.close()
    producer.close()
    consumer.close()
    calls = [
        log.topics,
        log.groups,
        log.maintain,
        log.now_ms,
        log.size,
        lambda: log.create_topic("u"),
        lambda: log.backup(directory.parent / "copy"),
        lambda: Producer(log),
        lambda: producer.produce("t", b"x"),
        lambda: producer.produce_many("t", [b"x"]),
        producer.flush,
        producer.begin_transaction,
        producer.commit_transaction,
        lambda: consumer.poll(0),
        lambda: consumer.assign([TopicPartition("t", 0)]),
        lambda: native.begin_transaction(now_ms=0),
        lambda: native.produce("t", [b"x"], now_ms=0),
        lambda: native.flush(now_ms=0),
    ]
    for call in calls:
        with pytest.raises(BackendClosedError):
            call()
    assert not producer.in_transaction


def test_a_second_handle_keeps_the_log_open(directory):
    """In one process all handles are the same log, closed with the last of them."""
    first, second = (Log.open(directory, upkeep_interval_s=None) for _ in range(2))
    first.create_topic("t")
    first.close()
    assert "t" in second.topics()
    second.close()
    assert held(directory) == []
    with pytest.raises(OnceflowError):
        second.topics()
