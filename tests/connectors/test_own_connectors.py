"""Sources and sinks of users: whatever their clients raise names the step, and nothing is lost or repeated."""

from __future__ import annotations

import pytest

from onceflow import Dataflow, run
from onceflow.exceptions import FencedError, SinkError, SourceError
from onceflow.testing import PlainTestingSink, TestingSource, TransactionalTestingSink


class ClientError(Exception):
    """What somebody's client library raises."""


def raises(*_):
    raise ClientError("connection lost")


def faulty(kind, call, times=1):
    """A testing sink whose writer raises at its nth call of one method, as often as asked for."""

    class Faulty(kind):
        left = times

        def open(self, context):
            if call == "open" and self.left:
                self.left -= 1
                raises()
            writer = super().open(context)
            right = getattr(writer, call, None)

            def broken(*arguments):
                if self.left:
                    self.left -= 1
                    raises()
                return right(*arguments)

            if right is not None:
                setattr(writer, call, broken)
            return writer

    return Faulty()


@pytest.mark.parametrize("call", ["open", "recover", "write", "seal", "prepare", "commit"])
def test_what_a_transactional_sink_raises(state, call):
    sink = faulty(TransactionalTestingSink, call)
    flow = Dataflow("own")
    flow.source("in", TestingSource(list(range(50)))).sink("out", sink)
    with pytest.raises(SinkError, match=rf"sink 'out' could not {call}: ClientError: connection lost") as caught:
        run(flow, state, checkpoint_interval_s=1e-6)
    assert isinstance(caught.value.__cause__, ClientError)
    assert run(flow, state, checkpoint_interval_s=1e-6).finished
    assert sink.records == list(range(50))


@pytest.mark.parametrize("call", ["open", "write", "flush"])
def test_what_a_plain_sink_raises(state, call):
    sink = faulty(PlainTestingSink, call)
    flow = Dataflow("own")
    flow.source("in", TestingSource(list(range(50)))).sink("out", sink)
    with pytest.raises(SinkError, match=r"sink 'out' could not \w+: ClientError: connection lost"):
        run(flow, state, guarantee="at_least_once")
    assert run(flow, state, guarantee="at_least_once").finished
    assert set(sink.records) == set(range(50))


def test_a_sink_that_is_fenced_says_so(state):
    sink = TransactionalTestingSink()
    sink.epoch = 7
    flow = Dataflow("own")
    flow.source("in", TestingSource([1])).sink("out", sink)
    with pytest.raises(FencedError, match="epoch 7 of job 'own' writes here"):
        run(flow, state)


@pytest.mark.parametrize("call", ["open", "read", "position"])
def test_what_a_source_raises(state, call):
    class Faulty(TestingSource):
        left = 3

        def open(self, partition, position):
            reader = super().open(partition, position)
            right = getattr(reader, call, None)

            def broken(*arguments):
                Faulty.left -= 1
                return raises() if Faulty.left == 0 else right(*arguments)

            if call == "open":
                Faulty.left = max(0, Faulty.left - 3)
                if Faulty.left == 0 and not hasattr(self, "done"):
                    self.done = True
                    raises()
            else:
                setattr(reader, call, broken)
            return reader

    sink = TransactionalTestingSink()
    flow = Dataflow("own")
    flow.source("in", Faulty(list(range(50)))).sink("out", sink)
    with pytest.raises(SourceError, match=r"source 'in', partition '0': ClientError: connection lost") as caught:
        run(flow, state, checkpoint_interval_s=1e-6)
    assert isinstance(caught.value.__cause__, ClientError)
    assert run(flow, state, checkpoint_interval_s=1e-6).finished
    assert sink.records == list(range(50))


def test_a_position_that_is_not_plain(state):
    class Odd(TestingSource):
        def open(self, partition, position):
            reader = super().open(partition, position)
            reader.position = object
            return reader

    flow = Dataflow("own")
    flow.source("in", Odd([1])).sink("out", TransactionalTestingSink())
    with pytest.raises(SourceError, match=r"source 'in', partition '0': TypeError: .*object.* is unsupported"):
        run(flow, state)
