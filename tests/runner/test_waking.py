"""A job that waits for records: what wakes it, how soon, and what waiting costs.

The kind of fault: a job that polls (it costs a processor and still comes late), one that sleeps over what has come, and
one that hears of a signal late.
"""

from __future__ import annotations

import os
import signal
import statistics
import threading
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest

from onceflow import Dataflow, run
from onceflow._native import WakeHandle
from onceflow.connectors.log import LogSource
from onceflow.events import Stopping
from onceflow.exceptions import ConfigurationError, StoreForkedError
from onceflow.log import Log, Producer
from onceflow.sources import Source, SourceBatch, SourceContext, SourceReader, StopRun
from onceflow.testing import TransactionalTestingSink


class Inbox(Source):
    """Records that any thread puts in; its readers say when there are some, unless it does not know the handle."""

    replayable = False
    wakes = True

    def __init__(self):
        self.waiting, self.contexts, self.asked = [], [], Counter()
        self.stopping = False

    def put(self, record):
        self.waiting.append(record)
        for context in self.contexts:
            context.wake.set()

    def stop(self):
        self.stopping = True
        for context in self.contexts:
            context.wake.set()

    def partitions(self):
        return ["0"]

    def open(self, partition, position):
        return InboxReader(self)

    def open_with_context(self, partition, position, context):
        self.contexts.append(context)
        return self.open(partition, position)


class Silent(Inbox):
    """A source as they were before there was a handle: nobody wakes the job for it."""

    wakes = False

    def open_with_context(self, partition, position, context):
        return Source.open_with_context(self, partition, position, context)


class InboxReader(SourceReader):
    def __init__(self, inbox):
        self.inbox = inbox

    def read(self, max_records):
        self.inbox.asked["reads"] += 1
        if self.inbox.stopping:
            raise StopRun
        taken = self.inbox.waiting[:max_records]
        del self.inbox.waiting[: len(taken)]
        return SourceBatch(taken)

    def position(self):
        return None


@contextmanager
def running(tmp_path, *sources):
    """A job of these sources in a thread; records are times, and what is collected is how long each was under way."""
    flow, delays, arrived = Dataflow("flow"), [], threading.Semaphore(0)

    def took(sent):
        delays.append(time.monotonic() - sent)
        arrived.release()
        return sent

    streams = [flow.source(f"in-{number}", source) for number, source in enumerate(sources)]
    streams[0].union(*streams[1:]).map(took).sink("out", TransactionalTestingSink())
    errors = []

    def job():
        try:
            run(flow, tmp_path / "state", guarantee="at_most_once", checkpoint_interval_s=0.05)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=job)
    thread.start()
    yield delays, arrived
    next(source for source in sources if isinstance(source, Inbox)).stop()
    thread.join(30)
    assert not thread.is_alive()
    assert not errors


def started(*inboxes):
    """Waits until each was asked, and until the first checkpoint is over."""
    while not all(inbox.asked["reads"] for inbox in inboxes):
        time.sleep(0.001)
    time.sleep(0.5)


def test_an_idle_job_asks_its_sources_seldom_and_costs_nothing(tmp_path):
    inboxes = [Inbox(), Inbox(), Inbox()]
    with running(tmp_path, *inboxes):
        started(*inboxes)
        before, cpu = [inbox.asked["reads"] for inbox in inboxes], time.process_time()
        time.sleep(2.0)
        cost = time.process_time() - cpu
        asked = [inbox.asked["reads"] - then for inbox, then in zip(inboxes, before, strict=True)]
    # It looks once a second, in case that somebody forgot to wake it; every 2 ms it would be 1,000.
    assert all(1 <= count <= 4 for count in asked), asked
    assert cost < 0.1


def test_a_record_of_one_of_three_idle_sources_is_processed_at_once(tmp_path):
    inboxes = [Inbox(), Inbox(), Inbox()]
    with running(tmp_path, *inboxes) as (delays, arrived):
        started(*inboxes)
        for number in range(9):
            inboxes[number % 3].put(time.monotonic())
            assert arrived.acquire(timeout=10)
            # Until the checkpoint is over, which would wake it too.
            time.sleep(0.3)
    assert statistics.median(delays) < 0.1


def test_a_source_that_wakes_nobody_is_asked_now_and_then(tmp_path):
    """Beside one that does, and more seldom the longer nothing has come."""
    silent, inbox = Silent(), Inbox()
    with running(tmp_path, silent, inbox) as (delays, arrived):
        started(silent, inbox)
        before = silent.asked["reads"]
        time.sleep(1.0)
        asked = silent.asked["reads"] - before
        silent.waiting.append(time.monotonic())
        assert arrived.acquire(timeout=10)
    assert 5 <= asked <= 40
    assert delays[0] < 1.0


def test_commits_of_two_logs_wake_a_job(tmp_path):
    """The kind of fault: one thread can wait for one log only."""
    inbox = Inbox()
    logs = [Log.open(tmp_path / f"log-{number}") for number in range(2)]
    for log in logs:
        log.create_topic("t")
    sources = [LogSource(log, "t", decode=float_of, stop_at_end=False) for log in logs]
    with running(tmp_path, *sources, inbox) as (delays, arrived):
        started(inbox)
        before, cpu = inbox.asked["reads"], time.process_time()
        time.sleep(1.0)
        assert inbox.asked["reads"] - before <= 3
        assert time.process_time() - cpu < 0.1
        for number in range(8):
            with Producer(logs[number % 2]) as producer:
                producer.produce("t", repr(time.monotonic()))
                producer.flush()
            assert arrived.acquire(timeout=10)
            time.sleep(0.3)
    # The sync is in it.
    assert statistics.median(delays) < 0.15
    for log in logs:
        log.close()


def float_of(message):
    return float(message["value"])


def test_a_signal_wakes_a_job(tmp_path):
    inbox, flow = Inbox(), Dataflow("flow")
    flow.source("in", inbox).sink("out", TransactionalTestingSink())
    sent, told = [], []

    def later():
        started(inbox)
        # It falls asleep for a second when it has taken this.
        inbox.put(1)
        time.sleep(0.2)
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=later)
    thread.start()
    result = run(
        flow,
        tmp_path / "state",
        guarantee="at_most_once",
        checkpoint_interval_s=60,
        on_event=lambda event: told.append(time.monotonic()) if isinstance(event, Stopping) else None,
    )
    ended = time.monotonic()
    thread.join()
    assert not result.finished
    assert sent[0] <= told[0] <= ended
    assert ended - sent[0] < 0.5


def test_a_handle_stays_set_until_somebody_has_waited():
    handle = WakeHandle()
    assert handle.wait(0) is False
    handle.set()
    handle.set()
    assert handle.wait(10) is True
    assert handle.wait(0.01) is False


@pytest.mark.parametrize("wrong", [-1.0, float("nan"), "soon"])
def test_a_timeout_that_cannot_be_is_refused(wrong):
    with pytest.raises((ConfigurationError, TypeError), match="timeout_s"):
        WakeHandle().wait(wrong)


def test_a_child_wakes_nobody(tmp_path):
    """What a forked child sets is not its parent's, and waiting there would take away what the parent waits for."""
    handle = WakeHandle()
    child = os.fork()
    if child == 0:
        handle.set()
        try:
            handle.wait(0)
        except StoreForkedError:
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert handle.wait(0) is False


def test_a_log_sets_a_handle_no_longer_than_somebody_has_it(tmp_path):
    with Log.open(tmp_path / "log") as log:
        log.create_topic("t")
        descriptors = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(50):
            source = LogSource(log, "t", stop_at_end=False)
            reader = source.open_with_context("0", None, SourceContext(wake=WakeHandle()))
            reader.close()
        assert len(list(Path("/proc/self/fd").iterdir())) <= descriptors + 5
