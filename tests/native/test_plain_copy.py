"""Copies of plain values: equal, of the same types, with nothing in them that can be changed from elsewhere.

The kind of fault: a part that two copies share, a value that comes back as something else, a copy that never ends.
"""

from __future__ import annotations

import datetime as dt
from collections import OrderedDict
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

import pytest
from naming import stable

from onceflow._native import _flat_copy, _plain_copy

FIXED = [
    *(None, True, 1, -(1 << 70), 1.5, "text", b"bytes", Decimal("1.5"), UUID(int=1)),
    *(dt.datetime(2024, 1, 1, tzinfo=dt.UTC), dt.date(2024, 1, 1), dt.time(1, 2), dt.timedelta(1)),
]


class Pair(NamedTuple):
    one: object
    other: object


@pytest.mark.parametrize("value", [*FIXED, frozenset({1})], ids=lambda value: type(value).__name__)
def test_what_cannot_be_changed_is_shared(value):
    assert _plain_copy(value) is value
    assert _plain_copy([value])[0] is value
    assert _plain_copy({"a": value})["a"] is value
    flat = (value, (value,))
    assert _plain_copy(flat) is flat


def test_containers_are_copied_to_their_depths():
    inner = [1]
    value = {"a": [inner, (inner, 2)], ("k", 1): {"b": inner}, "flat": (1, 2)}
    copy = _plain_copy(value)
    assert copy == value
    assert list(copy) == list(value)
    assert type(copy["a"][1]) is tuple
    assert copy["flat"] is value["flat"]
    inner.append(2)
    value["a"].append(3)
    assert copy == {"a": [[1], ([1], 2)], ("k", 1): {"b": [1]}, "flat": (1, 2)}


@pytest.mark.parametrize(
    "value",
    [{1}, bytearray(b"a"), object(), OrderedDict(a=1), Pair(1, 2), type("Text", (str,), {})("a"), 1j],
    ids=lambda value: type(value).__name__,
)
def test_other_types_are_left_to_python(value):
    for some in (value, [value], (value,), {"a": value}, [{"a": (value,)}]):
        assert _plain_copy(some) is None


def test_what_has_no_end_or_is_deep_is_left_to_python():
    endless: list[object] = []
    endless.append(endless)
    assert _plain_copy(endless) is None
    around: dict[str, object] = {}
    around["a"] = (around,)
    assert _plain_copy(around) is None
    deep: object = 1
    for _ in range(501):
        deep = [deep]
    assert _plain_copy(deep) is None
    assert _plain_copy(deep[0]) == deep[0]


@pytest.mark.parametrize("value", [[], {}, [1, "a", None], {"a": 1, 2: b"b"}], ids=repr)
def test_a_flat_copy_of_a_container_is_another_one(value):
    copy = _flat_copy(value)
    assert copy == value
    assert type(copy) is type(value)
    assert copy is not value


@pytest.mark.parametrize("value", [*FIXED[1:], (), (1, "a", None)], ids=lambda value: type(value).__name__)
def test_a_flat_copy_of_what_cannot_be_changed_is_itself(value):
    assert _flat_copy(value) is value


@pytest.mark.parametrize(
    "value",
    [[[]], ({},), {"a": ()}, {(1, 2): 1}, [{1}], {1}, frozenset({1}), Pair(1, 2), OrderedDict(a=1), object()],
    ids=stable,
)
def test_what_holds_more_than_fixed_values_has_no_flat_copy(value):
    """A part that is shared, since only the outermost container is looked at."""
    assert _flat_copy(value) is None
