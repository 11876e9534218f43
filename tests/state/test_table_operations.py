"""Every operation on every type of key and column, in random order, gives what a dict of dicts gives."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onceflow.embed import key_group

COLUMNS = {"i": "i64", "u": "u64", "f": "f64", "g": "f32", "w": "u32", "b": "bool", "y": "bytes"}
NUMBERS = ("i", "u", "f", "g", "w")

I64 = st.integers(-(2**63), 2**63 - 1)
U64 = st.integers(0, 2**64 - 1)
KEYS: dict[Any, st.SearchStrategy[Any]] = {
    "i64": I64,
    "u64": U64,
    "str": st.text(st.characters(codec="utf-8"), max_size=40),
    "bytes": st.binary(max_size=40),
    ("i64", "u64"): st.tuples(I64, U64),
    ("i64", "str"): st.tuples(I64, st.text(st.characters(codec="utf-8"), max_size=20)),
    ("str", "bytes", "u64"): st.tuples(st.sampled_from(["", "a", "\x00", "ab"]), st.binary(max_size=4), U64),
}
# Small numbers, so that no sum leaves its type; whole multiples of 1/8, so that every sum is exact.
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "i": st.integers(-(2**40), 2**40),
    "u": st.integers(0, 2**40),
    "f": st.integers(-(2**30), 2**30).map(lambda number: number / 8),
    "g": st.integers(-(2**10), 2**10).map(lambda number: number / 8),
    "w": st.integers(0, 2**20),
    "b": st.booleans(),
    "y": st.binary(max_size=300),
}
OPERATIONS = {"add": lambda old, new: old + new, "min": min, "max": max, "first": lambda old, _: old}


@st.composite
def steps(draw):
    """A type of keys, and operations on a few keys of it."""
    key_type = draw(st.sampled_from(list(KEYS)))
    known = draw(st.lists(KEYS[key_type], min_size=1, max_size=12, unique=True))
    keys = st.lists(st.sampled_from(known), max_size=20)
    made = []
    for _ in range(draw(st.integers(1, 12))):
        kind = draw(st.sampled_from(["update", "update", "update", "one", "delete", "drain"]))
        batch = draw(keys)
        if kind == "update":
            updates = {}
            for column in draw(st.lists(st.sampled_from(list(COLUMNS)), unique=True, max_size=4)):
                operations = ["first", "last", "put", *(["add", "min", "max"] if column in NUMBERS else [])]
                operation = draw(st.sampled_from([*operations, *(["count"] if column in ("i", "u", "w") else [])]))
                values = [draw(VALUES[column]) for _ in batch]
                if draw(st.booleans()) and batch:
                    values = values[0]
                updates[column] = (operation, None if operation == "count" else values)
            made.append((kind, batch, updates))
        elif kind == "one":
            column = draw(st.sampled_from(list(COLUMNS)))
            operations = ["put", "first", "last", *(["add", "min", "max"] if column in NUMBERS else [])]
            made.append((draw(st.sampled_from(operations)), batch, {column: [draw(VALUES[column]) for _ in batch]}))
        elif kind == "delete":
            made.append((kind, batch, None))
        else:
            made.append((kind, [], draw(I64)))
    return key_type, known, made


class Model:
    """Rows as dicts; a column that was never set is not in its row."""

    def __init__(self) -> None:
        self.rows: dict[Any, dict[str, Any]] = {}

    def update(self, keys, updates):
        for index, key in enumerate(keys):
            row = self.rows.setdefault(key, {})
            for column, (operation, values) in updates.items():
                value = 1 if operation == "count" else values[index] if isinstance(values, list) else values
                combine = OPERATIONS.get("add" if operation == "count" else operation)
                row[column] = value if column not in row or combine is None else combine(row[column], value)

    def delete(self, keys):
        return [self.rows.pop(key, None) is not None for key in keys]

    def drain_below(self, bound):
        first = {key: key[0] if isinstance(key, tuple) else key for key in self.rows}
        return {key: self.rows.pop(key) for key, number in first.items() if number < bound}


def rows_of(batch):
    keys = list(batch.keys)
    columns = {name: list(values) for name, values in batch.columns.items()}
    set_cells = {name: batch.validity(name).tolist() for name in columns}
    return [
        (key, {name: values[index] for name, values in columns.items() if set_cells[name][index]})
        for index, key in enumerate(keys)
    ]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(given=steps())
def test_against_a_dict(backend, given):
    key_type, known, made = given
    for name in backend.tables():
        backend.drop_table(name)
    table, model = backend.table("t", key=key_type, columns=COLUMNS), Model()
    starts_with_i64 = key_type == "i64" or key_type[0] == "i64"
    for kind, keys, argument in made:
        if kind == "update":
            table.update(keys, argument)
            model.update(keys, argument)
        elif kind == "delete":
            assert table.delete(keys).tolist() == model.delete(keys)
        elif kind == "drain":
            if starts_with_i64:
                assert dict(rows_of(table.drain_below(argument))) == model.drain_below(argument)
        else:
            getattr(table, kind)(keys, **argument)
            model.update(keys, {column: (kind, values) for column, values in argument.items()})
        assert len(table) == len(model.rows)
    rows = rows_of(table.scan())
    assert dict(rows) == model.rows
    assert table.contains(known).tolist() == [key in model.rows for key in known]
    got = table.get(known)
    assert got.found.tolist() == [key in model.rows for key in known]
    assert [row for _, row in rows_of(got)] == [model.rows.get(key, {}) for key in known]
    thrice = [*known[::2], *known, *known[::-1]]
    distinct, indices = table.get_distinct(thrice)
    there = [key for key in dict.fromkeys(thrice) if key in model.rows]
    assert rows_of(distinct) == [(key, model.rows[key]) for key in there]
    assert indices.tolist() == [thrice.index(key) for key in there]
    assert table.get_bytes(known, "y") == [model.rows.get(key, {}).get("y") for key in known]
    groups = [key_group(key, key_type, 128) for key, _ in rows]
    assert groups == sorted(groups)
    assert [key for key, _ in rows_of(table.scan(30, 90))] == [
        key for (key, _), group in zip(rows, groups, strict=True) if 30 <= group < 90
    ]


def test_many_rows_come_and_go(backend):
    """Growth, shrinking and tombstones at a size where the table was rebuilt several times."""
    random = np.random.default_rng(7)
    table = backend.table("t", key="i64", columns={"n": "i64"})
    model: dict[int, int] = {}
    for _ in range(30):
        keys = random.integers(0, 60_000, 20_000)
        table.count(keys, "n")
        for key in keys.tolist():
            model[key] = model.get(key, 0) + 1
        gone = random.integers(0, 60_000, 15_000)
        there = [model.pop(key, None) is not None for key in gone.tolist()]
        assert table.delete(gone).tolist() == there
    rows = table.scan()
    assert dict(zip(rows.keys.tolist(), rows.columns["n"].tolist(), strict=True)) == model
    assert sum(len(table.scan(group, group + 1)) for group in range(128)) == len(model)


def test_windows_leave_in_order_of_their_bound(backend):
    table = backend.table("t", key=("i64", "str"), columns={"n": "i64"})
    table.put((np.repeat(np.arange(100), 3), ["a", "b", "c"] * 100), n=np.arange(300))
    for bound in (0, 10, 10, 55, 100, 1000):
        drained = table.drain_below(bound)
        assert all(start < bound for start, _ in drained.keys)
        assert table.scan().keys == [] or min(start for start, _ in table.scan().keys) >= bound
    assert len(table) == 0
    assert len(table.drain_below(2**63 - 1)) == 0


def test_columns_named_as_the_arguments_are(backend):
    table = backend.table("names", key="i64", columns={"keys": "i64", "self": "i64"})
    table.put([1], keys=[2], self=[3])
    table.add([1], keys=[1])
    row = table.get([1]).columns
    assert (row["keys"].tolist(), row["self"].tolist()) == ([3], [3])
