"""A key lies in the same key group on every machine and in every version: state is split by it."""

from __future__ import annotations

import numpy as np
import pytest

from onceflow.embed import key_group
from onceflow.exceptions import ConfigurationError, TypeMismatchError

#: key type, key → its group of 128. Never to be changed: it is part of the file format.
GOLDEN = [
    ("i64", 0, 100),
    ("i64", 1, 121),
    ("i64", -1, 71),
    ("i64", 42, 5),
    ("i64", 2**63 - 1, 112),
    ("i64", -(2**63), 106),
    ("u64", 0, 100),
    ("u64", 2**64 - 1, 71),
    ("str", "", 22),
    ("str", "a", 115),
    ("str", "user-1", 62),
    ("str", "Zürich", 5),
    ("str", "a key longer than what a row holds inline, for sure", 62),
    ("bytes", b"", 22),
    ("bytes", b"\x00", 98),
    ("bytes", b"a", 115),
    ("bytes", bytes(range(256)), 74),
    (("i64", "i64"), (1, 2), 27),
    (("i64", "i64"), (2, 1), 108),
    (("i64", "u64"), (-1, 2**64 - 1), 17),
    (("i64", "str"), (7, "UA"), 48),
    (("str", "str"), ("a", "b"), 87),
    (("str", "bytes", "i64"), ("a", b"\x00\xff", -5), 44),
]


@pytest.mark.parametrize(("key_type", "key", "group"), GOLDEN)
def test_golden_values(key_type, key, group):
    assert key_group(key, key_type, 128) == group
    # Fewer groups join neighbours, so state can be split again.
    assert key_group(key, key_type, 32) == group // 4
    assert key_group(key, key_type, 1) == 0


@pytest.mark.parametrize(("key_type", "key", "group"), GOLDEN)
def test_tables_put_the_key_there(backend, key_type, key, group):
    table = backend.table("t", key=key_type, columns={"v": "i64"})
    table.put([key], v=1)
    assert list(table.scan(group, group + 1).keys) == [key]
    assert len(table.scan(0, group)) == len(table.scan(group + 1)) == 0


def test_integers_are_hashed_by_the_documented_formula():
    def expected(key):
        product = ((key % 2**64) ^ 0x9E3779B97F4A7C15) * 0xD6E8FEB86659FD93
        return ((product >> 64) ^ product) % 2**64 >> 57

    for key in np.random.default_rng(1).integers(-(2**63), 2**63 - 1, 500).tolist():
        assert key_group(key, "i64", 128) == expected(key)
        assert key_group(key % 2**64, "u64", 128) == expected(key)


def test_keys_spread_over_all_groups():
    for key_type, keys in [("i64", range(20_000)), ("str", [f"user-{number}" for number in range(20_000)])]:
        sizes = np.bincount([key_group(key, key_type, 128) for key in keys], minlength=128)
        assert sizes.min() > 90, key_type
        assert sizes.max() < 230, key_type


def test_what_has_no_group():
    with pytest.raises(ConfigurationError, match="power of two"):
        key_group(1, "i64", 100)
    with pytest.raises(TypeMismatchError):
        key_group("1", "i64", 128)
    with pytest.raises(ConfigurationError, match="unknown key type"):
        key_group(1.0, "f64", 128)
