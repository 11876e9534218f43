"""A value that a codec has written comes back as what it was, type and all; what would not is refused."""

from __future__ import annotations

import enum
import math
from collections import OrderedDict, namedtuple
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from naming import stable

from onceflow.codec import MsgpackCodec, PickleCodec, codec_by_name
from onceflow.exceptions import ConfigurationError, SerializationError

ZONES = st.sampled_from(
    [
        None,
        UTC,
        timezone(timedelta(hours=-5, minutes=-30)),
        timezone(timedelta(hours=1), "CET"),
        timezone(timedelta(seconds=1, microseconds=7)),
        timezone.max,
        ZoneInfo("Europe/Berlin"),
        ZoneInfo("America/New_York"),
        ZoneInfo("UTC"),
    ]
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(st.characters(codec="utf-8")),
    st.binary(),
    st.dates(),
    st.datetimes(),
    st.builds(
        lambda moment, zone, fold: moment.replace(tzinfo=zone, fold=fold), st.datetimes(), ZONES, st.integers(0, 1)
    ),
    st.timedeltas(),
    st.decimals(allow_nan=False),
)
KEYS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(st.characters(codec="utf-8")),
    st.binary(max_size=4),
    st.dates(),
    st.decimals(allow_nan=False),
    st.tuples(st.integers(), st.text(st.characters(codec="utf-8"))),
    st.frozensets(st.integers(), max_size=2),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(KEYS, inner, max_size=4),
        st.sets(st.one_of(st.integers(), st.text(st.characters(codec="utf-8"))), max_size=4),
        st.frozensets(st.integers(), max_size=4),
    ),
    max_leaves=12,
)
Point = namedtuple("Point", "x y")


class Colour(enum.StrEnum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


@dataclass
class Record:
    x: int


class Payload(msgspec.Struct):
    x: int


class Moment(datetime):
    pass


class Day(date):
    pass


class Span(timedelta):
    pass


class Text(str):
    __slots__ = ()


class Items(list):
    __slots__ = ()


class Elsewhere(tzinfo):
    def utcoffset(self, when):
        return timedelta(hours=1)


def same(left, right):
    """Equal, and of the same types all the way down."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return same(list(left), list(right)) and same(list(left.values()), list(right.values()))
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(same(*pair) for pair in zip(left, right, strict=True))
    if isinstance(left, (set, frozenset)):
        return left == right and set(map(type, left)) == set(map(type, right))
    # Of datetimes zone and fold too, of zeros the sign, of decimals the digits.
    return (
        left == right and repr(left) == repr(right) and getattr(left, "tzinfo", None) == getattr(right, "tzinfo", None)
    )


@given(VALUES)
def test_what_msgpack_knows_comes_back(value):
    codec = MsgpackCodec()
    data = codec.encode(value)
    assert same(codec.decode(data), value)
    assert codec.encode(codec.decode(data)) == data


def test_a_nan_comes_back():
    assert math.isnan(MsgpackCodec().decode(MsgpackCodec().encode(float("nan"))))
    for text in ("NaN", "-NaN123", "sNaN7", "-0E+9", "1E+999999999999999999"):
        assert str(MsgpackCodec().decode(MsgpackCodec().encode(Decimal(text)))) == text


def test_a_datetime_keeps_its_zone_and_its_side_of_the_clock_change():
    """A zone that came back as a fixed offset: every later sum over the change of summer time was wrong by an hour."""
    codec = MsgpackCodec()
    for fold in (0, 1):
        value = datetime(2024, 10, 27, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=fold)
        back = codec.decode(codec.encode(value))
        assert back.tzinfo is value.tzinfo
        assert (back.fold, back.utcoffset()) == (fold, timedelta(hours=2 - fold))
        assert (back + timedelta(days=180)).utcoffset() == timedelta(hours=2)
    assert codec.decode(codec.encode(datetime(2024, 1, 1, fold=1))).fold == 1
    assert codec.decode(codec.encode(datetime(2024, 1, 1, tzinfo=timezone(timedelta(0), "here")))).tzname() == "here"


@pytest.mark.parametrize("micros", [7, -7, 999_999, 1_000_007, -3_600_000_001])
def test_an_offset_with_parts_of_a_second_comes_back(micros):
    """Kind: a value of the state is another one after a restart. Python reads some of these offsets as UTC."""
    codec = MsgpackCodec()
    value = datetime(2024, 1, 1, 12, tzinfo=timezone(timedelta(microseconds=micros)))
    back = codec.decode(codec.encode(value))
    assert (back, back.utcoffset(), back.isoformat()) == (value, value.utcoffset(), value.isoformat())


def test_a_zone_that_would_be_another_object_is_refused():
    """Datetimes of two objects for one zone compare in another way than those of one: a lookup would miss."""
    for zone in (ZoneInfo.no_cache("Europe/Berlin"), Elsewhere()):
        with pytest.raises(SerializationError, match=r"Use zoneinfo\.ZoneInfo"):
            MsgpackCodec().encode(datetime(2024, 1, 1, tzinfo=zone))


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"\xc7\x13\x052024-01-01T00:00:00", datetime(2024, 1, 1)),
        (b"\xc7\x19\x052024-01-01T00:00:00+02:00", datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=2)))),
        (b"\xd6\x01\x93\x01\x02\xc0", (1, 2, None)),
        (b"\x81\xcb\x3f\xf8\x00\x00\x00\x00\x00\x00\x01", {1.5: 1}),
    ],
    ids=stable,
)
def test_what_was_written_before_comes_back(data, value):
    assert same(MsgpackCodec().decode(data), value)
    assert MsgpackCodec().encode(value) == data


@pytest.mark.parametrize(
    ("value", "instead"),
    [
        (Point(1, 2), tuple),
        (Colour.RED, lambda value: value.value),
        (Level.LOW, lambda value: value.value),
        (Record(1), asdict),
        (Payload(1), msgspec.structs.asdict),
        (bytearray(b"x"), bytes),
        (memoryview(b"x"), bytes),
        (np.int64(1), np.int64.item),
        (np.float64(1.5), np.float64.item),
        (np.str_("x"), np.str_.item),
        (np.array([1]), np.ndarray.tolist),
        (Text("x"), str),
        (Items([1]), list),
        (OrderedDict(a=1), dict),
    ],
    ids=stable,
)
def test_what_the_refusal_advises_is_taken(value, instead):
    codec = MsgpackCodec()
    name = getattr(instead, "__name__", "value").replace("<lambda>", "value")
    with pytest.raises(SerializationError, match=name):
        codec.encode(value)
    plain = instead(value)
    assert same(codec.decode(codec.encode(plain)), plain)


@pytest.mark.parametrize(
    "value",
    [
        Moment(2024, 11, 3, 1, 45, 5, 7, ZoneInfo("America/New_York"), fold=1),
        Moment(2024, 11, 3),
        Day(2024, 11, 3),
        Span(-1, 2, 3),
    ],
    ids=stable,
)
def test_the_advised_form_of_a_time_is_the_same_time(value):
    """It advised timedelta(x), which Python does not take, and nothing for dates and datetimes."""
    codec = MsgpackCodec()
    with pytest.raises(SerializationError, match=r"It is a subclass of \w+: keep .*, or ask") as refusal:
        codec.encode(value)
    advised = str(refusal.value).partition(": keep ")[2].partition(", or ask")[0]
    plain = eval(advised, {"datetime": datetime, "date": date, "timedelta": timedelta, "x": value})
    assert type(plain) in (datetime, date, timedelta)
    assert plain == value
    assert same(codec.decode(codec.encode(plain)), plain)


def test_nanoseconds_are_to_be_rounded():
    """What is cut is not advised: parts below a microsecond would be gone without a word."""
    value = Moment(2024, 11, 3)
    value.nanosecond = 1
    with pytest.raises(SerializationError, match="round it, keep None for NaT"):
        MsgpackCodec().encode(value)


@pytest.mark.parametrize(
    "value",
    [
        object(),
        Point(1, 2),
        Colour.RED,
        Level.LOW,
        Record(1),
        bytearray(b"x"),
        datetime(2024, 1, 1, tzinfo=Elsewhere()),
        {math.nan: 1},
        {(1, math.nan): 1},
        {frozenset([math.nan])},
        Text("x"),
        Items([1]),
        OrderedDict(a=1),
        Payload(1),
        range(3),
        np.int64(1),
        np.float64(1.5),
        np.str_("x"),
        np.array([1]),
        complex(1, 2),
        len,
        {Colour.RED: 1},
        {Text("x"): 1},
        "\ud800",
    ],
    ids=stable,
)
@pytest.mark.parametrize("wrap", [lambda value: value, lambda value: [1, {"in": (value,)}]], ids=["bare", "nested"])
def test_what_would_come_back_as_something_else_is_refused(value, wrap):
    with pytest.raises(SerializationError, match=r"codec='pickle'|in its place|zoneinfo"):
        MsgpackCodec().encode(wrap(value))


def test_a_value_that_contains_itself_is_refused():
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(SerializationError):
        MsgpackCodec().encode(loop)


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x93\x01", b"\xc7\x01\x63x", b"\xc7\x01\x05x", b"\xc7\x01\x08x"])
@pytest.mark.parametrize("codec", [MsgpackCodec(), PickleCodec()])
def test_bytes_that_are_no_value(codec, data):
    with pytest.raises(SerializationError, match="cannot read"):
        codec.decode(data)


def test_pickle_takes_what_msgpack_refuses():
    codec = codec_by_name("pickle")
    for value in (Point(1, 2), Colour.RED, Record(1), np.float64(1.5)):
        back = codec.decode(codec.encode(value))
        assert (back, type(back)) == (value, type(value))
    with pytest.raises(SerializationError, match="function"):
        codec.encode(lambda: None)


def test_codecs_are_known_by_name():
    with pytest.raises(ConfigurationError, match="msgpack or pickle"):
        codec_by_name("json")


@given(st.lists(SCALARS, max_size=6))
def test_many_values_are_written_as_one_by_one(values):
    for codec in (MsgpackCodec(), PickleCodec()):
        assert codec.encode_all(values) == [codec.encode(value) for value in values]


def test_one_of_many_values_that_cannot_be_written_is_refused():
    with pytest.raises(SerializationError, match="object"):
        MsgpackCodec().encode_all([1, object()])
    with pytest.raises(SerializationError):
        MsgpackCodec().encode_all(["\ud800", 2])


@pytest.mark.parametrize(
    "value",
    [
        time(12),
        time(1, 2, 3, 4, fold=1),
        time(12, tzinfo=UTC),
        time(12, tzinfo=ZoneInfo("Europe/Berlin"), fold=1),
        time(12, tzinfo=timezone(timedelta(hours=-5), "there")),
        UUID(int=1),
        UUID("12345678-1234-5678-1234-567812345678"),
    ],
    ids=stable,
)
def test_times_of_day_and_uuids_come_back(value):
    """A zone, a fold or a type that is lost on the way."""
    codec = MsgpackCodec()
    [back] = codec.decode(codec.encode([value]))
    assert back == value
    assert type(back) is type(value)
    if isinstance(value, time):
        assert (back.fold, back.tzinfo, back.tzname()) == (value.fold, value.tzinfo, value.tzname())
