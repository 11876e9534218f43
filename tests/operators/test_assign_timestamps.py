"""``assign_timestamps``: event time for any source, with a watermark for each partition, kept over resumes.

The kind of fault: ``TextSource``, functions and sources of one's own had no way to event time, so that records parsed
on their way could not come to a window.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from onceflow import Columns, Dataflow, count, run
from onceflow.connectors.files import TextSource
from onceflow.exceptions import ConfigurationError, LateRecordsWarning, UserFunctionError
from onceflow.testing import ABORT, EOF, AbortedError, TestingSource, TransactionalTestingSink
from onceflow.windows import Tumbling

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def seconds(record):
    return record[1]


class Job:
    """Counts by windows of ten seconds; records are (partition, second)."""

    def __init__(self, *partitions, delay=0, batch_size=2, event_time=seconds, timed=False, dead_letters=False):
        self.flow = Dataflow("flow")
        self.out, self.late, self.letters = (TransactionalTestingSink() for _ in range(3))
        source = TestingSource(*partitions, batch_size=batch_size, event_time=(lambda _: 0) if timed else None)
        stream = self.flow.source("in", source).map(lambda record: record)
        stamped = stream.assign_timestamps(
            "times", event_time, max_out_of_orderness=delay * SECOND, dead_letters=dead_letters
        )
        if dead_letters:
            self.flow.dead_letters("times").sink("letters", self.letters)
        window = stamped.filter(lambda _: True).key_by(lambda _: "all").window("w", Tumbling(seconds=10))
        window.aggregate(n=count()).sink("out", self.out)
        self.flow.late("w").sink("late", self.late)

    @property
    def counts(self):
        return [((row["window_start"] - EPOCH) // SECOND, row["n"]) for row in self.out.records]


@pytest.mark.parametrize("timed", [False, True], ids=["no time before", "another time before"])
@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_each_partition_has_its_own_watermark(state, batch_size, timed):
    """The one that runs ahead makes nothing of the other late, whatever the batches; its own old record is."""
    job = Job(
        [("a", 0), ("a", 95), ("a", 3), ("a", 96)], [("b", 1), ("b", 2), ("b", 11)], batch_size=batch_size, timed=timed
    )
    result = run(job.flow, state)
    assert job.late.records == [("a", 3)]
    assert job.counts == [(0, 3), (10, 1), (90, 2)]
    assert result.late == {"w": 1}


def test_disorder_is_allowed_for(state):
    job = Job([("a", 0), ("a", 14), ("a", 3), ("a", 30)], delay=5, batch_size=1)
    run(job.flow, state)
    assert job.counts == [(0, 2), (10, 1), (30, 1)]


def test_a_window_closes_before_the_end_and_an_ended_partition_holds_nothing_back(state):
    job = Job([("a", 0), ("a", 1)], [("b", 2), ("b", 25), EOF, ("b", 3), ("b", 26)], batch_size=1)
    assert not run(job.flow, state).finished
    assert job.counts == [(0, 3)]
    assert run(job.flow, state).finished
    assert job.counts == [(0, 3), (20, 2)]
    assert job.late.records == [("b", 3)]


@pytest.mark.parametrize("mark", [ABORT, EOF])
def test_a_resume_changes_nothing(tmp_path, mark):
    """Watermarks of partitions are kept: what was late before a crash is late after it, in each partition."""
    results = []
    for between in ([], [mark]):
        job = Job(
            [("a", 0), ("a", 40), *between, ("a", 1), ("a", 50), *between, ("a", 39)],
            [("b", 5), *between, ("b", 6), ("b", 30), ("b", 7)],
            batch_size=1,
        )
        state = tmp_path / str(len(between))
        for _ in range(8):
            try:
                result = run(job.flow, state, checkpoint_interval_s=1e-9)
            except AbortedError:
                continue
            if result.finished:
                break
        results.append((sorted(job.counts), sorted(job.late.records), result.late))
    assert results[0] == results[1]
    assert results[0][1] == [("a", 1), ("a", 39), ("b", 7)]


def test_a_new_partition_opens_no_window_again(state):
    class Growing(TestingSource):
        shown = 0

        def partitions(self):
            self.shown += 1
            return super().partitions()[: self.shown]

    source = Growing([("a", 0), ("a", 95), EOF], [("b", 1), ("b", 2), ("b", 96)], batch_size=1)
    flow, out, late = Dataflow("flow"), TransactionalTestingSink(), TransactionalTestingSink()
    stream = flow.source("in", source).assign_timestamps("times", seconds)
    stream.key_by(lambda _: "all").window("w", Tumbling(seconds=10)).aggregate(n=count()).sink("out", out)
    flow.late("w").sink("late", late)
    while not run(flow, state).finished:
        pass
    assert late.records == [("b", 1), ("b", 2)]
    assert [row["n"] for row in out.records] == [1, 2]


def test_lines_of_text_that_are_parsed_on_their_way(tmp_path):
    for name, hours in (("one.log", (0, 1, 1)), ("two.log", (0, 0, 2))):
        (tmp_path / name).write_text("".join(f"2024-01-01T{hour:02}:30:00Z GET\n" for hour in hours))
    flow, out = Dataflow("flow"), TransactionalTestingSink()
    lines = flow.source("lines", TextSource(tmp_path / "*.log"))
    rows = lines.map(lambda line: dict(zip(("at", "what"), line.split(), strict=True)))
    window = rows.assign_timestamps("times", "at").key_by("what").window("w", Tumbling(hours=1))
    window.aggregate(n=count()).sink("out", out)
    run(flow, tmp_path / "state")
    assert [(row["window_start"].hour, row["n"]) for row in out.records] == [(0, 3), (1, 2), (2, 1)]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([0, 95, 3], pa.timestamp("s", "UTC")),
        pa.array([0, 95, 3]),
        np.array([0, 95, 3], "M8[s]"),
        np.array([0.0, 95.0, 3.0]),
        pa.array(["1970-01-01", "1970-01-01T00:01:35Z", "1970-01-01T00:00:03Z"]),
    ],
    ids=lambda column: str(getattr(column, "type", None) or column.dtype),
)
def test_columns_of_any_kind_of_time(state, column):
    """As columns and as the rows of them, by name and by a function: the same."""
    for number, (form, event_time) in enumerate(
        [("columns", "at"), ("rows", "at"), ("columns", lambda row: row["at"]), ("rows", lambda row: row["at"])]
    ):
        columns = Columns({"at": column, "k": np.array([1, 1, 1])})
        rows = columns.to_rows()
        flow, out, late = Dataflow("flow"), TransactionalTestingSink(), TransactionalTestingSink()
        stream = flow.source("in", TestingSource([0, 1, 2]))
        if form == "columns":
            stream = stream.map_batch(lambda _, columns=columns: columns)
        else:
            stream = stream.map(rows.__getitem__)
        window = stream.assign_timestamps("times", event_time).key_by("k").window("w", Tumbling(seconds=10))
        window.aggregate(n=count()).sink("out", out)
        flow.late("w").map(lambda row: row["k"]).sink("late", late)
        run(flow, state / str(number))
        assert [row["n"] for row in out.records] == [1, 1]
        assert late.records == [1]


BAD = [("a", 0), ("a", "soon"), ("a",), ("a", 10**12), ("a", 1)]


def test_records_without_a_valid_time_end_the_run_by_name(state):
    job = Job(BAD, batch_size=10)
    with pytest.raises(UserFunctionError, match=r"'times'.*'soon' is not an ISO.*record 1 of the batch is \('a', 's"):
        run(job.flow, state)


@pytest.mark.parametrize("batch_size", [1, 10])
def test_or_become_dead_letters(state, batch_size):
    job = Job(BAD, batch_size=batch_size, dead_letters=True)
    result = run(job.flow, state)
    assert (result.raised, result.rejected, result.records_in) == (3, 0, 5)
    assert [letter["record"] for letter in job.letters.records] == BAD[1:4]
    assert [letter["step"] for letter in job.letters.records] == ["times"] * 3
    assert "IndexError" in job.letters.records[1]["reason"]
    assert job.counts == [(0, 2)]


def test_late_records_are_told_of(state):
    flow = Dataflow("flow")
    stream = flow.source("in", TestingSource([("a", 0), ("a", 20), ("a", 3)])).assign_timestamps("times", seconds)
    window = stream.key_by(lambda _: 1).window("w", Tumbling(seconds=10)).aggregate(n=count())
    window.sink("out", TransactionalTestingSink())
    with pytest.warns(LateRecordsWarning, match="'w'.*by 0:00:17 or more"):
        run(flow, state)


def test_what_cannot_be_is_refused(state):
    flow = Dataflow("flow")
    stream = flow.source("in", TestingSource([1]))
    keyed = stream.key_by(lambda _: 1)
    with pytest.raises(ConfigurationError, match="step 't': event_time=5: give a field's name"):
        stream.assign_timestamps("t", 5)
    with pytest.raises(ConfigurationError, match="step 't': max_out_of_orderness is 999999999 days"):
        stream.assign_timestamps("t", "at", max_out_of_orderness=timedelta.max)
    with pytest.raises(ConfigurationError, match="'t' has no dead letters"):
        stream.assign_timestamps("t", "at").sink("times", TransactionalTestingSink())
        flow.dead_letters("t")
    totals = keyed.aggregate("totals", n=count()).assign_timestamps("after", "n")
    totals.sink("out", TransactionalTestingSink())
    with pytest.raises(ConfigurationError, match="'after' needs records of partitions, and comes after aggregate 'tot"):
        run(flow, state)


def test_the_advice_for_a_window_without_event_time_is_followed(state):
    """The message names ``assign_timestamps``; with it the dataflow runs."""
    for advised in (False, True):
        flow = Dataflow("flow")
        stream = flow.source("in", TestingSource([("a", 1)]))
        if advised:
            stream = stream.assign_timestamps("times", seconds)
        window = stream.key_by(lambda _: 1).window("w", Tumbling(seconds=10)).aggregate(n=count())
        window.sink("out", TransactionalTestingSink())
        if advised:
            assert run(flow, state).finished
        else:
            with pytest.raises(ConfigurationError, match=r"source 'in' has none.*put assign_timestamps\("):
                run(flow, state)
