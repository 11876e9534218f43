"""Types of CSV columns: nothing of a value is lost, and one source has one set of types."""

from __future__ import annotations

import csv
import io
import math
import re
from datetime import UTC, datetime
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from reading import plain, position_after, read, read_in_pieces

from onceflow import Dataflow, run
from onceflow.connectors.files import CsvSink, CsvSource, csv_reader, read_parts
from onceflow.connectors.files import csv as csv_module
from onceflow.connectors.files.csv_types import COLUMN_TYPES, TypeGuess, convert
from onceflow.exceptions import ConfigurationError, MalformedRecordError, SourceError
from onceflow.testing import EOF, TestingSource, TransactionalTestingSink


def column(tmp_path, texts, **options):
    path = tmp_path / "in.csv"
    out = io.StringIO()
    csv.writer(out, quoting=csv.QUOTE_ALL).writerows([["a"], *([text] for text in texts)])
    path.write_text(out.getvalue(), newline="")
    return CsvSource(path, **options)


IDENTIFIERS = {
    "leading zero": ["01234", "99"],
    "exponent of an identifier": ["12e4567"],
    "exponent": ["1e5"],
    "more digits than a float": ["9007199254740993", "0.5"],
    "more digits than 64 bits": ["9223372036854775808"],
    "Arabic digits": ["\u0661\u0662\u0663"],
    "Arabic fractions": ["\u0661.\u0665"],
    "full-width digits": ["\uff11\uff12"],
    "plus": ["+1"],
    "blank before": [" 1"],
    "blank behind": ["1.5 "],
    "underscore": ["1_000"],
    "minus zero": ["-0"],
    "nan": ["nan", "1.5"],
    "inf": ["inf", "1.5"],
    "minus infinity": ["-Infinity"],
    "trailing zero": ["1.10", "1.9"],
    "no digit before": [".5"],
    "no digit behind": ["5."],
    "hexadecimal": ["0x10"],
    "thousands": ["1,234"],
    "more digits than a float of a fraction": ["0.1000000000000000055"],
    "beyond floats": ["1e400"],
    "5,000 digits": ["7" * 5000],
    "numbers and words": ["1", "one"],
    "null of JSON": ["null", "1"],
}


@pytest.mark.parametrize("texts", IDENTIFIERS.values(), ids=IDENTIFIERS)
@pytest.mark.parametrize("as_columns", [False, True], ids=["rows", "columns"])
def test_what_would_not_come_back_as_it_is_written_stays_text(tmp_path, texts, as_columns):
    """Wrong results: a guess that a column holds numbers lost identifiers."""
    found = read(column(tmp_path, texts, as_columns=as_columns)).records
    assert [row["a"] for row in found] == texts


@pytest.mark.parametrize(
    ("texts", "values"),
    [
        (["0", "-7", "9223372036854775807", "-9223372036854775808"], [0, -7, (1 << 63) - 1, -(1 << 63)]),
        (["0.5", "3", "-2.0", "9007199254740992"], [0.5, 3.0, -2.0, 2.0**53]),
        (["1e-05", "0.00001", "1e+22", "-0.0"], [1e-05, 1e-05, 1e22, -0.0]),
        (["true", "false"], [True, False]),
        (["FALSE", "", "TRUE"], [False, None, True]),
        (["1", "NA", "", "2"], [1, None, None, 2]),
        (["NA", ""], [None, None]),
    ],
)
@pytest.mark.parametrize("as_columns", [False, True], ids=["rows", "columns"])
def test_numbers_are_numbers(tmp_path, texts, values, as_columns):
    """What does come back as it is written has the type that it looks like."""
    found = [row["a"] for row in read(column(tmp_path, texts, as_columns=as_columns)).records]
    assert list(map(repr, found)) == list(map(repr, values))


def naive_kind(texts):
    """The rule as it is written: each value comes back as it was written."""
    if texts and all(map(is_whole, texts)):
        return "int" if all(-(1 << 63) <= int(text) < 1 << 63 for text in texts) else "str"
    if texts and set(texts) <= {"true"}:
        return "bool"
    if texts and all(is_fraction(text) or (is_whole(text) and abs(int(text)) <= 1 << 53) for text in texts):
        return "float"
    return "str"


def is_whole(text):
    try:
        return str(int(text)) == text
    except ValueError:
        return False


def is_fraction(text):
    try:
        value = float(text)
    except ValueError:
        return False
    if not math.isfinite(value) or is_whole(text):
        return False
    return text == repr(value) or (is_plain(text) and Fraction(text) == Fraction(repr(value)))


def is_plain(text):
    """Digits, a point, digits, with none to spare."""
    return re.fullmatch(r"-?(0|[1-9][0-9]*)\.([0-9]*[1-9]|0)", text) is not None


pieces = st.text("0123456789-+.e_ \u0663", min_size=1, max_size=7)
numbers = st.one_of(
    st.integers(-(1 << 64), 1 << 64).map(str), st.floats(allow_nan=False, width=64).map(repr), pieces, st.just("true")
)


@settings(max_examples=400, deadline=None)
@given(st.lists(numbers, max_size=5))
def test_the_guess_is_that_of_the_rule(texts):
    """A model of the rule, over numbers and what looks like them; and the values come back."""
    guess = TypeGuess()
    guess.add(texts, frozenset())
    assert guess.kind == naive_kind(texts)
    values = convert(texts, guess.kind, frozenset(), exact=True)
    if guess.kind in ("int", "float"):
        assert [Fraction(value) for value in values] == [
            Fraction(float(text)) if "." in text or "e" in text else Fraction(text) for text in texts
        ]
        assert set(map(type, values)) == {int if guess.kind == "int" else float}


@settings(max_examples=400, deadline=None)
@example(["0e0", "-0"], "float", True)
@given(
    st.lists(st.one_of(numbers, st.sampled_from(["", "NA", "null", "1,2", "[1]", '"1"', "\t1"])), max_size=5),
    st.sampled_from(["int", "float"]),
    st.booleans(),
)
def test_values_at_once_are_values_one_by_one(texts, kind, exact):
    """The quick way for many values gives what each of them gives, or fails with it."""

    def one_by_one():
        return [convert((text,), kind, frozenset(["", "NA"]), exact=exact)[0] for text in texts]

    try:
        expected = repr(one_by_one())
    except ValueError:
        with pytest.raises(ValueError):
            convert(texts, kind, frozenset(["", "NA"]), exact=exact)
    else:
        assert repr(list(convert(texts, kind, frozenset(["", "NA"]), exact=exact))) == expected


@pytest.mark.parametrize("as_columns", [False, True], ids=["rows", "columns"])
@pytest.mark.parametrize(
    ("kind", "sampled", "later"),
    [
        ("int", "7", "01234"),
        ("int", "7", "+1"),
        ("int", "7", " 1"),
        ("int", "7", "1_000"),
        ("int", "7", "-0"),
        ("int", "7", "\u0663"),
        ("int", "7", "1.5"),
        ("int", "7", "9223372036854775808"),
        ("float", "0.5", "9007199254740993"),
        ("float", "0.5", "007.5"),
        ("float", "0.5", "12e4567"),
        ("float", "0.5", "nan"),
        ("float", "0.5", "1_0.5"),
    ],
)
def test_values_behind_the_sample_lose_nothing_either(tmp_path, monkeypatch, kind, sampled, later, as_columns):
    """Wrong results: behind the first 1,000 rows anything that Python reads as a number became one.

    The message says what to do, and both of it can be done.
    """
    for module in (csv_module, csv_reader):
        monkeypatch.setattr(module, "SAMPLE_ROWS", 2)
    source = column(tmp_path, [sampled, sampled, later, sampled], as_columns=as_columns)
    with pytest.raises(MalformedRecordError) as caught:
        read(source)
    assert f"has {later!r} in column 'a', which is {kind} by the first 2 rows of each file" in str(caught.value)
    assert f"types={{'a': '{kind}'}}, or start over with resume_from='none' and {{'a': 'str'}}" in str(caught.value)
    dead = column(tmp_path, [sampled, sampled, later, sampled], as_columns=as_columns, on_malformed="dead_letter")
    assert len(read(dead).records) == 3
    # Followed: the number, from where the job had stopped, where it is one ...
    position, _ = position_after(source, [2])
    said = column(tmp_path, [sampled, sampled, later, sampled], types={"a": kind}, as_columns=as_columns)
    try:
        value = COLUMN_TYPES[kind](later)
    except ValueError:
        with pytest.raises(MalformedRecordError, match=rf"in column 'a', which is {kind}: "):
            read(said, position=position)
    else:
        assert repr(read(said, position=position).records[0]["a"]) == repr(value)
    # ... or the text.
    text = column(tmp_path, [sampled, sampled, later, sampled], types={"a": "str"}, as_columns=as_columns)
    assert [row["a"] for row in read(text).records] == [sampled, sampled, later, sampled]


@pytest.mark.parametrize(
    ("kind", "texts", "values"),
    [
        ("int", ["007", "+1", " 1 ", "-0"], [7, 1, 1, 0]),
        (
            "float",
            ["007", "+1", " 1 ", "-0", "1e5", ".5", "nan", "-inf", "1.10"],
            [7.0, 1.0, 1.0, -0.0, 1e5, 0.5, float("nan"), float("-inf"), 1.1],
        ),
        ("str", ["007"], ["007"]),
        (
            "datetime",
            ["2024-01-02", "2024-01-02T03:04:05.000001"],
            [datetime(2024, 1, 2), datetime(2024, 1, 2, 3, 4, 5, 1)],
        ),
        (
            "datetime",
            ["2024-01-02T00:00Z", "2024-01-02T00:00+02:00"],
            [datetime(2024, 1, 2, tzinfo=UTC), datetime(2024, 1, 1, 22, tzinfo=UTC)],
        ),
        ("datetime_utc", ["2024-01-02T00:00Z"], [datetime(2024, 1, 2, tzinfo=UTC)]),
    ],
)
@pytest.mark.parametrize("as_columns", [False, True], ids=["rows", "columns"])
def test_types_that_are_said(tmp_path, kind, texts, values, as_columns):
    """Where the user says the type, any way to write the number means it; rows and columns have the same values."""
    found = [row["a"] for row in read(column(tmp_path, texts, types={"a": kind}, as_columns=as_columns)).records]
    assert list(map(repr, found)) == list(map(repr, values)) or found == values


@pytest.mark.parametrize("as_columns", [False, True], ids=["rows", "columns"])
@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("int", "1", "99999999999999999999"),
        ("int", "1", "1_000"),
        ("float", "1", "\u0661.\u0665"),
        ("datetime", "2024-01-02", "2024-01-02T00:00Z"),
        ("datetime_utc", "2024-01-02T00:00Z", "2024-01-02"),
        ("datetime", "2024-01-02", "2024-01-02T00:00:00.1234567"),
        ("datetime", "2024-01-02", "1701011112345"),
    ],
)
def test_types_that_are_said_refuse_the_same_in_rows_and_columns(tmp_path, kind, good, bad, as_columns):
    """Wrong results: rows took whole numbers of any size, zones were lost in columns, digits of a second were cut."""
    source = column(tmp_path, [good, bad], types={"a": kind}, as_columns=as_columns, on_malformed="dead_letter")
    found = read(source)
    assert (len(found.records), len(found.rejected)) == (1, 1)


# -- one set of types for a source -------------------------------------------------------------


def build(tmp_path, sink, *, stop, **options):
    flow = Dataflow("agreed")
    rows = flow.source("rows", CsvSource(tmp_path / "in-*.csv", **options))
    rows.union(flow.source("marks", TestingSource([EOF] if stop else []))).sink("out", sink)
    return flow


def test_a_file_that_comes_later_has_the_types_of_its_source(tmp_path, state):
    """Wrong results: a new file had the types that it suggested by itself, so one column held numbers and texts."""
    (tmp_path / "in-b.csv").write_text("id,name\n01,x\n02,y\n")
    sink = TransactionalTestingSink()
    assert not run(build(tmp_path, sink, stop=True), state, batch_size=1).finished
    # Before and behind it in the order of names.
    (tmp_path / "in-a.csv").write_text("name,id\n7,3\n")
    (tmp_path / "in-c.csv").write_text("id,name\n4,8\n")
    assert run(build(tmp_path, sink, stop=False), state, batch_size=1).finished
    assert sorted((row["id"], row["name"]) for row in sink.records) == [
        ("01", "x"),
        ("02", "y"),
        ("3", "7"),
        ("4", "8"),
    ]


def test_a_file_that_comes_later_and_does_not_fit(tmp_path, state):
    """A value that is no number of the agreed type is malformed; other columns are refused; the job goes on without."""
    (tmp_path / "in-b.csv").write_text("id,n\n1,2\n2,3\n")
    sink = TransactionalTestingSink()
    assert not run(build(tmp_path, sink, stop=True), state, batch_size=1).finished
    (tmp_path / "in-c.csv").write_text("id,n\n3,x\n")
    with pytest.raises(MalformedRecordError, match=r"in-c.csv:2: has 'x' in column 'n', which is int by the first"):
        run(build(tmp_path, sink, stop=False), state, batch_size=1)
    (tmp_path / "in-c.csv").write_text("id,m\n3,4\n")
    with pytest.raises(SourceError, match=r"in-c.csv has the columns \['id', 'm'\], and the files that the job began"):
        run(build(tmp_path, sink, stop=False), state, batch_size=1)
    (tmp_path / "in-c.csv").unlink()
    assert run(build(tmp_path, sink, stop=False), state, batch_size=1).finished
    assert [row["id"] for row in sink.records] == [1, 2]


def test_types_that_are_said_only_later(tmp_path, state):
    """Silence: types= given after the job had begun was ignored."""
    (tmp_path / "in-b.csv").write_text("id,n\n1,2\n2,3\n")
    sink = TransactionalTestingSink()
    assert not run(build(tmp_path, sink, stop=True), state, batch_size=1).finished
    with pytest.raises(
        ConfigurationError, match=r"types=\{'n': 'str'\}, and the job has begun with 'int' .* give that"
    ):
        run(build(tmp_path, sink, stop=False, types={"n": "str"}), state, batch_size=1)
    assert run(build(tmp_path, sink, stop=False, types={"n": "int"}), state, batch_size=1).finished
    assert sink.records == [{"id": 1, "n": 2}, {"id": 2, "n": 3}]


def test_a_column_that_is_read_only_later(tmp_path):
    """A column that the first files had not has no agreed type; the advice is followed."""
    (tmp_path / "in-b.csv").write_text("id\n1\n2\n")
    (tmp_path / "in-c.csv").write_text("id,n\n3,04\n")
    source = CsvSource(tmp_path / "in-c.csv", columns=["id", "n"])
    position, _ = position_after(CsvSource(tmp_path / "in-b.csv"), [1])
    source.restore({"in-b.csv": position})
    with pytest.raises(SourceError, match=r"begun without the columns \['n'\]; say their types by types=\{\.\.\.\}"):
        read(source, tmp_path / "in-c.csv")
    source = CsvSource(tmp_path / "in-c.csv", columns=["id", "n"], types={"n": "str"})
    source.restore({"in-b.csv": position})
    assert read(source, tmp_path / "in-c.csv").records == [{"id": 3, "n": "04"}]


def test_positions_of_the_version_before_keep_their_types(tmp_path):
    """Compatibility: a job that reads 01234 as a number goes on doing so, and a new file agrees with it."""
    (tmp_path / "in-a.csv").write_text("id,at\n" + "01,2024-01-01T00:00+01:00\n" * 5)
    source = CsvSource(tmp_path / "in-*.csv", types={"at": "datetime"})
    position, _ = position_after(source, [2])
    old = {name: value for name, value in position.items() if name not in ("crc", "stamp", "exact")}
    old["types"] = {"id": "int", "at": "datetime"}
    (tmp_path / "in-b.csv").write_text("id,at\n7,2024-01-01T00:00Z\n08,2024-01-01T00:00Z\n")
    source = CsvSource(tmp_path / "in-*.csv", types={"at": "datetime"})
    first, second = source.partitions()
    source.restore({first: plain(old)})
    time = datetime(2023, 12, 31, 23, tzinfo=UTC)
    assert read(source, first, old).records == [{"id": 1, "at": time}] * 3
    assert [row["id"] for row in read(source, second).records] == [7, 8]


# -- files without a header --------------------------------------------------------------------


@pytest.mark.parametrize("as_columns", [False, True], ids=["rows", "columns"])
def test_files_without_a_header(tmp_path, as_columns):
    """Silent loss: the first row of such a file was taken for names."""
    path = tmp_path / "in.csv"
    path.write_text("1,x\n2,y\n\n3,z\n")
    source = CsvSource(path, names=["n", "t"], as_columns=as_columns)
    whole = read(source)
    assert whole.records == [{"n": 1, "t": "x"}, {"n": 2, "t": "y"}, {"n": 3, "t": "z"}]
    assert read_in_pieces(source, [1, 2]) == whole
    path.write_text("")
    assert read(source).records == []
    path.write_text("1,x,?\n")
    with pytest.raises(MalformedRecordError, match=r"in.csv:1: has 3 fields, and names says 2"):
        read(source)


def test_names_that_cannot_be(tmp_path):
    """Typed errors that say what to give."""
    path = tmp_path / "in.csv"
    path.write_text("1,1\n2,y\n")
    with pytest.raises(SourceError, match=r"twice: \['1', '1'\]; if this is not a header, give names=\["):
        read(CsvSource(path))
    position, _ = position_after(CsvSource(path, names=["n", "t"]), [1])
    with pytest.raises(ConfigurationError, match=r"names=\['n', 'u'\], and the job has begun with \['n', 't'\]"):
        read(CsvSource(path, names=["n", "u"]), position=position)
    for names, message in [
        (["a", "a"], "names a column twice"),
        ("ab", "give a list of str"),
        (["n", "t"], r"names has no column \['at'\]; it has \['n', 't'\]"),
    ]:
        with pytest.raises(ConfigurationError, match=message):
            CsvSource(path, names=names, event_time="at")


def test_a_copy_of_a_file_is_the_file(tmp_path, state):
    """What the source reads and the sink writes comes back byte for byte, identifiers and numbers alike."""
    rows = "".join(f"{n},{n:05d},{n / 8},{n % 2 == 0},1e{n},{'NaN' if n % 3 else 'x'}\n" for n in range(50))
    text = "n,id,x,even,code,word\n" + rows
    (tmp_path / "in.csv").write_text(text)
    flow = Dataflow("copy")
    flow.source("rows", CsvSource(tmp_path / "in.csv")).sink("out", CsvSink(tmp_path / "out"))
    run(flow, state, batch_size=7)
    assert read_parts(tmp_path / "out").decode() == text
