"""A table written by ``state dump`` and read back is the table."""

from __future__ import annotations

import base64
import csv
import io
import json
import signal
import subprocess
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from cli_job import PROGRAM, SLOW, checkpoints, damage_chunk, finish, wait_for_checkpoint

from onceflow import Dataflow, count, max, run
from onceflow.embed import StateBackend
from onceflow.testing import TestingSource, TransactionalTestingSink

COLUMNS = {"i": "i64", "u": "u64", "f": "f64", "g": "f32", "s": "u32", "b": "bool", "raw": "bytes"}
ROWS = 500


@pytest.fixture
def state(tmp_path):
    """Tables of each kind of key, as a program makes them; an older checkpoint has fewer rows."""
    path = tmp_path / "state"
    rng = np.random.default_rng(7)
    with StateBackend.open(path, job="tables", key_groups=16) as backend:
        numbers = backend.table("numbers", key="i64", columns=COLUMNS)
        keys = rng.choice(10**12, ROWS, replace=False) - 5 * 10**11
        values = {
            "i": rng.integers(-(2**62), 2**62, ROWS),
            "u": rng.integers(0, 2**64, ROWS, dtype=np.uint64),
            "f": rng.normal(size=ROWS) * 1e200,
            "g": rng.normal(size=ROWS).astype(np.float32),
            "s": rng.integers(0, 2**32, ROWS, dtype=np.uint32),
            "b": rng.integers(0, 2, ROWS).astype(bool),
            "raw": [rng.bytes(number % 9) for number in range(ROWS)],
        }
        numbers.put(keys, **values)
        backend.table("empty", key=("str", "i64"), columns={"n": "i64"})
        backend.checkpoint(savepoint="small").wait()
        numbers.put([1, 2], i=[3, 4])  # The other cells are not set.
        numbers.max([3], f=[float("inf")])
        pairs = backend.table("pairs", key=("str", "bytes", "u64"), columns={"n": "i64"})
        pairs.add([('ä,\n"x"', b"\xff\x00", 2**63), ("", b"", 0)], n=[1, 2])
        backend.table("texts", key="str", columns={"n": "i64"}).add(["a", "b"], n=[1, 2])
        backend.checkpoint().wait()
    return path


def rows_of(path, name):
    """The table's rows by key, cells that are not set as None."""
    with StateBackend.open(path, read_only=True) as backend:
        schema = backend.tables()[name]
        batch = backend.table(name, key=schema.key, columns=schema.columns).scan()
        columns = []
        for column in schema.columns:
            values = batch.columns[column]
            values = values.tolist() if isinstance(values, np.ndarray) else values
            columns.append([v if there else None for v, there in zip(values, batch.validity(column), strict=True)])
        keys = batch.keys.tolist() if isinstance(batch.keys, np.ndarray) else batch.keys
        return dict(zip(keys, zip(*columns, strict=True), strict=True))


def as_bytes(cell):
    return None if cell in (None, "") else base64.b64decode(cell)


def test_csv(state, onceflow):
    ran = onceflow("state", "dump", "state", "numbers")
    assert (ran.returncode, ran.stderr) == (0, "")
    head, *rows = csv.reader(io.StringIO(ran.stdout))
    assert head == ["key", *COLUMNS]
    wanted = rows_of(state, "numbers")
    assert len(rows) == len(wanted) == ROWS + 3
    for row in rows:
        cells = dict(zip(head, row, strict=True))
        i, u, f, g, s, b, raw = wanted[int(cells["key"])]
        for name, value in (("i", i), ("u", u), ("s", s)):
            assert cells[name] == ("" if value is None else str(value))
        for name, value in (("f", f), ("g", g)):
            assert (float(cells[name]) if cells[name] else None) == value
        assert cells["b"] == {None: "", True: "true", False: "false"}[b]
        assert as_bytes(cells["raw"]) == (raw or None)


def test_jsonl(state, onceflow):
    ran = onceflow("state", "dump", "state", "numbers", "--format", "jsonl")
    wanted = rows_of(state, "numbers")
    rows = [json.loads(line, parse_constant=pytest.fail) for line in ran.stdout.splitlines()]
    assert len(rows) == len(wanted)
    for row in rows:
        assert list(row) == ["key", *COLUMNS]
        *cells, raw = [row[name] for name in COLUMNS]
        cells[2] = float(cells[2]) if isinstance(cells[2], str) else cells[2]
        raw = None if raw is None else base64.b64decode(raw)
        assert (*cells, raw) == wanted[row["key"]]


def test_arrow(state, onceflow):
    ran = onceflow("state", "dump", "state", "numbers", "--format", "arrow", text=False)
    assert ran.returncode == 0, ran.stderr
    table = pa.ipc.open_stream(ran.stdout).read_all()
    assert table.column_names == ["key", *COLUMNS]
    rows = {row.pop("key"): tuple(row.values()) for row in table.to_pylist()}
    assert rows == rows_of(state, "numbers")


def test_keys_of_several_parts_are_several_columns(state, onceflow):
    wanted = {('ä,\n"x"', b"\xff\x00", 2**63): 1, ("", b"", 0): 2}
    text = onceflow("state", "dump", "state", "pairs").stdout
    head, *rows = csv.reader(io.StringIO(text, newline=""))
    assert head == ["key_0", "key_1", "key_2", "n"]
    assert {(a, base64.b64decode(b), int(c)): int(n) for a, b, c, n in rows} == wanted
    lines = onceflow("state", "dump", "state", "pairs", "--format", "jsonl").stdout.splitlines()
    parsed = [tuple(json.loads(line).values()) for line in lines]
    assert {(a, base64.b64decode(b), c): n for a, b, c, n in parsed} == wanted
    stream = onceflow("state", "dump", "state", "pairs", "--format", "arrow", text=False).stdout
    table = pa.ipc.open_stream(stream).read_all().to_pylist()
    assert {(row["key_0"], row["key_1"], row["key_2"]): row["n"] for row in table} == wanted


def test_an_empty_table_has_its_columns(state, onceflow):
    assert onceflow("state", "dump", "state", "empty").stdout == "key_0,key_1,n\n"
    assert onceflow("state", "dump", "state", "empty", "--format", "jsonl").stdout == ""
    stream = onceflow("state", "dump", "state", "empty", "--format", "arrow", text=False).stdout
    assert pa.ipc.open_stream(stream).read_all().column_names == ["key_0", "key_1", "n"]


def test_an_older_checkpoint(state, onceflow):
    ran = onceflow("state", "dump", "state", "numbers", "--checkpoint", "1")
    assert len(ran.stdout.splitlines()) == 1 + ROWS
    assert onceflow("state", "dump", "state", "numbers", "--checkpoint", "9").returncode == 2


def test_tables_are_listed_and_a_wrong_name_lists_them(state, onceflow):
    listed = onceflow("state", "ls", "state")
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["table", "empty", "numbers", "pairs", "texts"]
    assert "(str, bytes, u64)" in listed.stdout
    assert "numbers" in onceflow("state", "ls", "state", "--checkpoint", "1").stdout
    assert "pairs" not in onceflow("state", "ls", "state", "--checkpoint", "1").stdout
    for name in ("nothing", "../state", "__dedupe__/x"):
        ran = onceflow("state", "dump", "state", name)
        assert (ran.returncode, ran.stdout) == (2, "")
        assert f"has no table {name!r}; it has empty, numbers, pairs, texts" in ran.stderr


def dataflow_state(path, codec):
    """State of a dataflow whose values only the codec knows."""
    flow = Dataflow("values")
    stream = flow.source("in", TestingSource([("a", 1), ("b", 2)]))

    def keep(state, record):
        value = {
            "pair": record,
            1: {2, 1},
            "big": 2**70,
            "raw": b"\xff",
            "inf": float("inf"),
            "day": date(2024, 2, 29),
            "at": datetime(2024, 2, 29, 12, tzinfo=UTC),
            "for": timedelta(hours=1),
            "price": Decimal("1.10"),
            "both": {1: "a", "1": "b"},
        }
        return value, record

    stream.key_by(lambda record: record[0]).stateful_map("kept", keep).sink("out", TransactionalTestingSink())
    run(flow, path, codec=codec)


def test_cells_of_the_msgpack_codec_are_decoded(tmp_path, onceflow):
    dataflow_state(tmp_path / "state", "msgpack")
    lines = onceflow("state", "dump", "state", "kept", "--format", "jsonl").stdout.splitlines()
    rows = {row["key"]: row["value"] for row in map(json.loads, lines)}
    assert rows["b"] == {
        "pair": ["b", 2],
        "1": [1, 2],
        "big": 2**70,
        "raw": "/w==",
        "inf": "inf",
        "day": "2024-02-29",
        "at": "2024-02-29T12:00:00Z",
        "for": "PT3600S",
        "price": "1.10",
        "both": [[1, "a"], ["1", "b"]],
    }
    head, *cells = csv.reader(io.StringIO(onceflow("state", "dump", "state", "kept").stdout))
    assert head == ["key", "value"]
    assert {key: json.loads(value) for key, value in cells} == rows


def test_keys_that_no_native_type_holds_are_decoded(tmp_path, onceflow):
    """They lie in a table of their own, as bytes that nobody could read."""
    flow, sink = Dataflow("flow"), TransactionalTestingSink()
    keys = [("a", None), ("a", 1), (None, None), ("a", None)]
    totals = (
        flow.source("in", TestingSource(keys)).key_by(lambda key: key).aggregate("t", n=count(), h=max(lambda _: "x"))
    )
    totals.sink("out", sink)
    run(flow, tmp_path / "state")
    lines = onceflow("state", "dump", "state", "t:keys", "--format", "jsonl").stdout.splitlines()
    rows = {json.dumps(row["key"]): (row["n"], row["h"]) for row in map(json.loads, lines)}
    assert rows == {'["a", null]': (2, "x"), "[null, null]": (1, "x")}
    assert onceflow("state", "dump", "state", "t").stdout == "key_0,key_1,n,h\na,1,1,x\n"


def test_pickles_are_never_read(tmp_path, onceflow):
    dataflow_state(tmp_path / "state", "pickle")
    lines = onceflow("state", "dump", "state", "kept", "--format", "jsonl").stdout.splitlines()
    row = json.loads(lines[0])
    assert base64.b64decode(row["value"]).startswith(b"\x80\x05")


def test_a_file_appears_when_it_is_complete(state, onceflow, tmp_path):
    ran = onceflow("state", "dump", "state", "texts", "--output", "texts.csv")
    assert (ran.returncode, ran.stdout) == (0, "")
    assert "texts.csv: 2 rows" in ran.stderr
    assert sorted((tmp_path / "texts.csv").read_text().splitlines()) == ["a,1", "b,2", "key,n"]
    failed = onceflow("state", "dump", "state", "texts", "-o", "missing/texts.csv")
    assert failed.returncode == 2
    assert "cannot be written: No such file or directory" in failed.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state", "texts.csv"]


def test_binary_is_not_for_a_terminal(state, terminal):
    screen = terminal("state", "dump", "state", "texts", "--format", "arrow")
    assert screen.wait() == 2
    assert "not for a terminal" in screen.text


def test_a_reader_that_goes_away(state):
    # Far more than a pipe holds, so that the program writes to nobody.
    with StateBackend.open(state, job="tables", key_groups=16) as backend:
        backend.table("wide", key="i64", columns={"n": "i64"}).add(np.arange(100_000), n=1)
        backend.checkpoint().wait()
    process = subprocess.Popen(
        [*PROGRAM, "state", "dump", str(state), "wide"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "key,n\n"
    process.stdout.close()
    assert process.wait(30) == 141
    assert process.stderr.read() == ""
    process.stderr.close()


def test_beside_a_running_job(home, start, onceflow):
    running = start(*SLOW[:-1], "2")
    wait_for_checkpoint(home / "state")
    ran = onceflow("state", "dump", "state", "totals", "--format", "jsonl")
    assert running.poll() is None
    assert ran.returncode == 0, ran.stderr
    seen = sum(json.loads(line)["n"] for line in ran.stdout.splitlines())
    assert 0 < seen < 2000
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=30)


def test_damage_is_told_and_the_older_state_is_named(home, onceflow):
    finish(home)
    older, newest = (info.id for info in checkpoints(home / "state"))
    damage_chunk(home / "state", newest)
    ran = onceflow("state", "dump", "state", "totals")
    assert ran.returncode == 0
    assert "warning: damage found: " in ran.stderr
    assert f"this is the state of checkpoint {older}, the newest one that is sound" in ran.stderr
    strict = onceflow("state", "dump", "state", "totals", "--checkpoint", str(newest))
    assert (strict.returncode, strict.stdout) == (3, "")
