"""Watermarks never fall over a resume: what was closed or forgotten by event time stays so.

The kind of fault: what was learnt while running is learnt anew after a restart. With a new partition or file of older
records a resumed job began without a watermark: a closed window opened again and was written a second time, a key that
was remembered let a duplicate pass, expired state came back.
"""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest

from onceflow import Dataflow, count, run
from onceflow.embed import StateBackend
from onceflow.state import Processor, ValueState
from onceflow.testing import EOF, TestingSource, TransactionalTestingSink
from onceflow.windows import Tumbling

MICROS = timedelta(microseconds=1)


class Growing(TestingSource):
    """Partitions come: the first run sees one, each later run one more."""

    def __init__(self, *partitions, batch_size=2):
        super().__init__(*partitions, event_time=lambda record: record[1], batch_size=batch_size)
        self.seen = 0

    def partitions(self):
        self.seen += 1
        return super().partitions()[: self.seen]


class Expiring(Processor):
    times = ValueState(default=0, ttl=50 * MICROS)

    def process(self, record):
        self.times.set(self.times.get() + 1)
        yield (*record, self.times.get())


def build(step, source, *, delay=0, lateness=0):
    flow, out, late = Dataflow("flow"), TransactionalTestingSink(), TransactionalTestingSink()
    stream = flow.source("in", source, max_out_of_orderness=delay * MICROS)
    if step == "window":
        keyed = stream.key_by(lambda record: record[0])
        window = keyed.window("step", Tumbling(10 * MICROS), allowed_lateness=lateness * MICROS)
        window.aggregate(n=count()).sink("out", out)
        flow.late("step").sink("late", late)
    elif step == "process":
        stream.key_by(lambda record: record[0]).process("step", Expiring).sink("out", out)
    else:
        stream.drop_duplicates("step", lambda record: record[0], horizon=50 * MICROS).sink("out", out)
    return flow, out, late


def rows(out):
    return [(row["key"], row["window_start"].microsecond, row["n"]) for row in out.records]


@pytest.mark.parametrize("resumes", [1, 2])
def test_a_new_partition_opens_no_window_again(state, resumes):
    """Also not in the second resume, when the new partition is an old one that stands behind."""
    older = [("a", 2), ("a", 3), ("a", 4), ("a", 5)]
    partitions = [[("a", 1), ("a", 100), EOF, EOF, ("a", 200)], [*older, ("a", 101)]]
    if resumes == 2:
        partitions = [partitions[0], [*older[:2], EOF, *older[2:], ("a", 101)]]
    flow, out, late = build("window", Growing(*partitions))
    while not run(flow, state).finished:
        pass
    assert late.records == older
    assert rows(out) == [("a", 0, 1), ("a", 100, 2), ("a", 200, 1)]


def test_a_new_partition_does_not_let_a_duplicate_pass(state):
    """At 100 the key was passed on; a record of 20 from a new file is no later than that."""
    partitions = [[("a", 100), ("b", 160), EOF, ("c", 161)], [("a", 20), ("a", 130), ("a", 170)]]
    flow, out, _ = build("drop_duplicates", Growing(*partitions, batch_size=1))
    while not run(flow, state).finished:
        pass
    # By 160 the key has been forgotten; passed on again it is remembered from then on, not from 20 on.
    assert [record for record in out.records if record[0] == "a"] == [("a", 100), ("a", 20)]


def test_a_new_partition_brings_no_expired_state_back(state):
    partitions = [[("a", 1), ("b", 100), EOF, ("c", 101)], [("a", 2), ("a", 3)]]
    flow, out, _ = build("process", Growing(*partitions, batch_size=1))
    while not run(flow, state).finished:
        pass
    assert [record for record in out.records if record[0] == "a"] == [("a", 1, 1), ("a", 2, 1), ("a", 3, 2)]


@pytest.mark.parametrize(("before", "after"), [((0, 0), (0, 60)), ((0, 0), (60, 0)), ((0, 60), (0, 0))])
def test_another_disorder_or_lateness_opens_no_window_again(state, before, after):
    """Raised because records were late, as the warning advises: what is closed stays closed, what is open gains."""
    records = [("a", 1), ("a", 55), EOF, ("a", 2), ("a", 51), ("a", 56), ("a", 200)]
    source = TestingSource(records, event_time=lambda record: record[1], batch_size=1)
    outs, lates = [], []
    for delay, lateness in (before, after):
        flow, out, late = build("window", source, delay=delay, lateness=lateness)
        run(flow, state)
        outs += rows(out)
        lates += late.records
    assert len({row[:2] for row in outs}) == len(outs)
    assert sum(n for _, _, n in outs) + len(lates) == 6
    assert ("a", 2) in lates


def test_a_step_that_is_new_begins_where_its_inputs_stand(state):
    """It has seen nothing; but a window that its source had passed is not opened for a new file's older records."""
    source = Growing([("a", 100), EOF, ("a", 101)], [("a", 1), ("a", 102)])
    flow, _, _ = build("drop_duplicates", source)
    run(flow, state)
    out, late = TransactionalTestingSink(), TransactionalTestingSink()
    again = Dataflow("flow")
    stream = again.source("in", source)
    stream.drop_duplicates("step", lambda record: record[0], horizon=50 * MICROS).sink(
        "out", TransactionalTestingSink()
    )
    stream.key_by(lambda record: record[0]).window("new", Tumbling(10 * MICROS)).aggregate(n=count()).sink("rows", out)
    again.late("new").sink("late", late)
    while not run(again, state, on_change={"new": "empty", "rows": "empty", "late": "empty"}).finished:
        pass
    assert late.records == [("a", 1)]
    assert rows(out) == [("a", 100, 2)]


def former(state):
    """Makes the newest checkpoint one of the version before, which kept watermarks only for windows, as eight bytes."""
    with StateBackend.open(state, job="flow") as backend:
        blobs = dict(backend.recovery.restored.blobs)
        marks = msgspec.msgpack.decode(blobs.pop("watermarks"))
        if "operator/step" in blobs and b"closed" in blobs["operator/step"]:
            blobs["operator/step"] = marks["step"].to_bytes(8, "little", signed=True)
        job = msgspec.msgpack.decode(blobs["job"])
        del job["late"]
        blobs["job"] = msgspec.msgpack.encode(job)
        for name, schema in backend.tables().items():
            backend.table(name, key=schema.key, columns=schema.columns)
        pending = backend.begin_checkpoint()
        pending.freeze()
        for name, blob in blobs.items():
            pending.put_blob(name, blob)
        pending.commit()
        pending.wait()


@pytest.mark.parametrize("step", ["window", "process", "drop_duplicates"])
def test_state_of_the_version_before_resumes(state, step):
    """Its watermarks follow from the partitions that it knew; a new one does not lower them."""
    partitions = [[("a", 1), ("b", 100), EOF, ("c", 101)], [("a", 2), ("a", 103)]]
    flow, out, late = build(step, Growing(*partitions, batch_size=1))
    run(flow, state)
    former(state)
    while not (result := run(flow, state)).finished:
        pass
    of_a = [record for record in out.records if step == "window" or record[0] == "a"]
    if step == "window":
        assert late.records == [("a", 2)]
        assert result.late == {"step": 1}
        assert rows(out) == [("a", 0, 1), ("a", 100, 1), ("b", 100, 1), ("c", 100, 1)]
    elif step == "process":
        assert of_a == [("a", 1, 1), ("a", 2, 1), ("a", 103, 2)]
    else:
        assert of_a == [("a", 1), ("a", 2)]
