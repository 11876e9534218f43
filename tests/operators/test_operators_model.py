"""Whatever the input and wherever a job is interrupted: the output is that of a naive model, restarts or not."""

from __future__ import annotations

import builtins
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import naive
from hypothesis import given, settings
from hypothesis import strategies as st

from onceflow import Dataflow, count, first, last, max, mean, min, run, sum
from onceflow.state import ListState, MapState, Processor, ValueState
from onceflow.testing import ABORT, EOF, PAUSE, AbortedError, TestingSource, TransactionalTestingSink
from onceflow.windows import Tumbling

BATCH = 4
SIZE, OFFSET = timedelta(microseconds=20), timedelta(microseconds=7)
TTL = {"visits": 15, "pages": 25, "sums": 2**40}

RECORDS = st.fixed_dictionaries(
    {"k": st.sampled_from(["a", "b", "c", "dd"]), "v": st.integers(-20, 20), "t": st.integers(0, 150)}
)


@st.composite
def inputs(draw):
    """One to three partitions of records whose times go up and down, with marks in between."""
    partitions = []
    for _ in range(draw(st.integers(1, 3))):
        records = draw(st.lists(RECORDS, max_size=40))
        if draw(st.booleans()):
            # Nearly in order, so that watermarks mean something.
            records.sort(key=lambda record: record["t"] // 30)
        items = list(records)
        for _ in range(draw(st.integers(0, 3))):
            items.insert(draw(st.integers(0, len(items))), draw(st.sampled_from([ABORT, ABORT, EOF, PAUSE])))
        partitions.append(items)
    return partitions


class Sessions(Processor):
    visits = ValueState(default=0, ttl=timedelta(microseconds=TTL["visits"]))
    pages = ListState(ttl=timedelta(microseconds=TTL["pages"]))
    sums = MapState(ttl=timedelta(microseconds=TTL["sums"]))

    def process(self, record):
        self.visits.set(self.visits.get() + 1)
        self.pages.append(record["v"])
        parity = record["v"] % 2
        self.sums.put(parity, self.sums.get(parity, 0) + record["v"])
        yield {"k": self.key, "visits": self.visits.get(), "pages": self.pages.get(), "sums": self.sums.items()}
        if record["v"] % 5 == 0:
            self.pages.clear()


def counting(state, record):
    state = (state or 0) + 1
    return (None if state == 3 else state), (record["k"], state)


class Job:
    """All operators over one source, each with a sink."""

    def __init__(self, partitions, delay_us, lateness_us):
        self.sinks: dict[str, TransactionalTestingSink] = {}
        self.flow = Dataflow("model")
        source = TestingSource(*partitions, event_time=lambda record: record["t"], batch_size=BATCH)
        rows = self.flow.source("rows", source, max_out_of_orderness=timedelta(microseconds=delay_us))
        every = {
            "n": count(),
            "total": sum("v"),
            "low": min("v"),
            "high": max(lambda record: record["v"]),
            "avg": mean("v"),
            "opened": first("v"),
            "closed": last("v"),
        }
        self.keep("changes", rows.key_by("k").aggregate("changes", **every))
        self.keep("final", rows.key_by("k").aggregate("final", emit="final", **every))
        self.keep("counting", rows.key_by(lambda record: record["k"]).stateful_map("counting", counting))
        self.keep("sessions", rows.key_by("k").process("sessions", Sessions))
        self.keep("distinct", rows.drop_duplicates("distinct", ["k"], horizon=timedelta(microseconds=30)))
        window = rows.key_by("k").window(
            "windows", Tumbling(SIZE, offset=OFFSET), allowed_lateness=timedelta(microseconds=lateness_us)
        )
        self.keep("windows", window.aggregate(n=count(), total=sum("v"), low=min("v"), avg=mean("v"), closed=last("v")))
        self.keep("late", self.flow.late("windows"))
        plain = rows.filter(lambda record: record["v"] > 0).map(lambda record: record["v"])
        doubled = plain.flat_map(lambda number: [number] * (number % 3)).inspect(lambda number: number)
        self.keep("plain", doubled.map_batch(lambda batch: [-number for number in batch]))

    def keep(self, name, stream):
        self.sinks[name] = TransactionalTestingSink()
        stream.sink(f"{name}-out", self.sinks[name])

    def run(self, state):
        for _ in range(30):
            try:
                if run(self.flow, state, checkpoint_interval_s=1e-9).finished:
                    return
            except AbortedError:
                continue
        raise AssertionError("the job did not come to its end")


def window_rows(rows):
    start = datetime(1970, 1, 1, tzinfo=UTC)
    return [
        {
            "k": row["k"],
            "window_start": start + timedelta(microseconds=row["start"]),
            "window_end": start + timedelta(microseconds=row["start"]) + SIZE,
            "n": len(row["values"]),
            "total": builtins.sum(row["values"]),
            "low": builtins.min(row["values"]),
            "avg": builtins.sum(row["values"]) / len(row["values"]),
            "closed": row["values"][-1],
        }
        for row in rows
    ]


@settings(max_examples=60, deadline=None)
@given(partitions=inputs(), delay_us=st.sampled_from([0, 5, 40]), lateness_us=st.sampled_from([0, 10]))
def test_against_a_naive_model(partitions, delay_us, lateness_us):
    job = Job(partitions, delay_us, lateness_us)
    with tempfile.TemporaryDirectory() as directory:
        job.run(Path(directory) / "state")

    def expected(model):
        return naive.output(model, partitions, batch_size=BATCH, delay_us=delay_us)

    def windows(*, late):
        return naive.Windows(size_us=20, offset_us=7, lateness_us=lateness_us, late=late)

    plain = [r["v"] for items in [naive.stream(partitions, batch_size=BATCH, delay_us=delay_us)] for r in flat(items)]
    assert job.sinks["changes"].records == expected(naive.Totals())
    assert job.sinks["final"].records == expected(naive.Totals(final=True))
    assert job.sinks["counting"].records == expected(naive.Counting())
    assert job.sinks["sessions"].records == expected(naive.Sessions(ttl_us=TTL))
    assert job.sinks["distinct"].records == expected(naive.Distinct(horizon_us=30))
    assert job.sinks["windows"].records == window_rows(expected(windows(late=False)))
    assert job.sinks["late"].records == expected(windows(late=True))
    assert job.sinks["plain"].records == [-number for number in plain if number > 0 for _ in range(number % 3)]


def flat(events):
    return [record for kind, marked in events if kind == "batch" for record, _ in marked]
