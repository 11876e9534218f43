"""What comes out when the input has ended goes to the sinks in pieces, with checkpoints between: bounded and exact.

The kind of fault: all totals of a job go into one decision record, which does not take them; or a run that is killed
between two pieces repeats one, or leaves one out.
"""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
from lives import Life
from outbox_table import rows_sink, shown_rows

from onceflow import Columns, Dataflow, count, run
from onceflow.events import CheckpointCompleted
from onceflow.operators import aggregating
from onceflow.runtime import held, job
from onceflow.sinks import IdempotentSink, SinkWriter
from onceflow.sources import Source, SourceBatch, SourceReader
from onceflow.testing import TestingSource

#: Keys of a native type, and others before and after them, so that both tables have a part in what comes out.
NUMBERS = [*range(1000), *(2**70 + number for number in range(50)), *(-(2**70) - number for number in range(50))]
EXPECTED = [(str(number), 2) for number in sorted(NUMBERS)]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Pieces of 30 rows, of which the sinks hold 100."""
    monkeypatch.setattr(aggregating, "_ROWS_AT_ONCE", 30)
    monkeypatch.setattr(held, "MAX_HELD_RECORDS", 100)


def numbers(tmp_path):
    """Each number twice; all counts when they have ended, and after them what another step makes of those."""
    flow = Dataflow("numbers")
    source = flow.source("numbers", TestingSource([{"k": number} for number in NUMBERS + NUMBERS]))
    counts = source.key_by("k").aggregate("counts", n=count(), emit="final")
    counts.map(lambda row: {"k": str(row["k"]), "n": row["n"]}).sink("out", rows_sink(tmp_path / "out.db", ("k", "n")))
    counts.key_by("n").aggregate("sizes", keys=count(), emit="final").sink(
        "sizes-out", rows_sink(tmp_path / "sizes.db", ("n", "keys"))
    )
    return flow


def check(tmp_path):
    assert shown_rows(tmp_path / "out.db") == EXPECTED
    assert shown_rows(tmp_path / "sizes.db") == [(2, len(NUMBERS))]


def test_checkpoints_come_between_the_pieces(state, tmp_path):
    completed = []
    run(numbers(tmp_path), state, on_event=completed.append, checkpoint_interval_s=1e9)
    assert sum(isinstance(event, CheckpointCompleted) for event in completed) >= 5
    check(tmp_path)
    with pytest.warns(match="had finished before"):
        run(numbers(tmp_path), state)
    check(tmp_path)


@pytest.mark.usefixtures("crash_points")
@pytest.mark.parametrize(
    "point",
    [
        "barrier.pre_inject",
        "task.pre_snapshot",
        "task.post_snapshot",
        "decide.pre",
        "decide.post_wait",
        "sink.post_commit",
    ],
)
@pytest.mark.parametrize("number", [1, 2, 4])
def test_a_kill_between_the_pieces_repeats_and_loses_none(state, tmp_path, point, number):
    def life():
        run(numbers(tmp_path), state, checkpoint_interval_s=1e9)

    # Each life comes to one point further than the one before.
    ends = [Life(life, CRASH_AT=f"{point}:{number}").wait() for _ in range(2)]
    assert ends[0] == "killed"
    assert Life(life).wait() == "done"
    check(tmp_path)


def test_an_interruption_is_heard_between_the_pieces(state, tmp_path):
    sent = []

    def on_event(event):
        if isinstance(event, CheckpointCompleted) and not sent:
            sent.append(event)
            os.kill(os.getpid(), signal.SIGINT)

    assert not run(numbers(tmp_path), state, on_event=on_event, checkpoint_interval_s=1e9).finished
    shown = len(shown_rows(tmp_path / "out.db"))
    assert 0 < shown < len(EXPECTED)
    assert run(numbers(tmp_path), state, checkpoint_interval_s=1e9).finished
    check(tmp_path)


# -- many keys -----------------------------------------------------------------------------------------


class Numbers(Source):
    """Each number below a bound, once."""

    def __init__(self, count):
        self.count = count

    def partitions(self):
        return ["all"]

    def open(self, partition, position):
        return NumbersReader(self.count, position or 0)


class NumbersReader(SourceReader):
    def __init__(self, count, position):
        self.count, self.at = count, position

    def read(self, max_records):
        if self.at == self.count:
            return None
        first, self.at = self.at, min(self.count, self.at + max_records)
        # In an order that is not theirs.
        return SourceBatch(Columns({"n": np.arange(first, self.at) * 7919 % self.count}))

    def position(self):
        return self.at


class Ascending(IdempotentSink, SinkWriter):
    """Takes each number once, in order, and keeps none."""

    def __init__(self):
        self.next = 0

    def open(self, context):
        return self

    def write(self, records):
        assert [record["n"] for record in records] == list(range(self.next, self.next + len(records)))
        assert all(record["times"] == 1 for record in records)
        self.next += len(records)

    def flush(self):
        pass


def test_two_million_keys_within_a_small_bound(state, monkeypatch):
    bound = 4 << 20
    monkeypatch.setattr(aggregating, "_ROWS_AT_ONCE", 1 << 14)
    monkeypatch.setattr(held, "MAX_HELD_RECORDS", 1 << 40)
    monkeypatch.setattr(held, "MAX_HELD_BYTES", bound)
    most = [0]

    def noted(deliveries):
        held_now = sum(delivery.held_bytes + delivery.sealed_bytes for delivery in deliveries.values())
        most[0] = max(most[0], held_now)
        return held.holds_much(deliveries)

    monkeypatch.setattr(job, "holds_much", noted)
    sink = Ascending()
    flow = Dataflow("many")
    flow.source("in", Numbers(2_000_000)).key_by("n", key_type="i64").aggregate(
        "totals", times=count(), emit="final"
    ).sink("out", sink)
    result = run(flow, state, batch_size=1 << 16, checkpoint_interval_s=1e9)
    assert (result.finished, sink.next) == (True, 2_000_000)
    # The piece that passed the bound comes on top.
    assert bound < most[0] < 2 * bound
    assert result.checkpoints > 5
