"""What the runtime promises to sinks: the order of the start, threads, and what is kept for the next run."""

from __future__ import annotations

import threading

import pytest

from onceflow import Dataflow, run
from onceflow.exceptions import SinkError
from onceflow.sinks import IdempotentSink, SinkWriter, TransactionalSink, TransactionalSinkWriter
from onceflow.testing import EOF, TestingSource, TransactionalTestingSink


class Recorder(TransactionalSink):
    """Keeps every call, with the thread it came on."""

    def __init__(self, refuse=None):
        self.calls = []
        self.contexts = []
        self.refuse = refuse

    def open(self, context):
        self.contexts.append(context)
        self.called("open")
        if self.refuse:
            raise SinkError(self.refuse)
        return RecorderWriter(self, context)

    def called(self, name):
        job = threading.current_thread() is threading.main_thread()
        self.calls.append((name, "job" if job else threading.current_thread().name))

    def threads(self, name):
        return {thread for called, thread in self.calls if called == name}


class RecorderWriter(TransactionalSinkWriter):
    def __init__(self, sink, context):
        self.sink = sink
        self.learnt = context.restored_state or {"first": None}
        self.records = []

    def recover(self, decided):
        self.sink.called("recover")

    def write(self, records):
        self.sink.called("write")
        self.records += records
        self.learnt["first"] = self.learnt["first"] or self.records[0]

    def seal(self, checkpoint_id):
        self.sink.called("seal")
        records, self.records = self.records, []
        return records or None

    def snapshot(self):
        self.sink.called("snapshot")
        return self.learnt

    def prepare(self, checkpoint_id, sealed):
        self.sink.called("prepare")
        return sealed

    def commit(self, committable):
        self.sink.called("commit")

    def abort(self, checkpoint_id, sealed):
        self.sink.called("abort")

    def close(self):
        self.sink.called("close")


def flow_to(*sinks, records=("a", "b")):
    flow = Dataflow("contract")
    stream = flow.source("in", TestingSource([*records]))
    for number, sink in enumerate(sinks):
        stream.sink(f"out{number}", sink)
    return flow


def test_a_start_that_one_sink_refuses_changes_no_other(tmp_path):
    """Kind: a start that is refused has touched something by then. Here: sink 0 was recovered before sink 1 refused."""
    first, second = Recorder(), Recorder(refuse="not yours")
    with pytest.raises(SinkError, match="sink 'out1' could not open: not yours"):
        run(flow_to(first, second), tmp_path / "state")
    assert [name for name, _ in first.calls] == ["open", "close"]


def test_what_a_writer_has_learnt_comes_back(tmp_path):
    """Kind: what is learnt from the first records is learnt anew by the next run. Right: the checkpoint keeps it."""
    sink = Recorder()
    flow = flow_to(sink, records=["first", EOF, "second"])
    run(flow, tmp_path / "state")
    run(flow, tmp_path / "state")
    before, after = sink.contexts
    assert (before.restored_state, after.restored_state) == (None, {"first": "first"})
    assert (before.newest_decided, after.newest_decided) == (None, after.restored_checkpoint)
    assert before.state_id == after.state_id
    assert len(before.state_id) == 32
    run(flow, tmp_path / "state", resume_from=after.restored_checkpoint)
    assert sink.contexts[2].restored_state == {"first": "first"}
    assert sink.contexts[2].lineage > after.lineage == 1
    assert sink.contexts[2].newest_decided is None
    run(flow, tmp_path / "state", resume_from="none")
    assert sink.contexts[3].restored_state is None


def test_the_threads_of_a_transactional_sink(tmp_path):
    """Kind: docs that are not true. The threads are those that ``TransactionalSinkWriter`` says."""
    sink = Recorder()
    run(flow_to(sink, records=["a", EOF, "b"]), tmp_path / "state")
    run(flow_to(sink, records=["a", EOF, "b"]), tmp_path / "state", checkpoint_interval_s=1e-6)
    for name in ("open", "recover", "write", "seal", "snapshot", "close"):
        assert sink.threads(name) == {"job"}, name
    for name in ("prepare", "commit"):
        assert sink.threads(name) == {"onceflow-checkpoint"}, name
    failing = Recorder()
    faulty = TransactionalTestingSink(fail={"prepare": 1})
    with pytest.raises(SinkError):
        run(flow_to(failing, faulty), tmp_path / "other")
    assert failing.threads("abort") == {"job"}


class Upserts(IdempotentSink):
    def __init__(self):
        self.threads = {}

    def open(self, context):
        self.note("open")
        return UpsertsWriter(self)

    def note(self, name):
        job = threading.current_thread() is threading.main_thread()
        self.threads.setdefault(name, set()).add("job" if job else "checkpoint")


class UpsertsWriter(SinkWriter):
    def __init__(self, sink):
        self.sink = sink

    def write(self, records):
        self.sink.note("write")

    def flush(self):
        self.sink.note("flush")

    def close(self):
        self.sink.note("close")


@pytest.mark.parametrize(
    ("guarantee", "thread"),
    [
        ("exactly_once", "checkpoint"),
        ("effectively_once", "job"),
        ("at_least_once", "job"),
        ("at_most_once", "checkpoint"),
    ],
)
def test_the_threads_of_other_sinks(tmp_path, guarantee, thread):
    """Kind: docs that are not true. The threads are those that ``SinkWriter`` says."""
    sink = Upserts()
    flow = flow_to(sink, records=["a", EOF, "b"])
    run(flow, tmp_path / "state", guarantee=guarantee)
    assert sink.threads == {"open": {"job"}, "close": {"job"}, "write": {thread}, "flush": {thread}}
    sink.threads.clear()
    run(flow, tmp_path / "state", guarantee=guarantee)
    assert sink.threads["write"] == {thread}
