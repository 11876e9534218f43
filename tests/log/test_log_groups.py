"""Consumer groups: sharing, incremental rebalances, members that die."""

from __future__ import annotations

import threading
import time

import pytest

from onceflow.clock import ManualClock
from onceflow.connectors.log.owner import group_of
from onceflow.exceptions import IllegalGenerationError, UnknownMemberError, UnknownTopicWarning
from onceflow.log import Consumer, Log, TopicPartition

SESSION_MS = 1_500


class Watched:
    """A member in this process that notes what it gets and what it has to give up."""

    def __init__(self, log, topics=("four",), **settings) -> None:
        self.events: list[tuple[str, list[int]]] = []
        self.consumer = Consumer(log, "readers", **{"session_timeout_ms": SESSION_MS, **settings})
        self.consumer.subscribe(topics, self._note("assigned"), self._note("revoked"), self._note("lost"))

    def _note(self, name):
        def note(consumer, partitions):
            assert consumer is self.consumer
            self.events.append((name, [each.partition for each in partitions]))

        return note

    @property
    def partitions(self):
        return sorted(each.partition for each in self.consumer.assignment())


def settle(*members: Watched, until) -> list[bytes]:
    """Polls all until something is so; what they read."""
    deadline = time.monotonic() + 20
    found = []
    while not until():
        assert time.monotonic() < deadline, [member.events for member in members]
        for member in members:
            found += [message.value() for message in member.consumer.consume(100, 0.02)]
    return found


@pytest.fixture
def join(log):
    members = []

    def make(*arguments, **settings):
        members.append(Watched(log, *arguments, **settings))
        return members[-1]

    yield make
    for member in members:
        member.consumer.close()


def test_one_member_reads_everything(log, producer, join):
    member = join(["four", "one"])
    assert member.consumer.assignment() == []
    member.consumer.poll(0)
    assert member.consumer.assignment() == [*(TopicPartition("four", n) for n in range(4)), TopicPartition("one", 0)]
    assert member.events == [("assigned", [0, 1, 2, 3, 0])]


def test_a_rebalance_takes_only_what_moves(log, producer, join):
    first = join()
    settle(first, until=lambda: first.partitions == [0, 1, 2, 3])
    second = join()
    settle(first, second, until=lambda: len(second.partitions) == 2)
    assert sorted(first.partitions + second.partitions) == [0, 1, 2, 3]
    assert first.events == [("assigned", [0, 1, 2, 3]), ("revoked", second.partitions)]
    second.consumer.close()
    settle(first, until=lambda: len(first.partitions) == 4)
    assert [name for name, _ in first.events] == ["assigned", "revoked", "assigned"]


def test_what_is_revoked_may_still_be_committed_and_is_taken_up_there(log, producer, join):
    producer.produce_many("four", [f"{number}" for number in range(40)], partition=[n % 4 for n in range(40)])
    first = join()
    first.consumer._on_revoke = lambda consumer, partitions: consumer.commit(offsets=partitions)
    read = settle(first, until=lambda: first.partitions == [0, 1, 2, 3] and sum(_offsets(first)) == 40)
    second = join()
    read += settle(first, second, until=lambda: len(second.partitions) == 2)
    producer.produce_many("four", [f"{number}" for number in range(40, 80)], partition=[n % 4 for n in range(40)])
    read += settle(first, second, until=lambda: sum(_offsets(first)) + sum(_offsets(second)) == 80)
    assert sorted(int(value) for value in read) == list(range(80))


def _offsets(member):
    return [each.offset for each in member.consumer.positions()]


def test_on_assign_may_seek(log, producer, join):
    producer.produce_many("one", [b"a", b"b", b"c"])
    member = join(["one"])
    member.consumer._on_assign = lambda consumer, partitions: consumer.seek(TopicPartition("one", 0, 2))
    assert member.consumer.poll(5).value() == b"c"


def test_a_topic_may_come_later(log, producer, join):
    member = join(["later"])
    with pytest.warns(UnknownTopicWarning, match="there is no topic 'later'"):
        assert member.consumer.poll(0) is None
    log.create_topic("later", partitions=2)
    producer.produce_many("later", [b"a"], partition=1)
    assert settle(member, until=lambda: member.partitions == [0, 1] and sum(_offsets(member)) == 1) == [b"a"]


def test_more_partitions_are_shared_out(log, producer, join):
    member = join(["one"])
    member.consumer.poll(0)
    log.alter_topic("one", partitions=3)
    settle(member, until=lambda: member.partitions == [0, 1, 2])


def test_a_topic_that_is_deleted_goes(log, producer, join):
    member = join(["one", "four"])
    member.consumer.poll(0)
    log.delete_topic("one")
    with pytest.warns(UnknownTopicWarning, match="there is no topic 'one'"):
        settle(member, until=lambda: member.partitions == [0, 1, 2, 3])


def test_more_members_than_partitions(log, join):
    members = [join(["one"]) for _ in range(3)]
    settle(*members, until=lambda: sum(len(member.partitions) for member in members) == 1)


@pytest.mark.parametrize("strategy", ["sticky", "range", "roundrobin"])
def test_strategies(log, join, strategy):
    members = [join(partition_assignment_strategy=strategy) for _ in range(2)]
    settle(*members, until=lambda: all(len(member.partitions) == 2 for member in members))


def test_a_member_that_hangs_loses_its_partitions(log, join):
    """Its heartbeats are in a thread of their own; they stop when it does not poll."""
    hanging = join(max_poll_interval_ms=1_500)
    hanging.consumer.poll(0)
    other = join()
    settle(other, until=lambda: len(other.partitions) == 4)
    with pytest.raises(UnknownMemberError):
        hanging.consumer.poll(0)
    assert hanging.events[-1] == ("lost", [0, 1, 2, 3])
    assert hanging.consumer.assignment() == []
    settle(hanging, other, until=lambda: len(hanging.partitions) == 2)


def test_a_member_that_only_waits_stays_one(log, join):
    member = join()
    member.consumer.poll(0)
    assert member.consumer.poll(2 * SESSION_MS / 1000) is None
    assert member.partitions == [0, 1, 2, 3]
    (group,) = log.groups()
    assert [each.partitions for each in group.members] == [[("four", number) for number in range(4)]]


def test_a_member_commits_only_its_own(log, join):
    first, second = join(), join()
    settle(first, second, until=lambda: len(second.partitions) == 2)
    foreign = TopicPartition("four", second.partitions[0], 0)
    with pytest.raises(IllegalGenerationError):
        first.consumer.commit(offsets=[foreign])
    first.consumer.poll(0)
    assert len(first.partitions) == 2


def test_unsubscribe_leaves_at_once(log, join):
    member = join()
    member.consumer.poll(0)
    member.consumer.unsubscribe()
    assert log.groups()[0].members == []
    member.consumer.assign([TopicPartition("one", 0)])
    member.consumer.unassign()
    log.delete_group("readers")
    assert log.groups() == []


def test_closing_calls_on_revoke(log):
    member = Watched(log)
    member.consumer.poll(0)
    member.consumer.close()
    assert member.events[-1] == ("revoked", [0, 1, 2, 3])


def test_no_thread_is_left(log, producer):
    before = threading.active_count()
    member = Watched(log)
    member.consumer.poll(0)
    assert threading.active_count() > before
    member.consumer.close()
    assert threading.active_count() == before


# ---- processes -----------------------------------------------------------------------------------


def test_a_killed_member_is_replaced(log, directory, producer, start):
    """Two processes share; one is killed, the other takes over where it had committed: nothing is lost."""
    members = [start("member.py", directory, "g", "four", SESSION_MS) for _ in range(2)]
    _wait_until_shared(log, 2)
    producer.produce_many("four", [f"{number}" for number in range(40)], partition=[n % 4 for n in range(40)])
    read = {members[turn % 2].event("read")[1] for turn in range(10)}
    members[0].kill()
    producer.produce_many("four", [f"{number}" for number in range(40, 80)], partition=[n % 4 for n in range(40)])
    until = time.monotonic() + 30
    while len(read) < 80:
        assert time.monotonic() < until
        read.update(event[1] for member in members for event in member.events() if event[0] == "read")
        time.sleep(0.05)
    assert read == {f"{number}" for number in range(80)}
    members[1].end()
    assert log.groups()[0].members == []


def _wait_until_shared(log, count):
    until = time.monotonic() + 30
    while True:
        groups = log.groups()
        if groups and sorted(len(member.partitions) for member in groups[0].members) == [4 // count] * count:
            return
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_stopped_member_is_fenced(log, directory, producer, start):
    """SIGSTOP, others take over, SIGCONT: it learns it, loses its partitions, and joins again."""
    zombie = start("member.py", directory, "g", "four", SESSION_MS)
    assert zombie.event("assigned") == ["assigned", 0, 1, 2, 3]
    zombie.stop()
    with Consumer(log, "g", session_timeout_ms=SESSION_MS) as other:
        other.subscribe(["four"])
        until = time.monotonic() + 30
        while len(other.assignment()) < 4:
            assert time.monotonic() < until
            other.poll(0.1)
        producer.produce_many("four", [b"a"] * 4, partition=[0, 1, 2, 3])
        assert len(other.consume(10, 5)) == 4
        other.commit()
        zombie.go_on()
        # It may have been about to return a record; what it wants to commit is refused.
        assert zombie.event("lost") == ["lost", 0, 1, 2, 3]
        assert zombie.event() == ["error", "UnknownMemberError"]
        assert {offset for offset, _, _ in log.groups()[0].offsets.values()} == {1}
    assert zombie.event("assigned")
    zombie.end()
    assert not [event for event in zombie.events() if event[0] == "read"]


@pytest.mark.parametrize(
    ("bounds", "days"), [({}, 7), ({"group_expiry_ms": 86_400_000}, 1), ({"group_expiry_ms": None}, None)]
)
def test_an_idle_group_is_forgotten_by_the_upkeep(directory, bounds, days):
    clock = ManualClock(1_000_000)
    with Log.open(directory, clock=clock, upkeep_interval_s=None, **bounds) as log:
        log.create_topic("one")
        partition = TopicPartition("one", 0, 0)
        with Consumer(log, "idle") as consumer:
            consumer.commit(offsets=[partition])
            clock.advance((days or 1000) * 86_400)
            log.maintain()
            assert consumer.committed([partition])[0].offset == 0
            clock.advance(1)
            assert log.maintain().forgotten == (days is not None)
            assert [group.group for group in log.groups()] == ([] if days else ["idle"])


def test_the_marker_of_a_sink_is_never_forgotten(directory):
    clock = ManualClock(1_000_000)
    with Log.open(directory, clock=clock, upkeep_interval_s=None) as log:
        log.create_topic("one")
        for group in ("idle", group_of("job", "out")):
            log.native.commit_offsets(group, [("one", 0, 1, "note")], now_ms=1_000_000_000)
        clock.advance(1000 * 86_400)
        while log.maintain().more:
            pass
        assert [group.group for group in log.groups()] == [group_of("job", "out")]


# -- partitions that come later -------------------------------------------------------------------------


def test_latest_loses_nothing_of_partitions_that_come_later(log, producer, join):
    """A consumer of ``latest`` lost the records of partitions that came after it had joined (``alter_topic``)."""
    producer.produce_many("one", [b"before"])
    member = join(["one"], auto_offset_reset="latest")
    member.consumer.poll(0)
    log.alter_topic("one", partitions=3)
    producer.produce_many("one", [b"1", b"2"], partition=[1, 2])
    found = settle(member, until=lambda: member.partitions == [0, 1, 2] and sum(_offsets(member)) >= 3)
    assert sorted(found) == [b"1", b"2"]


def test_latest_loses_nothing_of_topics_that_come_later(log, producer, join):
    """The same of a topic that is made, or made anew, after the consumer has subscribed."""
    producer.produce_many("one", [b"before"])
    member = join(["one", "later"], auto_offset_reset="latest")
    with pytest.warns(UnknownTopicWarning):
        member.consumer.poll(0)
    log.create_topic("later")
    log.delete_topic("one")
    log.create_topic("one")
    producer.produce_many("later", [b"1"])
    producer.produce_many("one", [b"2"])
    found = settle(member, until=lambda: sorted(_offsets(member)) == [1, 1])
    assert sorted(found) == [b"1", b"2"]


def test_what_the_group_has_committed_comes_first(log, producer, join):
    """A partition that came later, and that another member has read meanwhile, is not read again."""
    member = join(["one"], auto_offset_reset="latest")
    member.consumer.poll(0)
    log.alter_topic("one", partitions=2)
    producer.produce_many("one", [b"1", b"2"], partition=1)
    settle(member, until=lambda: sum(_offsets(member)) == 2)
    member.consumer.commit()
    member.consumer.close()
    again = join(["one"], auto_offset_reset="latest")
    producer.produce_many("one", [b"3"], partition=1)
    assert settle(again, until=lambda: 3 in _offsets(again)) == [b"3"]


def test_latest_loses_nothing_of_them_when_another_member_takes_over(log, producer, join):
    """Who joins after a partition came, and gets it from a member that had read nothing of it, begins at its start."""
    first = join(["one"], auto_offset_reset="latest")
    first.consumer.poll(0)
    log.alter_topic("one", partitions=2)
    producer.produce_many("one", [b"1"], partition=1)
    while 1 not in first.partitions:
        with first.consumer._lock:
            first.consumer._attend()
        time.sleep(0.02)
    first.consumer.close()
    second = join(["one"], auto_offset_reset="latest")
    assert settle(second, until=lambda: _offsets(second) == [0, 1]) == [b"1"]
