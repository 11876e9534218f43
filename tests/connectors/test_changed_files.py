"""Files that are changed between two runs, or while they are read: each is read exactly, or refused."""

from __future__ import annotations

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reading import plain, position_after, read

from onceflow import Dataflow, run
from onceflow.connectors.files import (
    ArrowIpcSource,
    CsvSource,
    JsonLinesSink,
    JsonLinesSource,
    ParquetSource,
    TextSource,
    content,
    read_parts,
)
from onceflow.connectors.files import lines as lines_module
from onceflow.exceptions import FinishedJobWarning, SinkError, SourceChangedError, SourceError
from onceflow.testing import EOF, TestingSource

ROWS = 20_000
GROUP = 1_000
LINES = [CsvSource, JsonLinesSource, TextSource]
ARROW = [ParquetSource, ArrowIpcSource]


def write(kind, path, values, rows=ROWS):
    """Rows of one number each, which takes the same room whatever it is."""
    numbers = [values(row) for row in range(rows)]
    if kind in LINES:
        head = "n\n" if kind is CsvSource else ""
        path.write_text(head + "".join(f"{number:09d}\n".replace("0", "1") for number in numbers))
        return
    table = pa.table({"n": pa.array(numbers, pa.int64()), "other": pa.array(numbers, pa.int64())})
    if kind is ParquetSource:
        # No statistics: they stand in the footer and would tell of a changed value.
        pq.write_table(
            table, path, row_group_size=GROUP, compression="none", use_dictionary=False, write_statistics=False
        )
    else:
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=GROUP)


def twisted(row):
    """Other values than ``int`` gives, for some rows in the middle of what the tests have read."""
    return 777_777 if 3_000 <= row < 3_010 else row


def overwrite(kind, path, values):
    """Other content of the same size, in the same inode."""
    other = path.with_name("other")
    write(kind, other, values)
    assert other.stat().st_size == path.stat().st_size
    with path.open("r+b") as file:
        file.write(other.read_bytes())


@pytest.fixture(params=["new", "settled"])
def age(request, monkeypatch):
    """Whether the stamps of files are trusted at once, or never as of files that were just written."""
    monkeypatch.setattr(content, "_SETTLED_NS", -(10**18) if request.param == "settled" else 10**18)
    return request.param


@pytest.mark.parametrize("put_back", [False, True], ids=["", "times-put-back"])
@pytest.mark.parametrize("kind", LINES + ARROW)
def test_a_changed_middle_is_refused(tmp_path, kind, age, put_back):
    """Silent loss: fingerprints covered a few kilobytes; a changed middle was read on from, a mixture of two files."""
    path = tmp_path / "in"
    write(kind, path, int)
    times = path.stat()
    position, found = position_after(kind(path), [5_000, 500])
    assert len(found.records) == 5_500
    overwrite(kind, path, twisted)
    if put_back:
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(SourceChangedError, match=r"in has other content before byte \d+ than when the checkpoint was"):
        read(kind(path), position=position)
    overwrite(kind, path, int)
    assert len(read(kind(path), position=position).records) == ROWS - 5_500


@pytest.mark.parametrize("kind", LINES + ARROW)
def test_what_is_not_read_yet_may_change_its_inode_and_times(tmp_path, kind, age):
    """Neither a touched file, nor one that was copied and put back, is another file."""
    path = tmp_path / "in"
    write(kind, path, int)
    position, _ = position_after(kind(path), [5_000, 500])
    whole = read(kind(path), position=position)
    path.touch()
    assert read(kind(path), position=position) == whole
    (tmp_path / "copy").write_bytes(path.read_bytes())
    (tmp_path / "copy").rename(path)
    assert read(kind(path), position=position) == whole


@pytest.mark.parametrize("kind", LINES + ARROW)
def test_positions_of_the_version_before_resume(tmp_path, kind):
    """Compatibility: they had no checksum; from the next checkpoint on there is one, of everything."""
    path = tmp_path / "in"
    write(kind, path, int)
    source = kind(path)
    position, _ = position_after(source, [5_000, 500])
    old = {name: value for name, value in position.items() if name not in ("crc", "stamp", "columns", "read_to")}
    assert read(source, position=old) == read(source, position=position)
    reader = source.open(str(path), old)
    assert len(reader.read(1_000).records) == 1_000
    position = plain(reader.position())
    reader.close()
    assert position == position_after(source, [5_000, 500, 1_000])[0]
    overwrite(kind, path, twisted)
    with pytest.raises(SourceChangedError, match="has other content before byte"):
        read(source, position=position)


@pytest.mark.parametrize("kind", LINES + ARROW)
def test_an_untouched_file_is_not_read_again(tmp_path, kind, monkeypatch):
    """A resume costs the same however much was read before, as long as nobody has written to the file."""
    monkeypatch.setattr(content, "_SETTLED_NS", -(10**18))
    path = tmp_path / "in"
    write(kind, path, int)
    position, _ = position_after(kind(path), [ROWS - 10])
    checksum, read_again = content._checksum, []
    monkeypatch.setattr(content, "_checksum", lambda *args: read_again.append(args) or checksum(*args))
    assert len(read(kind(path), position=position).records) == 10
    assert not read_again
    path.touch()
    assert len(read(kind(path), position=position).records) == 10
    assert read_again


@pytest.mark.parametrize("reads", range(1, 20, 4))
@pytest.mark.parametrize("kind", LINES + ARROW)
def test_a_file_that_is_written_over_while_it_is_read(tmp_path, kind, reads, monkeypatch):
    """Silent loss: the beginning came from one file and the end from another, and the job said that it had finished."""
    monkeypatch.setattr(lines_module, "_READ_BYTES", 10_000)
    path = tmp_path / "in"
    write(kind, path, int)
    reader = kind(path).open(str(path), None)
    for _ in range(reads):
        assert len(reader.read(GROUP).records) == GROUP
    overwrite(kind, path, lambda row: row + 7)
    with pytest.raises(SourceChangedError, match="in was written over while it was read: before byte"):
        while reader.read(GROUP) is not None:
            pass
    reader.close()


@pytest.mark.parametrize("kind", LINES + ARROW)
def test_a_middle_that_is_changed_while_the_file_is_read(tmp_path, kind, monkeypatch):
    """Silent loss: only what was read long ago has changed; at the end everything is compared, slice by slice."""
    monkeypatch.setattr(lines_module, "_READ_BYTES", 10_000)
    monkeypatch.setattr(content, "_SLICE_BYTES", 25_000)
    path = tmp_path / "in"
    write(kind, path, int)
    reader = kind(path).open(str(path), None)
    assert len(reader.read(10 * GROUP).records) == 10 * GROUP
    overwrite(kind, path, twisted)
    seen = 10 * GROUP
    with pytest.raises(SourceChangedError, match="in was written over while it was read: before byte"):
        while (batch := reader.read(GROUP)) is not None:
            seen += len(batch.records)
    reader.close()
    assert seen == ROWS


@pytest.mark.parametrize("kind", [TextSource, CsvSource, JsonLinesSource])
def test_a_file_that_grows_while_it_is_read(tmp_path, kind, monkeypatch):
    """All that is there when the end is reached is read, once; a resume reads what has come since."""
    monkeypatch.setattr(lines_module, "_READ_BYTES", 10_000)
    monkeypatch.setattr(content, "_SLICE_BYTES", 25_000)
    path = tmp_path / "in"
    write(kind, path, int, 5_000)
    reader = kind(path).open(str(path), None)
    seen = 0
    while (batch := reader.read(GROUP)) is not None:
        seen += len(batch.records)
        if seen <= 5 * GROUP:
            with path.open("a") as file:
                file.write("111111111\n" * 10)
    position = plain(reader.position())
    reader.close()
    assert seen == 5_050
    with path.open("a") as file:
        file.write("222222222\n")
    assert len(read(kind(path), position=position).records) == 1


@pytest.mark.parametrize("kind", LINES + ARROW)
def test_a_file_that_is_replaced_while_it_is_read(tmp_path, kind):
    """The reader goes on in the file that it has opened; a resume refuses the other one."""
    path = tmp_path / "in"
    write(kind, path, int)
    reader = kind(path).open(str(path), None)
    assert len(reader.read(3 * GROUP).records) == 3 * GROUP
    write(kind, tmp_path / "new", lambda row: row + 7)
    (tmp_path / "new").rename(path)
    records = []
    while (batch := reader.read(GROUP)) is not None:
        records += batch.records if isinstance(batch.records, list) else batch.records.to_rows()
    assert len(records) == ROWS - 3 * GROUP
    write(kind, tmp_path / "old", int)
    assert records == read(kind(tmp_path / "old")).records[3 * GROUP :]
    position = plain(reader.position())
    reader.close()
    with pytest.raises(SourceChangedError):
        read(kind(path), position=position)


@pytest.mark.parametrize("size", [0, 1, 9_000, 100_000, -20, -1])
@pytest.mark.parametrize("kind", ARROW)
def test_an_arrow_file_that_is_cut_while_it_is_read(tmp_path, kind, size):
    """Deaths: files were mapped, and to touch a map of a file that was cut is SIGBUS."""
    path = tmp_path / "in"
    write(kind, path, int)
    reader = kind(path).open(str(path), None)
    batch = reader.read(GROUP)
    os.truncate(path, size if size >= 0 else path.stat().st_size + size)
    with pytest.raises(SourceError, match=r"shrank from \d+ to \d+ bytes|was written over"):
        while reader.read(GROUP) is not None:
            pass
    # What was handed out before is still there.
    assert batch.records["n"].to_pylist() == list(range(GROUP))
    reader.close()


def test_an_ipc_file_whose_offsets_point_nowhere(tmp_path):
    """Deaths: the bytes of a file became arrays unchecked, and who followed an offset read foreign memory."""
    offsets = pa.py_buffer(np.array([0, 1, 1 << 30, 3], dtype=np.int32).tobytes())
    column = pa.StringArray.from_buffers(3, offsets, pa.py_buffer(b"abc"))
    table = pa.table({"text": column})
    with pa.ipc.new_file(tmp_path / "in", table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(SourceError, match=r"in is not a readable Arrow IPC file: .*out of bounds"):
        read(ArrowIpcSource(tmp_path / "in"))


@pytest.mark.parametrize("damage", range(40))
@pytest.mark.parametrize("kind", ARROW)
def test_damaged_arrow_files(tmp_path, kind, damage):
    """Deaths: whatever bytes are changed, the file is read or refused by a typed error."""
    path = tmp_path / "in"
    write(kind, path, int, 300)
    data = bytearray(path.read_bytes())
    # Most of it near the end, where the footer is.
    random = np.random.default_rng(damage)
    for _ in range(1 + damage % 4):
        data[-int(random.integers(1, 400 if damage % 2 else len(data)))] = int(random.integers(256))
    path.write_bytes(data)
    try:
        read(kind(path))
    except SourceError as error:
        assert str(path) in str(error)


def test_rows_of_columns_that_the_next_run_reads_too(tmp_path):
    """A flow that reads other columns than before: those that were read are compared, and then the new ones."""
    path = tmp_path / "in"
    write(ParquetSource, path, int)
    position, _ = position_after(ParquetSource(path, columns=["n"]), [5_500])
    after = read(ParquetSource(path, columns=["other"]), position=position)
    assert after.records == [{"other": row} for row in range(5_500, ROWS)]
    reader = ParquetSource(path, columns=["other"]).open(str(path), position)
    reader.read(10)
    then = plain(reader.position())
    reader.close()
    assert then == position_after(ParquetSource(path, columns=["other"]), [5_500, 10])[0]
    overwrite(ParquetSource, path, twisted)
    for columns in (["n"], ["other"]):
        with pytest.raises(SourceChangedError, match="has other content before byte"):
            read(ParquetSource(path, columns=columns), position=position)


COMPRESSED = {
    "gzip": (b"\x1f\x8b\x08\0\0\0\0\0", "is compressed by gzip; decompress it first"),
    "bzip2": (b"BZh91AY&SY\x12\x34", "is compressed by bzip2; decompress it first"),
    "xz": (b"\xfd7zXZ\0\0\x04", "is compressed by xz; decompress it first"),
    "zstd": (b"\x28\xb5\x2f\xfd\x04\x58", "is compressed by zstd; decompress it first"),
    "zip": (b"PK\x03\x04\x14\0", "is a zip archive; unpack it first"),
    "parquet": (b"PAR1\x15\0", "is a Parquet file; read it by ParquetSource, or convert it first"),
    "ipc": (b"ARROW1\0\0\xff", "is an Arrow IPC file; read it by ArrowIpcSource, or convert it first"),
}


@pytest.mark.parametrize(("data", "reason"), COMPRESSED.values(), ids=COMPRESSED)
@pytest.mark.parametrize("kind", LINES)
def test_a_file_that_is_no_text(tmp_path, kind, data, reason):
    """Silent loss: in latin-1 everything is text, and with on_malformed='skip' all of the file was skipped."""
    (tmp_path / "in").write_bytes(data + b"\n1\n")
    options = {} if kind is JsonLinesSource else {"encoding": "latin-1"}
    with pytest.raises(SourceError, match=f"in {reason}"):
        read(kind(tmp_path / "in", on_malformed="skip", **options))


def test_what_the_guide_says_of_files_that_have_grown_or_come(tmp_path, state):
    """A job that was stopped reads on, also in what it had read to its end; one that has finished is over."""

    def build(stop):
        flow = Dataflow("grown")
        lines = flow.source("lines", TextSource(tmp_path / "in-*"))
        lines.union(flow.source("marks", TestingSource([EOF] if stop else []))).sink(
            "out", JsonLinesSink(tmp_path / "out")
        )
        return flow

    (tmp_path / "in-1").write_text("1\n2\n")
    assert not run(build(True), state).finished
    with (tmp_path / "in-1").open("a") as file:
        file.write("3\n")
    (tmp_path / "in-2").write_text("4\n")
    assert run(build(True), state).finished
    written = ['"1"', '"2"', '"3"', '"4"']
    assert read_parts(tmp_path / "out").decode().split() == written
    with (tmp_path / "in-2").open("a") as file:
        file.write("5\n")
    (tmp_path / "in-3").write_text("6\n")
    with pytest.warns(FinishedJobWarning):
        assert run(build(True), state).finished
    assert read_parts(tmp_path / "out").decode().split() == written
    with pytest.raises(SinkError, match="move"):
        run(build(True), state, resume_from="none")
    (tmp_path / "out").rename(tmp_path / "old")
    run(build(False), state, resume_from="none")
    assert read_parts(tmp_path / "out").decode().split() == [*written, '"5"', '"6"']


@pytest.mark.parametrize("kind", LINES + ARROW)
def test_a_place_is_the_same_whenever_the_file_was_touched(tmp_path, kind, monkeypatch):
    """A replay goes to a position of an earlier run; the stamp of the file in it is no part of the place."""
    path = tmp_path / "in"
    write(kind, path, int)
    source = kind(path)
    position, _ = position_after(source, [5_000, 500])
    path.touch()
    monkeypatch.setattr(content, "_SETTLED_NS", -(10**18))
    again, _ = position_after(source, [5_500])
    assert again != position
    assert source.same_position(again, position)
    old = {name: value for name, value in position.items() if name not in ("crc", "stamp")}
    assert source.same_position(again, old)
    assert not source.same_position(again, position_after(source, [5_501])[0])
    assert not source.same_position(again, None)


def test_nested_columns_and_names_with_dots(tmp_path):
    """The checksum is of all that makes up the columns that are read, of a struct each member, and of no others."""
    path = tmp_path / "in"
    rows = pa.array([{"x": row, "y": [row, 777_777]} for row in range(100)])
    table = pa.table({"s": rows, "s.x": list(range(100)), "t": list(range(100))})
    options = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    pq.write_table(table, path, row_group_size=10, **options)
    data = path.read_bytes()
    old, new = (np.array([3, value], np.int64).tobytes() for value in (777_777, 888_888))
    assert data.count(old) == 1
    for columns in (["s"], ["s.x"], ["t"], ["t", "s"]):
        path.write_bytes(data)
        source = ParquetSource(path, columns=columns)
        position, _ = position_after(source, [55])
        assert len(read(source, position=position).records) == 45
        path.write_bytes(data.replace(old, new))
        if "s" in columns:
            with pytest.raises(SourceChangedError, match="has other content before byte"):
                read(source, position=position)
        elif columns == ["t"]:
            assert len(read(source, position=position).records) == 45
