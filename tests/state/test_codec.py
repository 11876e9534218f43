"""A value that a codec has written comes back as what it was, type and all; what would not is refused."""

from __future__ import annotations

import enum
import math
from collections import namedtuple
from dataclasses import dataclass
from datetime import UTC, time, timedelta, timezone
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from naming import stable

from onceflow.codec import MsgpackCodec, PickleCodec, codec_by_name
from onceflow.exceptions import ConfigurationError, SerializationError

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(st.characters(codec="utf-8")),
    st.binary(),
    st.dates(),
    st.datetimes(),
    st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=-5, minutes=-30))])),
    st.timedeltas(),
    st.decimals(allow_nan=False),
)
KEYS = st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.text(st.characters(codec="utf-8")))
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


def same(left, right):
    """Equal, and of the same types all the way down."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return list(map(type, left)) == list(map(type, right)) and all(
            same(*pair) for pair in zip(left.values(), right.values(), strict=True)
        )
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(same(*pair) for pair in zip(left, right, strict=True))
    return left == right


@given(VALUES)
def test_what_msgpack_knows_comes_back(value):
    codec = MsgpackCodec()
    data = codec.encode(value)
    assert same(codec.decode(data), value)
    assert codec.encode(codec.decode(data)) == data


def test_a_nan_comes_back():
    assert math.isnan(MsgpackCodec().decode(MsgpackCodec().encode(float("nan"))))


@pytest.mark.parametrize(
    "value",
    [
        object(),
        Point(1, 2),
        Colour.RED,
        Level.LOW,
        Record(1),
        time(12),
        UUID(int=1),
        bytearray(b"x"),
        memoryview(b"x"),
        range(3),
        np.int64(1),
        np.float64(1.5),
        np.str_("x"),
        np.array([1]),
        complex(1, 2),
        len,
        {(1, 2): 3},
        {Colour.RED: 1},
        "\ud800",
    ],
    ids=stable,
)
@pytest.mark.parametrize("wrap", [lambda value: value, lambda value: [1, {"in": (value,)}]], ids=["bare", "nested"])
def test_what_would_come_back_as_something_else_is_refused(value, wrap):
    with pytest.raises(SerializationError, match="codec='pickle'"):
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
