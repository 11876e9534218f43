"""A batch may come as a list, a numpy array of any layout, or an Arrow array of any kind: the table is the same."""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

INTS = [3, 1, 2, 3]
TEXTS = ["b", "", "a key that is much too long for a slot", "Zürich"]
COLUMNS = {"i": "i64", "u": "u64", "f": "f64", "g": "f32", "w": "u32", "b": "bool", "y": "bytes"}


def sliced(array):
    """An Arrow array that starts in the middle of its buffers."""
    return pa.concat_arrays([array, array, array]).slice(len(array), len(array))


def strided(array):
    wide = np.repeat(array, 3)
    return wide[::3]


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def unaligned(array):
    return np.frombuffer(b"x" + array.tobytes(), dtype=array.dtype, offset=1)


def record_field(array):
    records = np.zeros(len(array), dtype=[("pad", "u1"), ("value", array.dtype)])
    records["value"] = array
    return records["value"]


LAYOUTS = [strided, read_only, unaligned, record_field, lambda array: array[::-1].copy()[::-1]]

INT_FORMS = {
    "list": INTS,
    "tuple": tuple(INTS),
    "list of numpy ints": list(np.array(INTS)),
    "objects": [np.int8(3), 1, np.uint64(2), 3],
    **{f"numpy {dtype}": np.array(INTS, dtype=dtype) for dtype in ("i1", "u1", ">i2", "u4", "i8", ">i8", "u8", "<u8")},
    **{f"numpy layout {number}": layout(np.array(INTS, dtype="i8")) for number, layout in enumerate(LAYOUTS)},
    **{f"numpy u64 layout {number}": layout(np.array(INTS, dtype="u8")) for number, layout in enumerate(LAYOUTS)},
    "masked, nothing hidden": np.ma.masked_array(INTS, mask=[False] * 4),
    **{f"arrow {kind}": pa.array(INTS, kind) for kind in (pa.int8(), pa.uint16(), pa.int32(), pa.int64(), pa.uint64())},
    "arrow sliced": sliced(pa.array(INTS)),
    "arrow dictionary": pa.array(INTS).dictionary_encode(),
    "arrow chunked": pa.chunked_array([INTS[:1], [], INTS[1:]]),
    "polars": pl.Series(INTS),
    "polars u16": pl.Series(INTS, dtype=pl.UInt16),
    "polars in chunks": pl.concat([pl.Series(INTS[:2]), pl.Series(INTS[2:])], rechunk=False),
}

TEXT_FORMS = {
    "list": TEXTS,
    "tuple": tuple(TEXTS),
    "numpy": np.array(TEXTS),
    "numpy objects": np.array(TEXTS, dtype=object),
    "string": pa.array(TEXTS, pa.string()),
    "large_string": pa.array(TEXTS, pa.large_string()),
    "string_view": pa.array(TEXTS, pa.string_view()),
    "dictionary": pa.array(TEXTS).dictionary_encode(),
    "sliced": sliced(pa.array(TEXTS)),
    "chunked": pa.chunked_array([TEXTS[:3], TEXTS[3:]]),
    "polars": pl.Series(TEXTS),
    "polars categorical": pl.Series(TEXTS, dtype=pl.Categorical),
}

BYTE_FORMS = {
    "list": [text.encode() for text in TEXTS],
    "numpy objects": np.array([text.encode() for text in TEXTS], dtype=object),
    "binary": pa.array([text.encode() for text in TEXTS], pa.binary()),
    "large_binary": pa.array([text.encode() for text in TEXTS], pa.large_binary()),
    "binary_view": pa.array([text.encode() for text in TEXTS], pa.binary_view()),
    "sliced": sliced(pa.array([text.encode() for text in TEXTS])),
    "polars": pl.Series([text.encode() for text in TEXTS]),
}


def content(table):
    rows = table.scan()
    return dict(zip(list(rows.keys), zip(*map(list, rows.columns.values()), strict=True), strict=True))


@pytest.mark.parametrize("form", INT_FORMS)
@pytest.mark.parametrize("key", ["i64", "u64"])
def test_integer_keys(backend, key, form):
    table = backend.table("t", key=key, columns={"n": "i64"})
    table.count(INT_FORMS[form], "n")
    assert content(table) == {1: (1,), 2: (1,), 3: (2,)}
    assert table.contains(INT_FORMS[form]).all()
    assert table.get(INT_FORMS[form]).columns["n"].tolist() == [2, 1, 1, 2]
    assert table.delete(INT_FORMS[form]).tolist() == [True, True, True, False]


@pytest.mark.parametrize("form", TEXT_FORMS)
def test_text_keys(backend, form):
    table = backend.table("t", key="str", columns={"n": "i64"})
    table.put(TEXT_FORMS[form], n=INTS)
    assert content(table) == {text: (number,) for text, number in zip(TEXTS, INTS, strict=True)}
    assert table.contains(TEXT_FORMS[form]).all()


@pytest.mark.parametrize("form", BYTE_FORMS)
def test_byte_keys(backend, form):
    table = backend.table("t", key="bytes", columns={"n": "i64"})
    table.put(BYTE_FORMS[form], n=INTS)
    assert content(table) == {text.encode(): (number,) for text, number in zip(TEXTS, INTS, strict=True)}


@pytest.mark.parametrize("form", TEXT_FORMS)
@pytest.mark.parametrize("numbers", ["list", "arrow dictionary", "polars", "numpy layout 2"])
def test_tuple_keys(backend, form, numbers):
    table = backend.table("t", key=("i64", "str"), columns={"n": "i64"})
    table.put((INT_FORMS[numbers], TEXT_FORMS[form]), n=1)
    pairs = list(zip(INTS, TEXTS, strict=True))
    assert content(table) == dict.fromkeys(pairs, (1,))
    table.add(pairs, n=1)
    assert table.get(pairs).columns["n"].tolist() == [2, 2, 2, 2]


def test_tuple_keys_of_integers(backend):
    table = backend.table("t", key=("i64", "u64"), columns={"n": "i64"})
    table.put((np.array([-1, 5], dtype=">i4"), pa.array([2**64 - 1, 0], pa.uint64())), n=[1, 2])
    assert content(table) == {(-1, 2**64 - 1): (1,), (5, 0): (2,)}


@pytest.mark.parametrize("form", INT_FORMS)
@pytest.mark.parametrize("column", ["i", "u", "f", "g", "w"])
def test_numbers_of_any_integer_form(backend, column, form):
    table = backend.table("t", key="i64", columns=COLUMNS)
    table.put([1, 2, 3, 4], **{column: INT_FORMS[form]})
    got = table.get([1, 2, 3, 4]).columns[column]
    assert got.tolist() == INTS
    assert got.dtype == {"i": "i8", "u": "u8", "f": "f8", "g": "f4", "w": "u4"}[column]


@pytest.mark.parametrize(
    "values",
    [
        [0.5, -1.25, 3.0, 1e10],
        np.array([0.5, -1.25, 3.0, 1e10], dtype="f4"),
        np.array([0.5, -1.25, 3.0, 1e10], dtype=">f8"),
        np.array([0.5, -1.25, 3.0, 1e10], dtype=np.longdouble),
        *(layout(np.array([0.5, -1.25, 3.0, 1e10])) for layout in LAYOUTS),
        pa.array([0.5, -1.25, 3.0, 1e10]),
        pa.array([0.5, -1.25, 3.0, 1e10], pa.float32()),
        sliced(pa.array([0.5, -1.25, 3.0, 1e10])),
        pa.chunked_array([[0.5], [-1.25, 3.0, 1e10]]),
        pl.Series([0.5, -1.25, 3.0, 1e10]),
    ],
    ids=lambda values: type(values).__name__,
)
@pytest.mark.parametrize("column", ["f", "g"])
def test_floats(backend, column, values):
    table = backend.table("t", key="i64", columns=COLUMNS)
    table.put([1, 2, 3, 4], **{column: values})
    assert table.get([1, 2, 3, 4]).columns[column].tolist() == [0.5, -1.25, 3.0, 1e10]


@pytest.mark.parametrize(
    "values",
    [
        [True, False, True, True],
        np.array([True, False, True, True]),
        strided(np.array([True, False, True, True])),
        pa.array([True, False, True, True]),
        sliced(pa.array([True, False, True, True])),
        pl.Series([True, False, True, True]),
    ],
    ids=lambda values: type(values).__name__,
)
def test_bools(backend, values):
    table = backend.table("t", key="i64", columns=COLUMNS)
    table.put([1, 2, 3, 4], b=values)
    assert table.get([1, 2, 3, 4]).columns["b"].tolist() == [True, False, True, True]


@pytest.mark.parametrize("form", [*TEXT_FORMS, *BYTE_FORMS])
def test_byte_values(backend, form):
    table = backend.table("t", key="i64", columns=COLUMNS)
    table.put([1, 2, 3, 4], y={**TEXT_FORMS, **BYTE_FORMS}[form])
    assert table.get_bytes([4, 3, 2, 1, 9], "y") == [*(text.encode() for text in reversed(TEXTS)), None]


def test_one_value_for_the_whole_batch(backend):
    table = backend.table("t", key="i64", columns=COLUMNS)
    table.put([1, 2], i=-1, u=np.uint64(2**64 - 1), f=1, g=np.float32(0.1), w=np.array(7), b=np.bool_(True), y="text")
    row = (-1, 2**64 - 1, 1.0, np.float32(0.1), 7, True, b"text")
    assert content(table) == {1: row, 2: row}


def test_extreme_values_come_back(backend):
    table = backend.table("t", key="i64", columns=COLUMNS)
    table.put(
        [-(2**63), 2**63 - 1],
        i=[-(2**63), 2**63 - 1],
        u=[0, 2**64 - 1],
        f=[-np.inf, 5e-324],
        g=[np.inf, -0.0],
        w=[0, 2**32 - 1],
        y=[bytes(range(256)), b"x" * 3_000_000],
    )
    rows = table.get([-(2**63), 2**63 - 1])
    assert rows.columns["i"].tolist() == [-(2**63), 2**63 - 1]
    assert rows.columns["u"].tolist() == [0, 2**64 - 1]
    assert rows.columns["f"].tolist() == [-np.inf, 5e-324]
    assert rows.columns["g"].tolist() == [np.inf, 0.0]
    assert rows.columns["w"].tolist() == [0, 2**32 - 1]
    assert rows.columns["y"] == [bytes(range(256)), b"x" * 3_000_000]
    assert not rows.validity("b").any()


@pytest.mark.parametrize("empty", [[], (), np.array([]), np.array([], dtype="i8"), pa.array([], pa.int64())])
def test_nothing(backend, empty):
    table = backend.table("t", key="i64", columns=COLUMNS)
    table.put(empty, i=empty)
    table.count(empty, "i")
    assert len(table) == len(table.get(empty)) == len(table.contains(empty)) == len(table.delete(empty)) == 0


@pytest.mark.parametrize(
    ("key", "keys"),
    [
        ("i64", [-5, 7]),
        ("u64", [2**64 - 1, 0]),
        ("str", ["a", "Zürich"]),
        ("bytes", [b"\xff", b""]),
        (("i64", "u64"), [(-1, 2), (3, 4)]),
        (("i64", "str", "bytes"), [(-1, "x", b"\x00"), (3, "", b"y")]),
    ],
)
def test_rows_leave_as_an_arrow_struct(backend, key, keys):
    table = backend.table("t", key=key, columns={"i": "i64", "y": "bytes"})
    table.put(keys, i=[1, 2])
    table.put(keys[:1], y=b"only here")
    for struct in (pa.array(table.get(keys)), pa.array(table.scan())):
        names = ["key"] if isinstance(key, str) else [f"key_{number}" for number in range(len(key))]
        assert [field.name for field in struct.type] == [*names, "i", "y"]
        rows = {tuple(row[name] for name in names): (row["i"], row["y"]) for row in struct.to_pylist()}
        wanted = [each if isinstance(each, tuple) else (each,) for each in keys]
        assert rows == {wanted[0]: (1, b"only here"), wanted[1]: (2, None)}
    frame = pl.DataFrame(pa.RecordBatch.from_struct_array(pa.array(table.scan())))
    assert frame.height == 2
