"""Runs until caught up: what is there now, and tomorrow what has grown or come since, each record once.

The kind of fault: a job that is over for ever because its files were read to their ends; windows that are closed, or
lines that are cut in two, because a day ended; records of the second day that are lost or counted twice.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from datetime import timedelta
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lives import Life

from onceflow import Dataflow, count, run
from onceflow.connectors.files import CsvSink, CsvSource, JsonLinesSource, ParquetSource, TextSource, read_parts
from onceflow.connectors.log import LogSource
from onceflow.exceptions import ConfigurationError, FinishedJobWarning, SourceChangedError
from onceflow.log import Log, Producer
from onceflow.sources import Source
from onceflow.testing import EOF, TestingSource, TransactionalTestingSink
from onceflow.types import END_OF_TIME
from onceflow.watermarks import CaughtUp, combined, combined_partitions
from onceflow.windows import Tumbling

DAY = 86_400


class Job:
    """Hands records on; what comes out in each run is what has come since the last one."""

    def __init__(self, source, state):
        self.flow, self.sink, self.state, self.seen = Dataflow("flow"), TransactionalTestingSink(), state, 0
        self.flow.source("in", source).sink("out", self.sink)

    def day(self, **settings):
        result = run(self.flow, self.state, **{"until": "caught_up", **settings})
        new = self.sink.records[self.seen :]
        self.seen += len(new)
        return result, new


def line(kind, number):
    return json.dumps({"n": number}) + "\n" if kind is JsonLinesSource else f"{number}\n"


def number_of(record):
    return int(record["n"] if isinstance(record, dict) else record)


LINES = [CsvSource, JsonLinesSource, TextSource]


@pytest.mark.parametrize("kind", LINES)
def test_files_that_grow_and_come(tmp_path, state, kind):
    """Day after day; then the job is finished, and says how it would not have been."""
    head = "n\n" if kind is CsvSource else ""
    (tmp_path / "in-0").write_text(head + "".join(line(kind, n) for n in range(10)))
    job = Job(kind(tmp_path / "in-*"), state)
    result, new = job.day()
    assert (result.finished, result.caught_up) == (False, True)
    assert list(map(number_of, new)) == list(range(10))
    assert job.day()[1] == []
    with (tmp_path / "in-0").open("a") as file:
        file.writelines(line(kind, n) for n in range(10, 15))
    (tmp_path / "in-1").write_text(head + "".join(line(kind, n) for n in range(15, 20)))
    result, new = job.day()
    assert sorted(map(number_of, new)) == list(range(10, 20))
    assert result.records_in == 20
    result, new = job.day(until="end")
    assert (result.finished, result.caught_up, new) == (True, False, [])
    with pytest.warns(FinishedJobWarning, match="until='caught_up'"):
        assert job.day()[0].finished


@pytest.mark.parametrize("kind", LINES)
def test_a_last_line_without_its_end_is_left_until_it_has_one(tmp_path, state, kind):
    head = "n\n" if kind is CsvSource else ""
    path = tmp_path / "in"
    path.write_text(head + line(kind, 1) + line(kind, 23)[:-2])
    job = Job(kind(path), state)
    assert list(map(number_of, job.day()[1])) == [1]
    assert job.day()[1] == []
    path.write_text(head + line(kind, 1) + line(kind, 23) + line(kind, 4))
    assert list(map(number_of, job.day()[1])) == [23, 4]
    path.write_text(head + line(kind, 1) + line(kind, 23) + line(kind, 4) + line(kind, 5).rstrip())
    # The end of the input is the end of its last line.
    assert list(map(number_of, job.day(until="end")[1])) == [5]


def test_the_types_of_columns_are_not_inferred_from_a_part_of_a_line(tmp_path, state):
    path = tmp_path / "in.csv"
    path.write_text("n,ok\n1,true\n2,tr")
    job = Job(CsvSource(path), state)
    assert job.day()[1] == [{"n": 1, "ok": True}]
    path.write_text("n,ok\n1,true\n2,true\n")
    assert job.day()[1] == [{"n": 2, "ok": True}]


def test_a_quoted_field_that_is_still_being_written_is_left(tmp_path, state):
    """A record of several lines whose first lines are whole."""
    path = tmp_path / "in.csv"
    path.write_text('n,text\n1,"a\nb"\n2,"c\nd')
    job = Job(CsvSource(path), state)
    assert job.day()[1] == [{"n": 1, "text": "a\nb"}]
    path.write_text('n,text\n1,"a\nb"\n2,"c\nd\n')
    assert job.day()[1] == []
    path.write_text('n,text\n1,"a\nb"\n2,"c\nd\ne"\n3,f\n')
    assert job.day()[1] == [{"n": 2, "text": "c\nd\ne"}, {"n": 3, "text": "f"}]


def test_a_file_that_is_written_to_all_the_time_is_no_run_without_end(tmp_path, state):
    path = tmp_path / "in"
    path.write_text("".join(f"{n}\n" for n in range(100)))
    flow, sink = Dataflow("flow"), TransactionalTestingSink()

    def appends(record):
        with path.open("a") as file:
            file.write(f"{int(record) + 100}\n")
        return int(record)

    flow.source("in", TextSource(path)).map(appends).sink("out", sink)
    for day in (1, 2, 3):
        assert run(flow, state, until="caught_up", batch_size=7).caught_up
        assert sink.records == list(range(100 * day))


@pytest.mark.parametrize("change", ["shrank", "changed"])
def test_a_file_that_is_not_what_it_was_is_refused(tmp_path, state, change):
    path = tmp_path / "in"
    path.write_text("1\n2\n3\n")
    job = Job(TextSource(path), state)
    job.day()
    path.write_text("1\n2\n" if change == "shrank" else "1\n7\n3\n4\n")
    with pytest.raises(SourceChangedError):
        job.day()
    path.write_text("1\n2\n3\n4\n")
    assert job.day()[1] == ["4"]


def test_new_parquet_files_are_read_and_one_that_grew_is_another(tmp_path, state):
    def write(name, *numbers):
        pq.write_table(pa.table({"n": numbers}), tmp_path / name)

    write("a.parquet", 1, 2)
    job = Job(ParquetSource(tmp_path / "*.parquet"), state)
    assert list(map(number_of, job.day()[1])) == [1, 2]
    write("b.parquet", 3)
    assert list(map(number_of, job.day()[1])) == [3]
    write("a.parquet", 1, 2, 3)
    with pytest.raises(SourceChangedError, match=r"a\.parquet is another file"):
        job.day()


@pytest.mark.parametrize("stop_at_end", [True, False])
def test_a_topic_is_read_to_its_end_as_it_is_at_the_start(tmp_path, state, stop_at_end):
    """Whatever is written meanwhile, here by the job itself."""
    with Log.open(tmp_path / "log") as log, Producer(log) as producer:
        log.create_topic("t")

        def write(*numbers):
            for number in numbers:
                producer.produce("t", str(number))
            producer.flush()

        write(*range(5))
        flow, sink = Dataflow("flow"), TransactionalTestingSink()
        source = LogSource(log, "t", decode="json", stop_at_end=stop_at_end)
        flow.source("in", source).inspect(lambda number: write(number + 5)).sink("out", sink)
        for day in (1, 2, 3):
            assert run(flow, state, until="caught_up", batch_size=2).caught_up
            assert sink.records == list(range(5 * day))
        if stop_at_end:
            # The end that a run until the end goes to is what it finds, none that an earlier run had.
            assert run(flow, state, batch_size=2).finished
            assert sink.records == list(range(20))


class Windows:
    """Counts by days over text files of seconds since 1970."""

    def __init__(self, paths, state, *, kind=TextSource, idle_after=None, timestamps=False, sources=1):
        self.flow, self.sink, self.state, self.seen = Dataflow("flow"), TransactionalTestingSink(), state, 0
        event_time = "t" if kind is ParquetSource else int
        streams = []
        for number in range(sources):
            of_source = paths if sources == 1 else f"{paths}-{number}"
            source = kind(of_source, event_time=None if timestamps else event_time)
            stream = self.flow.source(f"in-{number}", source, idle_after=idle_after)
            if timestamps:
                stream = stream.assign_timestamps(f"times-{number}", event_time)
            streams.append(stream)
        stream = streams[0].union(*streams[1:]) if sources > 1 else streams[0]
        windows = stream.key_by(lambda _: "all").window("w", Tumbling(days=1)).aggregate(n=count())
        windows.sink("out", self.sink)

    def day(self, until="caught_up"):
        self.result = run(self.flow, self.state, until=until)
        new = self.sink.records[self.seen :]
        self.seen += len(new)
        return [(row["window_start"].day, row["n"]) for row in new]


def times(path, *values):
    with path.open("a") as file:
        file.writelines(f"{value}\n" for value in values)


@pytest.mark.parametrize("timestamps", [False, True], ids=["event_time", "assign_timestamps"])
def test_windows_that_are_open_stay_open(tmp_path, state, timestamps):
    job = Windows(tmp_path / "in", state, timestamps=timestamps)
    times(tmp_path / "in", 10, 20, DAY + 10)
    assert job.day() == [(1, 2)]
    assert job.day() == []
    times(tmp_path / "in", DAY + 20, 2 * DAY)
    assert job.day() == [(2, 2)]
    assert job.result.late == {"w": 0}
    assert job.day("end") == [(3, 1)]
    assert job.result.finished


@pytest.mark.parametrize("timestamps", [False, True], ids=["event_time", "assign_timestamps"])
def test_a_file_at_its_end_holds_windows_open_unless_the_user_says_for_how_long(tmp_path, state, timestamps):
    """Files that are written side by side are about as far; those of a day are followed by others."""
    for idle_after, closed in ((None, []), (timedelta(hours=12), [(1, 3)])):
        directory = tmp_path / str(idle_after)
        directory.mkdir()
        job = Windows(directory / "in-*", directory / "state", idle_after=idle_after, timestamps=timestamps)
        times(directory / "in-0", 10, DAY - 10)
        times(directory / "in-1", 20, DAY + 10)
        # Twenty seconds behind: waited for in any case.
        assert job.day() == []
        times(directory / "in-2", DAY + 20, 2 * DAY - 1)
        # Almost a day behind: waited for only where nothing else was said.
        assert job.day() == closed
        assert job.result.late == {"w": 0}
        assert job.day("end") == ([] if closed else [(1, 3)]) + [(2, 3)]


def test_a_parquet_file_at_its_end_holds_no_window_open(tmp_path, state):
    """It does not grow. But its source holds the others, since tomorrow's file begins where it ended."""
    job = Windows(tmp_path / "in", state, kind=ParquetSource, sources=2)
    job = Windows(str(tmp_path / "in") + "*", state, kind=ParquetSource)

    def write(name, *values):
        pq.write_table(pa.table({"t": values}), tmp_path / name)

    write("in-0", 10, DAY - 10)
    write("in-1", 20, DAY + 10)
    assert job.day() == [(1, 3)]
    write("in-2", DAY + 20, 2 * DAY)
    assert job.day() == [(2, 2)]
    assert job.result.late == {"w": 0}


def test_a_source_at_its_end_holds_other_sources(tmp_path, state):
    job = Windows(tmp_path / "in", state, sources=2)
    times(tmp_path / "in-0", 10)
    times(tmp_path / "in-1", 10, DAY + 10)
    assert job.day() == []
    times(tmp_path / "in-0", 20, DAY + 10)
    assert job.day() == [(1, 3)]
    assert job.result.late == {"w": 0}


MARKS = st.none() | st.integers(-5, 5) | st.just(END_OF_TIME)
ENDS = st.none() | st.builds(CaughtUp, st.booleans(), st.none() | st.integers(1, 5))


@given(st.lists(st.tuples(MARKS, st.booleans(), ENDS), max_size=5), st.none() | st.integers(-5, 10))
def test_who_is_caught_up_is_as_idle_as_the_rules_say(partitions, reached):
    """Against the definition: who does not grow, and whom event time has passed by, is left out as idle ones are."""
    inputs = []
    passed_all = True
    for mark, idle, end in partitions:
        passed = idle
        if end is not None:
            passed = end.idle_after_us is not None and (
                mark is None or (reached is not None and reached >= mark + end.idle_after_us)
            )
        inputs.append((mark, passed or (end is not None and not end.grows)))
        passed_all &= passed or mark == END_OF_TIME
    watermark, idle = combined(inputs)
    assert combined_partitions(partitions, reached) == (watermark, idle and passed_all)


def test_totals_at_the_end_are_refused_by_name(state):
    flow = Dataflow("flow")
    totals = flow.source("in", TestingSource([1])).key_by(lambda one: one).aggregate("totals", emit="final", n=count())
    totals.sink("out", TransactionalTestingSink())
    with pytest.raises(ConfigurationError, match=r"step 'totals' emits when its input has ended.*emit='changes'"):
        run(flow, state, until="caught_up")
    assert not state.exists()
    assert run(flow, state).finished


@pytest.mark.parametrize("wrong", ["now", None, True])
def test_what_until_cannot_be_is_refused(state, wrong):
    with pytest.raises(ConfigurationError, match="until is"):
        run(Job(TestingSource([1]), state).flow, state, until=wrong)


def test_nothing_follows_a_source_whose_end_has_closed_its_windows(state):
    """A run until the end that was stopped when one of two sources was through."""
    flow = Dataflow("flow")
    first = flow.source("first", TestingSource([1, 2], event_time=int))
    second = flow.source("second", TestingSource([1, 5, 6, EOF, 7], event_time=int, batch_size=1))
    first.union(second).sink("out", TransactionalTestingSink())
    assert not run(flow, state).finished
    with pytest.raises(ConfigurationError, match=r"source 'first' was read to its end.*until='end'"):
        run(flow, state, until="caught_up")
    assert run(flow, state).finished


def test_a_stopped_run_is_not_caught_up(state):
    job = Job(TestingSource([1, EOF, 2]), state)
    assert not job.day()[0].caught_up
    result, new = job.day()
    assert result.caught_up
    assert new == [2]


def test_a_source_of_ones_own_goes_on_where_it_was(state):
    class Numbers(Source):
        def __init__(self):
            self.numbers = [1, 2, 3]

        def partitions(self):
            return ["0"]

        def open(self, partition, position):
            return TestingSource(self.numbers).open(partition, position)

    source = Numbers()
    job = Job(source, state)
    assert job.day()[1] == [1, 2, 3]
    source.numbers += [4, 5]
    assert job.day()[1] == [4, 5]


def test_a_class_that_hides_from_its_source_how_far_a_run_goes_is_refused(tmp_path, state):
    """Until the end it runs as ever; until caught up the topic below it would end where an earlier run ended."""

    class Own(TextSource):
        def open(self, partition, position):
            return super().open(partition, position)

    (tmp_path / "in").write_text("1\n2\n")
    job = Job(Own(tmp_path / "in"), state)
    with pytest.raises(ConfigurationError, match=r"source 'in': Own overrides open\(\)"):
        job.day()
    assert job.day(until="end")[1] == ["1", "2"]


# -- kills ---------------------------------------------------------------------------------------

ROWS = 400
POINTS = [
    "barrier.mid_inject:2",
    "task.pre_snapshot:2",
    "task.post_snapshot:1",
    "sink.post_prepare:1",
    "decide.pre:2",
    "decide.post_wait:1",
    "sink.pre_commit:1",
    "file.pre_rename:1",
    "file.post_rename:1",
    "sink.post_commit:2",
    "recover.post_commit:1",
    "recover.post_open:1",
    "job.end:1",
]


def rows(first, last):
    return "".join(f"{number},{number % 7}\n" for number in range(first, last))


def write_day(root, day):
    """Two files that grow each day, and one that comes on the second."""
    root.mkdir(exist_ok=True)
    for name, part in (("in-0.csv", 0), ("in-1.csv", 1), ("in-2.csv", 2))[: 2 if day == 1 else 3]:
        path = root / name
        with path.open("a") as file:
            if path.stat().st_size == 0:
                file.write("t,user\n")
            start = (day - 1) * ROWS * 60
            file.writelines(f"{start + number * 60 + part},{number % 7}\n" for number in range(ROWS))


def two_days(root, until):
    flow = Dataflow("days")
    source = flow.source("in", CsvSource(f"{root}/in-*.csv", event_time="t"))
    window = source.key_by("user").window("w", Tumbling(hours=1))
    window.aggregate(n=count()).sink("windows", CsvSink(root / "windows"))
    source.sink("rows", CsvSink(root / "rows"))
    result = run(flow, root / "state", checkpoint_interval_s=0.001, batch_size=50, until=until)
    assert result.caught_up or result.finished
    assert result.late == {"w": 0}


def outputs(root):
    return [Counter(read_parts(root / name).decode().splitlines()) for name in ("rows", "windows")]


@pytest.fixture(scope="module")
def undivided(tmp_path_factory):
    """The output of one run over what both days have."""
    root = tmp_path_factory.mktemp("undivided") / "root"
    for day in (1, 2):
        write_day(root, day)
    two_days(root, "end")
    return outputs(root)


@pytest.mark.usefixtures("crash_points")
@pytest.mark.parametrize("point", POINTS)
def test_killed_on_both_days(tmp_path, undivided, point):
    """At a crash point, and there again while it recovers, on each day; each row counts once over both."""
    root, killed = tmp_path / "root", 0
    for day in (1, 2):
        write_day(root, day)
        job = partial(two_days, root, "caught_up")
        for crash_at in (point, point, None):
            end = Life(job, CRASH_AT=crash_at).wait()
            assert end in ("done", "killed")
            killed += end == "killed"
        assert Life(job).wait() == "done"
    if not point.startswith("recover"):
        assert killed >= 2
    assert Life(partial(two_days, root, "end"), CRASH_AT=point).wait() in ("done", "killed")
    assert Life(partial(two_days, root, "end")).wait() == "done"
    assert outputs(root) == undivided


def test_the_rows_of_two_days_are_those_of_both(undivided):
    """The model of the tests above is not empty."""
    assert sum(undivided[0].values()) == 5 * ROWS + 1
    assert list(itertools.islice(undivided[1], 1)) == ["user,window_start,window_end,n"]
