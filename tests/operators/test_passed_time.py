"""Durations without event time are counted in time that has passed, whatever the wall clock is set to.

The kind of fault: liveness by the wall clock. Set forward by an hour or a week it made ``drop_duplicates`` forget keys
within their horizon, so that duplicates passed, and states expire; set back it kept them for as long.
"""

from __future__ import annotations

from datetime import timedelta

import pytest

from onceflow import Dataflow, run
from onceflow.clock import SystemClock
from onceflow.operators.passed_time import PassedTime
from onceflow.state import Processor, ValueState
from onceflow.testing import EOF, TestingSource, TransactionalTestingSink

WEEK = 7 * 86_400
HOUR = 3_600


class Machine:
    """Its wall clock can be set, it sleeps, and it is started anew."""

    def __init__(self, wall=1_700_000_000.0, up=1_000.0):
        self.wall, self.up, self.boots = wall, up, 1

    def monotonic(self):
        # Stands while the machine sleeps.
        return 0.0

    def since_boot(self):
        return f"boot {self.boots}", self.up

    def now(self):
        return self.wall

    def passes(self, seconds):
        self.wall += seconds
        self.up += seconds

    def boots_again(self, after=0.0, up=10.0):
        self.wall += after + up
        self.up = up
        self.boots += 1


class Counting(Processor):
    times = ValueState(default=0, ttl=timedelta(hours=1))

    def process(self, record):
        self.times.set(self.times.get() + 1)
        yield self.times.get()


def passed(state, step, clock, changes):
    """The same key again and again, with a change of the clock before each record but the first; what came out."""
    moves = iter(changes)

    def move(number):
        if number:
            next(moves)(clock)
        return number

    flow, out = Dataflow("flow"), TransactionalTestingSink()
    stream = flow.source("in", TestingSource(list(range(len(changes) + 1)), batch_size=1)).map(move)
    if step == "drop_duplicates":
        stream = stream.drop_duplicates("step", lambda _: "key", horizon=timedelta(hours=1))
    else:
        stream = stream.key_by(lambda _: "key").process("step", Counting)
    stream.sink("out", out)
    run(flow, state, clock=clock)
    return out.records


def wall(seconds):
    return lambda clock: setattr(clock, "wall", clock.wall + seconds)


@pytest.mark.parametrize("jump", [HOUR, WEEK, -HOUR, -WEEK])
def test_setting_the_wall_clock_forgets_nothing_and_keeps_nothing_longer(tmp_path, jump):
    """Both ways: half an hour after the jump a duplicate is one still, an hour after it no more."""
    changes = [wall(jump), lambda clock: clock.passes(HOUR / 2), lambda clock: clock.passes(HOUR / 2)]
    assert passed(tmp_path / "a", "drop_duplicates", Machine(), changes) == [0, 3]
    assert passed(tmp_path / "b", "process", Machine(), [*changes[:2], lambda clock: clock.passes(HOUR)]) == [
        1,
        2,
        3,
        1,
    ]


@pytest.mark.parametrize(
    ("between", "expected"),
    [
        (lambda clock: clock.passes(HOUR / 2), [0]),
        (lambda clock: clock.passes(HOUR), [0, 1]),
        (wall(WEEK), [0]),
        (wall(-WEEK), [0]),
        # Off for a week: known to have passed is what passed since it is on again.
        (lambda clock: clock.boots_again(after=WEEK), [0]),
        (lambda clock: clock.boots_again(after=WEEK, up=HOUR), [0, 1]),
        # The wall clock of the machine was lost with its battery.
        (lambda clock: clock.boots_again(after=-WEEK, up=HOUR), [0]),
    ],
    ids=["half an hour", "an hour", "set forward", "set back", "off", "on again for long", "set back while off"],
)
def test_the_count_goes_on_over_runs(state, between, expected):
    clock = Machine()
    flow, out = Dataflow("flow"), TransactionalTestingSink()
    stream = flow.source("in", TestingSource([0, EOF, 1], batch_size=1))
    stream.drop_duplicates("step", lambda _: "key", horizon=timedelta(hours=1)).sink("out", out)
    run(flow, state, clock=clock)
    between(clock)
    assert run(flow, state, clock=clock).finished
    assert out.records == expected


def test_the_count_never_goes_back_and_begins_at_about_the_time_of_day():
    """So what the version before kept by the time of day means the same."""
    clock = Machine()
    time = PassedTime(clock)
    assert time.now_us() == clock.wall * 1_000_000
    for change in (wall(-WEEK), lambda clock: clock.boots_again(after=-WEEK), wall(WEEK)):
        saved, before = time.snapshot(), time.now_us()
        change(clock)
        time = PassedTime(clock, saved)
        assert time.now_us() >= before


def test_the_clock_of_the_machine_says_when_it_was_started():
    clock = SystemClock()
    boot, before = clock.since_boot()
    again, after = SystemClock().since_boot()
    assert again == boot != ""
    assert after >= before > 0
