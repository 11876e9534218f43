"""Types of Parquet columns: agreed once, kept in the checkpoint, and nothing is bent to them."""

from __future__ import annotations

import itertools
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onceflow import Columns, Dataflow, run
from onceflow.connectors.files import ParquetSink
from onceflow.connectors.files.arrow_types import convert
from onceflow.exceptions import ConfigurationError, SinkError
from onceflow.sinks import Committable, SinkContext
from onceflow.testing import EOF, TestingSource

NOON = datetime(2024, 1, 1, 12)


def written(sink, *batches, checkpoints=None):
    """Writes batches, a checkpoint after each of these numbers of them, or one at the end; what each part holds."""
    writer = sink.open(SinkContext("job", "out", 1, 1))
    number = 0
    try:
        writer.recover([])
        for count, batch in enumerate(batches, 1):
            writer.write(batch)
            if count == len(batches) or count in (checkpoints or ()):
                number += 1
                writer.commit(Committable(number, writer.prepare(number, writer.seal(number))))
    finally:
        writer.close()
    return parts(sink)


def parts(sink):
    return [pq.read_table(path) for path in sorted(sink._directory.glob("part-*"))]


def rows_of(tables):
    return [row for table in tables for row in table.to_pylist()]


def one_column(*values):
    return [[{"x": value}] for value in values]


#: First value, another one that it does not fit, the types that the message names.
MISFITS = [
    (1, 2.5, "double", "int64"),
    (1, 2.0, "double", "int64"),
    (1, True, "bool", "int64"),
    (True, 1, "int64", "bool"),
    (1, "1", "string", "int64"),
    ("a", b"a", "binary", "string"),
    (b"a", "a", "string", "binary"),
    (0.5, (1 << 53) + 1, "int64", "double"),
    (1, 1 << 63, "uint64", "int64"),
    (date(2024, 1, 1), NOON, r"timestamp\[us\]", r"date32\[day\]"),
    (Decimal("1.1"), Decimal("1.11"), r"decimal128\(3, 2\)", r"decimal128\(38, 1\)"),
    (Decimal("1.1"), 0.5, "double", r"decimal128\(38, 1\)"),
    (0.5, Decimal("0.5"), r"decimal128\(1, 1\)", "double"),
    (time(1), timedelta(1), r"duration\[us\]", r"time64\[us\]"),
    ([1], [2.5], "double", "int64"),
    ([1], ["a"], "string", "int64"),
    ([1], 1, "int", "list"),
    ([[date(2024, 1, 1)]], [[NOON]], r"timestamp\[us\]", r"date32\[day\]"),
    ({"a": 1}, {"a": 2.5}, "double", "int64"),
    ({"a": 1}, {"a": 1, "b": 2}, "the new member 'b'", "struct<a: int64>"),
    ({"a": [{"b": 1}]}, {"a": [{"b": 1, "c": 2}]}, "the new member 'c'", "struct<b: int64>"),
    ({"a": 1}, [1], "list", "struct<a: int64>"),
]


@pytest.mark.parametrize(("first", "other", "found", "agreed"), MISFITS, ids=str)
@pytest.mark.parametrize("batches", ["one batch", "two batches", "two checkpoints", "a restart"])
def test_what_does_not_fit_is_refused_by_name(tmp_path, first, other, found, agreed, batches):
    """Kind: later records are bent to the types of the first batch, or not, as batches end. Refused alike, wherever."""
    sink = ParquetSink(tmp_path / "out")
    message = rf"field 'x' of record {1 if batches == 'one batch' else 0} is .*: {found} does not fit .*{agreed}"
    one, two = one_column(first, other)
    if batches == "a restart":
        flow = Dataflow("job")
        flow.source("in", TestingSource([*one, EOF, *two])).sink("out", sink)
        run(flow, tmp_path / "state")
        with pytest.raises(SinkError, match=message):
            run(flow, tmp_path / "state")
        return
    with pytest.raises(SinkError, match=message):
        written(sink, *([one + two] if batches == "one batch" else [one, two]), checkpoints=[1])


#: First value and others that fit it exactly.
FITS = [
    (0.5, 1, -0.0, float("inf")),
    (1, (1 << 63) - 1, -(1 << 63)),
    (NOON, date(2024, 1, 2), NOON.replace(microsecond=5), NOON.replace(tzinfo=UTC)),
    (NOON.replace(tzinfo=ZoneInfo("Europe/Berlin")), NOON.replace(tzinfo=timezone(timedelta(hours=-5)))),
    (Decimal("1.10"), Decimal("12345678901234567890.5"), 7),
    ({"a": None}, {"a": 1}, {}, {"a": None}, None),
    ([], [None], [1], None, [2, None]),
    ([[]], [[{"a": None}]], [[{"a": NOON}], []]),
    (None, None, "a", None),
    (np.int8(1), 300, np.uint64(5)),
    (np.float32(0.5), 0.1),
]


def equal(found, given):
    """As values: an instant is one in every zone, and a dict without a member has None there."""
    if isinstance(given, np.generic):
        given = given.item()
    if isinstance(found, datetime) and not isinstance(given, datetime):
        given = datetime(given.year, given.month, given.day)
    if isinstance(given, datetime):
        in_utc = [one.replace(tzinfo=UTC) if one.tzinfo is None else one for one in (found, given)]
        return in_utc[0] == in_utc[1]
    if isinstance(given, dict):
        return found.keys() >= given.keys() and all(equal(found[name], given.get(name)) for name in found)
    if isinstance(given, list):
        return len(found) == len(given) and all(itertools.starmap(equal, zip(found, given, strict=True)))
    return found == given


@pytest.mark.parametrize("values", FITS, ids=str)
def test_what_fits_is_the_same_wherever_batches_end(tmp_path, values):
    """Kind: the result depends on the batch. One type for all, by the first value; a type that is open with None is
    settled later; all values come back."""
    batches = one_column(*values)
    (whole,) = written(ParquetSink(tmp_path / "whole"), list(itertools.chain.from_iterable(batches)))
    (single,) = written(ParquetSink(tmp_path / "single"), *batches)
    assert whole.schema.equals(single.schema)
    for table in (whole, single):
        found = [row["x"] for row in table.to_pylist()]
        assert all(itertools.starmap(equal, zip(found, values, strict=True))), found
    kept = rows_of(written(ParquetSink(tmp_path / "parts"), *batches, checkpoints=range(9)))
    assert all(itertools.starmap(equal, zip([row["x"] for row in kept], values, strict=True))), kept


def test_the_schema_belongs_to_the_checkpoint(tmp_path):
    """Kind: the schema is learnt anew at each start; part files of one job differ, or 2.5 becomes 2."""
    sink = ParquetSink(tmp_path / "out")
    records = [{"x": 0.5, "y": None}, EOF, {"y": "a", "x": 1}, EOF, {"x": 2.5, "y": None}]
    flow = Dataflow("job")
    flow.source("in", TestingSource(records)).sink("out", sink)
    for _ in range(3):
        run(flow, tmp_path / "state")
    assert rows_of(parts(sink)) == [{"x": 0.5, "y": None}, {"x": 1.0, "y": "a"}, {"x": 2.5, "y": None}]
    schemas = [str(table.schema.types) for table in parts(sink)]
    assert schemas == [
        "[DataType(double), DataType(null)]",
        "[DataType(double), DataType(string)]",
        "[DataType(double), DataType(string)]",
    ]


def test_the_schema_of_an_older_version_is_that_of_its_newest_part(tmp_path):
    sink = ParquetSink(tmp_path / "out")
    first = sink.open(SinkContext("job", "out", 1, 1))
    first.recover([])
    first.write([{"x": 0.5}])
    decided = Committable(1, first.prepare(1, first.seal(1)))
    first.commit(decided)
    again = sink.open(SinkContext("job", "out", 2, 1, 1))
    again.recover([decided])
    again.write([{"x": 1}])
    again.commit(Committable(2, again.prepare(2, again.seal(2))))
    assert [table.schema.field("x").type for table in parts(sink)] == [pa.float64(), pa.float64()]
    # One that cannot be read as Parquet says nothing.
    sorted((tmp_path / "out").glob("part-*"))[-1].write_bytes(b"x")
    third = sink.open(SinkContext("job", "out", 3, 1, 2))
    third.recover([])
    third.write([{"y": 1}])
    third.close()


def test_types_for_some_fields(tmp_path):
    """The advice of the message: given for the field, also where part files are there already."""
    records = [{"x": 1, "y": None}, EOF, {"x": 2.5, "y": None}]

    def flow(**asked):
        made = Dataflow("job")
        made.source("in", TestingSource(records)).sink("out", ParquetSink(tmp_path / "out", **asked))
        return made

    run(flow(), tmp_path / "state")
    with pytest.raises(SinkError, match=r"give ParquetSink\(\.\.\., types=\{'x': \.\.\.\}, on_new_types=\"widen\"\)"):
        run(flow(), tmp_path / "state")
    run(flow(types={"x": pa.float64(), "y": pa.string()}), tmp_path / "state")
    first, second = parts(ParquetSink(tmp_path / "out"))
    assert rows_of([first, second]) == [{"x": 1, "y": None}, {"x": 2.5, "y": None}]
    assert second.schema.types == [pa.float64(), pa.string()]


def test_settings_that_cannot_be(tmp_path):
    schema = pa.schema([("x", pa.int64())])
    for asked, message in (
        ({"types": {"x": "int64"}}, r"give names of fields and a pyarrow\.DataType"),
        ({"types": {"x": pa.int64()}, "schema": schema}, "not both"),
        ({"schema": pa.schema([("x", pa.int64()), ("x", pa.int64())])}, "each field once"),
        ({"on_new_types": "bend"}, 'give "refuse" or "widen"'),
    ):
        with pytest.raises(ConfigurationError, match=message):
            ParquetSink(tmp_path, **asked)


def test_types_of_fields_that_are_not_there(tmp_path):
    with pytest.raises(SinkError, match=r"names the fields \['y'\], and records have \['x'\]"):
        written(ParquetSink(tmp_path, types={"y": pa.int64()}), [{"x": 1}])


def test_a_schema_is_kept_to_exactly(tmp_path):
    """f32 takes what is exact in it; what may not be null is not."""
    schema = pa.schema([pa.field("x", pa.float32()), pa.field("y", pa.int8(), nullable=False)])
    assert rows_of(written(ParquetSink(tmp_path / "a", schema=schema), [{"x": 0.5, "y": 1}])) == [{"x": 0.5, "y": 1}]
    number = 0
    for row, message in (
        ({"x": 0.1, "y": 1}, "double does not fit float"),
        ({"x": 0.5, "y": 300}, "int64 does not fit int8"),
        ({"x": 0.5, "y": None}, "'y' is None in a record"),
    ):
        for batch in ([row], Columns({name: np.array([value]) for name, value in row.items()})):
            number += 1
            with pytest.raises(SinkError, match=message):
                written(ParquetSink(tmp_path / str(number), schema=schema), batch)


@pytest.mark.parametrize(
    ("first", "other", "types"),
    [
        (1, 2.5, ["int64", "double"]),
        ({"a": 1}, {"b": "x", "a": 2}, ["struct<a: int64>", "struct<a: int64, b: string>"]),
        ([1], [2.5], ["list<element: int64>", "list<element: double>"]),
        (date(2024, 1, 1), NOON, ["date32[day]", "timestamp[us]"]),
        (Decimal("1.1"), Decimal("1.11"), ["decimal128(38, 1)", "decimal128(39, 2)"]),
        (np.datetime64("2024-01-01T00", "s"), NOON, None),
    ],
    ids=str,
)
def test_types_that_widen_if_asked(tmp_path, first, other, types):
    """In a part file of its own, exactly; what was written stays as it was, and a restart keeps the wider one."""
    sink = ParquetSink(tmp_path / "out", on_new_types="widen")
    records = [*one_column(first, other)[0], *one_column(other)[0], EOF, *one_column(first)[0]]
    flow = Dataflow("job")
    flow.source("in", TestingSource(records, batch_size=1)).sink("out", sink)
    for _ in range(2):
        run(flow, tmp_path / "state", batch_size=1)
    values = [row["x"] for row in rows_of(parts(sink))]
    assert all(itertools.starmap(equal, zip(values, (first, other, first), strict=True))), values
    if types:
        found = [str(table.schema.field("x").type) for table in parts(sink)]
        wide = types[1].replace("decimal128(39", "decimal256(76")
        assert found == [types[0], wide, wide]
    names = sorted(path.name for path in (tmp_path / "out").glob("part-*"))
    if types:
        assert names[1] == names[0].replace(".parquet", "_0002.parquet")


@pytest.mark.parametrize(
    ("first", "other"), [(1, "a"), (0.5, (1 << 53) + 1), ("a", b"a"), (1, True), ([1], 1)], ids=str
)
def test_what_no_type_holds_is_refused_though_asked_to_widen(tmp_path, first, other):
    with pytest.raises(SinkError, match=r"field 'x' of record 0 is .* does not fit"):
        written(ParquetSink(tmp_path / "out", on_new_types="widen"), *one_column(first, other))


def test_new_and_missing_fields_if_asked(tmp_path):
    rows = [{"x": 1}, {"x": 2, "y": "a"}, {"y": "b"}]
    sink = ParquetSink(tmp_path / "out", on_new_types="widen")
    first, second = written(sink, *([row] for row in rows))
    assert (first.column_names, second.column_names) == (["x"], ["x", "y"])
    assert rows_of([first, second]) == [{"x": 1}, {"x": 2, "y": "a"}, {"x": None, "y": "b"}]


def test_a_column_that_is_null_for_longer_than_a_row_group(tmp_path, monkeypatch):
    """What is held is bounded: the row group is written with type null, and the type comes with the next part file."""
    monkeypatch.setattr("onceflow.connectors.files.parquet_writer._ROW_GROUP_ROWS", 3)
    sink = ParquetSink(tmp_path / "out")
    batches = one_column(*[None] * 5, 1, 2, 3, 4)
    first, second = written(sink, *batches)
    assert (first.num_rows, second.num_rows) == (5, 4)
    assert (first.schema.field("x").type, second.schema.field("x").type) == (pa.null(), pa.int64())


COLUMNS = [
    np.array([1, 2], "i4"),
    np.array([0.5, 1], "f4"),
    np.array([True, False]),
    np.array(["a", "b"]),
    np.array(["a", None], object),
    np.array(["2024-01-01", "NaT"], "M8[us]"),
    pa.array(["a", None]),
    pa.array(["a", None]).dictionary_encode(),
    pa.array([b"a", None]),
    pa.array([{"a": 1, "b": [1, 2]}, None]),
    pa.array([[1], []]),
    pa.array([Decimal("1.10"), None]),
    pa.array([None, None]),
    pa.array([NOON, None]),
]


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: str(getattr(column, "type", None) or column.dtype))
def test_rows_and_columns_in_one_file(tmp_path, column):
    """Whichever comes first, the other fits, and nothing is lost."""
    batch = Columns({"x": column})
    rows = batch.to_rows()
    expected = [row["x"] for row in rows]
    for number, batches in enumerate(([batch, rows], [rows, batch], [batch, batch])):
        (table,) = written(ParquetSink(tmp_path / str(number)), *batches)
        assert table.column("x").to_pylist() == expected * 2


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 62), 1 << 62),
    st.floats(allow_nan=False, width=32),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=3),
    st.binary(max_size=3),
    st.dates(),
    st.datetimes(),
)
NESTED = st.recursive(
    VALUES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, min_size=1),
    max_leaves=5,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(NESTED, min_size=1, max_size=5), cut=st.integers(0, 4))
def test_one_result_or_one_refusal(tmp_path_factory, values, cut):
    """Whatever the values and wherever a batch ends: the same file, with all values as they were, or refused at the
    same value."""
    directory = tmp_path_factory.mktemp("out")
    rows = [{"x": value, "n": number} for number, value in enumerate(values)]
    results = []
    for number, batches in enumerate(
        ([rows], [[row] for row in rows], [part for part in (rows[:cut], rows[cut:]) if part])
    ):
        try:
            tables = written(ParquetSink(directory / str(number)), *batches)
        except SinkError as error:
            text = str(error)
            # The type of the column may be settled further in a larger batch.
            results.append(text[text.index(" is ") : text.index(" does not fit")])
        else:
            found = rows_of(tables)
            assert all(equal(row["x"], value) for row, value in zip(found, values, strict=True)), found
            results.append((str(tables[0].schema), found))
    assert results[0] == results[1] == results[2]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(st.sampled_from([(1 << 53) + 1, 1 << 63, -1, 1, 0.5, 1e300, None, Decimal("1.5")]), min_size=1)
    | st.lists(NESTED, min_size=1, max_size=6),
    cut=st.integers(0, 6),
)
def test_what_widens_does_so_wherever_a_batch_ends(tmp_path_factory, values, cut):
    """Ints beyond 2**53 and a float share no type: they were refused in one batch and taken in two."""
    directory = tmp_path_factory.mktemp("out")
    rows = [{"x": value, "n": number} for number, value in enumerate(values)]
    taken = []
    for number, batches in enumerate(
        ([rows], [[row] for row in rows], [part for part in (rows[:cut], rows[cut:]) if part])
    ):
        try:
            tables = written(ParquetSink(directory / str(number), on_new_types="widen"), *batches)
        except SinkError:
            taken.append(False)
        else:
            found = rows_of(tables)
            assert [row["n"] for row in found] == list(range(len(values)))
            for row, value in zip(found, values, strict=True):
                assert _has(row["x"], value), (row["x"], value)
            taken.append(True)
    assert taken[0] == taken[1] == taken[2]


def _has(found, given):
    """What was read is what was written; members that others have are None, and numbers may be of a wider type."""
    if isinstance(given, dict):
        return all(_has(value, given.get(name)) for name, value in found.items())
    if isinstance(given, list):
        return len(found) == len(given) and all(map(_has, found, given))
    return equal(found, given)


def test_a_batch_of_columns_is_parted_like_one_of_rows(tmp_path):
    """The same for columns of objects."""
    batch = Columns({"x": np.array([(1 << 53) + 1, 1, 0.5, 2], object)})
    first, second = written(ParquetSink(tmp_path / "out", on_new_types="widen"), batch)
    assert first.column("x").to_pylist() == [(1 << 53) + 1, 1]
    assert second.column("x").to_pylist() == [0.5, 2.0]


def test_a_refusal_names_the_record_of_the_batch(tmp_path):
    """And not of the half of it that was tried last."""
    batch = [{"x": value} for value in [1, 2, 3, 0.5, "a", 4]]
    with pytest.raises(SinkError, match="of record 4 is 'a'"):
        written(ParquetSink(tmp_path / "out", on_new_types="widen"), batch)


class NamedZone(tzinfo):
    """Calls itself as it likes, as dateutil's zones do."""

    def __init__(self, name, offset):
        self._name, self._offset = name, offset

    def utcoffset(self, moment):
        return self._offset

    def dst(self, moment):
        return timedelta(0)

    def tzname(self, moment):
        return self._name

    def __repr__(self):
        return f"{self._name} {self._offset}"


@pytest.mark.parametrize(
    ("zone", "written_as"),
    [
        (NamedZone("BRST", timedelta(hours=-3)), "-03:00"),
        (NamedZone(None, timedelta(hours=5, minutes=45)), "+05:45"),
        (NamedZone("UTC", timedelta(0)), "UTC"),
        (NamedZone("old", timedelta(minutes=53, seconds=28)), "UTC"),
        (timezone(timedelta(hours=2), "XX"), "+02:00"),
        (timezone(timedelta(seconds=7)), "UTC"),
        (ZoneInfo("America/Sao_Paulo"), "America/Sao_Paulo"),
    ],
    ids=str,
)
def test_a_zone_that_others_can_read(tmp_path, zone, written_as):
    """A zone was written by the name that it gives itself, and pyarrow could not read the file."""
    moment = NOON.replace(tzinfo=zone)
    (table,) = written(ParquetSink(tmp_path / "out"), *one_column(moment, None, moment + timedelta(days=200)))
    assert table.schema.field("x").type == pa.timestamp("us", written_as)
    assert table.column("x").to_pylist() == [moment, None, moment + timedelta(days=200)]


def test_the_width_of_a_column_that_went_through_rows(tmp_path):
    """Rows know one float and one int: what is promised is that the width can be given, exactly."""
    batch = Columns({"x": np.array([0.1, 0.5], "f4"), "n": np.array([1, 2], "i2")})
    (wide,) = written(ParquetSink(tmp_path / "wide"), batch.to_rows())
    assert [str(kind) for kind in wide.schema.types] == ["double", "int64"]
    (kept,) = written(ParquetSink(tmp_path / "kept", types={"x": pa.float32(), "n": pa.int16()}), batch.to_rows())
    (columns,) = written(ParquetSink(tmp_path / "columns"), batch)
    assert kept.equals(columns)


def test_convert_keeps_every_bit():
    values = [0.1, -0.0, float("inf"), 5e-324]
    assert [value.hex() for value in convert(values, pa.float64()).to_pylist()] == [value.hex() for value in values]
