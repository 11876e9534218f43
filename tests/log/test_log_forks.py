"""A forked child and its parent's log: what it may not use says so and what to do; what it leaves undone is undone."""

from __future__ import annotations

import multiprocessing
import os
import sys

import pytest

from onceflow.exceptions import StoreForkedError
from onceflow.log import Consumer, Log, Producer

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def in_child(work) -> str:
    """What a forked child says of some work, which ends as it ends."""
    receive, send = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(send, str(work()).encode())
        except BaseException as error:
            os.write(send, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(send)
    with os.fdopen(receive, "rb") as said:
        text = said.read().decode()
    os.waitpid(pid, 0)
    return text


def opened_and_read(directory) -> str:
    with Log.open(directory, upkeep_interval_s=None) as log:
        return log.topics()[0].name


def _spawned(directory, queue) -> None:
    queue.put(opened_and_read(directory))


def test_a_child_cannot_open_what_its_parent_has_open_and_is_told_what_to_do(directory):
    """A child cannot open a log that its parent has open, although the docs told it to."""
    with Log.open(directory, upkeep_interval_s=None) as log:
        log.create_topic("t")
        for work in (log.topics, lambda: opened_and_read(directory)):
            said = in_child(work)
            assert said.startswith("StoreForkedError")
            assert "fork before it is opened, or start the process by spawning it" in said.replace("Fork", "fork")
        # The second advice.
        context = multiprocessing.get_context("spawn")
        queue = context.Queue()
        process = context.Process(target=_spawned, args=(directory, queue))
        process.start()
        assert queue.get(timeout=60) == "t"
        process.join()
        assert process.exitcode == 0


def test_a_child_that_was_forked_before_opens_it(directory):
    """The first advice: nothing was open in the parent, or all of it was closed."""
    with Log.open(directory, upkeep_interval_s=None) as log:
        log.create_topic("t")
        Producer(log).close()
    assert in_child(lambda: opened_and_read(directory)) == "t"
    assert in_child(lambda: opened_and_read(directory)) == "t"


@pytest.mark.parametrize("ending", ["exception", "exit", "os._exit", "garbage"])
def test_what_a_child_closes_is_its_parents_still(directory, ending):
    """A forked child that leaves by an exception or ``sys.exit`` undid its parent's work: flushed, aborted, left."""
    with Log.open(directory, upkeep_interval_s=5) as log:
        log.create_topic("t")
        with Producer(log, linger_s=1000) as producer, Consumer(log, "readers", enable_auto_commit=True) as consumer:
            transactional = Producer(log, transactional_id="tx", max_buffered_bytes=10)
            transactional.init_transactions()
            transactional.begin_transaction()
            transactional.produce_many("t", [b"x" * 100])
            producer.produce("t", b"parent's")
            consumer.subscribe(["t"])
            consumer.poll(0)
            pid = os.fork()
            if pid == 0:
                if ending == "os._exit":
                    os._exit(0)
                try:
                    with log, transactional, producer, consumer:
                        if ending == "exception":
                            raise RuntimeError("the child's")
                        if ending == "exit":
                            sys.exit(3)
                except (RuntimeError, SystemExit):
                    pass
                del consumer
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
            transactional.commit_transaction()
            producer.flush()
            assert len(consumer.consume(10, timeout=10)) == 2
            assert [len(group.members) for group in log.groups()] == [1]
    with Log.open(directory, upkeep_interval_s=None) as log:
        assert sorted(log.native.fetch("t", 0, 0).values) == [b"parent's", b"x" * 100]


def test_what_a_child_calls_on_its_parents_clients(log):
    """Each client that was made before the fork says so."""
    producer, consumer = Producer(log), Consumer(log, "readers")
    for work in (
        lambda: producer.produce("one", b"x") or producer.flush(),
        lambda: consumer.subscribe(["one"]) or consumer.poll(0),
        lambda: Producer(log),
        log.maintain,
        log.now_ms,
    ):
        assert in_child(work).startswith(StoreForkedError.__name__)
