"""Input that cannot be read: a clear error, or the policy for bad records."""

from __future__ import annotations

import os
import socket
import tempfile
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reading import position_after, read, read_in_pieces

from onceflow import Dataflow, run
from onceflow.connectors.files import ArrowIpcSource, CsvSource, JsonLinesSource, ParquetSource, TextSource
from onceflow.exceptions import (
    ConfigurationError,
    MalformedRecordError,
    SourceChangedError,
    SourceError,
)
from onceflow.testing import EOF, TestingSource, TransactionalTestingSink

ALL = [CsvSource, JsonLinesSource, TextSource, ParquetSource, ArrowIpcSource]
TEXT = [CsvSource, JsonLinesSource, TextSource]


def written(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


# -- files -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ALL)
def test_a_missing_file(tmp_path, kind):
    with pytest.raises(SourceError, match=r"nowhere.csv does not exist; check the path and the working directory"):
        read(kind(tmp_path / "nowhere.csv"))


@pytest.mark.parametrize("kind", ALL)
def test_a_pattern_without_a_match(tmp_path, kind):
    with pytest.raises(SourceError, match=r"no file matches '.*\*\.csv'; check the pattern"):
        kind(tmp_path / "*.csv").partitions()


def a_socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def a_loop(path):
    path.symlink_to(path)


ODD = {
    "pipe": (os.mkfifo, "is a pipe, no regular file, .* copy what comes from it to a file"),
    "socket": (a_socket, "is a socket, no regular file"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "is a device, no regular file"),
    "directory": (Path.mkdir, r"is a directory, not a file; to read all files in it give .*/\*"),
    "broken link": (lambda path: path.symlink_to("gone"), "is a link to 'gone', which does not exist; mend or remove"),
    "loop of links": (a_loop, "cannot be read: Too many levels of symbolic links"),
}


@pytest.mark.parametrize(("make", "reason"), ODD.values(), ids=ODD)
@pytest.mark.parametrize("kind", ALL)
def test_what_is_no_regular_file_is_refused_and_never_waited_for(tmp_path, kind, make, reason):
    """Hostile surroundings: a pipe without a writer would have been waited for, a device read for ever.

    Named by itself or found by a pattern, when the job begins and also if it has come since.
    """
    make(tmp_path / "odd.csv")
    for paths in (tmp_path / "odd.csv", tmp_path / "*.csv"):
        with pytest.raises(SourceError, match=rf"odd\.csv {reason}"):
            kind(paths).partitions()
        with pytest.raises(SourceError, match=rf"odd\.csv {reason}"):
            kind(paths).open(str(tmp_path / "odd.csv"), None)


@pytest.mark.parametrize("kind", ALL)
def test_a_pipe_that_takes_the_place_of_a_file_between_look_and_open(tmp_path, kind, monkeypatch):
    """Hostile surroundings: between the check and the open the name may come to mean another thing."""
    path = written(tmp_path / "in.csv", "a\n1\n")
    os.mkfifo(tmp_path / "pipe")
    look = os.stat

    def stat_then_replace(name, **options):
        found = look(name, **options)
        if str(name) == str(path) and (tmp_path / "pipe").exists():
            (tmp_path / "pipe").rename(path)
        return found

    monkeypatch.setattr(os, "stat", stat_then_replace)
    with pytest.raises(SourceError, match=r"in\.csv is a pipe, no regular file"):
        kind(path).open(str(path), None)


@pytest.mark.parametrize("kind", ALL)
def test_a_name_that_is_not_utf_8(tmp_path, state, kind):
    """Typed errors: the checkpoint that should have held the name raised a bare UnicodeEncodeError."""
    path = os.fsencode(tmp_path) + b"/in-\xff.csv"
    Path(os.fsdecode(path)).write_bytes(b"a\n1\n")
    for paths in (os.fsdecode(path), tmp_path / "*.csv"):
        flow = Dataflow("odd-name")
        flow.source("rows", kind(paths)).sink("out", TransactionalTestingSink())
        with pytest.raises(SourceError, match=r"in-\\udcff\.csv' is a name that is not UTF-8, .*; rename the file"):
            run(flow, state)
    Path(os.fsdecode(path)).rename(tmp_path / "in-ÿ.csv")
    if kind in (CsvSource, TextSource):
        assert len(read(kind(tmp_path / "*.csv")).records) == 1 + (kind is TextSource)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("paths", [None, 5, [], ["in.csv", None], {"in.csv"}, b"in.csv"])
def test_paths_that_are_none(kind, paths):
    """Typed errors: what cannot be a path is a mistake in the settings."""
    with pytest.raises(ConfigurationError, match="at least one path" if paths == [] else "give a path, a pattern"):
        kind(paths)


def test_a_name_with_a_nul_byte_is_refused():
    """Typed errors: the system's call raised a bare ValueError."""
    with pytest.raises(SourceError, match="cannot be read: embedded null byte"):
        TextSource("in\0.csv").partitions()


@pytest.fixture
def nobody(tmp_path):
    """Somebody who may not read everything."""
    if os.geteuid() == 0:
        for path in (tmp_path, *tmp_path.parents):
            if path == Path(tempfile.gettempdir()):
                break
            path.chmod(0o755)
        os.seteuid(65534)
        yield
        os.seteuid(0)
    else:
        yield


@pytest.mark.parametrize("kind", ALL)
def test_a_file_that_may_not_be_read(tmp_path, kind, request):
    path = written(tmp_path / "in.csv", "a\n1\n")
    path.chmod(0)
    request.getfixturevalue("nobody")
    with pytest.raises(SourceError, match=r"in\.csv cannot be read: .*Permission denied"):
        read(kind(path))


@pytest.mark.parametrize("kind", ALL)
def test_a_directory_that_may_not_be_entered(tmp_path, kind, request):
    (tmp_path / "private").mkdir(mode=0)
    request.getfixturevalue("nobody")
    with pytest.raises(SourceError, match=r"in\.csv cannot be read: .*Permission denied"):
        read(kind(tmp_path / "private" / "in.csv"))


@pytest.mark.parametrize("pattern", ["*/*.csv", "**/*.csv", "closed/*.csv"])
def test_a_pattern_over_a_directory_that_may_not_be_entered(tmp_path, request, pattern):
    """Silent loss: the files of such a directory were left out. The advice is followed."""
    for name in ("closed", "open"):
        (tmp_path / name).mkdir()
        written(tmp_path / name / "in.csv", "a\n1\n").chmod(0o644)
    (tmp_path / "closed").chmod(0)
    request.getfixturevalue("nobody")
    for closed in (pattern, f"closed/deeper/{pattern}"):
        with pytest.raises(
            SourceError, match=r"directory .*closed.* cannot be read, .* give a pattern that leaves it out"
        ):
            CsvSource(tmp_path / closed).partitions()
    assert len(CsvSource(tmp_path / "[!c]*" / "*.csv").partitions()) == 1


def test_empty_files(tmp_path):
    path = written(tmp_path / "in.csv", "")
    assert read(TextSource(path)).records == []
    assert read(JsonLinesSource(path)).records == []
    with pytest.raises(SourceError, match=r"in\.csv is empty; a CSV file begins with the names of its columns"):
        read(CsvSource(path))
    for kind, name in [(ParquetSource, "Parquet"), (ArrowIpcSource, "Arrow IPC")]:
        with pytest.raises(SourceError, match=rf"in\.csv is not a readable {name} file"):
            read(kind(path))


def test_a_header_and_nothing_else(tmp_path):
    path = written(tmp_path / "in.csv", "a,b")
    assert read(CsvSource(path)).records == []
    assert read(CsvSource(path, as_columns=True, event_time="a")).records == []


@pytest.mark.parametrize("kind", TEXT)
def test_utf_16(tmp_path, kind):
    path = written(tmp_path / "in.csv", "a,b\n1,2\n".encode("utf-16"))
    with pytest.raises(SourceError, match=r"is UTF-16; convert it to utf-8 first"):
        read(kind(path))


@pytest.mark.parametrize("kind", [CsvSource, TextSource])
@pytest.mark.parametrize("encoding", ["utf-16", "cp037", "utf-7", "iso2022_jp"])
def test_an_encoding_without_ascii(kind, encoding):
    with pytest.raises(ConfigurationError, match="is not a superset of ASCII; convert the files to utf-8 first"):
        kind("in.csv", encoding=encoding)


@pytest.mark.parametrize("kind", [CsvSource, TextSource])
def test_an_unknown_encoding(kind):
    with pytest.raises(ConfigurationError, match="Python knows no such encoding"):
        kind("in.csv", encoding="utf-99")


# -- changes since the checkpoint --------------------------------------------------------------


@pytest.mark.parametrize("kind", TEXT)
def test_a_file_that_shrank(tmp_path, kind):
    path = written(tmp_path / "in.csv", "1\n2\n3\n4\n")
    position, _ = position_after(kind(path), [2])
    written(path, "1\n")
    with pytest.raises(SourceChangedError, match=r"has 2 bytes, and the checkpoint had read \d: it shrank"):
        read(kind(path), position=position)


@pytest.mark.parametrize("kind", TEXT)
def test_a_file_that_changed(tmp_path, kind):
    path = written(tmp_path / "in.csv", "1\n2\n3\n4\n")
    position, _ = position_after(kind(path), [2])
    written(path, "1\n9\n3\n4\n")
    with pytest.raises(SourceChangedError, match=r"has other content before byte \d than when the checkpoint"):
        read(kind(path), position=position)


@pytest.mark.parametrize("kind", TEXT)
def test_a_file_that_shrank_while_it_was_read(tmp_path, kind):
    path = written(tmp_path / "in.csv", b"12345678\n" * 300_000)
    reader = kind(path).open(str(path), None)
    assert len(reader.read(10).records) == 10
    os.truncate(path, 18)
    with pytest.raises(SourceChangedError, match=r"shrank from \d+ to 18 bytes while it was read"):
        while reader.read(10_000) is not None:
            pass
    reader.close()


@pytest.mark.parametrize("kind", [ParquetSource, ArrowIpcSource])
def test_another_arrow_file(tmp_path, kind):
    path = tmp_path / "in"
    write_arrow(kind, path, {"n": range(10)})
    position, _ = position_after(kind(path), [2])
    write_arrow(kind, path, {"n": range(11)})
    with pytest.raises(SourceChangedError, match="is another file than when the checkpoint was taken"):
        read(kind(path), position=position)


def test_a_job_whose_file_shrank_or_went_away(tmp_path, state):
    path = written(tmp_path / "in.csv", "n\n" + "".join(f"{n}\n" for n in range(100)))
    sink = TransactionalTestingSink()

    def build():
        flow = Dataflow("shrinks")
        rows = flow.source("rows", CsvSource(tmp_path / "*.csv"))
        rows.union(flow.source("marks", TestingSource([EOF]))).sink("out", sink)
        return flow

    assert not run(build(), state, batch_size=10).finished
    assert sink.records
    data = path.read_bytes()
    written(path, data[:5])
    with pytest.raises(SourceChangedError, match="it shrank"):
        run(build(), state, batch_size=10)
    path.rename(tmp_path / "other.csv")
    written(tmp_path / "other.csv", data)
    with pytest.raises(SourceError, match=r"partitions that the checkpoint has positions of are gone: .*in\.csv"):
        run(build(), state, batch_size=10)
    written(path, data)
    (tmp_path / "other.csv").unlink()
    assert run(build(), state, batch_size=10).finished
    assert [row["n"] for row in sink.records] == list(range(100))


# -- malformed records -------------------------------------------------------------------------

CASES = {
    "csv-too-few": (CsvSource, {}, b"a,b\n1,2\n3\n4,5\n", 2, "has 1 fields, the header 2"),
    "csv-too-many": (CsvSource, {}, b"a,b\n1,2\n3,4,5\n4,5\n", 2, "has 3 fields, the header 2"),
    "csv-type": (CsvSource, {"types": {"a": "int"}}, b"a,b\n1,2\nx,2\n4,5\n", 2, "has 'x' in column 'a', which is int"),
    "csv-bool": (
        CsvSource,
        {"types": {"a": "bool"}},
        b"a,b\ntrue,2\nx,2\nFALSE,5\n",
        2,
        "has 'x' in column 'a', which is bool",
    ),
    "csv-int64": (
        CsvSource,
        {"types": {"a": "int"}, "as_columns": True},
        b"a,b\n1,2\n99999999999999999999,2\n4,5\n",
        2,
        "has '99999999999999999999' in column 'a', which is int",
    ),
    "csv-time": (
        CsvSource,
        {"event_time": "a"},
        b"a\n2024-01-01\nsoon\n2024-01-02\n",
        2,
        "has 'soon' as event time 'a'",
    ),
    "csv-no-time": (
        CsvSource,
        {"event_time": "a"},
        b"a,b\n2024-01-01,1\nNA,1\n2024-01-02,1\n",
        2,
        "has 'NA' as event time 'a'",
    ),
    "csv-far-time": (
        CsvSource,
        {"event_time": "a"},
        b"a\n1\n1700000000000\n3\n",
        2,
        "has '1700000000000' as event time",
    ),
    "csv-encoding": (CsvSource, {}, b"a,b\n1,x\n2,\xfc\n3,y\n", 2, "is not utf-8 (invalid start byte)"),
    "csv-quote": (CsvSource, {}, b'a,b\n1,2\n3,"x"y\n4,5\n', 2, "is not CSV (',' expected after '\"')"),
    "csv-open-quote": (CsvSource, {}, b'a,b\n1,2\n3,"x\n4,5\n', 2, "is not CSV (unexpected end of data)"),
    "csv-bare-return": (
        CsvSource,
        {},
        b"a,b\n1,2\n3,x\ry\n4,5\n",
        2,
        "is not CSV (new-line character seen in unquoted field",
    ),
    "csv-too-long": (
        CsvSource,
        {"max_record_bytes": 20},
        b"a,b\n1,2\n3," + b"x" * 50 + b"\n4,5\n",
        2,
        "has 52 bytes, more than",
    ),
    "jsonl-syntax": (JsonLinesSource, {}, b"1\n{nonsense}\n3\n", 2, "is not JSON (JSON is malformed"),
    "jsonl-two": (JsonLinesSource, {}, b"1\n2 2\n3\n", 2, "is not JSON (JSON is malformed"),
    "jsonl-cut": (JsonLinesSource, {}, b'1\n{"a":\n3\n', 2, "is not JSON (Input data was truncated)"),
    "jsonl-nul": (JsonLinesSource, {}, b"1\n\0\0\0\n3\n", 2, "is not JSON (JSON is malformed"),
    "jsonl-encoding": (JsonLinesSource, {}, b'1\n"\xfc"\n3\n', 2, "is not JSON ("),
    "jsonl-deep": (JsonLinesSource, {}, b"1\n" + b"[" * 100_000 + b"\n3\n", 2, "is nested too deeply"),
    "jsonl-too-long": (
        JsonLinesSource,
        {"max_record_bytes": 20},
        b"1\n2" + b" " * 50 + b"\n3\n",
        2,
        "has 51 bytes, more than",
    ),
    "jsonl-no-time": (
        JsonLinesSource,
        {"event_time": "a"},
        b'{"a": 1}\n{"b": 2}\n{"a": 3}\n',
        2,
        "has no member 'a' for the event time",
    ),
    "jsonl-no-object": (JsonLinesSource, {"event_time": "a"}, b'{"a": 1}\n[2]\n{"a": 3}\n', 2, "has no member 'a'"),
    "jsonl-time": (
        JsonLinesSource,
        {"event_time": "a"},
        b'{"a": 1}\n{"a": true}\n{"a": 3}\n',
        2,
        "has True as event time 'a'",
    ),
    "text-encoding": (TextSource, {}, b"1\n\xfc\n3\n", 2, "is not utf-8 (invalid start byte)"),
    "text-too-long": (
        TextSource,
        {"max_record_bytes": 20},
        b"1\n" + b"2" * 50 + b"\n3\n",
        2,
        "has 50 bytes, more than",
    ),
}


@pytest.mark.parametrize(("kind", "arguments", "data", "good", "reason"), CASES.values(), ids=CASES)
def test_a_malformed_record(tmp_path, kind, arguments, data, good, reason):
    path = written(tmp_path / "in.csv", data)
    bad_line = 3 if kind is CsvSource else 2

    source = kind(path, **arguments)
    with pytest.raises(MalformedRecordError) as caught:
        read(source)
    assert f"{path}:{bad_line}: {reason}" in str(caught.value)
    assert "set on_malformed='skip' or 'dead_letter'" in str(caught.value)

    skipped = read(kind(path, **arguments, on_malformed="skip"))
    assert (len(skipped.records), skipped.skipped, skipped.rejected) == (good, 1, [])

    source = kind(path, **arguments, on_malformed="dead_letter")
    assert source.has_dead_letters
    kept = read(source)
    assert kept.records == skipped.records
    ((position, why, text),) = kept.rejected
    assert position == f"{path}:{bad_line}"
    assert reason in why
    line = data.split(b"\n")[bad_line - 1]
    assert text == line[: arguments.get("max_record_bytes", len(line))].decode("utf-8", "backslashreplace")
    assert read_in_pieces(source, []) == kept


@pytest.mark.parametrize(
    ("times", "reason"),
    [
        (pa.array([1, None, 3], pa.timestamp("us")), "is missing"),
        (pa.array([1, 10**15, 3], pa.timestamp("s")), "1000000000000000 seconds since 1970 are not in the years"),
        (pa.array([1000, -1, 3000], pa.timestamp("ns")), "-1 ns since 1970 are not a whole number of microseconds"),
        (pa.array([1, 1_700_000_000_000_000_000, 3]), "1700000000000000000 seconds since 1970 are not in the years"),
        (pa.array([1.0, float("nan"), 3.0]), "nan seconds since 1970 are not in the years"),
    ],
    ids=["missing", "seconds", "nanoseconds", "wrong-unit", "nan"],
)
@pytest.mark.parametrize("kind", [ParquetSource, ArrowIpcSource])
def test_a_row_of_columns_without_a_time(tmp_path, kind, times, reason):
    """Wrong results: times wrapped or were cut silently, and one bad row stopped the job whatever the policy."""
    path = tmp_path / "in"
    write_arrow(kind, path, {"n": [0, 1, 2], "at": times})
    if kind is ParquetSource and times.type == pa.timestamp("s"):
        # Parquet has no seconds.
        reason = "1000000000000000000 ms since 1970 are not in the years"
    with pytest.raises(MalformedRecordError, match=rf"in:row 1: column 'at' holds the event time and {reason}"):
        read(kind(path, event_time="at"))
    skipped = read(kind(path, event_time="at", on_malformed="skip"))
    assert ([row["n"] for row in skipped.records], skipped.skipped, len(skipped.times)) == ([0, 2], 1, 2)
    source = kind(path, event_time="at", on_malformed="dead_letter")
    kept = read(source, sizes=[1, 1])
    assert kept.records == skipped.records
    ((position, why, text),) = kept.rejected
    assert position == f"{path}:row 1"
    assert reason in why
    assert '"n":1' in text
    assert read_in_pieces(source, []) == kept


def test_dead_letters_come_in_the_order_of_the_file(tmp_path):
    path = written(tmp_path / "in.csv", b'a,b\n1,2\nx,2\n3\n\xff,4\n4,"x"y\n5,6\n7\nz,1\n')
    found = read(CsvSource(path, on_malformed="dead_letter", types={"a": "int"}), sizes=[100])
    assert [position.rpartition(":")[2] for position, _, _ in found.rejected] == ["3", "4", "5", "6", "8", "9"]
    assert [row["a"] for row in found.records] == [1, 5]


def test_an_unknown_policy():
    with pytest.raises(ConfigurationError, match="on_malformed='ignore': 'fail', 'skip' or 'dead_letter'"):
        CsvSource("in.csv", on_malformed="ignore")


# -- CSV headers and settings ------------------------------------------------------------------


def test_a_header_that_does_not_decode(tmp_path):
    path = written(tmp_path / "in.csv", b"a,\xfc\n1,2\n")
    with pytest.raises(SourceError, match=r"in\.csv:1: the header is not utf-8 .*check encoding"):
        read(CsvSource(path))
    assert read(CsvSource(path, encoding="latin-1")).records == [{"a": 1, "ü": 2}]


def test_a_header_with_an_open_quote(tmp_path):
    with pytest.raises(SourceError, match=r"in\.csv:1: the header is not CSV"):
        read(CsvSource(written(tmp_path / "in.csv", b'a,"b\n1,2\n')))


def test_a_column_named_twice(tmp_path):
    with pytest.raises(SourceError, match=r"in\.csv names a column twice: \['a', 'a'\]"):
        read(CsvSource(written(tmp_path / "in.csv", b"a,a\n1,2\n")))


def test_columns_that_are_missing(tmp_path):
    path = written(tmp_path / "in.csv", b"a,b\n1,2\n")
    for arguments in ({"columns": ["a", "c"]}, {"event_time": "c"}, {"types": {"c": "int"}}):
        with pytest.raises(SourceError, match=r"in\.csv has no column \['c'\]; it has \['a', 'b'\]"):
            read(CsvSource(path, **arguments))


def test_files_with_other_columns(tmp_path):
    written(tmp_path / "1.csv", b"a,b\n1,2\n")
    written(tmp_path / "2.csv", b"b,a\n2,1\n")
    source = CsvSource(tmp_path / "*.csv")
    assert [read(source, partition).records for partition in source.partitions()] == [[{"a": 1, "b": 2}]] * 2
    written(tmp_path / "3.csv", b"a,c\n1,3\n")
    source = CsvSource(tmp_path / "*.csv")
    with pytest.raises(SourceError, match=r"3\.csv has the columns \['a', 'c'\], and .*1\.csv has \['a', 'b'\]"):
        read(source)
    source = CsvSource(tmp_path / "*.csv", columns=["a"])
    assert [read(source, partition).records for partition in source.partitions()] == [[{"a": 1}]] * 3


def test_types_are_those_of_all_files(tmp_path):
    written(tmp_path / "1.csv", b"a,b,c\n1,2,\n")
    written(tmp_path / "2.csv", b"a,b,c\n1.5,x,7\n")
    source = CsvSource(tmp_path / "*.csv")
    assert read(source, tmp_path / "1.csv").records == [{"a": 1.0, "b": "2", "c": None}]
    assert isinstance(read(source, tmp_path / "1.csv").records[0]["a"], float)
    assert read(source, tmp_path / "2.csv").records == [{"a": 1.5, "b": "x", "c": 7}]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"types": {"a": "integer"}}, "unknown types {'a': 'integer'}: choose from int, float"),
        ({"delimiter": ";;"}, "give one character"),
        ({"delimiter": '"'}, "give one character, no quote and no line end"),
        ({"columns": ["a", "a"]}, "names a column twice"),
        ({"max_record_bytes": 0}, "max_record_bytes=0: give a whole number of bytes, at least 1"),
    ],
)
def test_settings_that_cannot_be(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        CsvSource("in.csv", **arguments)


# -- bounds ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TEXT)
@pytest.mark.parametrize("shape", ["one line", "open quote"])
def test_memory_is_bounded_whatever_the_file_holds(tmp_path, kind, shape):
    path = tmp_path / "in.csv"
    with path.open("wb") as file:
        file.write(b'a,b\n1,2\n3,"')
        for _ in range(30):
            file.write((b"x" * 99 + (b"\n" if shape == "open quote" else b"x")) * 1000)
        file.write(b"\n4,5\n")
    source = kind(path, on_malformed="skip", max_record_bytes=50_000)
    tracemalloc.start()
    reader = source.open(str(path), None)
    records = []
    while (batch := reader.read(100)) is not None:
        records = [*records, *batch.records][-1:]
    reader.close()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 << 20
    if kind is CsvSource:
        assert records == [{"a": 4, "b": 5}]


@pytest.mark.parametrize("kind", TEXT)
def test_a_batch_is_bounded_in_bytes(tmp_path, kind):
    line = b'"' + b"x" * 999_998 + b'"\n'
    path = written(tmp_path / "in.csv", b'"a"\n' + line * 30)
    reader = kind(path).open(str(path), None)
    counts = []
    while (batch := reader.read(8192)) is not None:
        counts.append(len(batch.records))
    reader.close()
    assert sum(counts) == 30 + (kind is not CsvSource)
    assert max(counts) <= 9
    assert len(counts) == 4


def test_a_field_larger_than_the_csv_modules_limit(tmp_path):
    long = "x" * 1_000_000
    path = written(tmp_path / "in.csv", f'a,b\n1,{long}\n2,"{long}\n{long}"\n')
    assert read(CsvSource(path)).records == [{"a": 1, "b": long}, {"a": 2, "b": f"{long}\n{long}"}]


def test_nul_bytes(tmp_path):
    path = written(tmp_path / "in.csv", b"a,b\n1,x\0y\n")
    assert read(CsvSource(path)).records == [{"a": 1, "b": "x\0y"}]
    assert read(TextSource(path)).records == ["a,b", "1,x\0y"]
    # The tail that a power cut may leave.
    written(path, b"a,b\n1,x\n" + b"\0" * 100)
    assert read(CsvSource(path, on_malformed="dead_letter")).rejected[0][1] == "has 1 fields, the header 2"


# -- Parquet and Arrow IPC ---------------------------------------------------------------------


def write_arrow(kind, path, columns):
    table = pa.table(columns)
    if kind is ParquetSource:
        pq.write_table(table, path)
    else:
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)
    return path


@pytest.mark.parametrize("kind", [ParquetSource, ArrowIpcSource])
def test_arrow_columns_that_are_missing(tmp_path, kind):
    path = write_arrow(kind, tmp_path / "in", {"a": [1]})
    for arguments in ({"columns": ["a", "c"]}, {"event_time": "c"}):
        with pytest.raises(SourceError, match=r"in has no column \['c'\]; it has \['a'\]"):
            read(kind(path, **arguments))


@pytest.mark.parametrize("kind", [ParquetSource, ArrowIpcSource])
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([1000, -2000], pa.timestamp("ns")), [1, -2]),
        (pa.array([-1], pa.timestamp("ns")), "-1 ns since 1970 are not a whole number of microseconds"),
        (pa.array([10**15], pa.timestamp("s")), r"10{15,18} (seconds|ms) since 1970 are not in the years 1 to 9999"),
        (pa.array([1, 1_700_000_000 * 10**9], pa.timestamp("ms")), "1700000000000000000 ms since 1970 are not in the"),
        (pa.array([-(2**63)], pa.timestamp("us")), "-9223372036854775808 µs since 1970 are not in the years"),
        (pa.array([2**31 - 1], pa.date32()), "2147483647 days since 1970 are not in the years 1 to 9999"),
        (pa.array([1, 2], pa.timestamp("s", "Europe/Berlin")), [1_000_000, 2_000_000]),
        (pa.array([1, 2], pa.date32()), [86_400_000_000, 172_800_000_000]),
        (pa.array([1, 2], pa.uint32()), [1_000_000, 2_000_000]),
        (pa.array([0.5, -0.25]), [500_000, -250_000]),
        (pa.array([1, None], pa.int64()), "holds the event time and is missing"),
        (pa.array([1, 1_700_000_000_000]), "1700000000000 seconds since 1970 are not in the years 1 to 9999"),
        (pa.array([1.0, float("nan")]), "nan seconds since 1970 are not in the years 1 to 9999"),
        (pa.array(["2024", "2025"]), "holds the event time and is string; make it a timestamp"),
    ],
    ids=str,
)
def test_arrow_event_times(tmp_path, kind, values, expected):
    source = kind(write_arrow(kind, tmp_path / "in", {"at": values}), event_time="at")
    if isinstance(expected, str):
        with pytest.raises(SourceError, match=expected):
            read(source)
    else:
        assert read(source).times == expected


@pytest.mark.parametrize("kind", [ParquetSource, ArrowIpcSource])
def test_a_damaged_arrow_file(tmp_path, kind):
    path = write_arrow(kind, tmp_path / "in", {"text": [f"text {n}" * 10 for n in range(5000)]})
    data = bytearray(path.read_bytes())
    data[len(data) // 4 : len(data) * 3 // 4] = os.urandom(len(data) * 3 // 4 - len(data) // 4)
    if kind is ParquetSource:
        written(path, bytes(data))
        with pytest.raises(SourceError, match="is not a readable Parquet file"):
            read(kind(path))
    written(path, bytes(data[:-20]))
    with pytest.raises(SourceError, match="is not a readable"):
        read(kind(path))


def test_event_times_of_text(tmp_path):
    path = written(
        tmp_path / "in.csv", "at\n2024-01-01\n2024-01-01T00:00:01\n2024-01-01T02:00:02+02:00\n2024-01-01 00:00:03.5Z\n"
    )
    start = 1_704_067_200_000_000
    expected = [start, start + 1_000_000, start + 2_000_000, start + 3_500_000]
    assert read(CsvSource(path, event_time="at")).times == expected
    written(path, "at\n1704067200\n1704067200.25\n-1\n")
    assert read(CsvSource(path, event_time="at")).times == [start, start + 250_000, -1_000_000]
    written(path, '{"at": 1704067200}\n{"at": "2024-01-01T00:00:01Z"}\n{"at": 0.5}\n')
    assert read(JsonLinesSource(path, event_time="at")).times == [start, start + 1_000_000, 500_000]


def test_types_and_missing_values(tmp_path):
    path = written(
        tmp_path / "in.csv",
        "i,f,b,s,d,big,id,none\n1,2.5,true,x,2024-01-01T00:00:00Z,99999999999999999999,1_0,NA\n,NA,,,,,,\n-3,1000.0,False,NA,,1,2,\n",
    )
    source = CsvSource(path, types={"d": "datetime"})
    rows = read(source).records
    assert [type(value).__name__ for value in rows[0].values()] == [
        "int",
        "float",
        "bool",
        "str",
        "datetime",
        "str",
        "str",
        "NoneType",
    ]
    assert set(rows[1].values()) == {None}
    assert (rows[2]["i"], rows[2]["f"], rows[2]["b"], rows[2]["s"]) == (-3, 1000.0, False, None)
    assert read(CsvSource(path, null_values=["x"], columns=["s", "i"], types={"i": "str"})).records[:2] == [
        {"s": None, "i": "1"},
        {"s": "", "i": ""},
    ]
    reader = CsvSource(path, types={"d": "datetime"}, as_columns=True).open(str(path), None)
    columns = reader.read(10).records
    reader.close()
    assert [str(array.type) for array in columns.arrays.values()] == [
        "int64",
        "double",
        "bool",
        "string",
        "timestamp[us, tz=UTC]",
        "string",
        "string",
        "string",
    ]
    assert columns["i"].to_pylist() == [1, None, -3]
    assert columns["d"].to_pylist()[0] == datetime(2024, 1, 1, tzinfo=UTC)


def test_types_stay_what_they_were_at_the_start(tmp_path):
    path = written(tmp_path / "in.csv", "n\n1\n2\n")
    source = CsvSource(path)
    position, _ = position_after(source, [1])
    written(path, "n\n1\n2\n3.5\n")
    with pytest.raises(MalformedRecordError, match=r"has '3.5' in column 'n', which is int"):
        read(source, position=position)


SETTINGS = {
    "max_record_bytes": (TEXT, ["1", 0, -1, 1.5, True, None]),
    "on_malformed": (ALL, ["ignore", None, 5, ["skip"]]),
    "encoding": ([CsvSource, TextSource], [None, 5, "utf-99", "a\0b", "", "hex", "ä" * 300]),
    "event_time": (ALL, [5, "", ["at"]]),
    "columns": ([CsvSource, ParquetSource, ArrowIpcSource], [[], "ab", 5, [1], ["a", "a"]]),
    "names": ([CsvSource], [[], "ab", 5, [None], ["a", "a"]]),
    "null_values": ([CsvSource], ["NA", 5, [1], [None]]),
    "delimiter": ([CsvSource], [5, None, "", ",,", '"', "\n"]),
    "types": ([CsvSource], [["int"], "int", 5, {"a": "integer"}, {"a": int}, {"a": ["int"]}]),
}


@pytest.mark.parametrize(
    ("kind", "setting", "value"),
    [(kind, name, value) for name, (kinds, values) in SETTINGS.items() for kind in kinds for value in values],
    ids=lambda value: getattr(value, "__name__", repr(value)[:20]),
)
def test_a_setting_that_cannot_be(kind, setting, value):
    """Typed errors that name the setting: null_values="NA" meant "N" and "A", columns=[] all of them."""
    with pytest.raises(ConfigurationError, match=f"{setting}|no superset of ASCII|unknown types"):
        kind("in", **{setting: value})
