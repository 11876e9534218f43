"""Producers that were paused and replaced: nothing of them appears, and they are told."""

from __future__ import annotations

import time

import pytest
from reading_log import values

from onceflow.log import Producer


@pytest.mark.parametrize("staged", ["no", "yes"])
def test_a_stopped_producer_is_fenced(log, directory, start, staged):
    zombie = start("transactor.py", directory, "billing", "one", staged)
    assert zombie.line() == "open"
    zombie.stop()
    with Producer(log, transactional_id="billing") as newer:
        newer.init_transactions()
        with newer.transaction():
            newer.produce("one", b"newer")
        zombie.go_on()
        zombie.say("commit")
        assert zombie.line() == "ProducerFencedError"
        assert zombie.line() == "ProducerFencedError"
        zombie.end()
        with newer.transaction():
            newer.produce("one", b"newest")
    assert values(log, "one") == [b"newer", b"newest"]


def test_a_killed_producer_leaves_nothing_and_delays_nobody(log, directory, start, producer):
    killed = start("transactor.py", directory, "billing", "one", "yes")
    assert killed.line() == "open"
    killed.kill()
    producer.produce_many("one", [b"other"])
    assert values(log, "one") == [b"other"]
    (info,) = log.transactions()
    assert info.staged_bytes > 0
    with Producer(log, transactional_id="billing") as newer:
        newer.init_transactions()
    while log.maintain().more:
        pass
    (info,) = log.transactions()
    assert (info.staged_bytes, info.started_ms) == (0, None)
    assert values(log, "one") == [b"other"]


def test_a_producer_that_goes_on_commits(log, directory, start):
    paused = start("transactor.py", directory, "billing", "one", "yes")
    assert paused.line() == "open"
    paused.stop()
    time.sleep(0.1)
    paused.go_on()
    paused.say("commit")
    assert paused.line() == "done"
    assert len(values(log, "one")) == 2
