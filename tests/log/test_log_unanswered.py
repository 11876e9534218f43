"""Calls that get no answer because another process holds the log: repeated, recognised, never applied twice."""

from __future__ import annotations

import fcntl
import threading
import time
from contextlib import contextmanager

import pytest
from reading_log import values

from onceflow.exceptions import BufferFullError, InvalidTransactionStateError, LogTimeoutError
from onceflow.log import Consumer, Log, Producer, TopicPartition


@pytest.fixture
def log(directory):
    """One that waits for others for a moment only."""
    with Log.open(directory, upkeep_interval_s=None, commit_timeout_s=0.1) as opened:
        opened.create_topic("one")
        yield opened


@contextmanager
def held(directory, for_s=None):
    """As by a process that stands still in a commit: to the end of the block, or for some time."""
    (path,) = directory.rglob("commit.lock")
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if for_s is None:
            yield
        else:
            timer = threading.Timer(for_s, fcntl.flock, (file, fcntl.LOCK_UN))
            timer.start()
            yield
            timer.join()


def test_a_commit_is_repeated_until_it_has_an_answer(log, transactional, directory):
    with held(directory, for_s=0.5), transactional.transaction():
        transactional.produce("one", b"a")
    assert values(log, "one") == [b"a"]


def test_a_commit_without_an_answer_can_only_be_committed(log, transactional, directory):
    reports = []
    transactional.begin_transaction()
    transactional.produce("one", b"a", on_delivery=lambda *report: reports.append(report))
    with held(directory):
        with pytest.raises(LogTimeoutError):
            transactional.commit_transaction(timeout=0)
        for call in (
            transactional.abort_transaction,
            transactional.begin_transaction,
            lambda: transactional.produce("one", b"b"),
        ):
            with pytest.raises(InvalidTransactionStateError):
                call()
        assert reports == []
    transactional.commit_transaction()
    assert values(log, "one") == [b"a"]
    assert [(error, message.offset()) for error, message in reports] == [(None, 0)]
    with transactional.transaction():
        transactional.produce("one", b"b")
    assert values(log, "one") == [b"a", b"b"]


def test_a_block_whose_commit_has_no_answer_leaves_it_open(log, directory):
    with Producer(log, transactional_id="tx", transaction_timeout_ms=300) as producer:
        producer.init_transactions()
        with held(directory), pytest.raises(LogTimeoutError), producer.transaction():
            producer.produce("one", b"a")
        assert producer.in_transaction
        producer.commit_transaction()
    assert values(log, "one") == [b"a"]


def test_an_abort_without_an_answer_can_only_be_aborted(log, transactional, directory):
    transactional.begin_transaction()
    transactional.produce_many("one", [b"x" * 100_000] * 400)
    with held(directory):
        with pytest.raises(LogTimeoutError):
            transactional.abort_transaction(timeout=0)
        with pytest.raises(InvalidTransactionStateError):
            transactional.commit_transaction()
    transactional.abort_transaction()
    assert values(log, "one") == []


def test_a_batch_without_an_answer_is_there_once(log, producer, directory):
    with held(directory):
        with pytest.raises(LogTimeoutError):
            producer.produce_many("one", [b"a"])
        with pytest.raises(LogTimeoutError):
            producer.flush(timeout=0.1)
    assert producer.flush() == 0
    producer.produce_many("one", [b"b"])
    assert values(log, "one") == [b"a", b"b"]


def test_a_batch_after_one_without_an_answer_comes_after_it(log, producer, directory):
    with held(directory), pytest.raises(LogTimeoutError):
        producer.produce_many("one", [b"a"])
    producer.produce_many("one", [b"b"])
    assert values(log, "one") == [b"a", b"b"]


@pytest.mark.parametrize("transactional_id", [None, "tx"])
def test_a_batch_behind_one_without_an_answer_is_refused_and_can_be_produced_again(log, directory, transactional_id):
    with Producer(log, transactional_id=transactional_id, delivery_timeout_s=0.2) as producer:
        if transactional_id:
            producer.init_transactions()
            producer.begin_transaction()
        # More than a transaction keeps in memory.
        first, second = [b"a" * 1_000_000] * 20, [b"b"]
        with held(directory):
            with pytest.raises(LogTimeoutError):
                producer.produce_many("one", first)
            with pytest.raises(BufferFullError, match="not taken"):
                producer.produce_many("one", second)
        producer.flush()
        producer.produce_many("one", second)
        if transactional_id:
            producer.commit_transaction()
    assert values(log, "one") == [*first, *second]


def test_a_report_says_where_a_record_is_also_after_a_repetition(log, producer, directory):
    reports = []
    with held(directory, for_s=0.5):
        producer.produce("one", b"a", on_delivery=lambda error, message: reports.append((error, message.offset())))
        assert producer.flush() == 0
    producer.produce("one", b"b", on_delivery=lambda error, message: reports.append((error, message.offset())))
    producer.flush()
    assert reports == [(None, 0), (None, 1)]


def test_records_wait_until_the_log_is_free(log, producer, directory):
    reports = []
    with held(directory, for_s=0.5):
        for number in range(3):
            producer.produce("one", f"{number}", on_delivery=lambda error, message: reports.append(error))
        assert producer.flush(timeout=0.1) > 0
        assert producer.flush() == 0
    assert reports == [None] * 3
    assert values(log, "one") == [b"0", b"1", b"2"]


def test_after_the_delivery_timeout_nobody_knows(log, directory):
    reports = []
    with Producer(log, delivery_timeout_s=0.2) as producer:
        with held(directory):
            producer.produce("one", b"a", on_delivery=lambda error, message: reports.append(type(error)))
            until = time.monotonic() + 10
            while not reports:
                assert time.monotonic() < until
                producer.poll(0.1)
        assert reports == [LogTimeoutError]
        producer.produce("one", b"b")
        producer.flush()
    assert values(log, "one") == [b"a", b"b"]


def test_offsets_too(log, directory):
    with Consumer(log, "g") as consumer:
        with held(directory), pytest.raises(LogTimeoutError):
            consumer.commit(offsets=[TopicPartition("one", 0, 0)])
        consumer.commit(offsets=[TopicPartition("one", 0, 0)])
        assert consumer.committed([TopicPartition("one", 0)])[0].offset == 0
