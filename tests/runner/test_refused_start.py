"""What is left of a first run that is refused: nothing, where it has touched nothing; and all of it where it has."""

from __future__ import annotations

import pytest

from onceflow import Dataflow, run
from onceflow.connectors.files import CsvSource, JsonLinesSink
from onceflow.exceptions import FinishedJobWarning, SinkError, SourceError, UserFunctionError
from onceflow.runtime.new_directory import NewDirectory
from onceflow.testing import TestingSource, TransactionalTestingSink


class Refuses(TransactionalTestingSink):
    """Cannot be opened."""

    def open(self, context):
        raise SinkError("the target is away")


def flow(source, sink=None, function=lambda record: record):
    made = Dataflow("refused")
    made.source("in", source).map(function).sink("out", sink or TransactionalTestingSink())
    return made


@pytest.mark.parametrize("what", ["source", "sink"])
def test_nothing_is_left_of_it(tmp_path, what):
    """Kind: a mistake in a name leaves a state behind, which the next run, of another job, is refused for."""
    state = tmp_path / "deep" / "er" / "state"
    refused = flow(CsvSource(tmp_path / "none.csv")) if what == "source" else flow(TestingSource([1]), Refuses())
    with pytest.raises((SourceError, SinkError)):
        run(refused, state)
    assert list(tmp_path.iterdir()) == []
    assert run(flow(TestingSource([1])), state).finished


@pytest.mark.parametrize("before", ["empty", "another run's"])
def test_what_was_there_before_stays(tmp_path, before):
    """Kind: a state with checkpoints is removed because another start was refused; or a directory that a user made."""
    state = tmp_path / "state"
    if before == "empty":
        state.mkdir()
    else:
        run(flow(TestingSource([1])), state)
    with pytest.raises(SinkError):
        run(flow(TestingSource([1]), Refuses()), state)
    assert state.exists()
    if before != "empty":
        with pytest.warns(FinishedJobWarning):
            assert run(flow(TestingSource([1])), state).finished


def test_a_state_that_sinks_know_stays(tmp_path):
    """Kind: output says whose it is by the identity of the state, and refuses any other: with the state removed nobody
    could write there any more."""

    def fails(record):
        raise ValueError("no")

    state = tmp_path / "state"
    with pytest.raises(UserFunctionError):
        run(flow(TestingSource([1]), JsonLinesSink(tmp_path / "out"), fails), state)
    assert state.exists()
    run(flow(TestingSource([1]), JsonLinesSink(tmp_path / "out")), state)


def test_a_state_that_another_run_has_used_since_stays(tmp_path, monkeypatch):
    """Kind: the directory is removed under the run that has it now."""
    state, clean = tmp_path / "state", NewDirectory.clean

    def late(directory):
        monkeypatch.undo()
        run(flow(TestingSource([1])), state)
        clean(directory)

    monkeypatch.setattr(NewDirectory, "clean", late)
    with pytest.raises(SinkError):
        run(flow(TestingSource([1]), Refuses()), state)
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
    with pytest.warns(FinishedJobWarning):
        assert run(flow(TestingSource([1])), state).finished
