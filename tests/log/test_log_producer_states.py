"""Each call in each state of a producer: what the table says, or the error that is documented."""

from __future__ import annotations

import fcntl
import itertools
import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from reading_log import values

from onceflow.clock import ManualClock
from onceflow.exceptions import (
    BackendClosedError,
    BufferFullError,
    InvalidTransactionStateError,
    LogTimeoutError,
    OnceflowError,
    ProducerFencedError,
    RecordTooLargeError,
    TransactionTimedOutError,
)
from onceflow.log import Log, Producer, ProducerState, TopicPartition
from onceflow.log.producer.state import REFUSALS, TRANSITIONS, Call

S = ProducerState


class World:
    """A log whose commits can be held up, with one producer."""

    def __init__(self, directory) -> None:
        self.clock = ManualClock(1_000_000)
        self.log = Log.open(directory, clock=self.clock, upkeep_interval_s=None, commit_timeout_s=0.02)
        self.log.create_topic("one")
        self.producer = self.make("tx")
        (path,) = directory.rglob("commit.lock")
        self._lock = path.open()
        self.number = 0

    def make(self, transactional_id: str | None) -> Producer:
        # All that a transaction has is staged at once.
        return Producer(
            self.log,
            transactional_id=transactional_id,
            transaction_timeout_ms=1_000,
            max_buffered_bytes=1,
            delivery_timeout_s=0,
        )

    def hold(self) -> None:
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def release(self) -> None:
        fcntl.flock(self._lock, fcntl.LOCK_UN)

    def take_over(self) -> None:
        with self.make("tx") as newer:
            newer.init_transactions()

    def time_out(self) -> None:
        self.clock.advance(2)
        while self.log.maintain().more:
            pass

    def value(self) -> bytes:
        self.number += 1
        return b"%d" % self.number

    def call(self, call: Call, value: bytes = b"v") -> None:
        match call:
            case Call.PRODUCE:
                self.producer.produce_many("one", [value])
            case Call.SEND_OFFSETS:
                self.producer.send_offsets_to_transaction([TopicPartition("one", 0, 0)], group_id="g")
            case Call.INIT:
                self.producer.init_transactions(timeout=0)
            case Call.BEGIN:
                self.producer.begin_transaction()
            case Call.COMMIT:
                self.producer.commit_transaction(timeout=0)
            case Call.ABORT:
                self.producer.abort_transaction(timeout=0)

    def close(self) -> None:
        self.release()
        self._lock.close()
        with suppress(ProducerFencedError, InvalidTransactionStateError):
            self.log.close()


@pytest.fixture
def world(directory) -> Iterator[World]:
    made = World(directory)
    yield made
    made.close()


@contextmanager
def held(world: World) -> Iterator[None]:
    world.hold()
    try:
        yield
    finally:
        world.release()


def reach(world: World, state: ProducerState) -> None:
    """Brings the producer into a state, as a program would come there."""
    producer = world.producer
    if state is S.IDEMPOTENT:
        world.producer = world.make(None)
        return
    if state is S.UNINITIALIZED:
        return
    producer.init_transactions()
    if state is S.CLOSED:
        producer.close()
    if state in (S.READY, S.CLOSED):
        return
    producer.begin_transaction()
    if state is S.IN_TRANSACTION:
        return
    if state is S.ENDING:
        with held(world):
            for call in (Call.PRODUCE, Call.COMMIT):
                with pytest.raises(LogTimeoutError):
                    world.call(call)
        return
    producer.produce_many("one", [b"staged"])
    if state is S.ABORTABLE:
        with pytest.raises(RecordTooLargeError):
            producer.produce_many("one", [b"x" * (2 << 20)])
    elif state in (S.COMMITTING, S.ABORTING):
        with held(world), pytest.raises(LogTimeoutError):
            world.call(Call.COMMIT if state is S.COMMITTING else Call.ABORT)
    elif state is S.FENCED:
        world.take_over()
        with pytest.raises(ProducerFencedError):
            world.call(Call.COMMIT)
    elif state is S.TIMED_OUT:
        world.time_out()
        with pytest.raises(TransactionTimedOutError):
            world.call(Call.COMMIT)


#: What a state says to a call that it does not allow.
ERRORS: dict[ProducerState, type[OnceflowError]] = {
    S.FENCED: ProducerFencedError,
    S.TIMED_OUT: TransactionTimedOutError,
    S.CLOSED: BackendClosedError,
    **dict.fromkeys(REFUSALS, InvalidTransactionStateError),
}


@pytest.mark.parametrize("call", Call)
@pytest.mark.parametrize("state", ProducerState)
def test_each_call_in_each_state(world, state, call):
    """A table that promised other calls than the producer takes, or an error that says nothing of what to do."""
    reach(world, state)
    producer = world.producer
    assert producer.state is state
    if call in TRANSITIONS[state]:
        world.call(call)
        assert producer.state in TRANSITIONS[state][call]
        return
    with pytest.raises(OnceflowError) as raised:
        world.call(call)
    assert type(raised.value) is ERRORS[state]
    assert REFUSALS.get(state, "") in str(raised.value)
    assert producer.state is state


@pytest.mark.parametrize("state", ProducerState)
def test_one_record_is_refused_as_a_batch_is(world, state):
    """``produce`` goes through the buffer, which once took what could never be written."""
    reach(world, state)
    if Call.PRODUCE in TRANSITIONS[state]:
        world.producer.produce("one", b"v")
        return
    with pytest.raises(OnceflowError) as raised:
        world.producer.produce("one", b"v")
    assert type(raised.value) is ERRORS[state]
    assert len(world.producer) == 0


@pytest.mark.parametrize("call", Call)
@pytest.mark.parametrize("state", [each for each in ProducerState if each not in (S.ENDING, S.IDEMPOTENT)])
def test_the_native_producer_allows_the_same(world, state, call):
    """Two tables, in Python and in Rust, that drift apart."""
    reach(world, state)
    native, now_ms = world.producer._native, world.log.now_ms()
    calls = {
        Call.PRODUCE: lambda: native.produce("one", [b"v"], now_ms=now_ms),
        Call.SEND_OFFSETS: lambda: native.send_offsets("g", [("one", 0, 0, "")], now_ms=now_ms),
        Call.INIT: lambda: native.init_transactions(now_ms=now_ms),
        Call.BEGIN: lambda: native.begin_transaction(now_ms=now_ms),
        Call.COMMIT: lambda: native.commit_transaction(now_ms=now_ms),
        Call.ABORT: lambda: native.abort_transaction(now_ms=now_ms),
    }
    if call in TRANSITIONS[state]:
        calls[call]()
        return
    with pytest.raises(ERRORS[state]):
        calls[call]()


@pytest.mark.parametrize(
    ("state", "call"), [(state, call) for state, calls in TRANSITIONS.items() for call in calls], ids=str
)
def test_each_call_that_gets_no_answer(world, state, call):
    """A call without an answer must leave a state in which it can be repeated."""
    reach(world, state)
    with held(world):
        try:
            world.call(call)
        except (LogTimeoutError, BufferFullError):
            assert call in TRANSITIONS[world.producer.state]
        assert world.producer.state in TRANSITIONS[state][call]
    if call in TRANSITIONS[world.producer.state]:
        world.call(call)


@pytest.mark.parametrize("seed", range(12))
def test_any_order_of_calls(world, seed):
    """Calls at random, also without answers, fenced and timed out: each as the table says, and the log has what it
    says."""
    dice = random.Random(seed)
    committed: list[bytes] = []
    unknown: list[bytes] = []
    current: list[bytes] = []
    hidden = False
    for _ in range(120):
        event = dice.choices(["call", "hold", "release", "take over", "time out", "anew"], [30, 2, 4, 0.4, 0.4, 1])[0]
        if event == "hold" and not hidden:
            world.hold()
            hidden = True
        elif event == "release":
            world.release()
            hidden = False
        elif event in ("take over", "time out") and not hidden:
            world.take_over() if event == "take over" else world.time_out()
        elif event == "anew" and world.producer.state in (S.FENCED, S.CLOSED):
            world.producer = world.make("tx")
        if event != "call":
            continue
        before = world.producer.state
        # Mostly calls that are allowed, or nothing would ever happen.
        allowed = list(TRANSITIONS[before])
        call = dice.choice(allowed if allowed and dice.random() < 0.8 else list(Call))
        value = world.value()
        error: OnceflowError | None = None
        try:
            world.call(call, value)
        except OnceflowError as raised:
            error = raised
        after = world.producer.state
        if call not in TRANSITIONS[before]:
            assert type(error) is ERRORS[before]
            assert after is before
            continue
        if isinstance(error, ProducerFencedError):
            expected = S.TIMED_OUT if isinstance(error, TransactionTimedOutError) else S.FENCED
            assert after is expected
        else:
            assert after in TRANSITIONS[before][call]
            assert error is None or (hidden and isinstance(error, (LogTimeoutError, BufferFullError)))
        if call is Call.PRODUCE and (error is None or isinstance(error, LogTimeoutError)):
            current.append(value)
        elif call is Call.COMMIT and error is None:
            committed += current
            current = []
        elif call in (Call.ABORT, Call.BEGIN) and error is None:
            current = []
        if after in (S.FENCED, S.TIMED_OUT) and before is not after:
            # A commit without an answer may have been applied before.
            unknown += current if before is S.COMMITTING else []
            current = []
    world.release()
    if world.producer.state is S.COMMITTING:
        unknown += current
    found = set(values(world.log, "one"))
    assert set(committed) <= found <= {*committed, *unknown}


#: Kafka's ``TransactionManager.State.isTransitionValid``: from which states each may be reached.
KAFKA = {
    "INITIALIZING": {"UNINITIALIZED", "COMMITTING", "ABORTING"},
    "READY": {"INITIALIZING", "COMMITTING", "ABORTING"},
    "IN_TRANSACTION": {"READY"},
    "COMMITTING": {"IN_TRANSACTION"},
    "ABORTING": {"IN_TRANSACTION", "ABORTABLE"},
    "ABORTABLE": {"IN_TRANSACTION", "COMMITTING", "ABORTABLE"},
}
#: What Kafka goes through in each call.
THROUGH = {Call.INIT: ["INITIALIZING"], Call.COMMIT: ["COMMITTING"], Call.ABORT: ["ABORTING"]}
#: Where this producer allows more, and why.
MORE = {
    (S.READY, Call.INIT),  # again, to fence once more
    (S.TIMED_OUT, Call.INIT),  # Kafka's is fenced for ever
    (S.ENDING, Call.ABORT),  # the commit was not sent
    (Call.ABORT, S.ABORTABLE),  # an abort that the log refuses, as with a full disk, can be asked for again
}


def test_what_kafka_allows():
    """Whoever comes from Kafka finds the same order of calls."""
    compared = 0
    for state, calls in TRANSITIONS.items():
        for call, targets in calls.items():
            for target in targets:
                if state is S.IDEMPOTENT or (state, call) in MORE or (call, target) in MORE:
                    continue
                path = [_kafka(state), *THROUGH.get(call, []), _kafka(target)]
                for source, reached in itertools.pairwise(path):
                    repeated = reached in (source, _kafka(state))
                    assert repeated or source in KAFKA[reached], (state, call, target)
                    compared += not repeated
    assert compared > 10


def _kafka(state: ProducerState) -> str:
    return {S.ENDING: "COMMITTING"}.get(state, state.name)
