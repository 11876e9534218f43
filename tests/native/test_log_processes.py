"""Forked processes on one log: each opens it anew, and their commits are told apart."""

from __future__ import annotations

import os
import traceback
from pathlib import Path

import pytest

from onceflow._native import Log, LogProducer
from onceflow.exceptions import StoreForkedError

CHILDREN = 6
RECORDS = 60


def open_log(path: Path) -> Log:
    return Log.open(path, map_size_bytes=64 << 20)


def forked(work: object) -> int:
    """Runs ``work`` in a forked child; gives its process id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()  # type: ignore[operator]
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


@pytest.mark.filterwarnings("ignore:This process")
def test_forked_producers_do_not_take_each_others_answers(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    log.create_topic("t", partitions=CHILDREN)
    log.close()
    del log

    def produce(partition: int) -> None:
        log = open_log(tmp_path)
        producer = LogProducer(log, now_ms=0)
        for number in range(RECORDS):
            producer.produce("t", [str(number)], partition=partition, now_ms=0)

    children = [forked(lambda partition=partition: produce(partition)) for partition in range(CHILDREN)]
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * CHILDREN
    with open_log(tmp_path) as log:
        for partition in range(CHILDREN):
            assert log.fetch("t", partition, 0).values == [str(number).encode() for number in range(RECORDS)]


@pytest.mark.filterwarnings("ignore:This process")
def test_a_log_of_before_the_fork_is_refused(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    log.create_topic("t")
    producer = LogProducer(log, now_ms=0)

    def use() -> None:
        for call in (
            lambda: log.fetch("t", 0, 0),
            lambda: producer.produce("t", [b"x"], now_ms=0),
            lambda: log.create_topic("u"),
        ):
            with pytest.raises(StoreForkedError):
                call()

    assert os.waitpid(forked(use), 0)[1] == 0
    producer.produce("t", [b"parent"], now_ms=0)
    assert log.fetch("t", 0, 0).values == [b"parent"]
    log.close()
