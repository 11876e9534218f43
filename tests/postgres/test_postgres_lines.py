"""Lines that are made at once are those that are made value by value."""

from __future__ import annotations

import enum
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onceflow._native import _copy_lines
from onceflow.connectors.postgres.staged import Part
from onceflow.connectors.postgres.texts import ColumnType, encoder, plain_kind
from onceflow.exceptions import ConfigurationError

TYPES = {base: ColumnType(base, base) for base in ("bool", "int2", "int4", "int8", "float8", "text", "varchar")}


class Color(enum.StrEnum):
    RED = "red"


VALUES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**15 - 1, 2**15, -(2**15), -(2**15) - 1, 2**31 - 1, 2**31, -(2**31) - 1, 2**63 - 1, 2**63])
    | st.integers(-10, 10).map(np.int64)
    | st.floats()
    | st.floats().map(np.float64)
    | st.text()
    | st.text("\\\t\n\r\0.Na\x01\x7f€🙂")
    | st.sampled_from(["\ud800", "\\N", "\\.", Color.RED, b"bytes", 1j])
)


def as_read(base, text):
    """What a line says, by value: two texts of one float are one."""
    return repr(float(text)) if base == "float8" and text != "\\N" else text


@given(st.sampled_from(sorted(TYPES)), st.lists(VALUES, min_size=1, max_size=5))
def test_a_value_is_taken_at_once_only_if_the_encoder_writes_the_same(base, values):
    """Kind: a faster way that takes what the slower one refuses, or writes something else."""
    kind = TYPES[base]
    found = _copy_lines([(plain_kind(kind), values)], 0)
    if isinstance(found, int):
        assert found == 0
        return
    keys, (block,) = found
    texts = [line.decode() for line in block.removesuffix(b"\n").split(b"\n")]
    assert keys == []
    assert [as_read(base, text) for text in texts] == [as_read(base, text) for text in encoder(kind)(values)]


PLAIN = {
    "bool": [True, False, None],
    "int2": [-(2**15), 2**15 - 1, None],
    "int4": [-(2**31), 2**31 - 1, 0],
    "int8": [-(2**63), 2**63 - 1, 7],
    "float8": [0.1, -0.0, 5e-324, 1e300, math.inf, -math.inf, math.nan, None],
    "text": ["", "\\N", "tab\t, line\n, return\r, back\\slash", "€🙂\x01\x7f", None],
}


@pytest.mark.parametrize("base", PLAIN)
def test_plain_values_need_no_look_by_themselves(base):
    """Kind: a faster way that nothing takes."""
    assert not isinstance(_copy_lines([(plain_kind(TYPES[base]), PLAIN[base])], 0), int)


def test_keys_and_lines_belong_together():
    """Kind: the row of one key under another one."""
    keys, lines = _copy_lines([("int4", [1, 2]), ("text", ["a\tb", "c"]), ("ready", ["\\\\x00", "\\N"])], 2)
    assert keys == [b"1\ta\\tb", b"2\tc"]
    assert lines == [b"1\ta\\tb\t\\\\x00\n", b"2\tc\t\\N\n"]
    part = Part(
        "public", "t", ["a", "b", "c"], ["integer", "text", "bytea"], 2, keyed=dict(zip(keys, lines, strict=True))
    )
    part.keyed[keys[0]] = None
    part.stage()
    assert (part.blocks, part.rows, part.gone) == ([lines[1]], 1, [b"1\ta\\tb\n"])
    assert [part.texts_of(row) for row in part.each()] == [
        {"a": "1", "b": "a\\tb"},
        {"a": "2", "b": "c", "c": None},
    ]


@pytest.mark.parametrize(
    ("columns", "keys"), [([("int4", [1]), ("int4", [])], 0), ([("int4", [1])], 2), ([("json", [1])], 0)]
)
def test_columns_that_cannot_be_are_refused(columns, keys):
    """Kind: lines that are shorter than their table."""
    with pytest.raises(ConfigurationError):
        _copy_lines(columns, keys)
