"""Idle partitions hold no window open, where the user says after how long (rules L14 to L19, L21).

The kind of fault: one silent partition holds all windows open for ever. Where it does not, nothing may be lost without
a word: W never falls, and what comes later from it is late and counted.
"""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onceflow import Dataflow, count, run
from onceflow.clock import ManualClock
from onceflow.exceptions import ConfigurationError
from onceflow.sources import Source, SourceBatch, SourceReader
from onceflow.testing import EOF, PAUSE, TestingSource, TransactionalTestingSink
from onceflow.types import END_OF_TIME
from onceflow.watermarks import combined
from onceflow.windows import Tumbling

MICROS = timedelta(microseconds=1)
#: Rounds in which more time passes than a source is idle after.
LONG = [PAUSE] * 150


class Ticking(ManualClock):
    """A hundredth of a second passes each time that somebody looks."""

    def monotonic(self):
        self.advance(0.01)
        return super().monotonic()


class Job:
    """Counts by windows of ten microseconds over sources of one partition or more; records are their times."""

    def __init__(self, *sources, idle_after=timedelta(seconds=1), timestamps=False):
        self.flow, self.out, self.late = Dataflow("flow"), TransactionalTestingSink(), TransactionalTestingSink()
        streams = []
        for number, partitions in enumerate(sources):
            event_time = None if timestamps else lambda time: time
            source = TestingSource(*partitions, event_time=event_time, batch_size=1)
            stream = self.flow.source(f"in-{number}", source, idle_after=idle_after)
            if timestamps:
                stream = stream.assign_timestamps(f"times-{number}", lambda time: time / 1_000_000)
            streams.append(stream)
        joined = streams[0].union(*streams[1:]) if streams[1:] else streams[0]
        window = joined.key_by(lambda _: "all").window("w", Tumbling(10 * MICROS)).aggregate(n=count())
        window.sink("out", self.out)
        self.flow.late("w").sink("late", self.late)

    def run(self, state):
        return run(self.flow, state, clock=Ticking())

    @property
    def counts(self):
        return [(row["window_start"].microsecond, row["n"]) for row in self.out.records]


SILENT = [1, *[PAUSE] * 5000]


@pytest.mark.parametrize("timestamps", [False, True], ids=["event_time", "assign_timestamps"])
@pytest.mark.parametrize("apart", [False, True], ids=["partitions", "sources"])
def test_l14_an_idle_one_is_left_out(state, apart, timestamps):
    """Also one that never had a record, whether partitions of one source or sources of a union."""
    lively = [5, 15, *LONG, 25, 35, *LONG, 45, EOF]
    partitions = [SILENT, lively, [PAUSE] * 5000]
    job = (
        Job(*[[one] for one in partitions], timestamps=timestamps) if apart else Job(partitions, timestamps=timestamps)
    )
    assert not job.run(state).finished
    assert job.counts == [(0, 2), (10, 1), (20, 1), (30, 1)]
    assert job.late.records == []


def test_l18_idleness_is_off_by_default(state):
    job = Job([SILENT, [5, 15, *LONG, 25, EOF]], idle_after=None)
    assert not job.run(state).finished
    assert job.counts == []


@pytest.mark.parametrize("wrong", [timedelta(0), -MICROS, timedelta.max, 5])
def test_l18_what_cannot_be_is_refused(wrong):
    with pytest.raises(ConfigurationError, match="source 'in': idle_after is"):
        Dataflow("flow").source("in", TestingSource([1]), idle_after=wrong)


def test_l16_back_from_idleness_it_counts_once_it_has_caught_up_and_nothing_falls(state):
    """What it hands out of closed windows is late, and counted; then it holds windows open again."""
    back = [1, *LONG, 2, 3, 31, *[PAUSE] * 5, 32, EOF]
    job = Job([back, [5, 15, 25, *LONG, 35, 65]])
    result = job.run(state)
    assert job.late.records == [2, 3]
    assert result.late == {"w": 2}
    while not result.finished:
        result = job.run(state)
    assert job.counts == [(0, 2), (10, 1), (20, 1), (30, 3), (60, 1)]


def test_l17_one_that_has_ended_and_one_that_is_idle_are_not_the_end(state):
    """The end of one partition does not close the windows of another that is only silent for a while."""
    job = Job([[1], [25, *LONG, 26, 27]])
    result = job.run(state)
    assert job.counts == [(0, 1), (20, 3)]
    assert result.late == {"w": 0}


def test_l19_who_waits_for_its_turn_is_not_idle(state):
    """Ahead in event time it is not asked for long; that is no idleness, and none of its records is late."""
    behind = list(range(50))
    job = Job([[100, 45, 101], [*behind, *LONG, 51, 102]])
    result = job.run(state)
    assert job.late.records == [45]
    assert result.late == {"w": 1}


def test_a_resumed_run_remembers_what_was_closed_while_one_was_idle(state):
    job = Job([[1, *LONG, EOF, 2, 40], [5, 25, *LONG, *[PAUSE] * 20, 41]])
    job.run(state)
    assert job.counts == [(0, 2)]
    while not job.run(state).finished:
        pass
    assert job.late.records == [2]
    assert job.counts == [(0, 2), (20, 1), (40, 2)]


MARKS = st.none() | st.integers(-5, 5) | st.just(END_OF_TIME)


@given(st.lists(st.tuples(MARKS, st.booleans()), max_size=6))
def test_l13_to_l15_how_far_event_time_has_come_in_several_inputs(inputs):
    live = [(mark, idle) for mark, idle in inputs if mark != END_OF_TIME]
    active = [mark for mark, idle in live if not idle]
    watermark, idle = combined(inputs)
    if not live:
        assert (watermark, idle) == (END_OF_TIME, False)
    elif active:
        assert (watermark, idle) == (None if None in active else min(active), False)
    else:
        known = [mark for mark, _ in live if mark is not None]
        assert (watermark, idle) == (max(known, default=None), True)


class Following(Source):
    """Hands out times, and then has nothing until told; gives up when it was asked too often."""

    has_event_time = True

    def __init__(self, times, is_over):
        self.times, self.is_over, self.asked = times, is_over, 0

    def partitions(self):
        return ["0"]

    def open(self, partition, position):
        return FollowingReader(self, position or 0)


class FollowingReader(SourceReader):
    def __init__(self, source, place):
        self.source, self.place = source, place

    def read(self, max_records):
        if self.place < len(self.source.times):
            times, self.place = self.source.times[self.place :], len(self.source.times)
            return SourceBatch(list(times), np.array(times, np.int64))
        self.source.asked += 1
        return None if self.source.is_over() or self.source.asked > 2000 else SourceBatch([], np.array([], np.int64))

    def position(self):
        return self.place


def test_windows_that_a_silent_source_held_open_are_written_though_nothing_is_read(state):
    """Output that waits for a record that may never come: no checkpoint began, since nothing had been read."""
    out, seen = TransactionalTestingSink(), []

    def is_over():
        seen.append(len(out.records))
        return bool(out.records)

    flow = Dataflow("flow")
    silent = flow.source("silent", Following([0], is_over), idle_after=timedelta(seconds=1))
    joined = flow.source("ahead", Following(list(range(100)), is_over)).union(silent)
    joined.key_by(lambda _: "all").window("w", Tumbling(10 * MICROS)).aggregate(n=count()).sink("out", out)
    run(flow, state, clock=Ticking())
    # Before the sources ended, which closes the last window.
    assert seen[-1] == 9
    assert len(out.records) == 10
