"""Watermarks: the slowest partition counts, an ended one does not, and a restart changes nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from onceflow import Dataflow, count, run
from onceflow.embed import StateBackend
from onceflow.testing import ABORT, EOF, PAUSE, AbortedError, TestingSource, TransactionalTestingSink
from onceflow.windows import Tumbling

MICROS = timedelta(microseconds=1)


def windows(*streams, size=10, lateness=0):
    """Counts by window over one source for each of ``streams`` (its partitions), joined by a union."""
    flow, out, late = Dataflow("flow"), TransactionalTestingSink(), TransactionalTestingSink()
    sources = [
        flow.source(f"in-{number}", TestingSource(*partitions, event_time=lambda time: time, batch_size=2))
        for number, partitions in enumerate(streams)
    ]
    stream = sources[0].union(*sources[1:]) if sources[1:] else sources[0]
    keyed = stream.key_by(lambda _: "all")
    keyed.window("w", Tumbling(size * MICROS), allowed_lateness=lateness * MICROS).aggregate(n=count()).sink("out", out)
    flow.late("w").sink("late", late)
    return flow, out, late


def counts(sink):
    return [(row["window_start"].microsecond, row["n"]) for row in sink.records]


def test_the_slowest_partition_holds_windows_open(state):
    flow, out, late = windows([[0, 50, 51, 52, 53, 54], [1, 2, 3, 4, 5, 6]])
    run(flow, state)
    assert counts(out) == [(0, 7), (50, 5)]
    assert late.records == []


def test_a_batch_that_was_read_does_not_count_before_it_was_taken(state):
    """Both partitions have read up to 100 when the first one's batch is processed; the second one's is not late."""
    flow, out, late = windows([[0, 1, 90, 100], [0, 1, 50, 100]])
    run(flow, state)
    assert late.records == []
    assert counts(out) == [(0, 4), (50, 1), (90, 1), (100, 2)]


def test_a_union_waits_for_all_its_sources(state):
    flow, out, late = windows([[0, 50, 51, 52]], [[1, 2, 3, 4, 5]], [[6, 7]])
    run(flow, state)
    assert counts(out) == [(0, 8), (50, 3)]
    assert late.records == []


def test_an_ended_source_of_a_union_holds_nothing_back(state):
    flow, out, late = windows([[0]], [[5, 30, 31, 32, 8, 33]])
    run(flow, state)
    assert late.records == [8]
    assert counts(out) == [(0, 2), (30, 4)]


def test_allowed_lateness_keeps_windows_open(state):
    flow, out, late = windows([[5, 19, 6, 12, 22, 7, 41, 9]], lateness=10)
    run(flow, state)
    assert counts(out) == [(0, 2), (10, 2), (20, 1), (40, 1)]
    assert late.records == [7, 9]


@pytest.mark.parametrize("mark", [ABORT, EOF])
def test_a_partition_that_ended_before_a_restart_still_holds_nothing_back(tmp_path, mark):
    """The second partition ended at 5; the first is far ahead, so its late record stays late after a restart."""

    def build(between):
        return windows([[*range(100, 140), between, 8, 150], [5]])

    calm, calm_out, calm_late = build(PAUSE)
    run(calm, tmp_path / "calm", checkpoint_interval_s=1e-9)
    assert calm_late.records == [8]
    flow, out, late = build(mark)
    for _ in range(3):
        try:
            if run(flow, tmp_path / "state", checkpoint_interval_s=1e-9).finished:
                break
        except AbortedError:
            # So that the restart begins behind the end of the second partition.
            with StateBackend.open(tmp_path / "state", job="flow", read_only=True) as backend:
                assert backend.recovery.restored is not None
    assert late.records == calm_late.records
    assert counts(out) == counts(calm_out)


def test_windows_before_1970(state):
    flow, out, _ = windows([[-25, -11, -10, -1, 0, 9, 10]])
    run(flow, state)
    starts = [(row["window_start"] - datetime(1970, 1, 1, tzinfo=UTC)) // MICROS for row in out.records]
    assert starts == [-30, -20, -10, 0, 10]
    assert [row["n"] for row in out.records] == [1, 1, 2, 2, 1]
