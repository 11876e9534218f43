"""Rows of CSV that are read many at once are those that are read one by one, whatever the file holds."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from onceflow import Columns
from onceflow.connectors.event_time import micros
from onceflow.connectors.files import CsvSource
from onceflow.connectors.files import lines as lines_module
from onceflow.connectors.files.csv_reader import CsvReader
from onceflow.connectors.files.csv_types import COLUMN_TYPES
from onceflow.exceptions import OnceflowError

slow = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def batches(source, sizes, *, from_each=False):
    """What each batch holds, and the position behind it; the error where one comes.

    Args:
        source: Of one file.
        sizes: Asked for, and the last of them again and again.
        from_each: Another reader for each batch, from the position behind the one before.
    """
    found = []
    position = None
    try:
        reader = source.open(source.partitions()[0], None)
        try:
            while True:
                batch = reader.read(sizes[min(len(found), len(sizes) - 1)])
                position = reader.position()
                if batch is None:
                    return [*found, unstamped(position)]
                found.append((shown(batch), unstamped(position)))
                if from_each:
                    reader.close()
                    reader = source.open(source.partitions()[0], position)
        finally:
            reader.close()
    except OnceflowError as error:
        return [*found, type(error), str(error)]


def unstamped(position):
    """The position without what depends on how long ago the file was written."""
    return {name: value for name, value in position.items() if name != "stamp"}


def shown(batch):
    records = batch.records
    kinds = None
    if isinstance(records, Columns):
        kinds = [str(records[name].type) for name in records]
        for name in records:
            records[name].validate(full=True)
        records = [repr(value.to_pylist()) for value in records.arrays.values()]
    times = None if batch.event_times is None else (str(batch.event_times.dtype), batch.event_times.tolist())
    return repr(records), kinds, times, repr(batch.rejected), batch.skipped, batch.first_record


def read_each(self, max_records):
    return self._read_each(max_records)


# What numbers, bools, times and missing values look like, and what nearly does.
TEXTS = st.one_of(
    st.sampled_from(
        [
            *(
                "",
                "NA",
                "null",
                "0",
                "-0",
                "+0",
                "00",
                "01",
                "+1",
                "-1",
                " 1",
                "1 ",
                "1_0",
                "\u0661",
                "1e3",
                "1.0",
                "1.10",
            ),
            *("9223372036854775807", "9223372036854775808", "-9223372036854775808", "-9223372036854775809"),
            *("+9223372036854775807", "-+9223372036854775807", "00000000000000000000000001", "9" * 40),
            *(
                "9007199254740991",
                "9007199254740992",
                "9007199254740993",
                "-9007199254740993",
                "0.1",
                ".5",
                "5.",
                "-.5",
            ),
            *(
                "0.1000000000000000055511151231257827",
                "1e400",
                "-1e400",
                "1e-400",
                "2.2250738585072014e-308",
                "1E5",
                "1e+5",
            ),
            *("1e", "1e+", "-", "+", ".", "-0.0", "0e0", "nan", "inf", "Infinity", "0x1", "123456789.123456789"),
            *("true", "True", "TRUE", "tRUE", "false", "False", "FALSE", "yes"),
            *("2024-02-29", "2023-02-29", "2024-02-30", "0001-01-01", "0000-01-01", "9999-12-31T23:59:59.999999"),
            *("2024-01-01T00:00:00", "2024-01-01 24:00:00", "2024-01-01T23:59:60", "2024-01-01T23:59", "2024-01-01T23"),
            *("2024-01-01T01:02:03.1", "2024-01-01T01:02:03,1", "2024-01-01T01:02:03.1234567", "2024-01-01T01:02:03."),
            *("2024-01-01T01:02:03Z", "2024-01-01T01:02:03.5Z", "2024-01-01T01:02:03+01:00", "2024-01-01T01:02-23:59"),
            *("2024-01-01T01:02:03+24:00", "2024-01-01T01:02:03+0100", "0001-01-01T00:00:00+00:01", "20240101"),
            *("9999-12-31T23:59:59-00:01", "2024-W01-1", "2024-01-01t01:02:03", "2024-01-01T01:02Z"),
            *('a"b', 'a""b', "ü", "\u2028", "x\0y", "253402300799", "253402300800", "-62135596801", "1.5"),
        ]
    ),
    st.integers(-(1 << 65), 1 << 65).map(str),
    st.integers(-1000, 1000).map(str),
    st.floats().map(repr),
    st.decimals(allow_nan=False, allow_infinity=False, places=4).map(str),
    st.datetimes().map(lambda value: value.isoformat()),
    st.text("0123456789-+.eE:TZ ", max_size=30),
)


@st.composite
def typed_files(draw):
    """The bytes of a file with columns of each type, most of whose values fit, and a source's settings."""
    kinds = draw(st.lists(st.sampled_from([*COLUMN_TYPES]), min_size=1, max_size=4))
    usual = {
        "int": st.integers(-(1 << 63), (1 << 63) - 1).map(str),
        "float": st.one_of(st.floats(-1e6, 1e6).map(repr), st.integers(-100, 100).map(str)),
        "bool": st.sampled_from(["true", "FALSE"]),
        "datetime": st.datetimes().map(lambda value: value.isoformat(" ")),
        "datetime_utc": st.datetimes(timezones=st.just(UTC)).map(lambda value: value.isoformat()),
        "str": st.text(st.characters(exclude_categories=["Cs"], max_codepoint=0xFF), max_size=8),
    }
    odd = draw(st.integers(0, 3))
    cells = [
        st.one_of(*[usual[kind]] * 8, st.sampled_from(["", "NA"]), *([TEXTS] if odd == 0 else [])) for kind in kinds
    ]
    rows = draw(st.lists(st.tuples(*cells), max_size=12))
    names = [f"c{number}" for number in range(len(kinds))]
    out = io.StringIO(newline="")
    end = draw(st.sampled_from(["\n", "\r\n"]))
    delimiter = draw(st.sampled_from([",", ";", "\t", "|", " ", "ß"]))
    quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    writer = csv.writer(out, lineterminator=end, quoting=quoting, delimiter=delimiter)
    writer.writerow(names)
    for row in rows:
        if draw(st.integers(0, 6)) == 0:
            out.write(draw(st.sampled_from([end, "1" + end, delimiter * 9 + end, 'x"' + end])))
        writer.writerow(row)
    text = out.getvalue()
    if draw(st.booleans()):
        text = text.removesuffix(end)
    encoding = draw(st.sampled_from(["utf-8", "latin-1", "cp1252", "raw_unicode_escape"]))
    data = text.encode(encoding, "replace")
    said = draw(st.sets(st.sampled_from(names)))
    settings = {
        "types": {name: kind for name, kind in zip(names, kinds, strict=True) if name in said},
        "columns": draw(st.one_of(st.none(), st.lists(st.sampled_from(names), min_size=1, unique=True))),
        "event_time": draw(st.one_of(st.none(), st.sampled_from(names))),
        "null_values": draw(st.sampled_from([("", "NA"), (), ("0",), ("true", "a", "null")])),
        "encoding": encoding,
        "delimiter": delimiter,
    }
    return data, settings


SIZES = st.lists(st.integers(1, 6), min_size=1, max_size=4)
BLOCKS = st.sampled_from([1, 3, 64, 1 << 20])


def check_both_ways(path, monkeypatch, settings, sizes):
    def source():
        return CsvSource(path, **settings)

    at_once = batches(source(), sizes)
    resumed = batches(source(), sizes, from_each=True)
    with monkeypatch.context() as patch:
        patch.setattr(CsvReader, "read", read_each)
        assert at_once == batches(source(), sizes)
        assert resumed == batches(source(), sizes, from_each=True)


@slow
@given(file=typed_files(), sizes=SIZES, block=BLOCKS, as_columns=st.booleans())
def test_values_of_each_type(tmp_path, monkeypatch, file, sizes, block, as_columns):
    """Wrong results: a value, a type, a time, a refusal, a position by which way a block was read."""
    data, settings = file
    path = tmp_path / "in.csv"
    path.write_bytes(data)
    with monkeypatch.context() as patch:
        patch.setattr(lines_module, "_READ_BYTES", block)
        for policy in ("fail", "dead_letter"):
            check_both_ways(path, monkeypatch, {**settings, "as_columns": as_columns, "on_malformed": policy}, sizes)


PIECES = [b'"', b"\n", b",", b"x", b'""', b"\r\n", b"\r", b'1,2,"3"\n', b"1,2,3\n", b"\xff", b'"a\nb",', b"\0", b"\xc3"]
PIECES += [
    b'"a\nb\nc\nd",1,2\n',
    b'5,"x""y",2\r\n',
    b"4,5,6\r\n",
    b'"7","","9"\n',
    b'7,"a\r\nb",2\n',
    b"\xc3\xbc,1,2\n",
]


@slow
@example([b'1,2,"3"\n', b'"', b"\n", b'"', b",2,3"], [2], 5, 1 << 20, 64, True)
@given(
    st.lists(st.sampled_from(PIECES), max_size=24),
    SIZES,
    st.sampled_from([5, 12, 1 << 20]),
    st.sampled_from([3, 15, 1 << 20]),
    BLOCKS,
    st.booleans(),
)
def test_records_of_anything(tmp_path, monkeypatch, pieces, sizes, max_record_bytes, batch_bytes, block, as_columns):
    """Wrong results: where a record ends, or a batch, by which way a block was read."""
    path = tmp_path / "in.csv"
    path.write_bytes(b"a,b,c\n" + b"".join(pieces))
    with monkeypatch.context() as patch:
        patch.setattr(lines_module, "_READ_BYTES", block)
        patch.setattr(lines_module, "_BATCH_BYTES", batch_bytes)
        for types in ({"a": "int"}, {"a": "str", "b": "str", "c": "str"}):
            settings = {"types": types, "on_malformed": "dead_letter", "max_record_bytes": max_record_bytes}
            check_both_ways(path, monkeypatch, {**settings, "as_columns": as_columns}, sizes)


@slow
@given(st.one_of(TEXTS, st.datetimes().map(str), st.datetimes(timezones=st.timezones()).map(str)))
def test_event_times_of_text(tmp_path, monkeypatch, text):
    """Wrong results: an event time that is another one by which way a block was read."""
    path = tmp_path / "in.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["at"], [text], ["2024-05-06T07:08:09"]])
    source = CsvSource(path, types={"at": "str"}, event_time="at", null_values=(), on_malformed="dead_letter")
    (first, *_), *_ = batches(source, [9])
    try:
        times = [micros(text)]
    except ValueError:
        times = []
    assert first[2] == ("int64", [*times, micros("2024-05-06T07:08:09")])


@pytest.mark.parametrize("as_columns", [False, True], ids=["rows", "columns"])
def test_usual_rows_are_not_read_one_by_one(tmp_path, monkeypatch, as_columns):
    """Kind: reading falls back to a tenth of its speed, and nobody is told."""

    def never(self, count):
        raise AssertionError("rows were read one by one")

    moment = datetime(2024, 5, 6, 7, 8, 9, 500)
    rows = [(n, -n / 8, f'a "quoted", text {n}', n % 2 == 0, moment, moment.astimezone(UTC), None) for n in range(3000)]
    path = tmp_path / "in.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        file.write("i,f,s,b,t,u,n\r\n\r\n")
        csv.writer(file).writerows((*row[:4], row[4].isoformat(), row[5].isoformat(), "NA") for row in rows)
    with path.open("rb+") as file:
        file.truncate(path.stat().st_size - 2)
    monkeypatch.setattr(CsvReader, "_read_each", never)
    types = {"t": "datetime", "u": "datetime_utc"}
    source = CsvSource(path, types=types, event_time="u", as_columns=as_columns)
    reader = source.open(str(path), None)
    found = []
    for _ in range(4):
        batch = reader.read(900)
        records = batch.records.to_rows() if as_columns else batch.records
        found += [tuple(record.values()) for record in records]
        assert set(batch.event_times.tolist()) == {micros(rows[0][5])}
    reader.close()
    assert found == rows
    assert {tuple(map(type, row)) for row in found} == {tuple(map(type, row)) for row in rows}


@pytest.mark.parametrize("as_columns", [False, True], ids=["rows", "columns"])
@pytest.mark.parametrize("bad", ["x,1", "1", "1,\xff"], ids=["value", "fields", "encoding"])
def test_few_rows_are_read_beside_an_unusual_one(tmp_path, monkeypatch, as_columns, bad):
    """Kind: one bad row in a thousand makes a file a hundred times slower to read."""
    looked_at = 0
    batch_of_good = CsvReader._batch_of_good

    def counted(self, rows, rejections):
        nonlocal looked_at
        looked_at += len(rows.fields)
        return batch_of_good(self, rows, rejections)

    path = tmp_path / "in.csv"
    lines = [bad if number % 1000 == 500 else f"{number},{number}" for number in range(8000)]
    path.write_bytes("\n".join(["a,b", *lines]).encode("latin-1"))
    source = CsvSource(path, types={"a": "int", "b": "str"}, as_columns=as_columns, on_malformed="dead_letter")
    with monkeypatch.context() as patch:
        patch.setattr(CsvReader, "_batch_of_good", counted)
        ((_, _, _, rejected, _, _), _), _ = found = batches(source, [8000])
    assert looked_at <= 8 * 40
    assert rejected.count("RejectedRecord(") == 8
    with monkeypatch.context() as patch:
        patch.setattr(CsvReader, "read", read_each)
        assert found == batches(source, [8000])
