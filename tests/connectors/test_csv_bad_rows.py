"""Bad rows of CSV among many good ones: which are refused, and what it costs to find them."""

from __future__ import annotations

import random

import numpy as np
import pytest
from reading import read

from onceflow.connectors.files import CsvSource, csv_reader

ROWS = 3000
GOOD = ["{n},1.5,2024-01-01", '{n},1.5,"2024-01-01"', '"{n}","1.5","2024-01-01T00:00:00\n"', ""]
BAD = [
    "x{n},1.5,2024-01-01",
    "{n},y,2024-01-01",
    "{n},1.5,never",
    "{n},1.5",
    '{n},"1"5,2024-01-01',
    "{n},1.5,2024-01-01\xff",
    "{n},1.5," + "9" * 200,
]


def written(tmp_path, share):
    choose = random.Random(f"rows {share}")
    path = tmp_path / "in.csv"
    rows = [choose.choice(BAD if choose.random() < share else GOOD).format(n=n) for n in range(ROWS)]
    path.write_bytes(b"a,b,at\n" + "\n".join([*rows, '5,"no end', "6,2,2024-01-01"]).encode("latin-1"))
    return path


def times_of(batch):
    return np.array([1 << 62 if text == "never" else 5 for text in batch["at"].to_pylist()], np.int64)


@pytest.mark.parametrize("share", [0.001, 0.02, 0.5, 1])
@pytest.mark.parametrize("as_columns", [False, True])
@pytest.mark.parametrize("event_time", ["at", lambda row: row["at"].strip(), None], ids=["column", "function", "none"])
def test_bad_rows_are_those_that_are_refused_alone(tmp_path, share, as_columns, event_time):
    """Kind: what is read, or the line that a dead letter names, depends on how many rows are read at once."""
    if as_columns and callable(event_time):
        event_time = times_of
    source = CsvSource(
        written(tmp_path, share),
        types={"a": "int", "b": "float", "at": "str"},
        event_time=event_time,
        as_columns=as_columns,
        on_malformed="dead_letter",
        max_record_bytes=150,
    )
    alone = read(source, sizes=[1] * (2 * ROWS))
    assert alone.records
    assert alone.rejected
    for size in (10_000, 100, 17):
        assert read(source, sizes=[size] * ROWS) == alone


def test_good_rows_are_not_looked_at_one_by_one(tmp_path, monkeypatch):
    """Kind: a few bad rows make a file several times slower to read."""
    converted = 0
    convert = csv_reader.convert

    def counted(texts, *arguments, **options):
        nonlocal converted
        # A call costs as much as some values.
        converted += 8 + len(texts)
        return convert(texts, *arguments, **options)

    path = tmp_path / "in.csv"
    path.write_text("a,b\n" + "".join(f"{'x' if n % 1000 == 500 else n},{n}\n" for n in range(8000)))
    monkeypatch.setattr(csv_reader, "convert", counted)
    found = read(CsvSource(path, types={"a": "int", "b": "int"}, on_malformed="skip"), sizes=[8000])
    assert found.skipped == 8
    assert len(found.records) == 7992
    # All once, those of the bad column's parts again, and what is good of them once more.
    assert converted < 4 * 2 * 8000
