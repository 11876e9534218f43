"""Faults of a source or sink that takes the place of one of another kind: positions and output that it misreads."""

import json

import pytest

from onceflow import Dataflow, Log, Producer, run
from onceflow.connectors.files import CsvSink, CsvSource, JsonLinesSink, JsonLinesSource, TextSource, read_parts
from onceflow.connectors.log import LogSource
from onceflow.exceptions import DataflowChangedError, SourceChangedError
from onceflow.testing import IdempotentTestingSink, TransactionalTestingSink


@pytest.fixture
def lines(tmp_path):
    """A file that is CSV, JSON Lines and text at once."""
    path = tmp_path / "in.txt"
    path.write_text('{"n":1}\n{"n":2}\n')
    return path


def number_of(record):
    return {"n": record["n"] if isinstance(record, dict) and "n" in record else 0}


def caught_up(state, source, sink, **settings):
    flow = Dataflow("flow")
    flow.source("in", source).map(number_of).sink("out", sink)
    return run(flow, state, until="caught_up", **settings)


def refused(state, source, sink):
    with pytest.raises(DataflowChangedError) as caught:
        caught_up(state, source, sink)
    return caught.value


@pytest.mark.parametrize(("other", "kind"), [(TextSource, "TextSource"), (CsvSource, "CsvSource")])
def test_a_source_of_another_kind_is_refused(tmp_path, lines, other, kind):
    """Positions that are read as those of another kind of source, or end the run with a KeyError."""
    state = tmp_path / "state"
    caught_up(state, JsonLinesSource(lines), TransactionalTestingSink())
    error = refused(state, other(lines), TransactionalTestingSink())
    assert f"source 'in' had kind JsonLinesSource and has kind {kind}" in str(error)
    assert error.on_change == {"in": "empty"}
    again = TransactionalTestingSink()
    caught_up(state, other(lines), again, on_change=error.on_change)
    assert len(again.records) == (1 if other is CsvSource else 2)


def test_a_position_of_another_kind_is_named_where_the_kind_is_not_known(lines):
    """Checkpoints of versions that did not keep it."""
    with pytest.raises(SourceChangedError, match="positions of another kind of source"):
        CsvSource(lines).restore({str(lines): {"byte": 8}})


def test_a_derived_source_is_of_the_same_kind(tmp_path, lines):
    """A class that was renamed, or took the place of the one that it derives from."""

    class Mine(JsonLinesSource):
        pass

    caught_up(tmp_path / "state", JsonLinesSource(lines), TransactionalTestingSink())
    with lines.open("a") as file:
        file.write('{"n":3}\n')
    out = TransactionalTestingSink()
    caught_up(tmp_path / "state", Mine(lines), out)
    assert out.records == [{"n": 3}]


def test_a_sink_of_another_kind_is_refused(tmp_path, lines):
    """Part files of two forms in a directory, and staged output that another kind of sink cannot read."""
    state, number = tmp_path / "state", 2
    caught_up(state, JsonLinesSource(lines), JsonLinesSink(tmp_path / "json"))
    sinks = [
        (CsvSink(tmp_path / "csv"), "kind JsonLinesSink and has kind CsvSink"),
        (IdempotentTestingSink(key=lambda row: row["n"]), "delivery transactional and has delivery idempotent"),
        (JsonLinesSink(tmp_path / "more"), "delivery idempotent and has delivery transactional"),
    ]
    for sink, what in sinks:
        error = refused(state, JsonLinesSource(lines), sink)
        assert f"sink 'out' had {what}" in str(error)
        # An idempotent sink has written all when a run ends in order.
        is_staged = "had delivery idempotent" not in str(error)
        assert ("stays hidden unless it was committed by then" in str(error)) is is_staged
        for given in (error.on_change, {}):
            number += 1
            with lines.open("a") as file:
                file.write(json.dumps({"n": number}) + "\n")
            caught_up(state, JsonLinesSource(lines), sink, on_change=given)
    assert read_parts(tmp_path / "json") == b'{"n":1}\n{"n":2}\n'
    assert read_parts(tmp_path / "csv") == b"n\n3\n4\n"
    assert list(sinks[1][0].records) == [5, 6]
    assert read_parts(tmp_path / "more") == b'{"n":7}\n{"n":8}\n'


def test_another_topic_is_named_and_may_be_read_from_its_start(tmp_path):
    """A topic that is said to have been made again, and no way to go on with the state."""
    with Log.open(tmp_path / "log") as log:
        for name in "ab":
            log.create_topic(name)
        with Producer(log) as producer:
            for name in "ab":
                for number in range(3):
                    producer.produce(name, value=json.dumps({"n": f"{name}{number}"}))
    state = tmp_path / "state"
    caught_up(state, LogSource(tmp_path / "log", "a", decode="json"), TransactionalTestingSink())
    other = LogSource(tmp_path / "log", "b", decode="json")
    error = refused(state, other, TransactionalTestingSink())
    assert "source 'in' had topic 'a' and has topic 'b'" in str(error)
    assert error.on_change == {"in": "empty"}
    out = TransactionalTestingSink()
    for _ in range(2):
        caught_up(state, other, out, on_change=error.on_change)
    assert [row["n"] for row in out.records] == ["b0", "b1", "b2"]
