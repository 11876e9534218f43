"""What the sinks leave behind: content, part files, clean staging, and clear refusals."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import tracemalloc
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reading import read

from onceflow import Columns, Dataflow, run
from onceflow.connectors.files import (
    CsvSink,
    CsvSource,
    JsonLinesSink,
    JsonLinesSource,
    ParquetSink,
    part_file,
    read_parts,
)
from onceflow.connectors.stdout import StdoutSink
from onceflow.exceptions import ConfigurationError, FencedError, SinkError, UserFunctionError
from onceflow.sinks import Committable, SinkContext
from onceflow.testing import EOF, TestingSource

SINKS = [CsvSink, JsonLinesSink, ParquetSink]
TIMES = np.array(["2024-01-01T00:00:00", "2024-01-01T00:00:00.5", "NaT"], "M8[us]")


STATE = "5" * 32
#: In ``.onceflow``, who may write: lineage, job epoch, and a random mark of the run.
RUN = "epoch-{lineage:04d}-{epoch:012d}-"


def context(epoch=1, *, job="job", sink="out", restored=None, lineage=1, decided=None, state_id=STATE):
    return SinkContext(job, sink, epoch, lineage, restored, decided or restored, state_id)


def opened(sink, *arguments, **settings):
    writer = sink.open(context(*arguments, **settings))
    writer.recover([])
    return writer


def commit(writer, number, *batches):
    for batch in batches:
        writer.write(batch)
    sealed = writer.seal(number)
    committable = Committable(number, writer.prepare(number, sealed))
    writer.commit(committable)
    return committable


def written(sink, *batches):
    """The bytes of the part file that holds these batches."""
    writer = opened(sink)
    commit(writer, 1, *batches)
    writer.close()
    return read_parts(sink._directory)


def names(directory):
    return sorted(path.name for path in Path(directory).iterdir())


def staging(directory):
    """What is in ``.onceflow``, without the random mark of the run."""
    return [name.rpartition("-")[0] if name.startswith("epoch-") else name for name in names(directory / ".onceflow")]


# -- content -----------------------------------------------------------------------------------

TEXTS = st.text(st.one_of(st.sampled_from('",\n\r\t\0 aü'), st.characters(exclude_categories=["Cs"])), max_size=6)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.fixed_dictionaries({"a": TEXTS, "b": TEXTS}), min_size=1, max_size=8),
    delimiter=st.sampled_from(",;\t"),
)
def test_csv_comes_back_as_it_was_written(tmp_path_factory, rows, delimiter):
    directory = tmp_path_factory.mktemp("csv")
    written(CsvSink(directory, delimiter=delimiter), rows)
    (part,) = directory.glob("part-*")
    source = CsvSource(part, types={"a": "str", "b": "str"}, null_values=(), delimiter=delimiter)
    assert read(source).records == rows
    # The same bytes, whatever else is in the batch.
    assert read_parts(directory) == written(CsvSink(directory / "2", delimiter=delimiter), *([row] for row in rows))


def test_csv_of_dicts_tuples_and_columns(tmp_path):
    dicts = [{"n": 1, "text": "a"}, {"text": None, "n": -2}]
    expected = b"n,text\n1,a\n-2,\n"
    assert written(CsvSink(tmp_path / "1"), dicts) == expected
    assert written(CsvSink(tmp_path / "2", columns=["n", "text"]), [(1, "a"), [-2, None]]) == expected
    columns = Columns({"n": np.array([1, -2]), "text": pa.array(["a", None])})
    assert written(CsvSink(tmp_path / "3"), columns) == expected
    assert written(CsvSink(tmp_path / "4", columns=["text", "n"]), columns, dicts) == b"text,n\na,1\n,-2\na,1\n,-2\n"


def test_times_are_written_alike_from_rows_and_columns(tmp_path):
    moments = [datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 1, 0, 0, 0, 500_000), None]
    expected = b'at\n2024-01-01T00:00:00Z\n2024-01-01T00:00:00.500000Z\n""\n'
    assert written(CsvSink(tmp_path / "1"), [{"at": moment} for moment in moments]) == expected
    assert written(CsvSink(tmp_path / "2"), Columns({"at": TIMES})) == expected
    for number, unit in enumerate(("ms", "us", "ns"), 3):
        arrow = pa.array(TIMES).cast(pa.timestamp(unit))
        assert written(CsvSink(tmp_path / str(number)), Columns({"at": arrow})) == expected
        zoned = arrow.cast(pa.timestamp(unit, "Europe/Berlin"))
        assert written(CsvSink(tmp_path / f"{number}z"), Columns({"at": zoned})) == expected
    berlin = datetime(2024, 1, 1, 1, tzinfo=timezone(timedelta(hours=1)))
    assert written(CsvSink(tmp_path / "9"), [{"at": berlin, "on": date(2024, 1, 2)}]) == (
        b"at,on\n2024-01-01T00:00:00Z,2024-01-02\n"
    )


def test_json_lines(tmp_path):
    rows = [{"n": 1, "deep": [None, {"x": "ü"}]}, "text", 3, datetime(2024, 1, 1, tzinfo=UTC)]
    data = written(JsonLinesSink(tmp_path / "1"), rows)
    assert data.decode().splitlines() == ['{"n":1,"deep":[null,{"x":"ü"}]}', '"text"', "3", '"2024-01-01T00:00:00Z"']
    columns = Columns({"at": TIMES, "text": pa.array(["a", None, "c"])})
    assert [json.loads(line) for line in written(JsonLinesSink(tmp_path / "2"), columns).splitlines()] == [
        {"at": "2024-01-01T00:00:00Z", "text": "a"},
        {"at": "2024-01-01T00:00:00.500000Z", "text": None},
        {"at": None, "text": "c"},
    ]
    source = JsonLinesSource(next((tmp_path / "2").glob("part-*")))
    assert len(read(source).records) == 3


def test_parquet(tmp_path):
    columns = Columns({"n": np.arange(3), "at": TIMES, "text": pa.array(["a", None, "c"])})
    rows = [{"text": "d", "at": datetime(2024, 1, 1, tzinfo=UTC), "n": 7}]
    writer = opened(ParquetSink(tmp_path / "out"))
    commit(writer, 1, columns, rows)
    commit(writer, 2, rows)
    writer.close()
    first, second = sorted((tmp_path / "out").glob("part-*"))
    assert pq.read_table(first).to_pylist() == [*columns.to_rows(), *rows]
    assert pq.read_table(second).to_pylist() == rows
    assert pq.read_schema(first).equals(pq.read_schema(second))


def test_parquet_with_a_schema(tmp_path):
    schema = pa.schema([("n", pa.int32()), ("text", pa.string())])
    writer = opened(ParquetSink(tmp_path / "out", schema=schema))
    commit(
        writer,
        1,
        [{"text": None, "n": None}],
        [{"text": "a", "n": 1}],
        Columns({"n": np.array([2]), "text": np.array(["b"])}),
    )
    writer.close()
    (path,) = (tmp_path / "out").glob("part-*")
    assert pq.read_schema(path).equals(schema)
    assert [row["n"] for row in pq.read_table(path).to_pylist()] == [None, 1, 2]
    with pytest.raises(ConfigurationError, match=r"give a pyarrow\.Schema"):
        ParquetSink(tmp_path, schema={"n": "int"})


def test_parquet_gathers_small_batches_and_holds_no_part_in_memory(tmp_path):
    writer = opened(ParquetSink(tmp_path / "out"))
    rng = np.random.default_rng(1)
    batches = 2000
    tracemalloc.start()
    for _ in range(batches):
        writer.write(Columns({"n": rng.integers(0, 1 << 62, 1000)}))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    commit(writer, 1)
    writer.close()
    (path,) = (tmp_path / "out").glob("part-*")
    file = pq.ParquetFile(path)
    assert file.metadata.num_rows == batches * 1000
    assert file.num_row_groups == 31
    assert path.stat().st_size > 10 << 20
    # Two row groups of 64 Ki rows, as numpy arrays and as encoded bytes.
    assert peak < 5 << 20
    file.close()


@pytest.mark.parametrize(
    ("sink", "records", "message"),
    [
        (CsvSink, [{"a": 1}, {"b": 1}], r"a record has the fields \['b'\], and the file the columns \['a'\]"),
        (CsvSink, [{"a": 1}, 5], r"a record has the fields 5, and the file the columns \['a'\]"),
        (CsvSink, [(1,)], r"records that are not dicts need CsvSink\(\.\.\., columns=\[\.\.\.\]\)"),
        (CsvSink, [{"a": b"x"}], "CSV cannot hold bytes"),
        (CsvSink, [{"a": "\ud800"}], "CSV cannot hold a record: .*surrogates"),
        (JsonLinesSink, [{"a": object()}], "JSON cannot hold a record: .*object"),
        (JsonLinesSink, ["\ud800"], "JSON cannot hold a record: .*surrogates"),
        (ParquetSink, [{"a": 1}, {"a": 2, "b": 1}], r"has the fields \['a', 'b'\], the first one \['a'\]"),
        (ParquetSink, [5], "has the fields 5"),
        (ParquetSink, [{"a": object()}], "Parquet cannot hold a batch"),
        (ParquetSink, [{"a": 1 << 70}], "Parquet cannot hold a batch"),
        (ParquetSink, [{"a": 1}, {"a": "x"}], "Parquet cannot hold a batch"),
    ],
)
def test_records_that_a_format_cannot_hold(tmp_path, sink, records, message):
    writer = opened(sink(tmp_path / "out"))
    with pytest.raises(SinkError, match=message):
        writer.write(records)
    writer.close()
    assert read_parts(tmp_path / "out") == b""


@pytest.mark.parametrize("kind", [CsvSink, ParquetSink])
def test_fields_that_change_from_batch_to_batch(tmp_path, kind):
    writer = opened(kind(tmp_path / "out"))
    writer.write([{"a": 1}])
    with pytest.raises(SinkError, match=r"records have the fields \['b'\], and the file "):
        writer.write([{"b": 1}])
    writer.close()


def test_csv_tuples_of_another_length(tmp_path):
    writer = opened(CsvSink(tmp_path / "out", columns=["a", "b"]))
    with pytest.raises(SinkError, match=r"a record is \(1,\), and the file has the columns \['a', 'b'\]"):
        writer.write([(1,)])
    writer.close()
    with pytest.raises(ConfigurationError, match="no quote and no line end"):
        CsvSink(tmp_path, delimiter="\n")
    for columns in ("ab", ["a", "a"]):
        with pytest.raises(ConfigurationError, match="give a list of names, each once"):
            CsvSink(tmp_path, columns=columns)


# -- part files --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SINKS)
def test_a_part_file_for_each_checkpoint_with_output(tmp_path, kind):
    sink = kind(tmp_path / "out")
    writer = opened(sink)
    commit(writer, 3, [{"n": 1}], [{"n": 2}])
    assert writer.seal(4) is None
    commit(writer, 12, [{"n": 3}])
    writer.close()
    suffix = kind.suffix
    assert names(tmp_path / "out") == [
        ".onceflow",
        f"part-0001-000000000003{suffix}",
        f"part-0001-000000000012{suffix}",
    ]
    assert staging(tmp_path / "out") == ["epoch-0001-000000000001", "newest-0001-000000000012", "owner"]
    assert (tmp_path / "out" / ".onceflow").stat().st_mode & 0o777 == 0o700


def test_the_header_stands_in_each_part_and_once_in_what_is_read(tmp_path):
    writer = opened(CsvSink(tmp_path / "out"))
    commit(writer, 1, [{"a": 1, "b": 2}])
    commit(writer, 2, [{"b": 4, "a": 3}])
    writer.close()
    assert [path.read_text() for path in sorted((tmp_path / "out").glob("part-*"))] == ["a,b\n1,2\n", "a,b\n3,4\n"]
    assert read_parts(tmp_path / "out") == b"a,b\n1,2\n3,4\n"


def test_staging_is_cleaned_by_a_recovery(tmp_path):
    writer = opened(CsvSink(tmp_path / "out"))
    decided = commit(writer, 1, [{"a": 1}])
    writer.write([{"a": 2}])
    writer.prepare(2, writer.seal(2))
    writer.write([{"a": 3}])
    assert len(staging(tmp_path / "out")) == 5
    another = CsvSink(tmp_path / "out").open(context(2, restored=1))
    another.recover([decided])
    assert staging(tmp_path / "out") == ["epoch-0001-000000000002", "newest-0001-000000000001", "owner"]
    assert read_parts(tmp_path / "out") == b"a\n1\n"
    writer.close()
    another.close()


def test_both_names_of_a_renamed_file_are_one_output(tmp_path):
    writer = opened(CsvSink(tmp_path / "out"))
    decided = commit(writer, 1, [{"a": 1}])
    writer.close()
    part = tmp_path / "out" / "part-0001-000000000001.csv"
    os.link(part, tmp_path / "out" / ".onceflow" / "staged-0001-000000000001-000000000001.csv")
    another = CsvSink(tmp_path / "out").open(context(2, restored=1))
    another.recover([decided])
    assert names(tmp_path / "out") == [".onceflow", part.name]
    assert staging(tmp_path / "out") == ["epoch-0001-000000000002", "newest-0001-000000000001", "owner"]


def test_a_part_file_that_somebody_has_taken_away_is_not_missed(tmp_path):
    writer = opened(CsvSink(tmp_path / "out"))
    decided = commit(writer, 1, [{"a": 1}])
    writer.close()
    (tmp_path / "out" / "part-0001-000000000001.csv").unlink()
    CsvSink(tmp_path / "out").open(context(2, restored=1)).recover([decided])
    assert read_parts(tmp_path / "out") == b""


def test_directories_are_durable_before_what_is_in_them(tmp_path, monkeypatch):
    synced = []
    real = part_file.sync_directory
    monkeypatch.setattr(part_file, "sync_directory", lambda path: (synced.append(path), real(path)))
    CsvSink(tmp_path / "a" / "b" / "out").open(context()).recover([])
    made = [
        tmp_path / "a",
        tmp_path / "a" / "b",
        tmp_path / "a" / "b" / "out",
        tmp_path / "a" / "b" / "out" / ".onceflow",
    ]
    assert {path.parent for path in made} <= set(synced)


# -- refusals ----------------------------------------------------------------------------------


def test_the_directory_of_another_sink_or_job(tmp_path):
    opened(CsvSink(tmp_path)).close()
    for other in ({"sink": "other"}, {"job": "other"}):
        with pytest.raises(SinkError, match=r"is taken by sink 'out' of job 'job'; give each sink its own"):
            CsvSink(tmp_path).open(context(**other))


def test_two_sinks_of_a_job_in_one_directory(tmp_path, state):
    flow = Dataflow("twice")
    stream = flow.source("in", TestingSource([{"a": 1}]))
    stream.sink("one", CsvSink(tmp_path / "out"))
    stream.sink("two", CsvSink(tmp_path / "out"))
    with pytest.raises(SinkError, match=r"is taken by sink 'one' of job 'twice'"):
        run(flow, state)


def test_a_start_that_another_sink_refuses_has_touched_nothing(tmp_path, state):
    """Kind: a directory that is made by a start which was refused, and is somebody's from then on."""
    (tmp_path / "file").touch()
    flow = Dataflow("refused")
    stream = flow.source("in", TestingSource([{"a": 1}]))
    stream.sink("one", CsvSink(tmp_path / "deep" / "out"))
    stream.sink("two", CsvSink(tmp_path / "file" / "out"))
    with pytest.raises(SinkError, match=r"cannot be written: .*Not a directory"):
        run(flow, state)
    assert not (tmp_path / "deep").exists()
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / ".onceflow").symlink_to(tmp_path)
    with pytest.raises(SinkError, match=r"is a link; make it a directory"):
        CsvSink(tmp_path / "linked").open(context())


def test_a_run_that_failed_before_it_wrote(tmp_path):
    """Kind: a message about output that nobody has written, and advice that does not help."""

    def job(name, fails):
        flow = Dataflow("first")
        rows = flow.source("in", TestingSource([{"a": 1}])).map(lambda row: {"a": 1 // (not fails)})
        rows.sink("out", CsvSink(tmp_path / "out"))
        return run(flow, tmp_path / name)

    with pytest.raises(UserFunctionError):
        job("one", fails=True)
    with pytest.raises(SinkError, match=r"is taken by job 'first' .*Nothing was written yet: .* delete .*\.onceflow$"):
        job("two", fails=False)
    shutil.rmtree(tmp_path / "out" / ".onceflow")
    job("two", fails=False)
    assert read_parts(tmp_path / "out") == b"a\n1\n"


def test_output_of_an_earlier_run(tmp_path, state):
    def build():
        flow = Dataflow("earlier")
        flow.source("in", TestingSource([{"a": 1}])).sink("out", CsvSink(tmp_path / "out"))
        return flow

    run(build(), state)
    with pytest.raises(SinkError, match=r"holds output of an earlier run, and this job starts from nothing: move the"):
        run(build(), state, resume_from="none")
    with pytest.raises(
        SinkError,
        match=r"with another state directory .*If the job's state was deleted, move the part files away and delete",
    ):
        run(build(), tmp_path / "other state")
    assert read_parts(tmp_path / "out") == b"a\n1\n"
    for path in (tmp_path / "out").glob("part-*"):
        path.unlink()
    assert run(build(), state, resume_from="none").finished
    assert names(tmp_path / "out")[1].startswith("part-")
    assert read_parts(tmp_path / "out") == b"a\n1\n"


def test_a_part_file_of_another_run_under_the_same_name(tmp_path):
    writer = opened(CsvSink(tmp_path))
    writer.write([{"a": 1}])
    (tmp_path / "part-0001-000000000001.csv").write_text("other")
    committable = Committable(1, writer.prepare(1, writer.seal(1)))
    with pytest.raises(SinkError, match=r"exists already, from another run: move the part files of that run away"):
        writer.commit(committable)
    assert (tmp_path / "part-0001-000000000001.csv").read_text() == "other"
    (tmp_path / "part-0001-000000000001.csv").unlink()
    writer.commit(committable)
    assert read_parts(tmp_path) == b"a\n1\n"
    writer.close()


def test_the_highest_epoch_fences(tmp_path):
    """Kind: an epoch that can be lowered. A run that was paused before it adds its own name changes nothing by it."""
    writer = opened(CsvSink(tmp_path), 3)
    writer.write([{"a": 1}])
    sealed = writer.seal(1)
    (tmp_path / ".onceflow" / f"{RUN.format(lineage=1, epoch=4)}aa").touch()
    (tmp_path / ".onceflow" / f"{RUN.format(lineage=1, epoch=1)}bb").touch()
    for call in (lambda: writer.prepare(1, sealed), lambda: CsvSink(tmp_path).open(context(2))):
        with pytest.raises(FencedError, match=r"epoch 4 of job 'job' writes to .*; this process has epoch [23] "):
            call()
    writer.abort(1, sealed)
    writer.close()


def test_a_handle_that_is_not_one_of_ours(tmp_path):
    writer = opened(CsvSink(tmp_path / "out"))
    for handle in (None, {"part": 3}, "x"):
        with pytest.raises(SinkError, match="checkpoint 1 has no part file for"):
            writer.commit(Committable(1, handle))
    (tmp_path / "victim").write_text("x")
    for name in ("../../victim", "0001-000000000001/../../../victim", ""):
        for handle in ({"part": name}, {"epoch": 1, "parts": [[name, 1, 1]]}, {"epoch": 1, "parts": [[name]]}):
            with pytest.raises(SinkError, match="checkpoint 1 has no part file for"):
                writer.commit(Committable(1, handle))
    assert (tmp_path / "victim").exists()
    writer.close()


def test_a_file_where_the_directory_should_be(tmp_path):
    (tmp_path / "out").write_text("x")
    with pytest.raises(SinkError, match=r"out cannot be written: .*File exists"):
        CsvSink(tmp_path / "out").open(context())


# -- standard output ---------------------------------------------------------------------------


def test_standard_output(capsys):
    writer = StdoutSink().open(context())
    writer.write(["text", {"a": None}, (1, 2)])
    writer.write(Columns({"at": TIMES[:1]}))
    writer.flush()
    assert capsys.readouterr().out == 'text\n{"a":null}\n[1,2]\n{"at":"2024-01-01T00:00:00Z"}\n'
    with pytest.raises(SinkError, match=r"cannot be printed as JSON: .*object"):
        writer.write([object()])


def test_standard_output_that_nobody_reads(monkeypatch):
    end, begin = os.pipe()
    os.close(end)
    out = io.TextIOWrapper(io.FileIO(begin, "w"), write_through=False)
    monkeypatch.setattr(sys, "stdout", out)
    writer = StdoutSink().open(context())
    with pytest.raises(SinkError, match="standard output cannot be written: Broken pipe; is its reader still there"):
        writer.write(["text"])
    out.close()


# -- no room, no right -------------------------------------------------------------------------


class Rows:
    """A job whose output is larger than a small disk."""

    count = 3000

    def __init__(self, out):
        self.out = out

    def build(self, sink):
        flow = Dataflow("rows")
        rows = [{"n": number, "text": os.urandom(150).hex()} for number in range(self.count)]
        flow.source("in", TestingSource([*rows, EOF], batch_size=100)).sink("out", sink(self.out))
        self.expected = rows
        return flow

    def check(self):
        found = []
        for path in sorted(self.out.glob("part-*")):
            if path.suffix == ".parquet":
                found += pq.read_table(path, memory_map=False).to_pylist()
            elif path.suffix == ".csv":
                found += [{**row, "n": int(row["n"])} for row in csv.DictReader(io.StringIO(path.read_text()))]
            else:
                found += [json.loads(line) for line in path.read_text().splitlines()]
        assert found == self.expected


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB, where this process may mount one."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield place
    os.system(f"umount -l {place}")


@pytest.mark.parametrize("kind", SINKS)
@pytest.mark.parametrize("interval_s", [1e-6, 1000])
def test_a_full_disk_stops_the_job_and_room_resumes_it(small_disk, tmp_path, state, kind, interval_s):
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(600_000))
    rows = Rows(small_disk / "out")
    flow = rows.build(kind)
    with pytest.raises(
        SinkError, match=r"cannot be written: .*No space left on device.*check permissions and free space"
    ):
        run(flow, state, checkpoint_interval_s=interval_s)
    before = len(list(rows.out.glob("part-*")))
    # Still no room: refused again, nothing changes.
    with pytest.raises(SinkError, match="No space left on device"):
        run(flow, state, checkpoint_interval_s=interval_s)
    assert len(list(rows.out.glob("part-*"))) >= before
    ballast.unlink()
    assert os.system(f"mount -o remount,size=20m {small_disk}") == 0
    run(flow, state, checkpoint_interval_s=interval_s)
    assert run(flow, state, checkpoint_interval_s=interval_s).finished
    rows.check()
    assert [name[:6] for name in staging(rows.out)] == ["epoch-", "newest", "owner"]


@pytest.mark.parametrize("kind", SINKS)
def test_a_read_only_directory_stops_the_job_and_the_right_to_write_resumes_it(small_disk, state, kind):
    assert os.system(f"mount -o remount,size=20m {small_disk}") == 0
    rows = Rows(small_disk / "out")
    flow = rows.build(kind)
    assert not run(flow, state, checkpoint_interval_s=1e-6).finished
    assert os.system(f"mount -o remount,ro {small_disk}") == 0
    with pytest.raises(SinkError, match=r"cannot be written: .*Read-only file system"):
        run(flow, state)
    assert os.system(f"mount -o remount,rw {small_disk}") == 0
    assert run(flow, state).finished
    rows.check()


def test_a_directory_without_the_right_to_write(tmp_path):
    (tmp_path / "out").mkdir(mode=0o555)
    if os.geteuid() == 0:
        for path in (tmp_path, *list(tmp_path.parents)[:2]):
            path.chmod(0o755)
        os.seteuid(65534)
    try:
        with pytest.raises(SinkError, match=r"cannot be written: .*Permission denied"):
            CsvSink(tmp_path / "out").open(context())
    finally:
        if os.getuid() == 0:
            os.seteuid(0)


def test_csv_columns_keep_their_order_over_a_restart(tmp_path):
    """Records whose fields come in another order after the restart: the file is what one run would have written."""
    records = [{"a": 1, "b": 2}, EOF, {"b": 3, "a": 4}]
    sink = CsvSink(tmp_path / "out")
    flow = Dataflow("order")
    flow.source("in", TestingSource(records)).sink("out", sink)
    run(flow, tmp_path / "state")
    run(flow, tmp_path / "state")
    assert read_parts(tmp_path / "out") == b"a,b\n1,2\n4,3\n"
    # Other fields, as of a dataflow that was changed: refused, unless they are asked for.
    (state_id,) = (tmp_path / "out" / ".onceflow" / "owner").read_text().split("\n")[2:3]
    again = opened(CsvSink(tmp_path / "out"), 9, job="order", restored=9_000, state_id=state_id)
    with pytest.raises(SinkError, match=r"fields \['c', 'a'\], and the file the columns \['a', 'b'\]: .*columns=\["):
        again.write([{"c": 1, "a": 2}])
    again.close()
    asked = CsvSink(tmp_path / "out", columns=["c", "a"])
    again = opened(asked, 10, job="order", restored=9_000, state_id=state_id)
    commit(again, 9_001, [{"c": 1, "a": 2}])
    assert read_parts(tmp_path / "out").endswith(b"c,a\n1,2\n")


def test_a_process_that_user_code_forked_leaves_the_open_part_to_its_parent(tmp_path):
    writer = opened(CsvSink(tmp_path / "out"))
    writer.write([{"n": 1}])
    child = os.fork()
    if child == 0:
        writer.close()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    commit(writer, 1, [{"n": 2}])
    writer.close()
    assert read_parts(tmp_path / "out") == b"n\n1\n2\n"
