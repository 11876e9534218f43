"""User code that does what it should not: the output stays exact, and the error names the culprit."""

from __future__ import annotations

import sys
import threading

import numpy as np
import pytest

from onceflow import Columns, Dataflow, count, run
from onceflow.exceptions import SourceError, UserFunctionError
from onceflow.sources import Source, SourceBatch, SourceReader
from onceflow.state import Processor, ValueState
from onceflow.testing import ABORT, AbortedError, IdempotentTestingSink, TestingSource, TransactionalTestingSink


class Reader(SourceReader):
    def __init__(self, batches, position, *, close_fails=False):
        self._batches = batches
        self._next = position or 0
        self._close_fails = close_fails

    def read(self, max_records):
        if self._next == len(self._batches):
            return None
        self._next += 1
        return self._batches[self._next - 1]

    def position(self):
        return self._next

    def close(self):
        if self._close_fails:
            raise OSError("the connection is gone")


class Own(Source):
    def __init__(self, batches, partitions=("all",), **settings):
        self._batches = batches
        self._partitions = partitions
        self._settings = settings

    def partitions(self):
        return list(self._partitions)

    def open(self, partition, position):
        return Reader(self._batches, position, **self._settings)


def flow(source, function=lambda record: record):
    sink = TransactionalTestingSink()
    made = Dataflow("misuse")
    made.source("in", source).map(function).sink("out", sink)
    return made, sink


def test_a_record_that_is_changed_after_it_was_handed_on(state):
    """A state that is its own result, and is changed in place: each output is what it was when it was handed on."""

    def counted(state, record):
        state = state or {"n": 0}
        state["n"] += 1
        return state, state

    sink = IdempotentTestingSink(key=lambda record: record["n"])
    made = Dataflow("misuse")
    source = TestingSource(["a"] * 5, batch_size=1)
    made.source("in", source).key_by(lambda key: key).stateful_map("counted", counted).sink("out", sink)
    run(made, state)
    assert list(sink.records.values()) == [{"n": number} for number in range(1, 6)]


class Collected(Processor):
    found = ValueState(default=[])

    def process(self, record):
        found = self.found.get()
        found.append(record)
        self.found.set(found)
        yield list(found)


def test_a_default_that_is_changed_in_place_belongs_to_one_key(state):
    sink = TransactionalTestingSink()
    made = Dataflow("misuse")
    source = TestingSource([1, 2, ABORT, 3, 4], batch_size=1)
    made.source("in", source).key_by(lambda n: n % 2).process("collected", Collected).sink("out", sink)
    with pytest.raises(AbortedError):
        run(made, state)
    run(made, state)
    assert sink.records == [[1], [2], [1, 3], [2, 4]]


def test_a_reader_that_returns_no_batch(state):
    made, _ = flow(Own([[1, 2]]))
    with pytest.raises(SourceError, match=r"'in', partition 'all': .*must return a SourceBatch or None, not a list"):
        run(made, state)


def test_a_source_without_partitions(state):
    made, _ = flow(Own([], partitions=()))
    with pytest.raises(SourceError, match="'in' has no partitions"):
        run(made, state)


def test_an_error_of_close_names_the_source_and_hides_no_other(state):
    made, sink = flow(Own([SourceBatch([1])], close_fails=True))
    with pytest.raises(SourceError, match=r"'in', partition 'all': OSError: the connection is gone"):
        run(made, state)
    assert sink.records == [1]
    made, _ = flow(Own([SourceBatch([1])], close_fails=True), lambda record: record // 0)
    with pytest.raises(UserFunctionError, match="ZeroDivisionError") as caught:
        run(made, state.with_name("other"))
    assert "the connection is gone" in caught.value.__notes__[-1]


def test_runs_at_once_leave_the_switch_interval_as_it_was(state):
    before = sys.getswitchinterval()
    longer, shorter = threading.Event(), threading.Event()

    def wait(of, then):
        then.set()
        assert of.wait(20)

    first, _ = flow(TestingSource([1]), lambda _: wait(of=shorter, then=longer))
    last, _ = flow(TestingSource([1]), lambda _: (shorter.set(), thread.join(20)))
    thread = threading.Thread(target=run, args=(first, state))
    thread.start()
    assert longer.wait(20)
    run(last, state.with_name("other"))
    assert not thread.is_alive()
    assert sys.getswitchinterval() == before


def test_a_step_may_have_a_name_that_looks_given():
    made = Dataflow("names")
    made.source("map-1", TestingSource([1])).map(lambda n: n).map(lambda n: n).sink("out", TransactionalTestingSink())
    assert len(made.graph.steps) == 4


def test_a_column_called_self(state):
    assert Columns({}).with_columns(self=np.array([1])).names == ("self",)
    sink = TransactionalTestingSink()
    made = Dataflow("names")
    made.source("in", TestingSource(["a"])).key_by(lambda key: key).aggregate("n", self=count()).sink("out", sink)
    run(made, state)
    assert sink.records == [{"key": "a", "self": 1}]
