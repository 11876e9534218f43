"""A reader opened at any position goes on exactly there, whatever the file holds."""

from __future__ import annotations

import csv
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reading import position_after, read, read_in_pieces

from onceflow.connectors.files import ArrowIpcSource, CsvSource, JsonLinesSource, ParquetSource, TextSource
from onceflow.connectors.files import lines as lines_module
from onceflow.exceptions import SourceChangedError

SIZES = st.lists(st.integers(1, 5), max_size=12)
BOM = b"\xef\xbb\xbf"
slow = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@st.composite
def csv_files(draw):
    """Rows, their bytes in some dialect, and the encoding."""
    encoding = draw(st.sampled_from(["utf-8", "latin-1"]))
    letters = st.characters(exclude_categories=["Cs"], max_codepoint=0x10FFFF if encoding == "utf-8" else 0xFF)
    special = st.sampled_from(['"', "\n", "\r", "\r\n", ",", "a", "'", "\0", " ", "ü", "\x85"])
    fields = st.lists(st.one_of(special, letters), max_size=6).map("".join)
    rows = draw(st.lists(st.tuples(fields, fields, fields), max_size=12))
    out = io.StringIO(newline="")
    end = draw(st.sampled_from(["\n", "\r\n"]))
    # The writer of the standard library leaves a bare \r unquoted.
    bare = any("\r" in field for row in rows for field in row)
    quoting = csv.QUOTE_ALL if bare else draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    writer = csv.writer(out, lineterminator=end, quoting=quoting)
    writer.writerow("abc")
    for row in rows:
        if draw(st.integers(0, 4)) == 0:
            out.write(end)
        writer.writerow(row)
    text = out.getvalue()
    if draw(st.booleans()):
        text = text.removesuffix(end)
    mark = BOM if encoding == "utf-8" and draw(st.booleans()) else b""
    return [dict(zip("abc", row, strict=True)) for row in rows], mark + text.encode(encoding), encoding


#: Bytes read at a time: lines, quoted fields, line ends and characters are cut by them everywhere.
BLOCKS = st.sampled_from([1, 2, 3, 7, 64, 1 << 20])


@slow
@given(file=csv_files(), sizes=SIZES, as_columns=st.booleans(), block=BLOCKS)
def test_csv(tmp_path, monkeypatch, file, sizes, as_columns, block):
    monkeypatch.setattr(lines_module, "_READ_BYTES", block)
    rows, data, encoding = file
    path = tmp_path / "in.csv"
    path.write_bytes(data)
    source = CsvSource(
        path, encoding=encoding, types=dict.fromkeys("abc", "str"), null_values=(), as_columns=as_columns
    )
    whole = read(source)
    assert whole.records == rows
    assert read(source, sizes=sizes) == whole
    assert read_in_pieces(source, sizes) == whole


@slow
@given(
    data=st.lists(
        st.sampled_from(
            [
                b'"',
                b"\n",
                b",",
                b"x",
                b'""',
                b"\r\n",
                b'1,2,"3"\n',
                b"1,2,3\n",
                b"\xff",
                b'"a\nb",',
                b"\0",
                b'"a\nb\nc\nd",1,2\n',
            ]
        )
    ).map(b"".join),
    sizes=SIZES,
    max_record_bytes=st.sampled_from([5, 12, 1 << 20]),
    batch_bytes=st.sampled_from([3, 15, 1 << 20]),
    block=BLOCKS,
)
def test_csv_with_anything_in_it(tmp_path, monkeypatch, data, sizes, max_record_bytes, batch_bytes, block):
    monkeypatch.setattr(lines_module, "_READ_BYTES", block)
    monkeypatch.setattr(lines_module, "_BATCH_BYTES", batch_bytes)
    path = tmp_path / "in.csv"
    path.write_bytes(b"a,b,c\n" + data)
    source = CsvSource(path, on_malformed="dead_letter", max_record_bytes=max_record_bytes, types={"a": "int"})
    whole = read(source, sizes=[10_000])
    assert read(source, sizes=sizes) == whole
    assert read_in_pieces(source, sizes) == whole
    lines = {int(position.rpartition(":")[2]) for position, _, _ in whole.rejected}
    assert len(lines) == len(whole.rejected)
    assert read(
        CsvSource(path, on_malformed="skip", max_record_bytes=max_record_bytes, types={"a": "int"})
    ).skipped == len(whole.rejected)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 60), 1 << 60) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@slow
@given(records=st.lists(JSON, max_size=12), sizes=SIZES, data=st.data(), block=BLOCKS)
def test_json_lines(tmp_path, monkeypatch, records, sizes, data, block):
    monkeypatch.setattr(lines_module, "_READ_BYTES", block)
    path = tmp_path / "in.jsonl"
    end = data.draw(st.sampled_from(["\n", "\r\n"]))
    blank = data.draw(st.sampled_from(["", end, " " + end]))
    text = blank + "".join(json.dumps(record, ensure_ascii=False) + end + blank for record in records)
    mark = BOM if data.draw(st.booleans()) else b""
    path.write_bytes(mark + (text.removesuffix(end) if data.draw(st.booleans()) else text).encode())
    source = JsonLinesSource(path)
    assert read(source).records == records
    assert read(source, sizes=sizes).records == records
    assert read_in_pieces(source, sizes).records == records


@slow
@given(
    lines=st.lists(st.text(st.characters(exclude_characters="\n\r", max_codepoint=0xFF), max_size=5), max_size=12),
    encoding=st.sampled_from(["utf-8", "latin-1"]),
    end=st.sampled_from(["\n", "\r\n"]),
    terminated=st.booleans(),
    sizes=SIZES,
    block=BLOCKS,
)
def test_text(tmp_path, monkeypatch, lines, encoding, end, terminated, sizes, block):
    monkeypatch.setattr(lines_module, "_READ_BYTES", block)
    if encoding == "latin-1" or not lines or not lines[0].startswith("\ufeff"):
        path = tmp_path / "in.txt"
        data = end.join(lines).encode(encoding)
        path.write_bytes(data + end.encode() * (terminated and bool(lines)))
        expected = lines if terminated or not lines or lines[-1] else lines[:-1]
        source = TextSource(path, encoding=encoding)
        assert read(source).records == expected
        assert read_in_pieces(source, sizes).records == expected


@slow
@given(
    rows=st.integers(0, 40),
    group=st.integers(1, 15),
    sizes=SIZES,
    columns=st.sampled_from([None, ["n"], ["text", "n"]]),
    compression=st.sampled_from(["none", "zstd"]),
)
@pytest.mark.parametrize("kind", ["parquet", "ipc"])
def test_arrow(tmp_path, kind, rows, group, sizes, columns, compression):
    path = tmp_path / "in.arrow"
    table = pa.table(
        {
            "n": pa.array(range(rows), pa.int64()),
            "text": pa.array([None if n % 3 == 0 else f"t{n}" for n in range(rows)], pa.string()),
            "at": pa.array([n * 1_000_000 for n in range(rows)], pa.timestamp("us", "UTC")),
            "word": pa.array([f"w{n % 2}" for n in range(rows)], pa.string()).dictionary_encode(),
        }
    )
    if kind == "parquet":
        pq.write_table(table, path, row_group_size=group, compression=compression)
        source = ParquetSource(path, event_time="at", columns=columns)
    else:
        options = pa.ipc.IpcWriteOptions(compression=None if compression == "none" else compression)
        with pa.ipc.new_file(path, table.schema, options=options) as writer:
            writer.write_table(table, max_chunksize=group)
        source = ArrowIpcSource(path, event_time="at", columns=columns)
    whole = read(source, sizes=[1000])
    assert whole.records == table.select(columns or table.column_names).to_pylist()
    assert whole.times == [n * 1_000_000 for n in range(rows)]
    assert read(source, sizes=sizes) == whole
    assert read_in_pieces(source, sizes) == whole


def test_batches_are_cut_alike_after_a_resume(tmp_path):
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"n": range(100)}), path, row_group_size=7)
    source = ParquetSource(path)
    position, _ = position_after(source, [10, 10])
    reader = source.open(str(path), position)
    assert [len(reader.read(10).records) for _ in range(8)] == [10] * 8
    reader.close()


# -- files that grow ---------------------------------------------------------------------------


@slow
@given(
    first=st.lists(st.sampled_from([b"1,2\n", b'"a\nb",2\n', b"\n", b"x\r\n"]), max_size=5).map(b"".join),
    then=st.lists(st.sampled_from([b"3,4\n", b'"c\n\nd",5\n', b"\n"]), max_size=5).map(b"".join),
    sizes=SIZES,
)
def test_a_file_that_grew_by_whole_lines(tmp_path, first, then, sizes):
    """What was read before and what is read after are what a single reader of the grown file reads."""
    for source, head in [
        (CsvSource(tmp_path / "in.csv", types=dict.fromkeys("ab", "str"), on_malformed="dead_letter"), b"a,b\n"),
        (TextSource(tmp_path / "in.csv"), b""),
        (JsonLinesSource(tmp_path / "in.csv", on_malformed="dead_letter"), b""),
    ]:
        path = tmp_path / "in.csv"
        path.write_bytes(head + first)
        position, before = position_after(source, [*sizes, 100])
        path.write_bytes(head + first + then)
        after = read(source, position=position)
        whole = read(source)
        assert before.records + after.records == whole.records
        assert before.rejected + after.rejected == whole.rejected


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize(
    ("make", "head"),
    [(TextSource, b""), (JsonLinesSource, b""), (CsvSource, b"n\n")],
    ids=["text", "jsonl", "csv"],
)
def test_a_last_line_that_got_its_end_later(tmp_path, make, head, end):
    path = tmp_path / "in"
    path.write_bytes(head + b"1\n2")
    source = make(path)
    position, before = position_after(source, [10])
    assert len(before.records) == 2
    assert read(source, position=position).records == []
    path.write_bytes(head + b"1\n2" + end + b"3\n4")
    after = read(source, position=position)
    whole = read(source)
    assert len(after.records) == 2
    assert before.records + after.records == whole.records
    # Line numbers go on where they were.
    assert position_after(source, [10])[0]["line"] == 5 + bool(head)


@pytest.mark.parametrize(
    ("make", "head"),
    [(TextSource, b""), (JsonLinesSource, b""), (CsvSource, b"n\n")],
    ids=["text", "jsonl", "csv"],
)
def test_a_last_line_that_was_continued_later_is_no_longer_exact(tmp_path, make, head):
    path = tmp_path / "in"
    path.write_bytes(head + b"1\n2")
    source = make(path)
    position, _ = position_after(source, [10])
    unread, _ = position_after(source, [1])
    path.write_bytes(head + b"1\n25\n6\n")
    with pytest.raises(SourceChangedError, match=rf"ended with line {2 + bool(head)} .* was continued since"):
        read(source, position=position)
    # While it is read too, if its writer is quick.
    path.write_bytes(head + b"1\n2")
    reader = source.open(str(path), None)
    assert len(reader.read(10).records) == 2
    with path.open("ab") as file:
        file.write(b"5\n")
    with pytest.raises(SourceChangedError, match=rf"ended with line {2 + bool(head)} .* was continued since"):
        reader.read(10)
    reader.close()
    path.write_bytes(head + b"1\n25\n6\n")
    # A position before that line never handed it out, so it reads the line as it is now.
    assert [str(record).strip("{}'n: ") for record in read(source, position=unread).records] == ["25", "6"]


def test_a_quoted_field_that_was_cut_by_the_end_is_no_longer_exact(tmp_path):
    path = tmp_path / "in.csv"
    path.write_bytes(b'n,t\n1,a\n2,"b\n3,c\n')
    source = CsvSource(path, on_malformed="dead_letter")
    position, found = position_after(source, [10])
    assert [row["n"] for row in found.records] == [1, 3]
    assert found.rejected[0][0].endswith(":3")
    assert read(source, position=position).records == []
    before, _ = position_after(source, [1])
    path.write_bytes(b'n,t\n1,a\n2,"b\n3,c\n"\n')
    assert read(source, position=before).records == [{"n": 2, "t": "b\n3,c\n"}]
    with pytest.raises(SourceChangedError, match="ended inside a quoted field"):
        read(source, position=position)
    # While it is read too, if its writer is quick.
    path.write_bytes(b'n,t\n1,a\n2,"b\n3,c\n')
    reader = source.open(str(path), None)
    assert [row["n"] for row in reader.read(10).records] == [1, 3]
    with path.open("ab") as file:
        file.write(b'"\n')
    with pytest.raises(SourceChangedError, match="ended inside a quoted field"):
        reader.read(10)
    reader.close()


# -- several files -----------------------------------------------------------------------------


def test_patterns_and_lists_name_each_file_once(tmp_path, monkeypatch):
    """Doubled: a link beside the file that it leads to was read as another one."""
    monkeypatch.chdir(tmp_path)
    for name in ("b.txt", "a.txt", "c.log"):
        (tmp_path / name).write_text(name)
    assert TextSource(["*.txt", "./a.txt", "c.log", "c.*"]).partitions() == ["a.txt", "b.txt", "c.log"]
    assert TextSource("**/*.log").partitions() == ["c.log"]
    (tmp_path / "latest.txt").symlink_to("b.txt")
    (tmp_path / "a-link.txt").symlink_to("a.txt")
    assert TextSource("*.txt").partitions() == ["a.txt", "b.txt"]
    assert TextSource(["latest.txt", "a.txt"]).partitions() == ["latest.txt", "a.txt"]
    (tmp_path / "odd[1].txt").write_text("x")
    assert TextSource("odd[1].txt").partitions() == ["odd[1].txt"]


def test_partitions_have_positions_of_their_own(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text("".join(f"{name}{n}\n" for n in range(5)))
    source = TextSource(tmp_path / "*.txt")
    first, second = source.partitions()
    one, other = source.open(first, None), source.open(second, None)
    assert one.read(2).records == ["a0", "a1"]
    assert other.read(4).records == ["b0", "b1", "b2", "b3"]
    after_two = one.position()
    assert read(source, first, after_two).records == ["a2", "a3", "a4"]
    assert read(source, second, other.position()).records == ["b4"]
    with pytest.raises(SourceChangedError, match="other content before byte"):
        source.open(second, after_two)
    one.close()
    other.close()
