"""Windows: their bounds, what they are as objects and in files, and durations that cannot be (rules W1 to W13).

The kinds of fault: ``window_start`` was a naive datetime, five hours off in New York once ``.timestamp()`` was called,
and another thing behind a map that does nothing (``…00:00`` instead of ``…00:00Z`` in files); bounds outside of the
years 1 to 9999 were ints; ``timedelta.max`` was a bare OverflowError, and a negative offset was refused.

Of the rules W5 to W7, W14 to W22 need sliding windows, zones, counts or updates, which onceflow does not have yet; W9
and W13 are in ``test_lateness.py``.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pyarrow.parquet as pq
import pytest

from onceflow import Dataflow, count, run
from onceflow._native import Log
from onceflow.columns import Columns, to_list
from onceflow.connectors.files import CsvSink, JsonLinesSink, ParquetSink, read_parts
from onceflow.connectors.log import LogSink, LogSource
from onceflow.exceptions import ConfigurationError, StateError
from onceflow.testing import TestingSource, TransactionalTestingSink
from onceflow.types import FIRST_MICROS, LAST_MICROS
from onceflow.windows import Tumbling, micros_of

MICROS = timedelta(microseconds=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def windows(times, window):
    flow = Dataflow("flow")
    stream = flow.source("in", TestingSource(times, event_time=lambda time: time))
    return flow, stream.key_by(lambda _: "all").window("w", window).aggregate(n=count())


def starts(state, times, window):
    flow, stream = windows(times, window)
    out = TransactionalTestingSink()
    stream.sink("out", out)
    run(flow, state)
    return [((row["window_start"] - EPOCH) // MICROS, row["n"]) for row in out.records]


def test_w1_a_time_at_the_end_belongs_to_the_next_window(state):
    assert starts(state, [0, 9, 10, 19, 20], Tumbling(10 * MICROS)) == [(0, 2), (10, 2), (20, 1)]


def test_w2_and_w8_windows_before_1970_and_before_the_first_record(state):
    assert starts(state, [-25, -11, -10, -1, 3], Tumbling(10 * MICROS, offset=4 * MICROS)) == [
        (-26, 1),
        (-16, 2),
        (-6, 2),
    ]


@pytest.mark.parametrize("offset", [-3, -13, 7, 17])
def test_w3_a_negative_offset_counts_modulo_the_size(state, offset):
    assert starts(state, [6, 7, 16, 17], Tumbling(10 * MICROS, offset=offset * MICROS)) == [(-3, 1), (7, 2), (17, 1)]


def test_w4_no_window_without_a_size():
    for size in (timedelta(0), -MICROS):
        with pytest.raises(ConfigurationError):
            Tumbling(size)


def test_w10_a_result_belongs_to_the_last_instant_of_its_window(state):
    """So a second window of the same size holds it, and nothing of the next."""
    flow, first = windows([5, 15, 16], Tumbling(10 * MICROS))
    out = TransactionalTestingSink()
    first.key_by("n").window("again", Tumbling(10 * MICROS)).aggregate(rows=count()).sink("out", out)
    run(flow, state)
    assert [(row["n"], (row["window_end"] - EPOCH) // MICROS, row["rows"]) for row in out.records] == [
        (1, 10, 1),
        (2, 20, 1),
    ]


def test_w11_and_w12_windows_share_nothing_and_without_a_record_there_is_no_row(state):
    assert starts(state, [5, 10**9 + 5, 2 * 10**9], Tumbling(10 * MICROS)) == [(0, 1), (10**9, 1), (2 * 10**9, 1)]


@pytest.mark.parametrize("between", ["nothing", "map", "map_batch", "filter"])
def test_bounds_are_aware_in_utc_in_every_form_and_sink(tmp_path, monkeypatch, between):
    """Behind a window or behind steps that do nothing: the same in rows, CSV, JSON Lines, Parquet and the log."""
    flow, stream = windows([1, 3_600_000_001], Tumbling(hours=1))
    if between == "map":
        stream = stream.map(lambda row: row)
    elif between == "map_batch":
        stream = stream.map_batch(lambda batch: batch)
    elif between == "filter":
        stream = stream.filter(lambda row: row["window_start"] < row["window_end"])
    rows = TransactionalTestingSink()
    with Log.open(tmp_path / "log") as log:
        log.create_topic("t")
    stream.sink("rows", rows)
    stream.sink("csv", CsvSink(tmp_path / "csv"))
    stream.sink("jsonl", JsonLinesSink(tmp_path / "jsonl"))
    stream.sink("parquet", ParquetSink(tmp_path / "parquet"))
    stream.sink("log", LogSink(tmp_path / "log", "t"))
    run(flow, tmp_path / "state")

    hours = [EPOCH, EPOCH + timedelta(hours=1), EPOCH + timedelta(hours=2)]
    expected = [{"key": "all", "window_start": start, "window_end": end, "n": 1} for start, end in pairwise(hours)]
    texts = [
        {
            name: value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else value
            for name, value in row.items()
        }
        for row in expected
    ]
    assert rows.records == expected
    assert all(row["window_start"].tzinfo is not None for row in rows.records)
    assert [row["window_start"].timestamp() for row in rows.records] == [0.0, 3600.0]
    lines = read_parts(tmp_path / "csv").decode().splitlines()
    assert lines[1:] == [",".join(map(str, row.values())) for row in texts]
    assert [json.loads(line) for line in read_parts(tmp_path / "jsonl").splitlines()] == texts
    table = pq.read_table(next((tmp_path / "parquet").glob("*.parquet")))
    assert str(table.schema.field("window_start").type) == "timestamp[us, tz=UTC]"
    assert table.to_pylist() == expected
    reader = LogSource(tmp_path / "log", "t", decode="json").open("0", None)
    assert reader.read(10).records == texts
    reader.close()


def test_times_of_numpy_are_instants_in_utc():
    moments = np.array(["2024-01-01T00:00:00", "NaT"], "M8[s]")
    assert to_list(moments) == [datetime(2024, 1, 1, tzinfo=UTC), None]
    assert to_list(moments.astype("M8[ns]")) == [datetime(2024, 1, 1, tzinfo=UTC), None]
    assert to_list(moments.astype("M8[D]"))[0] == datetime(2024, 1, 1, tzinfo=UTC).date()
    assert Columns({"at": moments}).to_rows()[0]["at"].tzinfo is UTC


DAY = 86_400_000_000


@pytest.mark.parametrize(
    ("time", "window"), [(LAST_MICROS, Tumbling(days=1)), (FIRST_MICROS, Tumbling(days=7))], ids=["end", "start"]
)
def test_windows_that_no_datetime_can_show_are_refused(state, time, window):
    """9999-12-31 belongs to a day that ends with the year 10000; its bounds were ints."""
    flow, stream = windows(sorted([1, time]), window)
    stream.sink("out", TransactionalTestingSink())
    with pytest.raises(StateError, match=r"'w'.*before the year 1 or ends after the year 9999.*record \d of the batch"):
        run(flow, state)


def test_the_first_and_the_last_window_that_a_datetime_can_show(state):
    minute = 60_000_000
    first, last = FIRST_MICROS, LAST_MICROS + 1 - 2 * minute
    assert starts(state, [first, last], Tumbling(minutes=1)) == [(first, 1), (last, 1)]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda s: s.key_by(len).window("w", Tumbling(timedelta.max)),
            r"step 'w': the size of the window is 999999999 d",
        ),
        (
            lambda s: s.key_by(len).window("w", Tumbling(days=1), allowed_lateness=timedelta.max),
            r"step 'w': allowed_lateness is 999999999 days.*give at most 3652059 days",
        ),
        (lambda s: s.drop_duplicates("d", len, horizon=timedelta.max), r"step 'd': the horizon is 999999999 days"),
        (lambda s: s.drop_duplicates("d", len, horizon=-MICROS), r"step 'd': the horizon is .*cannot be negative"),
        (lambda s: s.drop_duplicates("d", len, horizon=5), r"step 'd': the horizon is 5; give a datetime.timedelta"),
        (lambda s: s.key_by(len).window("w", timedelta(days=1)), r"step 'w': .* is not a window; give one such as"),
        (
            lambda s: s.key_by(len).window("w", Tumbling(days=1), allowed_lateness=None),
            r"allowed_lateness is None; give",
        ),
    ],
)
def test_durations_that_cannot_be_name_their_step(build, message):
    with pytest.raises(ConfigurationError, match=message):
        build(Dataflow("flow").source("in", TestingSource([])))


def test_durations_that_cannot_be_name_their_source():
    for wrong in (timedelta.max, -MICROS, 1.5):
        with pytest.raises(ConfigurationError, match="source 'in': max_out_of_orderness is"):
            Dataflow("flow").source("in", TestingSource([]), max_out_of_orderness=wrong)


@pytest.mark.parametrize(
    "settings",
    [
        {"days": 10**12},
        {"days": float("nan")},
        {"seconds": float("inf")},
        {"days": "1"},
        {"size": timedelta.max, "days": 1},
    ],
    ids=repr,
)
def test_sizes_that_cannot_be(settings):
    with pytest.raises(ConfigurationError, match="the size of a window cannot be"):
        Tumbling(**settings)
    with pytest.raises(ConfigurationError, match="offset of a window is 'x'"):
        Tumbling(days=1, offset="x")


def test_what_the_message_advises_is_accepted(state):
    """The longest duration that is named works, everywhere at once, at both ends of event time."""
    longest = timedelta(days=3652059)
    assert micros_of("it", longest) == LAST_MICROS - FIRST_MICROS + 1
    flow, out = Dataflow("flow"), TransactionalTestingSink()
    times = [LAST_MICROS - DAY, FIRST_MICROS, 0]
    source = TestingSource(times, event_time=lambda time: time, batch_size=1)
    stream = flow.source("in", source, max_out_of_orderness=longest).drop_duplicates("d", str, horizon=longest)
    window = stream.key_by(lambda _: 1).window("w", Tumbling(minutes=1), allowed_lateness=longest)
    window.aggregate(n=count()).sink("out", out)
    result = run(flow, state)
    assert result.late == {"w": 0}
    assert [row["n"] for row in out.records] == [1, 1, 1]
