"""What is subscribed to by a pattern, what is committed of it, and members that do not poll."""

from __future__ import annotations

import time

import pytest

from onceflow.exceptions import (
    ConfigurationError,
    InvalidTransactionStateError,
    MaxPollExceededError,
    UnknownMemberError,
    UnknownTopicWarning,
)
from onceflow.log import Consumer, ConsumerState, TopicPartition


def poll_until(done, *consumers):
    """Values of the records that come meanwhile."""
    until, found = time.monotonic() + 30, []
    while not done():
        assert time.monotonic() < until
        for consumer in consumers:
            found += [each.value() for each in consumer.consume(100, 0.02)]
    return found


def test_members_share_what_a_pattern_finds(log, producer):
    """Topics that come and go while two members read: each record is read, by one of them."""
    first, second = (Consumer(log, "g", session_timeout_ms=1_000) for _ in range(2))
    commit = {"on_revoke": lambda consumer, partitions: consumer.commit(offsets=partitions)}
    for member in (first, second):
        member.subscribe(["^t-[0-9]$", "one"], **commit)

    def positions():
        return [*first.positions(), *second.positions()]

    log.create_topic("t-1", partitions=2)
    log.create_topic("t-x")
    producer.produce_many("t-1", [b"1", b"2"], partition=[0, 1])
    read = poll_until(lambda: len(first.assignment()) + len(second.assignment()) == 3, first, second)
    for number in range(2, 5):
        log.create_topic(f"t-{number}")
        producer.produce_many(f"t-{number}", [b"t"])
        producer.produce_many("t-1", [b"more"], partition=1)
    read += poll_until(lambda: len(first.assignment()) + len(second.assignment()) == 6, first, second)
    log.delete_topic("t-4")
    with pytest.warns(UnknownTopicWarning, match="there is no topic 't-4'"):
        read += poll_until(lambda: len(first.assignment()) + len(second.assignment()) == 5, first, second)
    producer.produce_many("one", [b"last"])
    read += poll_until(
        lambda: all(each.offset == log.partition(*each.place).end for each in positions()), first, second
    )
    # Each was given up with what it had committed: none was read twice, and none not at all.
    assert sorted(read) == sorted([b"1", b"2", *[b"t"] * 3, *[b"more"] * 3, b"last"])
    for member in (first, second):
        member.close()


@pytest.mark.parametrize("auto", [False, True], ids=["on_revoke", "auto commit"])
@pytest.mark.parametrize("again", [False, True], ids=["deleted", "made again"])
def test_a_topic_that_is_deleted_stops_no_member(log, producer, auto, again):
    """Its offsets could not be committed, so its member never got beyond the rebalance, and read nothing any more."""
    log.create_topic("two")
    producer.produce_many("two", [b"2"])
    commit = {} if auto else {"on_revoke": lambda who, partitions: who.commit(offsets=partitions)}
    with Consumer(log, "g", session_timeout_ms=1_000, enable_auto_commit=auto) as consumer:
        consumer.subscribe(["one", "two"], **commit)
        assert consumer.poll(5).value() == b"2"
        log.delete_topic("two")
        if again:
            log.create_topic("two")
            producer.produce_many("two", [b"another"])
            assert consumer.poll(20).value() == b"another"
            assert [each.offset for each in consumer.positions()] == [0, 1]
        else:
            with pytest.warns(UnknownTopicWarning, match="there is no topic 'two'"):
                poll_until(lambda: consumer.assignment() == [TopicPartition("one", 0)], consumer)
        producer.produce_many("one", [b"1"])
        assert consumer.poll(20).value() == b"1"


def test_a_topic_that_a_pattern_finds_later_is_read_from_its_beginning(log, producer):
    """With ``latest``, records that came before the consumer had looked."""
    with Consumer(log, "g", auto_offset_reset="latest") as consumer:
        consumer.subscribe(["^later"])
        assert consumer.poll(0) is None
        log.create_topic("later-1")
        producer.produce_many("later-1", [b"first"])
        assert consumer.poll(20).value() == b"first"


def test_a_pattern_is_no_name_that_does_not_exist(log):
    """A warning for each pattern, or none for names beside one."""
    with Consumer(log, "g") as consumer:
        consumer.subscribe(["^nothing", "nobody"])
        with pytest.warns(UnknownTopicWarning, match="'nobody'") as warned:
            consumer.poll(0)
        assert len(warned) == 1
        with pytest.raises(ConfigurationError, match="is no pattern"):
            consumer.subscribe(["^("])


def test_unsubscribe_lets_its_user_commit(log, producer):
    """It left the group without a word, and the next member began where the last commit was."""
    producer.produce_many("one", [b"1", b"2"])
    with Consumer(log, "g") as consumer:
        consumer.subscribe(["one"], on_revoke=lambda who, partitions: who.commit(offsets=partitions))
        consumer.poll(5)
        consumer.unsubscribe()
        assert consumer.state is ConsumerState.IDLE
        assert consumer.committed([TopicPartition("one", 0)])[0].offset == 1


def test_automatic_commits_of_stored_offsets(log, producer):
    """Records that were returned and not processed count as done."""
    producer.produce_many("one", [b"%d" % number for number in range(9)])
    place = TopicPartition("one", 0)
    with Consumer(
        log, "g", enable_auto_commit=True, auto_commit_interval_ms=1, enable_auto_offset_store=False
    ) as consumer:
        consumer.subscribe(["one"])
        first = consumer.poll(5)
        consumer.poll(5)
        time.sleep(0.01)
        consumer.poll(5)
        assert consumer.committed([place])[0].offset < 0
        consumer.store_offsets(first)
        consumer.poll(5)
        until = time.monotonic() + 20
        while consumer.committed([place])[0].offset != 1:
            assert time.monotonic() < until
            time.sleep(0.01)
            consumer.poll(0)
        consumer.store_offsets(offsets=[TopicPartition("one", 0, 3)])
    with Consumer(log, "g") as consumer:
        assert consumer.committed([place])[0].offset == 3
        with pytest.raises(ConfigurationError, match="message or offsets"):
            consumer.store_offsets()


def test_offsets_are_taken_as_they_were_given(log, producer):
    """Attributes that are set while a commit in the background has not come to them."""
    producer.produce_many("one", [b"x"] * 5)
    with Consumer(log, "g") as consumer:
        place = TopicPartition("one", 0, 3)
        consumer.commit(offsets=[place], asynchronous=True)
        place.offset, place.partition = 4, 7
        consumer.assign([TopicPartition("one", 0, 2)])
        consumer.commit(offsets=[TopicPartition("four", 0, 0)])
        assert consumer.committed([TopicPartition("one", 0)])[0].offset == 3
        place.offset = "4"
        for call in (lambda: consumer.commit(offsets=[place]), lambda: consumer.seek(place)):
            with pytest.raises(ConfigurationError, match="offset is '4'"):
                call()


def test_a_lone_member_that_does_not_poll_is_none(log, producer):
    """Nobody is there to take its partitions; still somebody may have come and gone."""
    producer.produce_many("one", [b"1", b"2"])
    lost = []
    with Consumer(log, "g", max_poll_interval_ms=1_000, session_timeout_ms=60_000) as consumer:
        consumer.subscribe(["one"], on_lost=lambda who, partitions: lost.append([each.offset for each in partitions]))
        consumer.poll(5)
        until = time.monotonic() + 20
        while log.groups()[0].members:
            assert time.monotonic() < until
            time.sleep(0.02)
        assert consumer.state is ConsumerState.LOST
        with pytest.raises(UnknownMemberError):
            consumer.commit()
        with pytest.raises(MaxPollExceededError, match=r"more than 1\.0 s"):
            consumer.poll(0)
        assert lost == [[1]]
        assert consumer.poll(5).value() == b"1"
        consumer.commit()


def test_a_member_that_waits_within_a_call_polls(log):
    """One that waited for records for longer than it may not poll was thrown out by its own poll."""
    with Consumer(log, "g", max_poll_interval_ms=1_000, session_timeout_ms=60_000) as consumer:
        consumer.subscribe(["one"])
        assert consumer.poll(2.2) is None
        assert len(log.groups()[0].members) == 1


def test_who_comes_too_late_is_told_though_nobody_has_looked(log, producer, monkeypatch):
    """A process whose background thread stood still as long as the one that polls."""
    producer.produce_many("one", [b"1"])
    with Consumer(log, "g", max_poll_interval_ms=100) as consumer:
        consumer.subscribe(["one"])
        consumer.poll(5)
        consumer._membership.stop()
        time.sleep(0.15)
        with pytest.raises(MaxPollExceededError):
            consumer.poll(0)
        assert log.groups()[0].members == []


def test_errors_say_whether_the_transaction_must_be_aborted(log, producer, transactional):
    """A program goes by them: it would commit again what can only be aborted, or abort what it could go on with."""
    with pytest.raises(InvalidTransactionStateError) as raised:
        transactional.commit_transaction()
    assert not raised.value.txn_requires_abort()
    producer.produce_many("one", [b"x"])
    with Consumer(log, "g") as consumer:
        consumer.subscribe(["one"])
        consumer.poll(5)
        positions = consumer.positions()
        transactional.begin_transaction()
        transactional.produce("four", b"result")
        transactional.send_offsets_to_transaction(positions)
        consumer.unsubscribe()
        with pytest.raises(UnknownMemberError) as lost:
            transactional.commit_transaction()
        assert lost.value.txn_requires_abort()
        assert not lost.value.fatal()
        with pytest.raises(InvalidTransactionStateError) as again:
            transactional.commit_transaction()
        assert again.value.txn_requires_abort()
        transactional.abort_transaction()
        transactional.begin_transaction()
        transactional.produce("four", b"next")
        transactional.commit_transaction()


def test_a_purged_transaction_can_only_be_aborted(log, transactional):
    """One that commits without some of its records."""
    transactional.begin_transaction()
    transactional.flush()
    with transactional._sender.order:
        # The background thread waits for it.
        transactional.produce("one", b"forgotten")
        transactional.purge()
    with pytest.raises(InvalidTransactionStateError) as raised:
        transactional.commit_transaction()
    assert raised.value.txn_requires_abort()
    transactional.abort_transaction()
