"""Which records are late, by the rules of event time (L1 to L23), whatever the batches; and that they are counted.

The kind of fault: records that vanish without a word. Of 328,000 flights in file order 219,000 were dropped with
``rejected=0``, and ``[("a", 1), ("a", 61), ("a", 2)]`` in windows of a minute counted the third record in a batch of
8,192 and dropped it with batches of one. A record is judged by the watermark of its own partition before it.

Rules that need what onceflow does not have yet are not here: L7 and L8 (``on_update``), L9 (sliding windows), L10's
second counter (a record has one window), L14 to L18 and L21 (idleness).
"""

from __future__ import annotations

import warnings
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onceflow import Columns, Dataflow, count, run
from onceflow.events import CheckpointCompleted, Progress
from onceflow.exceptions import LateRecordsWarning, SourceError, UserFunctionError
from onceflow.sources import Source, SourceBatch, SourceReader
from onceflow.testing import ABORT, EOF, PAUSE, AbortedError, TestingSource, TransactionalTestingSink
from onceflow.types import BEGINNING_OF_TIME, LAST_MICROS
from onceflow.watermarks import PartitionWatermark, Times
from onceflow.windows import Tumbling

MICROS = timedelta(microseconds=1)


class ColumnsSource(Source):
    """The same records as columns ``t``."""

    has_event_time = True

    def __init__(self, *partitions, batch_size):
        self.parts, self.batch_size = partitions, batch_size

    def partitions(self):
        return [str(number) for number in range(len(self.parts))]

    def open(self, partition, position):
        return ColumnsReader(self.parts[int(partition)], position or 0, self.batch_size)


class ColumnsReader(SourceReader):
    def __init__(self, times, place, batch_size):
        self.times, self.place, self.batch_size = times, place, batch_size

    def read(self, max_records):
        times = np.array(self.times[self.place : self.place + self.batch_size], dtype=np.int64)
        self.place += len(times)
        return SourceBatch(Columns({"t": times}), times) if len(times) else None

    def position(self):
        return self.place


class Job:
    """Counts by window; records are their times."""

    def __init__(self, *partitions, size=10, delay=0, lateness=0, batch_size=2, take_late=True, columns=False):
        self.flow, self.out, self.late = Dataflow("flow"), TransactionalTestingSink(), TransactionalTestingSink()
        source = (
            ColumnsSource(*partitions, batch_size=batch_size)
            if columns
            else TestingSource(*partitions, event_time=lambda time: time, batch_size=batch_size)
        )
        stream = self.flow.source("in", source, max_out_of_orderness=delay * MICROS)
        keyed = stream.key_by(lambda _: "all")
        window = keyed.window("w", Tumbling(size * MICROS), allowed_lateness=lateness * MICROS)
        window.aggregate(n=count()).sink("out", self.out)
        if take_late:
            self.flow.late("w").sink("late", self.late)

    def run(self, state, **settings):
        return run(self.flow, state, **settings)

    @property
    def counts(self):
        return [(row["window_start"].microsecond, row["n"]) for row in self.out.records]

    @property
    def late_times(self):
        return [row["t"] if isinstance(row, dict) else row for row in self.late.records]


def marks(times, delay=0, newest=None, cut=None):
    """The watermark before each record, over batches of ``cut`` records."""
    watermark = PartitionWatermark(delay, newest)
    cut = cut or max(len(times), 1)
    before = []
    for start in range(0, len(times), cut):
        batch = watermark.take(np.array(times[start : start + cut], dtype=np.int64))
        dense = batch.watermarks
        before += [None] * len(batch) if dense is None else dense.tolist()
    return before, watermark.value


def test_l1_the_watermark_is_the_newest_time_less_the_disorder_allowed():
    assert marks([7], delay=3)[1] == 4
    assert marks([], delay=3)[1] is None
    assert marks([7, 20, 15], delay=3)[1] == 17


def test_l2_older_records_never_lower_it_and_before_the_first_nothing_is_late():
    before, after = marks([50, 10, 50, 60, 55])
    assert before == [BEGINNING_OF_TIME, 50, 50, 50, 60]
    assert after == 60
    assert marks([50, 10], newest=100) == ([100, 100], 100)


@given(
    st.lists(st.integers(-50, 50), max_size=30),
    st.integers(0, 20),
    st.none() | st.integers(-50, 50),
    st.integers(1, 7),
)
def test_l3_what_stands_before_a_record_does_not_depend_on_batches(times, delay, newest, cut):
    """Carried along or not: whoever is below its watermark is told so, and by the same one."""
    late = []
    for size in (1, cut, 100):
        before, after = marks(times, delay, newest, size)
        late.append(
            (
                [(time, mark) for time, mark in zip(times, before, strict=True) if mark is not None and time < mark],
                after,
            )
        )
    assert late[0] == late[1] == late[2]
    running = newest
    expected = []
    for time in times:
        if running is not None and time < running - delay:
            expected.append((time, running - delay))
        running = time if running is None else max(running, time)
    assert late[0][0] == expected


@pytest.mark.parametrize("delay", [0, 40, 400])
@pytest.mark.parametrize("seed", range(5))
def test_l3_also_of_large_batches_which_are_looked_at_block_by_block(delay, seed):
    rng = np.random.default_rng(seed)
    times = np.arange(3000) + rng.integers(0, 100, 3000) * (rng.random(3000) < 0.01)
    dense, _ = marks(times.tolist(), delay, 20, 3000)
    running = np.maximum(np.maximum.accumulate(np.concatenate([[20], times]))[:-1], 20) - delay
    late = np.flatnonzero(times < running)
    assert [row for row, mark in enumerate(dense) if mark is not None and times[row] < mark] == late.tolist()
    assert [dense[row] for row in late] == running[late].tolist()


@pytest.mark.parametrize("columns", [False, True], ids=["rows", "columns"])
@pytest.mark.parametrize("batch_size", [1, 2, 7, 4096])
def test_l3_batches_of_any_size_give_the_same(state, batch_size, columns):
    """The third of 1, 61, 2 came too late for its minute, whatever the batch."""
    job = Job([1, 61, 2, 70, 59, 125, 61, 64], size=60, batch_size=batch_size, columns=columns)
    result = job.run(state)
    assert job.late_times == [2, 59, 61, 64]
    assert job.counts == [(0, 1), (60, 2), (120, 1)]
    assert result.late == {"w": 4}


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 100), max_size=20), min_size=1, max_size=3),
    st.sampled_from([0, 5, 30]),
    st.sampled_from([0, 10]),
)
def test_l3_main_and_late_output_follow_from_each_partitions_order(tmp_path_factory, partitions, delay, lateness):
    """Whatever the batches, also as columns, and in whichever order the partitions are declared."""
    seen = []
    orders = [partitions, partitions[::-1]]
    for batch_size, columns, order in [(1, False, 0), (3, True, 1), (100, False, 1), (100, True, 0)]:
        job = Job(*orders[order], delay=delay, lateness=lateness, batch_size=batch_size, columns=columns)
        result = job.run(tmp_path_factory.mktemp("job") / "state")
        assert result.late == {"w": len(job.late_times)}
        seen.append((sorted(job.counts), sorted(job.late_times)))
    assert seen[0] == seen[1] == seen[2] == seen[3]


def test_l4_time_passing_alone_closes_nothing(state):
    job = Job([5, PAUSE, PAUSE, 6, EOF, 7])
    job.run(state)
    assert job.counts == []
    job.run(state)
    assert job.counts == [(0, 3)]


@pytest.mark.parametrize(("newest", "expected"), [(29, [(0, 2), (20, 1)]), (30, [(0, 1), (30, 1)])])
def test_l5_late_from_end_plus_lateness_on_and_not_a_microsecond_before(state, newest, expected):
    job = Job([1, newest, 2], lateness=15, delay=5)
    job.run(state)
    assert job.counts == expected
    assert job.late_times == ([] if newest == 29 else [2])


def test_l6_one_row_a_window_when_it_closes_and_not_before(state):
    job = Job([1, 14, EOF, 15, EOF, 2, 16], lateness=5)
    job.run(state)
    assert job.counts == []
    job.run(state)
    assert job.counts == [(0, 1)]
    job.run(state)
    assert job.counts == [(0, 1), (10, 3)]
    assert job.late_times == [2]


def test_l11_late_records_come_once_each_over_crashes_and_are_counted(state):
    job = Job([50, ABORT, 1, ABORT, 2, EOF, 3, ABORT, 60], batch_size=1)
    for _ in range(6):
        try:
            result = job.run(state, checkpoint_interval_s=1e-9)
        except AbortedError:
            continue
        if result.finished:
            break
    assert job.late_times == [1, 2, 3]
    assert result.late == {"w": 3}
    assert job.run(state).late == {"w": 3}


def test_l11_what_nobody_takes_is_counted_and_told(state):
    job = Job([50, 1, 2, EOF, 3, 60], take_late=False)
    events = []
    with pytest.warns(LateRecordsWarning, match=r"'w'.*left out.*1970-01-01T00:00:00.000001Z.*00.000050Z") as caught:
        result = job.run(state, on_event=events.append, checkpoint_interval_s=1e-9)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert result.late == {"w": 2}
    completed = [event for event in events if isinstance(event, CheckpointCompleted)]
    assert completed[-1].late == {"w": 2}
    with pytest.warns(LateRecordsWarning):
        result = job.run(state)
    assert result.late == {"w": 3}
    assert Progress(1, 1).late == {}


def test_what_the_warning_advises_helps(tmp_path):
    """Followed: ``flow.late``, and the ``max_out_of_orderness`` that it names."""
    with pytest.warns(LateRecordsWarning, match=r"by 0:00:00\.000049 or more"):
        Job([50, 1, 2], take_late=False).run(tmp_path / "a")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Job([50, 1, 2], take_late=True).run(tmp_path / "b")
        job = Job([50, 1, 2], take_late=False, delay=49)
        assert job.run(tmp_path / "c").late == {"w": 0}
        job = Job([50, 1, 2], take_late=False, lateness=49)
        assert job.run(tmp_path / "d").late == {"w": 0}


def test_l12_no_key_is_an_error_or_a_key_and_never_skipped(state):
    """A record that has no such field ends the run by name; None is a key like any other."""
    for number, (key, expected) in enumerate([(lambda row: row["k"], None), (lambda row: row.get("k"), [None, "a"])]):
        flow, out = Dataflow("flow"), TransactionalTestingSink()
        source = TestingSource([{"t": 1, "k": "a"}, {"t": 2}], event_time=lambda row: row["t"])
        window = flow.source("in", source).key_by(key).window("w", Tumbling(10 * MICROS))
        window.aggregate(n=count()).sink("out", out)
        if expected is None:
            with pytest.raises(UserFunctionError, match=r"'w'.*KeyError.*record 1 of the batch"):
                run(flow, state / str(number))
        else:
            run(flow, state / str(number))
            assert sorted((row["key"] for row in out.records), key=str) == expected


def test_l13_several_inputs_the_lowest_and_nothing_before_each_has_one(state):
    flow, out = Dataflow("flow"), TransactionalTestingSink()
    ahead = flow.source("ahead", TestingSource([100, 200, EOF, 300], event_time=lambda time: time))
    behind = flow.source("behind", TestingSource([PAUSE, PAUSE, PAUSE, PAUSE, 5, 250], event_time=lambda time: time))
    window = ahead.union(behind).key_by(lambda _: "all").window("w", Tumbling(10 * MICROS))
    window.aggregate(n=count()).sink("out", out)
    run(flow, state)
    assert out.records == []
    run(flow, state)
    assert [row["window_start"].microsecond for row in out.records] == [0, 100, 200, 250, 300]


def test_l19_and_l20_who_is_ahead_waits_for_who_is_behind(state):
    """Sources are kept together in event time: the order in which they were declared decides nothing."""
    orders = []
    for names in (("a", "b"), ("b", "a")):
        flow, out = Dataflow("flow"), TransactionalTestingSink()
        records = {"a": list(range(0, 100, 10)), "b": list(range(5, 1000, 100))}
        sources = [
            flow.source(name, TestingSource(records[name], event_time=lambda time: time, batch_size=1))
            for name in names
        ]
        sources[0].union(sources[1]).sink("out", out)
        run(flow, state / names[0], checkpoint_interval_s=1e-9)
        orders.append(out.records)
    assert orders[0] == [0, 5, 10, 105, *range(20, 100, 10), *range(205, 1000, 100)]
    assert orders[1] == [5, 0, *orders[0][2:]]


def test_l20_who_has_nothing_to_read_holds_nobody_up(state):
    flow, out = Dataflow("flow"), TransactionalTestingSink()
    live = flow.source("live", TestingSource([1, *[PAUSE] * 50, 2], event_time=lambda time: time, batch_size=1))
    files = flow.source("files", TestingSource(list(range(100, 140)), event_time=lambda time: time, batch_size=1))
    live.union(files).sink("out", out)
    run(flow, state)
    assert out.records == [1, *range(100, 140), 2]


def test_l22_the_end_of_all_inputs_closes_everything_and_a_stop_nothing(state):
    job = Job([1, 100, EOF], [200, EOF])
    assert not job.run(state).finished
    assert job.counts == [(0, 1)]
    while not job.run(state).finished:
        pass
    assert job.counts == [(0, 1), (100, 1), (200, 1)]


def test_l23_no_result_of_a_window_is_late_in_the_next_one(state):
    """A window that stays open for late records holds the watermark back by as much for what comes after it."""
    flow, out = Dataflow("flow"), TransactionalTestingSink()
    source = TestingSource([1, 11, 21, 2, 31, 12, 41, 51], event_time=lambda time: time, batch_size=1)
    first = (
        flow.source("in", source)
        .key_by(lambda _: "all")
        .window("a", Tumbling(10 * MICROS), allowed_lateness=15 * MICROS)
    )
    second = first.aggregate(n=count()).key_by("key").window("b", Tumbling(10 * MICROS))
    second.aggregate(rows=count(), records=count()).sink("out", out)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = run(flow, state)
    assert result.late == {"a": 0, "b": 0}
    assert [(row["window_start"].microsecond, row["rows"]) for row in out.records] == [
        (start, 1) for start in range(0, 60, 10)
    ]


def test_w9_and_the_last_instant_never_wrap(state):
    """Lateness as long as all of event time: nothing is ever late, and all closes at the end."""
    last = LAST_MICROS - LAST_MICROS % 10 - 1
    job = Job([last, 0, -(10**16), 5], lateness=3 * 10**17)
    result = job.run(state)
    assert result.late == {"w": 0}
    assert [row["n"] for row in job.out.records] == [1, 2, 1]


def test_w13_one_jump_and_many_small_steps_give_the_same_rows_in_the_same_order(tmp_path):
    rows = []
    for times in ([3, 12, 25, 38, 100], [3, 12, 25, 38, *range(40, 101)]):
        job = Job(times, batch_size=1)
        job.run(tmp_path / str(len(times)))
        rows.append(job.counts[:4])
    assert rows[0] == rows[1] == [(0, 1), (10, 1), (20, 1), (30, 1)]


def test_times_are_picked_and_repeated_with_their_watermarks():
    times = Times(np.array([1, 2, 3]), np.array([0, 5, 1]))
    picked = times[np.array([True, True, False])].repeat([0, 2])
    assert (picked.values.tolist(), picked.watermarks.tolist()) == ([2, 2], [5, 5])
    assert times.reached(2).tolist() == [2, 5, 3]
    assert times[:1].reached(BEGINNING_OF_TIME).tolist() == [1]


@pytest.mark.parametrize("wrong", [2**62, -(2**63), 2**63 - 1, LAST_MICROS + 1])
def test_event_times_of_any_source_out_of_the_years_are_refused_by_name(state, wrong):
    """Times at the ends of int64 wrapped in windows."""

    job = Job([1, wrong])
    with pytest.raises(
        SourceError, match=f"source 'in', partition '0': record 1 of a batch has the event time {wrong}"
    ):
        job.run(state)


@pytest.mark.parametrize(
    "times", [None, [1], np.array([1.0]), np.array([[1]]), np.array([1, 2]), np.array(["2024"], "M8[us]")], ids=repr
)
def test_sources_that_break_their_promise_of_event_times(state, times):

    class Broken(ColumnsSource):
        def open(self, partition, position):
            reader = super().open(partition, position)
            reader.read = lambda _: SourceBatch(Columns({"t": np.array([1])}), times)
            return reader

    flow = Dataflow("flow")
    flow.source("in", Broken([1], batch_size=1)).sink("out", TransactionalTestingSink())
    with pytest.raises(SourceError, match="promised an event time for each record"):
        run(flow, state)
