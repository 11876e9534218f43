"""Background threads of a log: none dies without a word, and no setting makes it."""

from __future__ import annotations

import logging
import threading

import pytest

from onceflow.clock import SystemClock
from onceflow.exceptions import ConfigurationError, LogError
from onceflow.log import Consumer, Log, Producer


class BrokenClock(SystemClock):
    """Fails while it is told to, in threads other than the one that made it."""

    def __init__(self):
        self.broken = False
        self._home = threading.get_ident()
        self.asked = threading.Event()

    def monotonic(self):
        if self.broken and threading.get_ident() != self._home:
            self.asked.set()
            raise RuntimeError("the clock is broken")
        return super().monotonic()


@pytest.mark.parametrize(
    "given",
    [2**62, 2**63, 2**64, 10**400, 1e300, float("inf"), float("nan"), float("-inf"), -1, 0, "1", b"1", [1], True],
)
def test_an_interval_of_upkeep_that_no_thread_can_wait_for_is_refused(directory, given):
    """2**63 seconds were taken; the upkeep thread died with OverflowError, and nothing was retired any more."""
    with pytest.raises(ConfigurationError, match="upkeep_interval_s"):
        Log.open(directory, upkeep_interval_s=given)


@pytest.mark.parametrize("given", [2**31, 2**33 - 1, int(threading.TIMEOUT_MAX)])
def test_the_longest_intervals_of_upkeep_are_waited_for(directory, given):
    with Log.open(directory, upkeep_interval_s=given) as log:
        assert log._upkeep._thread.is_alive()


@pytest.mark.parametrize("given", [2**63, 10**400, float("nan"), -1, "1"])
@pytest.mark.parametrize("setting", ["linger_s", "max_block_s", "delivery_timeout_s"])
def test_durations_of_a_producer_that_cannot_be_are_refused(log, setting, given):
    """The thread that writes waits for them."""
    with pytest.raises(ConfigurationError, match=setting):
        Producer(log, **{setting: given})


@pytest.mark.parametrize("given", [float("nan"), 2**63, 10**400, -1, "1", b"1", None])
def test_the_bound_of_a_commit_that_cannot_be_is_refused(directory, given):
    with pytest.raises(ConfigurationError, match="commit_timeout_s"):
        Log.open(directory, commit_timeout_s=given)


def test_upkeep_goes_on_after_an_error_of_any_kind_and_tells_it(directory, caplog):
    """An error that was none of ours ended the thread; one of ours ended it for ever, also after a full disk."""
    clock = BrokenClock()
    with (
        caplog.at_level(logging.WARNING, "onceflow.log"),
        Log.open(directory, upkeep_interval_s=0.01, clock=clock) as log,
    ):
        for _ in range(3):
            clock.asked.clear()
            clock.broken = True
            assert clock.asked.wait(60)
        clock.broken = False
        assert log._upkeep._thread.is_alive()
    (told,) = caplog.messages
    assert "RuntimeError: the clock is broken" in told and str(directory) in told


def test_an_error_of_the_thread_that_writes_is_raised_by_flush(log):
    """It ended the thread; the records counted as waiting, and flush waited for ever."""
    clock = BrokenClock()
    with Producer(log, clock=clock, linger_s=0) as producer:
        clock.broken = True
        producer.produce("one", b"1")
        with pytest.raises(LogError, match="the clock is broken"):
            producer.flush(60)
        clock.broken = False
        producer.produce("one", b"2")
        assert producer.flush() == 0
    assert log.partition("one", 0).end == 1


def test_an_error_of_the_thread_that_commits_is_told(log):
    """It ended the thread; the next commit, and close, waited for it for ever."""
    clock = BrokenClock()
    results = []
    with (
        Producer(log) as producer,
        Consumer(log, "g", clock=clock, on_commit=lambda error, offsets: results.append(error)) as consumer,
    ):
        producer.produce_many("one", [b"1"])
        consumer.subscribe(["one"])
        assert consumer.poll(60).value() == b"1"
        clock.broken = True
        consumer.commit(asynchronous=True)
        consumer._committer.wait()
        clock.broken = False
        consumer.commit()
        consumer.consume(1, timeout=0)
    assert "the clock is broken" in str(results[0])


def test_an_error_of_the_heartbeats_is_raised_by_poll(log):
    """They ended without a word, and the member was declared dead."""
    clock = BrokenClock()
    with Consumer(log, "g", clock=clock, session_timeout_ms=100) as consumer:
        consumer.subscribe(["one"])
        assert consumer.poll(0) is None
        clock.broken = True
        assert clock.asked.wait(60)
        consumer._membership._thread.join()
        clock.broken = False
        with pytest.raises(LogError, match="the clock is broken"):
            consumer.poll(0)
        assert consumer.poll(0) is None
