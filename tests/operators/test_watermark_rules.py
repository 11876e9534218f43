"""The rules of lateness and watermarks, L1 to L23, for tumbling windows: a table, and where the others are tested.

The kind of fault: a rule that nobody looks at any more; and results that depend on how fast, or in which order, sources
are read. Each row of the table is run with batches of one, seven and 4,096 records, by records and by columns.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from test_idleness import Ticking
from test_lateness import ColumnsSource

from onceflow import Dataflow, count, run
from onceflow.exceptions import ConfigurationError
from onceflow.testing import ABORT, EOF, PAUSE, AbortedError, TestingSource, TransactionalTestingSink
from onceflow.windows import Tumbling

MICROS = timedelta(microseconds=1)


@dataclass(frozen=True)
class Rule:
    """Times of records of each partition; what the windows of ten microseconds give, and which records are late.

    Attributes:
        stopped: What the windows have given when the first run was stopped (``EOF``), if it is.
    """

    partitions: list[list[object]]
    windows: list[tuple[int, int]]
    late: list[int] = field(default_factory=list)
    delay: int = 0
    lateness: int = 0
    stopped: list[tuple[int, int]] | None = None


TABLE = {
    "L1: newest time less the disorder": Rule([[0, 12, 9, 13, 8]], [(0, 2), (10, 2)], [8], delay=3),
    "L2: older rows lower nothing": Rule([[50, 10, 50, 12, 51]], [(50, 3)], [10, 12]),
    "L3: it moves within a batch": Rule([[1, 25, 2, 3, 31, 29, 8]], [(0, 1), (20, 1), (30, 1)], [2, 3, 29, 8]),
    "L5: late from end + lateness on": Rule([[1, 14, 2, 15, 3]], [(0, 2), (10, 2)], [3], lateness=5),
    "L6: one row when it closes, not before": Rule(
        [[1, 14, 2, EOF, 15, 25]], [(0, 2), (10, 2), (20, 1)], lateness=5, stopped=[]
    ),
    "L11: each late record once": Rule([[1, 20, 2, ABORT, 3, EOF, 4]], [(0, 1), (20, 1)], [2, 3, 4], stopped=[(0, 1)]),
    "L13: the lowest of several inputs": Rule([[0, 50, 51, 52], [1, 2, 3, 4]], [(0, 5), (50, 3)]),
    "L20: who is ahead waits for who is behind": Rule([[0, 90, 5], [1, 2, 3, 95]], [(0, 4), (90, 2)], [5]),
    "L22: the end closes all, a stop nothing": Rule([[1, 25, EOF, 26]], [(0, 1), (20, 2)], stopped=[(0, 1)]),
}

#: Rules that need more than one flow of records and their times, by where they are tested.
ELSEWHERE = {
    "L4": "test_lateness.py::test_l4_time_passing_alone_closes_nothing",
    "L12": "test_lateness.py::test_l12_no_key_is_an_error_or_a_key_and_never_skipped",
    "L14": "test_idleness.py::test_l14_an_idle_one_is_left_out",
    "L15": "test_idleness.py::test_l13_to_l15_how_far_event_time_has_come_in_several_inputs",
    "L16": "test_idleness.py::test_l16_back_from_idleness_it_counts_once_it_has_caught_up_and_nothing_falls",
    "L17": "test_idleness.py::test_l17_one_that_has_ended_and_one_that_is_idle_are_not_the_end",
    "L18": "test_idleness.py::test_l18_what_cannot_be_is_refused",
    "L19": "test_idleness.py::test_l19_who_waits_for_its_turn_is_not_idle",
    "L21": "test_watermark_rules.py::test_l21_an_idle_one_holds_nobody_up",
    "L23": "test_lateness.py::test_l23_no_result_of_a_window_is_late_in_the_next_one",
}

#: Rules of what onceflow does not have yet.
NOT_YET = {
    "L7": "emit='on_update' of windows",
    "L8": "emit='on_update' of windows",
    "L9": "sliding windows",
    "L10": "windows that overlap: a record has one window, so both counters are the same",
}


def test_each_rule_is_in_the_table_or_named_with_its_place():
    rules = {name.split(":")[0] for name in TABLE}
    assert rules | ELSEWHERE.keys() | NOT_YET.keys() == {f"L{number}" for number in range(1, 24)}
    for place in ELSEWHERE.values():
        file, _, name = place.partition("::")
        assert re.search(rf"^def {name}\(", Path(__file__).with_name(file).read_text(), re.MULTILINE), place


def windows_of(rule, batch_size, *, columns):
    flow, out, late = Dataflow("flow"), TransactionalTestingSink(), TransactionalTestingSink()
    source = (
        ColumnsSource(*rule.partitions, batch_size=batch_size)
        if columns
        else TestingSource(*rule.partitions, event_time=lambda time: time, batch_size=batch_size)
    )
    stream = flow.source("in", source, max_out_of_orderness=rule.delay * MICROS)
    window = stream.key_by(lambda _: "all").window("w", Tumbling(10 * MICROS), allowed_lateness=rule.lateness * MICROS)
    window.aggregate(n=count()).sink("out", out)
    flow.late("w").sink("late", late)
    return flow, out, late


def counts(sink):
    return [(row["window_start"].microsecond, row["n"]) for row in sink.records]


@pytest.mark.parametrize("batch_size", [1, 7, 4096])
@pytest.mark.parametrize("name", TABLE)
def test_rule(state, name, batch_size):
    rule = TABLE[name]
    flow, out, late = windows_of(rule, batch_size, columns=False)
    stopped = None
    while True:
        try:
            if run(flow, state).finished:
                break
        except AbortedError:
            continue
        stopped = counts(out) if stopped is None else stopped
    assert counts(out) == rule.windows
    assert sorted(late.records) == sorted(rule.late)
    assert stopped == rule.stopped


@pytest.mark.parametrize("batch_size", [1, 7, 4096])
@pytest.mark.parametrize("name", [name for name, rule in TABLE.items() if rule.stopped is None])
def test_rule_by_columns(state, name, batch_size):
    rule = TABLE[name]
    flow, out, late = windows_of(rule, batch_size, columns=True)
    assert run(flow, state).finished
    assert counts(out) == rule.windows
    assert sorted(row["t"] for row in late.records) == sorted(rule.late)


# -- the drift between sources ---------------------------------------------------------------------


class Drift:
    """Two sources of one partition each, in either order of declaration; what was processed, in order."""

    def __init__(self, behind, ahead, *, swapped=False, idle_after=None):
        self.flow, self.seen = Dataflow("flow"), []
        sources = {"behind": behind, "ahead": ahead}
        names = sorted(sources, reverse=swapped)
        streams = [
            self.flow.source(
                name, TestingSource(sources[name], event_time=lambda time: time, batch_size=1), idle_after=idle_after
            ).inspect(lambda time, name=name: self.seen.append((name, time)))
            for name in names
        ]
        streams[0].union(streams[1]).sink("out", TransactionalTestingSink())

    def before(self, time):
        """The newest time of the source ahead when the one behind has come to a time."""
        index = self.seen.index(("behind", time))
        return max(seen for name, seen in self.seen[:index] if name == "ahead")


AHEAD = list(range(0, 200, 10))


@pytest.mark.parametrize("swapped", [False, True])
def test_l20_nobody_is_further_ahead_than_the_drift_allowed_and_a_batch(state, swapped):
    """While another one has nothing to read; and which of them was declared first changes nothing."""
    job = Drift([0, *[PAUSE] * 60, 100, *[PAUSE] * 60, 101], AHEAD, swapped=swapped)
    assert run(job.flow, state, max_drift_s=20e-6).finished
    assert job.before(100) == 30
    assert job.before(101) == 130
    assert [time for name, time in job.seen if name == "ahead"] == AHEAD


def test_l20_without_a_bound_it_reads_what_there_is(state):
    job = Drift([0, *[PAUSE] * 60, 100], AHEAD)
    assert run(job.flow, state).finished
    assert job.before(100) == 190


def test_l21_an_idle_one_holds_nobody_up(state):
    job = Drift([0, *[PAUSE] * 2000, 100], AHEAD, idle_after=timedelta(seconds=1))
    assert run(job.flow, state, max_drift_s=20e-6, clock=Ticking()).finished
    assert job.before(100) == 190


def test_l21_a_stop_ends_a_pause(state):
    job = Drift([0, *[PAUSE] * 60, EOF, 100], AHEAD)
    assert not run(job.flow, state, max_drift_s=20e-6).finished
    assert job.seen[-1] == ("ahead", 30)
    assert run(job.flow, state, max_drift_s=20e-6).finished
    assert [time for name, time in job.seen if name == "ahead"] == AHEAD


def test_one_without_a_record_yet_holds_nobody_up(state):
    """Nobody knows where it is; a topic that stays empty would stop the job for ever."""
    job = Drift([*[PAUSE] * 60, 100], AHEAD)
    assert run(job.flow, state, max_drift_s=20e-6).finished
    assert job.before(100) == 190


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), "1h", True])
def test_a_drift_that_cannot_be_is_refused(state, wrong):
    with pytest.raises(ConfigurationError, match="max_drift_s is"):
        run(Drift([0], [0]).flow, state, max_drift_s=wrong)
