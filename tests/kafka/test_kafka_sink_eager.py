"""Output that a Kafka sink sends before its checkpoint is decided: what of it shows, and when it is not sent ahead."""

from __future__ import annotations

import os
import resource
import signal
import time

import msgspec
import pytest
import topics
from confluent_kafka import IsolationLevel, TopicPartition
from confluent_kafka.admin import OffsetSpec
from lives import Life, no_survivors
from test_kafka_sink_refusals import Target

from onceflow.connectors.kafka import KafkaSink
from onceflow.exceptions import ConfigurationError
from onceflow.sinks import Committable

pytestmark = pytest.mark.usefixtures("eager")


@pytest.fixture
def target(kafka):
    return Target(kafka.bootstrap)


def ends(target):
    """Where the topic ends for readers of what is committed, and for those of everything."""
    client, place = topics.admin(target.bootstrap), TopicPartition(target.topic, 0)
    levels = (IsolationLevel.READ_COMMITTED, IsolationLevel.READ_UNCOMMITTED)
    asked = [client.list_offsets({place: OffsetSpec.latest()}, isolation_level=level)[place] for level in levels]
    return [future.result(30).offset for future in asked]


def arrives(target, records):
    """Whether so many records lie in the topic soon, committed or not."""
    until = time.monotonic() + 20
    while ends(target)[1] < records and time.monotonic() < until:
        time.sleep(0.01)
    return ends(target)[1] >= records


def test_what_was_sent_ahead_shows_after_the_decision_alone(target):
    """Kind: a reader of what is committed that sees what may be taken back."""
    writer = target.open()
    writer.write([1, 2])
    assert arrives(target, 2)
    assert ends(target)[0] == 0
    writer.commit(target.decide(writer, 3))
    assert target.shown() == [1, 2, 3]
    writer.close()


def test_a_transaction_has_records_of_one_checkpoint(target):
    """Kind: what belongs to the next checkpoint is committed with this one, and comes again after a crash."""
    writer = target.open()
    writer.write([1])
    first = target.decide(writer, 2)
    # Between the cut and the commit.
    writer.write([3])
    writer.commit(first)
    assert target.shown() == [1, 2]
    writer.write([4])
    # The last record of the first checkpoint, its end, and two records of an open transaction.
    assert arrives(target, 5)
    assert target.shown() == [1, 2]
    writer.close()
    writer = target.open()
    writer.commit(target.decide(writer, 3, 4))
    assert target.shown() == [1, 2, 3, 4]
    writer.close()


def test_a_run_that_ends_within_a_checkpoint_holds_no_reader_back(target):
    """Kind: a job that failed, and readers that wait for the end of its transaction."""
    writer = target.open()
    writer.write([1])
    assert arrives(target, 1)
    assert ends(target)[0] == 0
    writer.close()
    committed, end = ends(target)
    assert committed == end > 1
    assert target.shown() == []


def test_the_output_of_another_worker_comes_in_between(target):
    """Kind: the transaction that is open is committed with another one's marker, or is in its way."""
    target.options["send"] = "late"
    other = target.open(run="one", worker=1)
    # Of the same run.
    target.epoch, target.options["send"] = 0, "eager"
    writer = target.open(run="one")
    other.write([1])
    theirs = Committable(1, other.prepare(1, other.seal(1)))
    writer.write([2])
    assert arrives(target, 1)
    writer.commit(theirs)
    assert target.shown() == [1]
    writer.write([3])
    target.decided.append(theirs)
    writer.commit(target.decide(writer, 4))
    assert target.shown() == [1, 2, 3, 4]
    writer.close()
    other.close()


def test_little_output_is_not_sent_ahead(target, monkeypatch):
    """Kind: readers that wait for an open transaction, for nothing that it would save."""
    monkeypatch.setattr("onceflow.connectors.kafka.sending._LEAST_BYTES", 10_000)
    writer = target.open()
    writer.write([1])
    time.sleep(0.5)
    assert ends(target) == [0, 0]
    writer.write(["x" * 20_000])
    assert arrives(target, 2)
    writer.close()


def test_checkpoints_that_are_far_apart_are_not_sent_ahead(target, monkeypatch):
    """Kind: a transaction that is open for longer than the broker allows, again and again."""
    monkeypatch.setattr("onceflow.connectors.kafka.sending._LONGEST_S", 0.3)
    writer = target.open()
    writer.write([1])
    assert arrives(target, 1)
    time.sleep(0.4)
    # What was begun is not given up, but nothing is added any more.
    writer.write([2])
    time.sleep(0.3)
    assert ends(target)[1] == 1
    writer.commit(target.decide(writer, 3))
    _, end = ends(target)
    writer.write([4])
    time.sleep(0.3)
    assert ends(target)[1] == end
    writer.commit(target.decide(writer, 5))
    assert target.shown() == [1, 2, 3, 4, 5]
    writer.close()


def test_nothing_is_sent_ahead_where_that_is_not_wanted(kafka):
    """Kind: an argument that does nothing."""
    target = Target(kafka.bootstrap, send="late")
    writer = target.open()
    writer.write([1])
    time.sleep(0.5)
    assert ends(target) == [0, 0]
    writer.commit(target.decide(writer, 2))
    assert target.shown() == [1, 2]
    writer.close()
    with pytest.raises(ConfigurationError, match="send='soon'"):
        KafkaSink(kafka.bootstrap, target.topic, send="soon")


def test_what_a_version_without_frames_has_staged(target):
    """Kind: an upgrade between a decision and its commit."""
    writer = target.open()
    writer.commit(target.decide(writer, 1))
    writer.close()
    heads, _ = map(msgspec.msgpack.decode, target.decided[0].handle)
    heads[4], heads[5] = [[["Rows", [b"2", b"3"]], None, None, None, 0]], 1
    target.decided.append(Committable(2, msgspec.msgpack.encode(heads)))
    target.open().close()
    assert target.shown() == [1, 2, 3]


@no_survivors()
def test_a_broker_that_does_not_take_it_holds_nobody_up(kafka):
    """Kind (Q7): a job that stands still within a write, or a queue that grows with what waits."""
    target = Target(kafka.bootstrap, timeout_s=60)
    row = {"x": "x" * 10_000}

    def run():
        writer = target.open()
        writer.write([row] * 10)
        os.kill(kafka.pid, signal.SIGSTOP)
        before, slowest_s = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0.0
        try:
            for _ in range(200):
                began_s = time.monotonic()
                writer.write([row] * 100)
                slowest_s = max(slowest_s, time.monotonic() - began_s)
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
        finally:
            os.kill(kafka.pid, signal.SIGCONT)
        assert slowest_s < 5, slowest_s
        # What is held, and once more what the client's queue has room for.
        assert grown < writer.held_bytes + (64 << 20) + (48 << 20), grown
        writer.commit(target.decide(writer, "[]"))
        writer.close()

    life = Life(run)
    try:
        assert life.wait(120) == "done", life.error
    finally:
        os.kill(kafka.pid, signal.SIGCONT)
    shown = target.shown()
    assert len(shown) == 20_011
    assert shown == [row] * 20_010 + [[]]
