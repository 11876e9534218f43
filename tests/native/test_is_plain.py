"""Which values msgpack writes as what they are.

The kind of fault: a value that comes back as something else, since it was written without a look.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from datetime import date
from typing import NamedTuple

import msgspec
import pytest
from naming import stable

from onceflow._native import _is_plain


class Pair(NamedTuple):
    one: object
    other: object


class Color(enum.IntEnum):
    RED = 1


PLAIN = [None, True, 0, 1.5, "text", b"bytes", [], {}, {"a": [1, {"b": None, 3: b""}]}]


@pytest.mark.parametrize("value", [*PLAIN, PLAIN], ids=repr)
def test_plain_values_come_back_as_they_are(value):
    assert _is_plain(value)
    read = msgspec.msgpack.decode(msgspec.msgpack.encode(value))
    assert read == value
    assert repr(read) == repr(value)


@pytest.mark.parametrize(
    "value",
    [
        *((), (1,), {1}, frozenset(), Pair(1, 2), OrderedDict(a=1), Color.RED, date(2024, 1, 1), object(), bytearray()),
        *({None: 1}, {1.5: 1}, {(1, 2): 1}, {Color.RED: 1}, {b"a": 1}, {True: 1}),
        *(type("Text", (str,), {})("a"), type("Rows", (list,), {})()),
    ],
    ids=stable,
)
def test_all_others_need_a_look(value):
    for some in (value, [value], {"a": value}, [{"a": [value]}]):
        assert not _is_plain(some)


def test_what_has_no_end_needs_a_look():
    endless: list[object] = []
    endless.append(endless)
    assert not _is_plain(endless)
    around: dict[str, object] = {}
    around["a"] = [around]
    assert not _is_plain(around)
