"""What a look through values finds: all that encoders bend and keys must be asked about, and nothing else.

The kind of fault: a value that is not what its type seems to be passes without a look, or the look never ends.
"""

from __future__ import annotations

import enum
import math
from collections import OrderedDict
from datetime import UTC, datetime
from typing import NamedTuple

import pytest

from onceflow._native import _uncommon


class Text(str):
    __slots__ = ()


class Number(int):
    pass


class Color(enum.IntEnum):
    RED = 1


class Pair(NamedTuple):
    one: object
    other: object


PLAIN = [None, True, 0, -(1 << 70), 1.5, "text", "", {}, [], (), {"a": [1, (None, {"b": "c"})]}]


def test_plain_values_need_no_look():
    assert _uncommon(PLAIN) == []
    assert _uncommon([]) == []


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        -math.inf,
        b"bytes",
        datetime(2024, 1, 1, tzinfo=UTC),
        Text("text"),
        Number(1),
        Color.RED,
        Pair(1, 2),
        OrderedDict(a=1),
        {1},
        object(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_others_are_found_wherever_they_are(value):
    for values in ([value], [{"a": value}], [PLAIN, [({"b": (value,)},)]], [*PLAIN, {"c": [1, value]}, 2]):
        (found,) = _uncommon(values)
        assert found is value
    assert len(_uncommon([value, [value, {"a": value}]])) == 3


@pytest.mark.parametrize("name", [1, None, b"a", Text("a"), ("a",)])
def test_a_name_that_is_no_text(name):
    assert _uncommon([{name: 1}]) is None
    assert _uncommon([1, [{"a": {name: 1}}]]) is None


def test_what_has_no_end():
    endless: list[object] = [1]
    endless.append(endless)
    doubled: list[object] = []
    doubled += [doubled, doubled]
    deep: object = 1
    for _ in range(100_000):
        deep = (deep,)
    for value in (endless, doubled, (doubled, 1), {"a": endless}, deep):
        assert _uncommon([value]) is None
    shallow: object = 1
    for _ in range(900):
        shallow = [shallow]
    assert _uncommon([shallow]) == []
