"""What steps agree on once is in the job record: it is learnt neither anew after a restart nor otherwise elsewhere."""

from __future__ import annotations

import shutil
from datetime import date
from pathlib import Path

import pytest
from agreed_job import build, halves

from onceflow import Dataflow, run
from onceflow.clock import ManualClock
from onceflow.codec import MsgpackCodec
from onceflow.embed import StateBackend
from onceflow.exceptions import DataflowChangedError
from onceflow.graph.partitioning import KeySelector
from onceflow.operators.base import OperatorContext
from onceflow.operators.deduplicate import DropDuplicates
from onceflow.operators.passed_time import PassedTime
from onceflow.runtime.job_record import JOB_BLOB, JobRecord
from onceflow.state import MapState, Processor, ValueState
from onceflow.testing import TransactionalTestingSink

FORMER = Path(__file__).parent / "data" / "former"


def outputs(state, runs):
    """What each of so many runs hands out."""
    seen = []
    for _ in range(runs):
        flow, sinks = build(halves())
        run(flow, state)
        seen.append({name: sink.records for name, sink in sinks.items()})
    return seen


def recovered(state):
    with StateBackend.open(state, job="agreed") as backend:
        return dict(backend.recovery.restored.blobs), set(backend.tables())


def test_a_state_directory_of_the_version_before_resumes(tmp_path):
    """It kept states' kinds as bytes of the step and types of keys in a table of their own: they are read from there,
    and are where they belong with the first checkpoint."""
    shutil.copytree(FORMER, tmp_path / "state")
    blobs, tables = recovered(tmp_path / "state")
    assert b"ValueState" in blobs["operator/visits"]
    assert "visits:type" in tables
    [resumed] = outputs(tmp_path / "state", 1)
    assert resumed == outputs(tmp_path / "anew", 2)[1]
    assert resumed["late"] == [{"user": "bob", "day": date(2024, 1, 2), "cents": 3, "at": 3.0}]
    blobs, tables = recovered(tmp_path / "state")
    assert "operator/visits" not in blobs
    assert not {name for name in tables if name.endswith(":type")}
    agreed = JobRecord.decode(blobs[JOB_BLOB]).agreed
    assert agreed["visits"] == {
        "key": "date",
        "states": {"total": "ValueState", "users": "ListState", "cents": "MapState"},
    }
    assert {step: facts["key"] for step, facts in agreed.items()} == {
        "visits": "date",
        "windows": "str",
        "totals": "date",
        "first": "date",
    }


class Renamed(Processor):
    """The job's processor, without one of its states."""

    total = ValueState(default=0)
    cents = MapState()


def test_states_that_the_version_before_had_are_missed(tmp_path):
    """The names are compared whichever version has kept them."""
    shutil.copytree(FORMER, tmp_path / "former")
    outputs(tmp_path / "now", 1)
    for state, match in (("former", r"no longer declares: \['users'\]"), ("now", "the state 'users' .* is gone")):
        with pytest.raises(DataflowChangedError, match=match):
            run(build(halves(), Renamed)[0], tmp_path / state)


def test_a_step_that_begins_anew_agrees_anew(tmp_path):
    """Where another kind of step has taken the id of one, and its user has said that it begins with nothing."""
    outputs(tmp_path, 1)
    other = Dataflow("agreed")
    flow, _ = build(halves())
    out = TransactionalTestingSink()
    stream = other.source("in", flow.graph.sources()[0].source)
    counts = stream.key_by("user").stateful_map("visits", lambda n, _: (n + 1, n), initial=lambda: 0)
    counts.sink("visits-out", out)
    gone = dict.fromkeys(
        ("times", "windows", "totals", "first", "windows-out", "totals-out", "first-out", "late-out"), "drop"
    )
    run(other, tmp_path, on_change={**gone, "visits": "empty"})
    assert len(out.records) == 26


class Elsewhere:
    """A step on another worker: its tables are empty, and it is told what was agreed."""

    def __init__(self, backend, agreed):
        clock = ManualClock()
        self.step = DropDuplicates(KeySelector(lambda record: record), None, 1000)
        self.step.open(OperatorContext("step", backend, MsgpackCodec(), clock, PassedTime(clock), agreed=agreed))
        self.records = []

    def emit(self, records, times=None):
        self.records += records

    def take(self, *records):
        self.step.process(list(records), None, self)
        return self.records


@pytest.mark.parametrize(
    ("first", "others", "refused"),
    [
        (1, [2, 1 << 64], ["a", date(2024, 1, 1)]),
        ("a", ["b", None], [1]),
        (date(2024, 1, 1), [date(2024, 1, 2)], [1, "a"]),
        ((1, None), [(1, "a"), (2, None)], [("a", "a"), 1]),
    ],
    ids=str,
)
def test_another_worker_goes_by_what_was_agreed(tmp_path, first, others, refused):
    """Two workers learnt different types, each from its own first batch."""
    with StateBackend.open(tmp_path / "one") as one, StateBackend.open(tmp_path / "other") as other:
        here = Elsewhere(one, {})
        assert here.take(first) == [first]
        agreed = here.step.agreed()
        for record in refused:
            with pytest.raises(DataflowChangedError, match="has state by keys of type"):
                Elsewhere(other, agreed).take(record)
            assert not other.tables()
        there = Elsewhere(other, agreed)
        assert there.take(*others) == others
        assert set(there.step.agreed()) == {"key"}
