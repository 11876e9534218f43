"""A batch that cannot be is refused by a typed error that says why, and the table is as it was before."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from naming import stable

from onceflow.embed import StateBackend
from onceflow.exceptions import (
    BackendClosedError,
    CapacityExceededError,
    ConfigurationError,
    LengthMismatchError,
    NotANumberError,
    SchemaMismatchError,
    StateOverflowError,
    TypeMismatchError,
    UnknownNameError,
)

COLUMNS = {"i": "i64", "u": "u64", "f": "f64", "g": "f32", "w": "u32", "b": "bool", "y": "bytes"}
KEYS = [1, 2]


@pytest.fixture
def table(backend):
    table = backend.table("t", key="i64", columns=COLUMNS)
    table.put(
        KEYS, i=[2**63 - 10, -(2**63) + 10], u=[2**64 - 10, 5], f=[1.5e308, 0.25], g=[2.0**127, 1], w=[2**32 - 10, 7]
    )
    table.put(KEYS, b=[True, False], y=["text", b"bytes"])
    return table


def content(table):
    rows = table.scan()
    return [list(rows.keys), {name: list(values) for name, values in rows.columns.items()}]


def refused(table, error, match, call):
    before = content(table)
    with pytest.raises(error, match=match):
        call(table)
    assert content(table) == before
    # The checkpoint does not hear of it either: nothing counts as changed.
    assert len(table) == len(before[0])


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("i", [10, 0]),
        ("i", [0, -11]),
        ("u", [10, 0]),
        ("f", [1e308, 0]),
        ("g", np.array([3e38, 0], dtype="f4")),
        ("w", [10, 0]),
        ("i", 2**62),
    ],
)
def test_a_sum_that_leaves_its_type(table, column, values):
    refused(table, StateOverflowError, column, lambda table: table.add(KEYS, **{column: values}))


@pytest.mark.parametrize(("column", "last"), [("i", 10), ("u", 10), ("f", 1e308), ("g", 3e38), ("w", 10)])
def test_a_sum_that_leaves_its_type_with_the_last_record(table, column, last):
    keys = np.append(np.arange(10_000, 20_000), [1])
    values = np.append(np.ones(10_000), last).astype({"i": "i8", "u": "u8", "f": "f8", "g": "f4", "w": "u4"}[column])
    updates = {"y": ("put", "new"), column: ("add", values)}
    refused(table, StateOverflowError, column, lambda table: table.update(keys, updates))


@pytest.mark.parametrize("operation", ["add", "min", "max", "first", "last", "put"])
@pytest.mark.parametrize("column", ["f", "g"])
@pytest.mark.parametrize("nan", [float("nan"), [1, float("nan")], np.array([np.nan, 1]), pa.array([1, np.nan])])
def test_nan(table, operation, column, nan):
    refused(table, NotANumberError, "filter it out", lambda table: getattr(table, operation)(KEYS, **{column: nan}))


@pytest.mark.parametrize("infinity", [np.inf, -np.inf])
def test_infinity_in_a_sum(table, infinity):
    refused(table, NotANumberError, "inf", lambda table: table.add(KEYS, f=[0, infinity]))


@pytest.mark.parametrize(
    "keys",
    [
        None,
        7,
        "text",
        ["a", "b"],
        [1, None],
        [1, 2.5],
        [1, True],
        [1, 2**63],
        [1, -(2**63) - 1],
        [1, 2**200],
        (1, True),
        [[1], [2, 3]],
        [b"a", b"b"],
        [(1,), (2,)],
        {"a": 1},
        object(),
        (number for number in KEYS),
        np.array([1.0, 2.0]),
        np.array([2**63, 1], dtype="u8"),
        np.array(["a", "b"]),
        np.array(["2024-01-01", "2024-01-02"], dtype="M8[us]"),
        np.array([[1, 2]]),
        np.array(1),
        np.array([1, None], dtype=object),
        np.ma.masked_array([1, 2], mask=[False, True]),
        pa.array([1, None]),
        pa.array(["a", "b"]),
        pa.array([1.0, 2.0]),
        pa.array([2**63, 1], pa.uint64()),
        pa.array([1, 2], pa.timestamp("us")),
        pa.record_batch({"a": [1, 2]}),
        pl.Series([1, None]),
        pl.DataFrame({"a": [1, 2]}),
    ],
    ids=stable,
)
@pytest.mark.parametrize("call", ["put", "get", "contains", "delete", "count"])
def test_keys_that_are_no_integers(table, keys, call):
    def use(table):
        if call == "put":
            table.put(keys, i=1)
        elif call == "count":
            table.count(keys, "i")
        else:
            getattr(table, call)(keys)

    refused(table, TypeMismatchError, r"\w", use)


@pytest.mark.parametrize(
    ("key_type", "good", "bad"),
    [
        ("u64", [1], [[-1], [True], [1, True], (1, True), [2**64], np.array([-1]), pa.array([-1]), ["a"], None]),
        ("str", ["a"], [[1], [b"a"], ["a", None], "a", None, 5, pa.array([b"a"]), pa.array(["a", None]), ["\ud800"]]),
        ("bytes", [b"a"], [[1], ["a"], [b"a", None], b"a", pa.array(["a"]), pa.array([b"a", None])]),
        (
            ("i64", "str"),
            [(1, "a")],
            [[(1, 2)], [("a", "a")], [(1,)], [(1, "a", 2)], [1], [(1, None)], None, 5, ([1],)],
        ),
        (("i64", "i64"), [(1, 2)], [[(1, "a")], [[1, 2]], ([1], ["a"]), (np.array([1.5]), np.array([1]))]),
    ],
    ids=stable,
)
def test_keys_of_other_types(backend, key_type, good, bad):
    table = backend.table("k", key=key_type, columns={"n": "i64"})
    table.put(good, n=1)
    for keys in bad:
        refused(table, TypeMismatchError, r"\w", lambda table, keys=keys: table.put(keys, n=1))


def test_elements_of_tuple_keys_that_differ_in_length(backend):
    table = backend.table("k", key=("i64", "str"), columns={"n": "i64"})
    refused(table, LengthMismatchError, "all of them", lambda table: table.put(([1, 2], ["a"]), n=1))


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("i", None),
        ("i", "text"),
        ("i", True),
        ("i", 1.5),
        ("i", 2**63),
        ("i", [1, None]),
        ("i", [1, 1.5]),
        ("i", ["1", "2"]),
        ("i", np.array([1.0, 2.0])),
        ("i", np.array([True, False])),
        ("i", pa.array([1, None])),
        ("i", pa.array([True, False])),
        ("u", -1),
        ("u", [1, -1]),
        ("u", np.array([1, -1])),
        ("u", pa.array([1, -1])),
        ("w", 2**32),
        ("w", [1, 2**32]),
        ("w", pa.array([1, 2**32])),
        ("f", 2**53 + 1),
        ("f", [1, 2**53 + 1]),
        ("f", np.array([1, 2**53 + 1])),
        ("f", pa.array([1, 2**53 + 1])),
        ("f", 10**400),
        ("f", ["1.5", "2"]),
        ("f", pa.array([1.5, None])),
        ("f", np.ma.masked_array([1.0, 2.0], mask=[True, False])),
        ("g", 1e300),
        ("g", [1, 1e300]),
        ("g", np.array([0.1, 1.0])),
        ("g", 0.1),
        ("g", [0.1, 1.0]),
        ("g", (0.1, 1.0)),
        ("g", np.float64(0.1)),
        ("g", 2**24 + 1),
        ("g", [1, 2**24 + 1]),
        ("f", [0.5, 2**53 + 1]),
        ("f", (0.5, 2**53 + 1)),
        ("f", [0.5, True]),
        ("f", (0.5, True)),
        ("f", [0.5, np.True_]),
        ("f", [0.5, Decimal("0.1")]),
        ("f", [np.longdouble(1) / 3, 1.0]),
        ("f", [np.datetime64(1, "s"), 1.0]),
        ("i", (1, True)),
        ("i", [1, Decimal(1)]),
        ("u", [1, True]),
        ("w", [1, True]),
        ("w", (1, True)),
        ("i", [[1], [2, 3]]),
        ("g", pa.array([0.1, 1.0])),
        ("b", 1),
        ("b", [1, 0]),
        ("b", ["yes", "no"]),
        ("b", pa.array([1, 0])),
        ("b", [True, None]),
        ("y", 5),
        ("y", [b"a", None]),
        ("y", [b"a", 1]),
        ("y", "\ud800"),
        ("y", pa.array(["a", None])),
        ("y", np.array([1, 2])),
    ],
    ids=stable,
)
def test_values_that_do_not_fit(table, column, values):
    refused(table, TypeMismatchError, f'column "{column}"', lambda table: table.put(KEYS, **{column: values}))
    # Nor does a good column beside it get in.
    beside = {"u" if column == "i" else "i": 1}
    refused(
        table, TypeMismatchError, f'column "{column}"', lambda table: table.put([8, 9], **beside, **{column: values})
    )


@pytest.mark.parametrize("operation", ["add", "min", "max"])
@pytest.mark.parametrize(("column", "values"), [("b", [True, True]), ("y", [b"a", b"b"])])
def test_operations_that_a_column_does_not_have(table, operation, column, values):
    refused(table, TypeMismatchError, operation, lambda table: getattr(table, operation)(KEYS, **{column: values}))


@pytest.mark.parametrize("column", ["b", "y", "g"])
def test_columns_that_cannot_count(table, column):
    refused(table, TypeMismatchError, "cannot count", lambda table: table.count(KEYS, column))


@pytest.mark.parametrize("values", [[1], [1, 2, 3], np.arange(3), pa.array([1]), []])
def test_lengths_that_differ(table, values):
    refused(table, LengthMismatchError, 'column "i" and 2 keys', lambda table: table.put(KEYS, i=values))


def test_names_and_operations_that_do_not_exist(table):
    refused(table, UnknownNameError, "has no column", lambda table: table.put(KEYS, total=1))
    refused(table, UnknownNameError, "has no column", lambda table: table.count(KEYS, "total"))
    refused(table, UnknownNameError, "has no column", lambda table: table.get_bytes(KEYS, "total"))
    refused(table, UnknownNameError, "no column", lambda table: table.get(KEYS).validity("total"))
    refused(table, TypeMismatchError, "use get", lambda table: table.get_bytes(KEYS, "i"))
    refused(table, ConfigurationError, "unknown operation", lambda table: table.update(KEYS, {"i": ("mul", 2)}))
    refused(table, ConfigurationError, "pair", lambda table: table.update(KEYS, {"i": 2}))


def test_drain_below_needs_an_i64_in_front(backend):
    table = backend.table("k", key=("str", "i64"), columns={})
    with pytest.raises(TypeMismatchError, match="drained"):
        table.drain_below(5)


def test_a_table_that_would_pass_its_bound(state):
    with StateBackend.open(state, max_state_bytes=1 << 20) as backend:
        table = backend.table("t", key="i64", columns={"y": "bytes"})
        table.put([1], y=b"small")
        refused(table, CapacityExceededError, "max_state_bytes", lambda table: table.put(np.arange(100_000), y=b""))
        refused(table, CapacityExceededError, "max_state_bytes", lambda table: table.put([1, 2], y=bytes(1 << 20)))
        table.put([2], y=b"still works")


@pytest.mark.parametrize(
    ("key", "columns", "match"),
    [
        (5, {"v": "i64"}, "not a key type"),
        ("f64", {"v": "i64"}, "unknown key type"),
        ((), {"v": "i64"}, "0 elements"),
        (("i64", ("i64", "i64")), {"v": "i64"}, "tuple inside"),
        ("i64", ["v"], "dict"),
        ("i64", {"v": "int"}, "unknown type"),
        ("i64", {"v": 5}, "unknown type"),
        ("i64", {5: "i64"}, "name"),
        ("i64", {"": "i64"}, "empty name"),
        ("i64", {f"c{number}": "i64" for number in range(31)}, "at most 30"),
    ],
)
def test_schemas_that_cannot_be(backend, key, columns, match):
    with pytest.raises(ConfigurationError, match=match):
        backend.table("t", key=key, columns=columns)
    assert backend.tables() == {}


@pytest.mark.parametrize("name", ["", "__mine", "x" * 401])
def test_names_that_cannot_be(backend, name):
    with pytest.raises(ConfigurationError, match="cannot name a table"):
        backend.table(name, key="i64", columns={})


def test_one_name_has_one_schema(backend):
    table = backend.table("t", key="i64", columns={"a": "i64", "b": "f64"})
    table.put([1], a=1)
    assert len(backend.table("t", key="i64", columns={"a": "i64", "b": "f64"})) == 1
    for key, columns in [
        ("u64", {"a": "i64", "b": "f64"}),
        ("i64", {"a": "i64"}),
        ("i64", {"b": "f64", "a": "i64"}),
        ("i64", {"a": "u64", "b": "f64"}),
    ]:
        with pytest.raises(SchemaMismatchError, match='"t"'):
            backend.table("t", key=key, columns=columns)


def test_a_table_of_a_closed_backend(state):
    backend = StateBackend.open(state)
    backend.close()
    backend.close()
    for call in (
        lambda: backend.table("t", key="i64", columns={}),
        backend.checkpoint,
        backend.checkpoints,
        lambda: backend.delete_checkpoint(1),
        lambda: backend.drop_table("t"),
    ):
        with pytest.raises(BackendClosedError, match="closed"):
            call()
