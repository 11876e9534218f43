"""A table that is made after the cut belongs to the next checkpoint.

The decision took such a table in, with records that the positions of the checkpoint leave out: after a crash they were
counted twice, without a word. It could hit every job whose first record with a key came while a
checkpoint was being written.
"""

from __future__ import annotations

from onceflow import Dataflow, count, run
from onceflow.embed import StateBackend
from onceflow.testing import ABORT, AbortedError, TestingSource, TransactionalTestingSink


def test_the_decision_leaves_it_out(state):
    with StateBackend.open(state) as backend:
        backend.table("old", key="i64", columns={"n": "i64"}).put([1], n=[1])
        pending = backend.begin_checkpoint()
        pending.freeze()
        backend.table("new", key="i64", columns={"n": "i64"}).put([1], n=[1])
        pending.commit()
        pending.wait()
        [info] = backend.checkpoints()
        assert info.tables == {"old": 1}
        later = backend.checkpoint()
        later.wait()
        assert backend.checkpoints()[-1].tables == {"old": 1, "new": 1}


def test_one_that_was_not_frozen_by_name_is_frozen_with_the_decision(state):
    with StateBackend.open(state) as backend:
        backend.table("a", key="i64", columns={"n": "i64"}).put([1], n=[1])
        pending = backend.begin_checkpoint()
        pending.freeze(["a"])
        backend.table("b", key="i64", columns={"n": "i64"}).put([1], n=[1])
        pending.commit()
        pending.wait()
        assert backend.checkpoints()[-1].tables == {"a": 1, "b": 1}


def test_a_first_record_while_a_checkpoint_is_written(state):
    """The job dies when the checkpoint is decided and the record behind it is in a new table."""
    flow, sink = Dataflow("flow"), TransactionalTestingSink()
    source = TestingSource([], [ABORT, {"k": "a"}, ABORT], batch_size=4)
    flow.source("in", source).key_by("k").aggregate("totals", n=count()).sink("out", sink)
    for _ in range(10):
        try:
            if run(flow, state, checkpoint_interval_s=1e-9).finished:
                break
        except AbortedError:
            continue
    assert sink.records == [{"k": "a", "n": 1}]
