"""One set of types for all sinks, and one text for a value, in rows and in columns alike."""

from __future__ import annotations

import csv
import enum
import io
import json
from collections import namedtuple
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from onceflow import Columns
from onceflow.connectors.files import CsvSink, JsonLinesSink, ParquetSink, read_parts
from onceflow.connectors.stdout import StdoutSink
from onceflow.connectors.topics.fields import Fields
from onceflow.connectors.values import json_lines
from onceflow.exceptions import ConfigurationError, SinkError
from onceflow.sinks import Committable, SinkContext


class Color(enum.Enum):
    RED = "red"
    TWO = 2


class Number(enum.IntEnum):
    ONE = 1


Pair = namedtuple("Pair", "left right")


@dataclass
class Point:
    x: int
    at: datetime


NAIVE = datetime(2024, 1, 1, 12)
BERLIN = ZoneInfo("Europe/Berlin")

#: Value, its text in CSV, its JSON.
SCALARS = [
    (None, "", None),
    (True, "True", True),
    (-3, "-3", -3),
    (1 << 62, str(1 << 62), 1 << 62),
    (0.1, "0.1", 0.1),
    ("ü", "ü", "ü"),
    (NAIVE, "2024-01-01T12:00:00Z", "2024-01-01T12:00:00Z"),
    (NAIVE.replace(microsecond=7), "2024-01-01T12:00:00.000007Z", "2024-01-01T12:00:00.000007Z"),
    (NAIVE.replace(tzinfo=UTC), "2024-01-01T12:00:00Z", "2024-01-01T12:00:00Z"),
    (NAIVE.replace(tzinfo=BERLIN), "2024-01-01T11:00:00Z", "2024-01-01T11:00:00Z"),
    (NAIVE.replace(tzinfo=timezone(timedelta(hours=-5))), "2024-01-01T17:00:00Z", "2024-01-01T17:00:00Z"),
    (date(2024, 1, 2), "2024-01-02", "2024-01-02"),
    (time(1, 2, 3), "01:02:03", "01:02:03"),
    (Decimal("1.10"), "1.10", "1.10"),
    (UUID(int=5), str(UUID(int=5)), str(UUID(int=5))),
    (Color.RED, "red", "red"),
    (Color.TWO, "2", 2),
    (Number.ONE, "1", 1),
    (np.int64(-3), "-3", -3),
    (np.uint8(200), "200", 200),
    (np.float64(0.1), "0.1", 0.1),
    (np.float32(0.5), "0.5", 0.5),
    (np.bool_(True), "True", True),
    (np.str_("x"), "x", "x"),
    (np.datetime64("2024-01-01T12:00:00", "s"), "2024-01-01T12:00:00Z", "2024-01-01T12:00:00Z"),
    (np.datetime64("2024-01-01T12:00:00", "ns"), "2024-01-01T12:00:00Z", "2024-01-01T12:00:00Z"),
    (np.datetime64("2024-01-02"), "2024-01-02", "2024-01-02"),
    (np.datetime64("NaT", "us"), "", None),
]
IDS = [f"{type(value).__name__}-{number}" for number, (value, _, _) in enumerate(SCALARS)]


def written(sink, *batches):
    writer = sink.open(SinkContext("job", "out", 1, 1))
    try:
        writer.recover([])
        for batch in batches:
            writer.write(batch)
        writer.commit(Committable(1, writer.prepare(1, writer.seal(1))))
    finally:
        writer.close()
    return read_parts(sink._directory)


def csv_of(directory, *batches):
    text = written(CsvSink(directory), *batches).decode()
    return [row["v"] for row in csv.DictReader(io.StringIO(text, newline=""))]


def json_of(directory, *batches):
    return [json.loads(line)["v"] for line in written(JsonLinesSink(directory), *batches).splitlines()]


@pytest.mark.parametrize(("value", "text", "plain"), SCALARS, ids=IDS)
def test_a_value_is_the_same_in_every_sink(tmp_path, value, text, plain, capsys):
    """Kind: JsonLinesSink refuses numpy scalars that the others take; a time has no zone in one form and Z in the
    other."""
    rows = [{"v": value, "n": 1}]
    assert csv_of(tmp_path / "csv", rows) == [text]
    assert json_of(tmp_path / "jsonl", rows) == [plain]
    assert json_of(tmp_path / "deep", [{"v": [{"a": value}]}]) == [[{"a": plain}]]
    writer = StdoutSink().open(SinkContext("job", "out", 1, 1))
    writer.write(rows)
    writer.flush()
    assert json.loads(capsys.readouterr().out) == {"v": plain, "n": 1}


@pytest.mark.parametrize("kind", [csv_of, json_of])
@pytest.mark.parametrize(
    ("column", "rows"),
    [
        (np.array(["2024-01-01T12", "NaT"], "M8[us]"), [NAIVE, None]),
        (np.array(["2024-01-01T12"], "M8[ns]"), [NAIVE]),
        (np.array(["2024-01-02", "NaT"], "M8[D]"), [date(2024, 1, 2), None]),
        (pa.array([NAIVE, None], pa.timestamp("us")), [NAIVE, None]),
        (pa.array([NAIVE.replace(tzinfo=BERLIN)], pa.timestamp("us", "Europe/Berlin")), [NAIVE.replace(tzinfo=BERLIN)]),
        (pa.array([date(2024, 1, 2)]), [date(2024, 1, 2)]),
        (pa.array([time(1, 2, 3)]), [time(1, 2, 3)]),
        (pa.array([timedelta(days=1, seconds=3)]), [timedelta(days=1, seconds=3)]),
        (pa.array([Decimal("1.10")]), [Decimal("1.10")]),
        (np.array([0.1], "f4"), [np.float32(0.1)]),
        (np.array([1, 2], "u1"), [np.uint8(1), np.uint8(2)]),
        (np.array([True, False]), [True, False]),
        (np.array([NAIVE, "x", None, b"x"][:3], object), [NAIVE, "x", None]),
    ],
    ids=str,
)
def test_rows_and_columns_have_the_same_text(tmp_path, kind, column, rows):
    """Kind: rows and columns differ; a map that changes nothing changes the file."""
    expected = kind(tmp_path / "columns", Columns({"v": column, "n": np.arange(len(rows))}))
    assert kind(tmp_path / "rows", [{"v": value, "n": number} for number, value in enumerate(rows)]) == expected
    assert kind(tmp_path / "each", *([{"v": value, "n": number}] for number, value in enumerate(rows))) == expected


@pytest.mark.parametrize(
    ("column", "rows", "name"),
    [
        (pa.array([b"k"]), [b"k"], "bytes"),
        (np.array([b"k"]), [b"k"], "bytes"),
        (np.array([b"k"], object), [b"k"], "bytes"),
        (pa.array([b"k", None]).dictionary_encode(), [b"k", None], "bytes"),
        (pa.array([[1, 2]]), [[1, 2]], "list"),
        (pa.array([{"a": 1}]), [{"a": 1}], "dict"),
        (np.array([Point(1, NAIVE)], object), [Point(1, NAIVE)], "Point"),
        (np.array([1j]), [1j], "complex"),
    ],
    ids=str,
)
def test_what_csv_has_no_text_for(tmp_path, column, rows, name):
    """Kind: bytes columns come out as ``b'k'`` where rows are refused. Both are refused, and so is all that would only
    have Python's notation."""
    for number, batch in enumerate((Columns({"v": column}), [{"v": value} for value in rows], [tuple(rows[:1])])):
        sink = CsvSink(tmp_path / str(number), columns=["v"])
        with pytest.raises(SinkError, match=f"CSV cannot hold {name}; map it to text first"):
            written(sink, batch)


@pytest.mark.parametrize(
    ("value", "column"),
    [
        (np.datetime64(1, "ns"), np.array([1], "M8[ns]")),
        (np.timedelta64(1, "ns"), np.array([1], "m8[ns]")),
        (np.datetime64("10000-01-01", "us"), np.array(["10000-01-01"], "M8[us]")),
        (np.datetime64("10000-01-01"), np.array(["10000-01-01"], "M8[D]")),
        (np.datetime64(1, "ns"), pa.array([1], pa.timestamp("ns"))),
        (datetime.max.replace(tzinfo=timezone(timedelta(hours=-5))), None),
        (np.longdouble(1), np.array([1], np.longdouble)),
        (1j, np.array([1j])),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", [CsvSink, JsonLinesSink])
def test_what_no_text_holds_exactly(tmp_path, value, column, kind):
    """Kind: a value is bent without a word: nanoseconds are cut, a time outside of Python's years becomes a number.
    Refused, in rows and in columns, by a typed error."""
    for number, batch in enumerate([[{"v": value}], *([] if column is None else [Columns({"v": column})])]):
        with pytest.raises(SinkError, match=r"map it to (text|plain values) first"):
            written(kind(tmp_path / str(number)), batch)


def test_times_deep_in_json(tmp_path):
    """Times are in UTC wherever they are, and whatever else looks like one stays as it is."""
    rows = [
        {"v": "2024-01-01T12:00:00", "at": NAIVE},
        {"v": 'x2024-01-01T12:00:00"'},
        {"v": (NAIVE, {NAIVE: 1}, {NAIVE.date()})},
        {"v": Pair(1, NAIVE)},
        {"v": Point(1, NAIVE)},
        {"v": np.array([1, 2])},
        {"v": {"a": None, "b": b"x"}, "at": NAIVE},
    ]
    at = "2024-01-01T12:00:00Z"
    assert json_of(tmp_path / "out", rows) == [
        "2024-01-01T12:00:00",
        'x2024-01-01T12:00:00"',
        [at, {at: 1}, ["2024-01-01"]],
        [1, at],
        {"x": 1, "at": at},
        [1, 2],
        {"a": None, "b": "eA=="},
    ]


def test_parquet_takes_the_same_types(tmp_path):
    """Kind: a sink refuses what the others take."""
    rows = [{f"c{number}": value for number, (value, _, _) in enumerate(SCALARS) if value is not None}]
    rows[0]["bytes"] = b"x"
    rows[0]["list"] = [np.int64(1), 2]
    written(ParquetSink(tmp_path / "out", types={f"c{len(SCALARS) - 1}": pa.timestamp("us")}), rows)
    (found,) = pq.read_table(tmp_path / "out").to_pylist()
    for number, (value, _, plain) in enumerate(SCALARS):
        if value is not None and not isinstance(value, (datetime, date, time, Decimal, np.datetime64)):
            assert found[f"c{number}"] in (plain, value)
    assert found["bytes"] == b"x"
    assert found["list"] == [1, 2]


class Fine(datetime):
    """As pandas has it."""

    nanosecond = 1


class FineSpan(timedelta):
    nanoseconds = 1


class Loud(int):
    def __str__(self):
        return "999"

    __repr__ = __int__ = __index__ = __str__


class LoudFloat(float):
    def __str__(self):
        return "999"

    __repr__ = __float__ = __str__


class LoudText(str):
    def __str__(self):
        return "999"


class Moment(datetime):
    def isoformat(self, *_args):
        return "999"


class Day(date):
    def __str__(self):
        return "999"


class Span(timedelta):
    def __str__(self):
        return "999"


class Clock(time):
    def __str__(self):
        return "999"


class Amount(Decimal):
    def __str__(self):
        return "999"


class Level(int, enum.Enum):
    HIGH = 5

    def __str__(self):
        return "999"


class Loudness(enum.Enum):
    HIGH = Loud(5)


SINKS = [CsvSink, JsonLinesSink, ParquetSink]


def found_in(sink, *batches):
    """The column v of what a sink wrote."""
    data = written(sink, *batches)
    if isinstance(sink, ParquetSink):
        return [row["v"] for row in pq.read_table(sink._directory).to_pylist()]
    text = data.decode()
    if isinstance(sink, JsonLinesSink):
        return [json.loads(line)["v"] for line in text.splitlines()]
    return [row["v"] for row in csv.DictReader(io.StringIO(text, newline=""))]


@pytest.mark.parametrize("kind", SINKS)
@pytest.mark.parametrize(
    "value",
    [Fine(2024, 1, 1), FineSpan(1), np.datetime64(1, "ns"), np.timedelta64(1, "ns")],
    ids=lambda value: type(value).__name__,
)
def test_parts_below_a_microsecond_are_refused(tmp_path, kind, value):
    """Kind: nanoseconds are cut without a word by one sink, and refused or kept by others."""
    for number, rows in enumerate([[{"v": value}], [{"v": NAIVE}, {"v": value}]]):
        with pytest.raises(SinkError, match="below a microsecond"):
            written(kind(tmp_path / str(number)), rows)


@pytest.mark.parametrize("kind", SINKS)
@pytest.mark.parametrize(
    ("value", "base"),
    [
        (Loud(5), 5),
        (LoudFloat(0.5), 0.5),
        (LoudText("x"), "x"),
        (Moment(2024, 1, 1, 12), NAIVE),
        (Moment(2024, 1, 1, 12, tzinfo=UTC), NAIVE.replace(tzinfo=UTC)),
        (Day(2024, 1, 1), date(2024, 1, 1)),
        (Span(1), timedelta(1)),
        (Clock(1), time(1)),
        (Amount("1.10"), Decimal("1.10")),
        (Level.HIGH, 5),
        (Loudness.HIGH, 5),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_subclass_is_written_as_its_base(tmp_path, kind, value, base):
    """Kind: what is written is the notation of a subclass, 999 for 5, in one sink, and refused by another."""
    expected = found_in(kind(tmp_path / "base"), [{"v": base}])
    assert found_in(kind(tmp_path / "rows"), [{"v": value}]) == expected
    if not isinstance(value, LoudText):
        assert found_in(kind(tmp_path / "column"), Columns({"v": np.array([value], object)})) == expected
    if kind is not CsvSink:
        deep = [{"v": [{"a": value}]}]
        assert found_in(kind(tmp_path / "deep"), deep) == [[{"a": expected[0]}]]


@pytest.mark.parametrize("value", [bytearray(b"a\xff"), memoryview(b"a\xff")], ids=["bytearray", "memoryview"])
def test_buffers_are_bytes(tmp_path, value):
    """Kind: ParquetSink makes base64 text of bytes, and a column of text for them."""
    assert found_in(ParquetSink(tmp_path / "p"), [{"v": value}, {"v": b"b"}]) == [b"a\xff", b"b"]
    assert found_in(JsonLinesSink(tmp_path / "j"), [{"v": value}, {"v": b"a\xff"}]) == ["Yf8="] * 2
    with pytest.raises(SinkError, match="CSV cannot hold"):
        written(CsvSink(tmp_path / "c"), [{"v": value}])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), np.float64("nan"), np.float32("inf")])
def test_json_has_no_nan(tmp_path, value, capsys):
    """Kind: a NaN or an infinity becomes null without a word. It is refused, or null where that was asked for."""
    forms = [
        [{"v": value}],
        [{"v": 1.0}, {"v": [(value,)]}],
        [{"v": {"a": {value: 1}}}],
        [{"v": Point(value, NAIVE)}],
        Columns({"v": np.array([1, value], "f8")}),
        Columns({"v": np.array([value], "f4")}),
        Columns({"v": pa.array([float(value), None])}),
    ]
    for number, batch in enumerate(forms):
        with pytest.raises(SinkError, match=r'is not a value of JSON: map it to None.*nan="null"'):
            written(JsonLinesSink(tmp_path / str(number)), batch)
        with pytest.raises(SinkError, match="is not a value of JSON: map it to None"):
            StdoutSink().open(SinkContext("job", "out", 1, 1)).write(batch)
        with pytest.raises(SinkError, match="is not a value of JSON: map it to None"):
            Fields(None, None, None, None, None).part(batch)
    assert capsys.readouterr().out == ""
    asked = JsonLinesSink(tmp_path / "asked", nan="null")
    assert found_in(asked, [{"v": value}, {"v": [value]}, {"v": Loud(5)}], forms[4]) == [None, [None], 5, 1.0, None]
    assert found_in(JsonLinesSink(tmp_path / "mapped"), [{"v": None}]) == [None]
    with pytest.raises(ConfigurationError, match="nan='skip'"):
        JsonLinesSink(tmp_path / "no", nan="skip")


def test_json_of_columns_is_that_of_their_rows(tmp_path):
    """Kind: what the type of a column shows of its values is not so, and JSON gets what it cannot hold."""
    columns = {
        "ints": np.array([1, 2], "u8"),
        "bools": np.array([True, False]),
        "halves": np.array([0.5, -2], "f2"),
        "longs": np.array([0.5, 1], "f8"),
        "texts": np.array(["a", "ü"]),
        "objects": np.array([(1, "x"), None], object),
        "days": np.array(["2024-01-01", "NaT"], "M8[D]"),
        "times": np.array(["2024-01-01", "NaT"], "M8[s]"),
        "spans": np.array([7, "NaT"], "m8[s]"),
        "masked": np.ma.array([1.5, float("nan")], mask=[False, True]),
        "arrow": pa.array([1.5, None]),
        "arrow texts": pa.array(["a", None], pa.large_string()),
        "arrow clocks": pa.array([time(1), None]),
        "arrow lists": pa.array([[1, None], None]),
        "nothing": pa.nulls(2),
    }
    rows = Columns(columns).to_rows()
    for name, array in columns.items():
        values = [row[name] for row in rows]
        assert found_in(JsonLinesSink(tmp_path / f"{name} c"), Columns({"v": array})) == found_in(
            JsonLinesSink(tmp_path / f"{name} r"), [{"v": value} for value in values]
        )
    assert json_lines(Columns({"v": pa.array([], pa.float64())})) == b""
    with pytest.raises(SinkError, match="longdouble"):
        written(JsonLinesSink(tmp_path / "long double"), Columns({"v": np.array([1], "g")}))
    with pytest.raises(SinkError, match="is not a value of JSON"):
        written(JsonLinesSink(tmp_path / "nested"), Columns({"v": pa.array([[1.0, float("nan")]])}))


@pytest.mark.parametrize("value", [{"v": object()}, {"v": "\ud800"}, {"v": 1j}, {"v": {1: 2, "1": 3}}])
def test_json_names_nan_only_where_it_is_the_cause(tmp_path, value):
    """Kind: an error advises a setting that would not help."""
    with pytest.raises(SinkError, match="JSON cannot hold a record") as refused:
        written(JsonLinesSink(tmp_path / "out"), [value])
    assert "nan" not in str(refused.value)


def test_offsets_with_parts_of_a_second(tmp_path):
    """Kind: an instant is written as another one, a few microseconds off."""
    at = datetime(2024, 1, 1, tzinfo=timezone(timedelta(microseconds=7)))
    text = "2023-12-31T23:59:59.999993Z"
    for kind in (CsvSink, JsonLinesSink):
        assert found_in(kind(tmp_path / kind.__name__), [{"v": at}]) == [text]
    for number, rows in enumerate([[at], [NAIVE.replace(tzinfo=UTC), at], [at, NAIVE.replace(tzinfo=BERLIN)]]):
        assert found_in(ParquetSink(tmp_path / str(number)), [{"v": row} for row in rows]) == rows
    clock = time(1, tzinfo=timezone(timedelta(seconds=7, microseconds=7)))
    for kind in (CsvSink, JsonLinesSink):
        assert found_in(kind(tmp_path / f"{kind.__name__}-time"), [{"v": clock}]) == [str(clock)]


def test_parquet_has_no_zone_for_times_of_day(tmp_path):
    """Kind: the zone of a time of day is dropped."""
    for number, rows in enumerate([[time(1, tzinfo=UTC)], [time(1), time(1, tzinfo=UTC)]]):
        with pytest.raises(SinkError, match="times of day in Parquet have none: map it to text"):
            written(ParquetSink(tmp_path / str(number)), [{"v": row} for row in rows])


@pytest.mark.parametrize("kind", SINKS)
def test_times_outside_of_the_years_are_refused_in_utc(tmp_path, kind):
    """Kind: one sink takes an instant that the others refuse."""
    west, east = timezone(timedelta(hours=-5)), timezone(timedelta(hours=5))
    for number, value in enumerate([datetime.max.replace(tzinfo=west), datetime.min.replace(tzinfo=east)]):
        with pytest.raises(SinkError, match=r"cannot hold|out of range"):
            written(kind(tmp_path / str(number)), [{"v": value}])
    assert len(found_in(kind(tmp_path / "in"), [{"v": datetime.max.replace(tzinfo=east)}])) == 1


@pytest.mark.parametrize(
    "names", [(1, "1"), (LoudText("a"), 1, "1"), (1.5, "1.5"), (np.int64(1), "1"), (Level.HIGH, "5")], ids=str
)
def test_names_that_become_the_same_are_refused(tmp_path, names):
    """Kind: two members or columns of one name, of which a reader sees one."""
    record = dict.fromkeys(names, "a")
    for number, rows in enumerate([[record], [{"v": [record]}], [{"v": 1}, record]]):
        with pytest.raises(SinkError, match="are the same in JSON: name them apart"):
            written(JsonLinesSink(tmp_path / str(number)), rows)


def test_columns_of_csv_that_become_the_same_are_refused(tmp_path):
    """Kind: the header is 1,1."""
    with pytest.raises(SinkError, match="are the same in CSV: name them apart"):
        written(CsvSink(tmp_path / "out"), [{1: "a", "1": "b"}])
    with pytest.raises(ConfigurationError, match="each once"):
        CsvSink(tmp_path / "other", columns=[1, "1"])


@pytest.mark.parametrize("values", [(2**64 - 1, -1), (5, 2**64 - 1), (2**64 - 1, 5)], ids=str)
def test_wider_integers_stay_exact_in_batches_of_any_size(tmp_path, values):
    """Kind: integers become floats, and one size of batches is refused where another one is written."""
    results = []
    for size in (1, 2):
        sink = ParquetSink(tmp_path / str(size), on_new_types="widen")
        batches = [[{"v": value} for value in values[n : n + size]] for n in range(0, 2, size)]
        try:
            results.append(found_in(sink, *batches))
        except SinkError:
            results.append("refused")
    assert results == [list(values) if values[1] == 5 else "refused"] * 2


@pytest.mark.parametrize(
    ("agreed", "wrap"),
    [
        (lambda kind: pa.map_(pa.string(), kind), lambda value: {"a": value}),
        (lambda kind: pa.list_(kind, 1), lambda value: [value]),
    ],
    ids=["map", "list of one size"],
)
def test_values_in_maps_are_the_same(tmp_path, agreed, wrap):
    """Kind: Arrow converts the values in types that the sink does not know, and cuts what is refused elsewhere."""
    at = datetime(2024, 1, 1, tzinfo=timezone(timedelta(microseconds=7)))
    utc = pa.timestamp("us", "UTC")
    for number, (kind, value) in enumerate([(utc, Fine(2024, 1, 1)), (pa.time64("us"), time(1, tzinfo=UTC))]):
        with pytest.raises(SinkError, match=r"below a microsecond|times of day in Parquet have none"):
            written(ParquetSink(tmp_path / f"no{number}", types={"v": agreed(kind)}), [{"v": wrap(value)}])
    for number, (kind, value) in enumerate([(pa.int64(), 1.5), (pa.string(), b"x")]):
        with pytest.raises(SinkError, match="does not fit"):
            written(ParquetSink(tmp_path / f"bent{number}", types={"v": agreed(kind)}), [{"v": wrap(value)}])
    for number, (kind, value) in enumerate([(utc, at), (pa.int64(), Loud(5)), (pa.binary(), bytearray(b"x"))]):
        sink = ParquetSink(tmp_path / f"yes{number}", types={"v": agreed(kind)})
        written(sink, [{"v": wrap(value)}, {"v": None}])
        column = pq.read_table(sink._directory).column("v").to_pylist()
        expected = 5 if kind == pa.int64() else value
        assert [row if row is None else dict(row)["a"] if isinstance(row[0], tuple) else row[0] for row in column] == [
            expected,
            None,
        ]


@pytest.mark.parametrize(
    ("agreed", "good", "bad"),
    [
        (
            pa.map_(pa.string(), pa.list_(pa.int64())),
            [[("a", [1]), ("b", None)], None, []],
            [{"a": 1}, "a", [1], [("a",)]],
        ),
        (pa.list_(pa.int64(), 2), [[1, 2], None, [None, 3]], [[1], [1, 2, 3], "ab", 1]),
    ],
    ids=["map", "list of one size"],
)
def test_maps_and_lists_of_one_size(tmp_path, agreed, good, bad):
    """Kind: what does not fit is bent, or ends the run with an error without a type."""
    assert found_in(ParquetSink(tmp_path / "good", types={"v": agreed}), [{"v": value} for value in good]) == good
    for number, value in enumerate([*bad, {None: [1]}]):
        with pytest.raises(SinkError, match="does not fit"):
            written(ParquetSink(tmp_path / str(number), types={"v": agreed}), [{"v": good[0]}, {"v": value}])


def test_columns_of_dictionaries_can_be_asked_for(tmp_path):
    """Kind: a type that may be given ends the run with an error of the interpreter, the depth of recursion."""
    sink = ParquetSink(tmp_path / "out", types={"v": pa.dictionary(pa.int32(), pa.string())})
    assert found_in(sink, [{"v": "a"}, {"v": None}, {"v": "b"}, {"v": "a"}]) == ["a", None, "b", "a"]
    with pytest.raises(SinkError, match="int64 does not fit string"):
        written(ParquetSink(tmp_path / "no", types={"v": pa.dictionary(pa.int32(), pa.string())}), [{"v": 1}])
