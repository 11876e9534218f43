"""Docs that are not true: what an error of a file source advises is done here, and helps."""

from __future__ import annotations

import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from onceflow import Dataflow, run
from onceflow.connectors.files import CsvSource, ParquetSource, TextSource
from onceflow.exceptions import MalformedRecordError, SourceChangedError, SourceError
from onceflow.testing import TransactionalTestingSink


def flow_of(source, sink, dead=None):
    flow = Dataflow("hints")
    flow.source("rows", source).sink("out", sink)
    if dead is not None:
        flow.dead_letters("rows").sink("dead", dead)
    return flow


def run_into(sink, source, state, dead=None):
    # A sink that is new since the first run is named.
    on_change = "refuse" if dead is None else {"dead": "empty"}
    return run(flow_of(source, sink, dead), state, batch_size=1, checkpoint_interval_s=1e-9, on_change=on_change)


def test_give_all_files_of_the_directory(tmp_path, state):
    sink = TransactionalTestingSink()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("1\n")
    with pytest.raises(SourceError, match=r"is a directory, not a file; to read all files in it give ") as caught:
        run_into(sink, TextSource(tmp_path / "in"), state)
    run_into(sink, TextSource(str(caught.value).rpartition(" give ")[2]), state)
    assert sink.records == ["1"]


@pytest.mark.parametrize("policy", ["corrected", "skip", "dead_letter"])
def test_correct_the_input_or_choose_another_policy(tmp_path, state, policy):
    """The job goes on where it had stopped: nothing comes twice."""
    path = tmp_path / "in.csv"
    path.write_text("n\n1\n2\n" + "x\n3\n")
    sink, dead = TransactionalTestingSink(), TransactionalTestingSink()
    types = {"n": "int"}
    with pytest.raises(MalformedRecordError, match=r"Correct the input, or set on_malformed='skip' or 'dead_letter'"):
        run_into(sink, CsvSource(path, types=types), state)
    if policy == "corrected":
        path.write_text("n\n1\n2\n" + "7\n3\n")
        result = run_into(sink, CsvSource(path, types=types), state)
    elif policy == "skip":
        result = run_into(sink, CsvSource(path, types=types, on_malformed="skip"), state)
        assert result.skipped == 1
    else:
        result = run_into(sink, CsvSource(path, types=types, on_malformed="dead_letter"), state, dead)
        assert [letter["text"] for letter in dead.records] == ["x"]
    assert result.finished
    assert [row["n"] for row in sink.records] == ([1, 2, 7, 3] if policy == "corrected" else [1, 2, 3])


def test_allow_longer_records(tmp_path, state):
    path = tmp_path / "in.txt"
    path.write_text("1\n" + "2" * 50 + "\n3\n")
    sink = TransactionalTestingSink()
    with pytest.raises(MalformedRecordError, match="has 50 bytes, more than max_record_bytes allows"):
        run_into(sink, TextSource(path, max_record_bytes=20), state)
    run_into(sink, TextSource(path, max_record_bytes=50), state)
    assert sink.records == ["1", "2" * 50, "3"]


@pytest.mark.parametrize("how", ["put back", "fresh"])
@pytest.mark.parametrize("change", ["cut", "changed", "continued"])
def test_put_the_file_back_or_start_over(tmp_path, state, how, change):
    path = tmp_path / "in.csv"
    path.write_text("n\n1\n2\nx")
    sink = TransactionalTestingSink()
    with pytest.raises(MalformedRecordError):
        run_into(sink, CsvSource(path, types={"n": "int"}), state)
    data = path.read_text()
    path.write_text({"cut": "n\n", "changed": "n\n9\n2\n3\n", "continued": "n\n1\n2\n3\n"}[change])
    if change == "continued":
        # What comes behind a position may be anything.
        run_into(sink, CsvSource(path, types={"n": "int"}), state)
        assert [row["n"] for row in sink.records] == [1, 2, 3]
        return
    with pytest.raises(SourceChangedError, match="Put the file back, or start over with resume_from='none'"):
        run_into(sink, CsvSource(path, types={"n": "int"}), state)
    if how == "put back":
        path.write_text(data + "\n")
        run_into(sink, CsvSource(path, types={"n": "int"}, on_malformed="skip"), state)
        assert [row["n"] for row in sink.records] == [1, 2]
    else:
        sink = TransactionalTestingSink()
        run(flow_of(CsvSource(path, types={"n": "int"}), sink), state, batch_size=1, resume_from="none")
        assert [row["n"] for row in sink.records] == ([] if change == "cut" else [9, 2, 3])


def test_decompress_it_first(tmp_path, state):
    path = tmp_path / "in.gz"
    path.write_bytes(gzip.compress(b"1\n2\n"))
    sink = TransactionalTestingSink()
    with pytest.raises(SourceError, match="is compressed by gzip; decompress it first"):
        run_into(sink, TextSource(path), state)
    path.with_suffix(".txt").write_bytes(gzip.decompress(path.read_bytes()))
    run_into(sink, TextSource(tmp_path / "in.txt"), state)
    assert sink.records == ["1", "2"]


def test_read_it_by_parquet_source(tmp_path, state):
    path = tmp_path / "in"
    pq.write_table(pa.table({"n": [1]}), path)
    sink = TransactionalTestingSink()
    with pytest.raises(SourceError, match="is a Parquet file; read it by ParquetSource, or convert it first"):
        run_into(sink, CsvSource(path), state)
    run_into(sink, ParquetSource(path), state)
    assert [row["n"] for row in sink.records] == [1]


def test_give_columns_that_all_files_have(tmp_path, state):
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    (tmp_path / "b.csv").write_text("a,c\n3,4\n")
    sink = TransactionalTestingSink()
    with pytest.raises(SourceError, match=r"Give columns=\[\.\.\.\] to read those that all have"):
        run_into(sink, CsvSource(tmp_path / "*.csv"), state)
    run_into(sink, CsvSource(tmp_path / "*.csv", columns=["a"]), state)
    assert sink.records == [{"a": 1}, {"a": 3}]


def test_give_names_if_this_is_no_header(tmp_path, state):
    path = tmp_path / "in.csv"
    path.write_text("1,1\n2,y\n")
    sink = TransactionalTestingSink()
    with pytest.raises(SourceError, match=r"if this is not a header, give names=\[\.\.\.\]"):
        run_into(sink, CsvSource(path), state)
    run_into(sink, CsvSource(path, names=["n", "t"]), state)
    assert sink.records == [{"n": 1, "t": "1"}, {"n": 2, "t": "y"}]


def test_mend_the_link(tmp_path, state):
    path = tmp_path / "in.txt"
    path.symlink_to("gone")
    sink = TransactionalTestingSink()
    with pytest.raises(SourceError, match="is a link to 'gone', which does not exist; mend or remove the link"):
        run_into(sink, TextSource(tmp_path / "*"), state)
    (tmp_path / "gone").write_text("1\n")
    run_into(sink, TextSource(path), state)
    assert sink.records == ["1"]
