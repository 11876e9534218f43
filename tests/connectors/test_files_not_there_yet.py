"""Faults of files that are still to be written: types of no rows that hold for ever, errors where nothing is yet."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from onceflow import Dataflow, run
from onceflow.connectors.files import CsvSource, ParquetSource
from onceflow.exceptions import SourceError
from onceflow.testing import TransactionalTestingSink

ROWS = [{"n": 1, "x": 2.5}, {"n": 10, "x": 3.5}]


def caught_up(root, source, **settings):
    out = TransactionalTestingSink()
    flow = Dataflow("flow")
    flow.source("in", source).sink("out", out)
    result = run(flow, root / "state", **{"until": "caught_up", **settings})
    assert result.rejected == result.skipped == 0
    return out.records


@pytest.mark.parametrize("early", ["", "n", "n,x", "n,x\n", "n,x\n1", "n,x\n1,2.5", "\n", '"n"'])
def test_a_file_gets_its_types_from_its_first_rows(tmp_path, early):
    """Numbers that are text for ever since a run came before the first row, or a run that ends with an error."""
    path = tmp_path / "a.csv"
    whole = ("\n" if early == "\n" else "") + ('"n",x' if early == '"n"' else "n,x") + "\n1,2.5\n10,3.5\n"
    path.write_text(early)
    for _ in range(2):
        assert caught_up(tmp_path, CsvSource(path)) == []
    path.write_text(whole)
    assert caught_up(tmp_path, CsvSource(path)) == ROWS
    # Now they hold.
    with path.open("a") as file:
        file.write("3,4\n")
    [row] = caught_up(tmp_path, CsvSource(path))
    assert row == {"n": 3, "x": 4.0} and type(row["x"]) is float


def test_a_file_without_rows_takes_the_types_of_the_others(tmp_path):
    """Files of one source whose columns are of different types."""
    (tmp_path / "a.csv").write_text("n,x\n")
    source = lambda: CsvSource(str(tmp_path / "*.csv"))  # noqa: E731
    assert caught_up(tmp_path, source()) == []
    (tmp_path / "b.csv").write_text("n,x\nb,2.5\n")
    (tmp_path / "c.csv").write_text("")
    assert caught_up(tmp_path, source()) == [{"n": "b", "x": 2.5}]
    with (tmp_path / "a.csv").open("a") as file:
        file.write("1,3.5\n")
    (tmp_path / "c.csv").write_text("x,n\n1.5,7\n")
    assert caught_up(tmp_path, source()) == [{"n": "1", "x": 3.5}, {"x": 1.5, "n": "7"}]


def test_what_was_handed_out_as_text_stays_text(tmp_path):
    """Types that change behind records which were handed out."""
    path = tmp_path / "a.csv"
    path.write_text("n,x\n,\n")
    assert caught_up(tmp_path, CsvSource(path)) == [{"n": None, "x": None}]
    with path.open("a") as file:
        file.write("1,2.5\n")
    assert caught_up(tmp_path, CsvSource(path)) == [{"n": "1", "x": "2.5"}]


def test_an_empty_file_is_an_error_where_it_is_read_to_its_end(tmp_path):
    """A job that finishes without input, since a file was given by mistake."""
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(SourceError, match="is empty; a CSV file begins"):
        caught_up(tmp_path, CsvSource(tmp_path / "a.csv"), until="end")


def test_a_parquet_file_without_a_byte_is_to_be_written(tmp_path):
    """A run that ends with an error while a writer has opened its file."""
    path = tmp_path / "a.parquet"
    path.touch()
    for _ in range(2):
        assert caught_up(tmp_path, ParquetSource(path)) == []
    pq.write_table(pa.Table.from_pylist(ROWS), path)
    assert caught_up(tmp_path, ParquetSource(path)) == ROWS
    assert caught_up(tmp_path, ParquetSource(path)) == []


@pytest.mark.parametrize("text", ["1e400", "-1e400", "9" * 400])
def test_a_number_beyond_a_float_is_refused(tmp_path, text):
    """A number that becomes infinite without a word."""
    (tmp_path / "a.csv").write_text(f"v\n{text}\n2.5\ninf\n-Infinity\n")
    out = TransactionalTestingSink()
    flow = Dataflow("flow")
    flow.source("in", CsvSource(tmp_path / "a.csv", types={"v": "float"}, on_malformed="skip")).sink("out", out)
    assert run(flow, tmp_path / "state").skipped == 1
    assert out.records == [{"v": 2.5}, {"v": float("inf")}, {"v": float("-inf")}]
