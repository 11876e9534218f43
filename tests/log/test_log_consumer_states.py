"""Each call in each state of a consumer: what the table says, or the error that is documented."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import pytest

from onceflow.clock import ManualClock
from onceflow.exceptions import BackendClosedError, ConfigurationError, OnceflowError, UnknownMemberError
from onceflow.log import Consumer, ConsumerState, Log, TopicPartition
from onceflow.log.consumer.state import TRANSITIONS, Call

S = ConsumerState
#: States in which news from the group may come at any time, and to which they lead.
SHARING = {S.MEMBER, S.REBALANCING, S.LOST}


class World:
    """A log with one consumer, and others of its group."""

    def __init__(self, directory) -> None:
        self.clock = ManualClock(1_000_000)
        self.log = Log.open(directory, clock=self.clock, upkeep_interval_s=None)
        self.log.create_topic("four", partitions=4)
        self.consumer = self.make()
        self.others: list[Consumer] = []

    def make(self) -> Consumer:
        # It says every 50 ms that it is alive.
        return Consumer(self.log, "g", session_timeout_ms=500)

    def another_joins(self) -> None:
        self.others.append(self.make())
        self.others[-1].subscribe(["four"])
        self.others[-1].poll(0)

    def declare_dead(self) -> None:
        """All members, whose process stood still as far as the log can see."""
        self.others.clear()
        self.clock.advance(10)
        while self.log.maintain().more:
            pass

    def wait_for(self, *states: ConsumerState) -> None:
        until = time.monotonic() + 20
        while self.consumer.state not in states:
            assert time.monotonic() < until, self.consumer.state
            time.sleep(0.01)

    def call(self, call: Call) -> None:
        match call:
            case Call.SUBSCRIBE:
                self.consumer.subscribe(["four"])
            case Call.UNSUBSCRIBE:
                self.consumer.unsubscribe()
            case Call.ASSIGN:
                self.consumer.assign([TopicPartition("four", 0)])
            case Call.POLL:
                self.consumer.poll(0)
            case Call.COMMIT:
                self.consumer.commit(offsets=list(self.consumer.positions()))


@pytest.fixture
def world(directory) -> Iterator[World]:
    made = World(directory)
    yield made
    made.log.close()


def reach(world: World, state: ConsumerState) -> None:
    """Brings the consumer into a state, as a program would come there."""
    consumer = world.consumer
    if state is S.ASSIGNED:
        world.call(Call.ASSIGN)
    elif state is S.CLOSED:
        consumer.close()
    elif state is not S.IDLE:
        world.call(Call.SUBSCRIBE)
    if state in SHARING:
        consumer.poll(0)
    if state is S.REBALANCING:
        world.another_joins()
        world.wait_for(state)
    elif state is S.LOST:
        world.declare_dead()
        world.wait_for(state)


@pytest.mark.parametrize("call", Call)
@pytest.mark.parametrize("state", ConsumerState)
def test_each_call_in_each_state(world, state, call):
    """A table that promised other calls than the consumer takes, or an error of another kind."""
    reach(world, state)
    consumer = world.consumer
    assert consumer.state is state
    if call not in TRANSITIONS[state]:
        expected = BackendClosedError if state is S.CLOSED else ConfigurationError
        with pytest.raises(OnceflowError) as raised:
            world.call(call)
        assert type(raised.value) is expected
        assert consumer.state is state
        return
    if state is S.LOST and call in (Call.POLL, Call.COMMIT):
        with pytest.raises(UnknownMemberError):
            world.call(call)
    else:
        world.call(call)
    assert consumer.state in TRANSITIONS[state][call]


def test_who_was_lost_joins_again(world):
    """An error that is raised for ever, or a member that reads partitions of others."""
    reach(world, S.LOST)
    with pytest.raises(UnknownMemberError):
        world.consumer.poll(0)
    assert world.consumer.state is S.JOINING
    assert world.consumer.assignment() == []
    world.consumer.poll(0)
    assert world.consumer.state is S.MEMBER
    assert len(world.consumer.assignment()) == 4


def test_partitions_are_unassigned(world):
    """``unassign`` left a consumer that was neither here nor there."""
    reach(world, S.ASSIGNED)
    world.consumer.unassign()
    assert world.consumer.state is S.IDLE


@pytest.mark.parametrize("seed", range(6))
def test_any_order_of_calls(world, seed):
    """Calls at random while members come, go and are declared dead: each as the table says."""
    dice = random.Random(seed)
    for _ in range(60):
        event = dice.choices(["call", "join", "leave", "dead", "wait"], [20, 1, 1, 1, 3])[0]
        if event == "join" and len(world.others) < 3:
            world.another_joins()
        elif event == "leave" and world.others:
            world.others.pop().close()
        elif event == "dead":
            world.declare_dead()
        elif event == "wait":
            time.sleep(0.06)
        if event != "call":
            continue
        before = world.consumer.state
        call = dice.choice(list(Call))
        try:
            world.call(call)
        except UnknownMemberError:
            assert call in (Call.POLL, Call.COMMIT)
        except ConfigurationError:
            assert call not in TRANSITIONS[before]
            continue
        # The group's news may have come just before the call, or just after it.
        news = SHARING if before in SHARING else {before}
        after = set().union(*(TRANSITIONS[state][call] for state in news))
        assert world.consumer.state in (after | SHARING if after & SHARING else after), (before, call)
