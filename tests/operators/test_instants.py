"""Datetimes as instants: in keys, minima and maxima, also of the hour that a clock shows twice.

Python compares and hashes datetimes of one zone by what the clock shows. The right results are worked out in UTC.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest

from onceflow import Columns, Dataflow, count, max, min, run
from onceflow.exceptions import OnceflowError, UserFunctionError
from onceflow.state import Processor, ValueState
from onceflow.testing import EOF, TestingSource, TransactionalTestingSink

NEW_YORK = ZoneInfo("America/New_York")
#: 05:45, 06:30, 06:45 and again 05:45 in UTC.
MOMENTS = [
    datetime(2024, 11, 3, 1, 45, tzinfo=NEW_YORK),
    datetime(2024, 11, 3, 1, 30, fold=1, tzinfo=NEW_YORK),
    datetime(2024, 11, 3, 1, 45, fold=1, tzinfo=NEW_YORK),
    datetime(2024, 11, 3, 5, 45, tzinfo=UTC),
]
INSTANTS = [moment.astimezone(UTC) for moment in MOMENTS]


class Visits(Processor):
    visits = ValueState(default=0)

    def process(self, record):
        self.visits.set(self.visits.get() + 1)
        yield self.visits.get()


def as_columns(rows):
    zoned = pa.timestamp("us", "America/New_York")
    return Columns({"k": pa.array([row["k"] for row in rows], zoned), "one": pa.array([row["one"] for row in rows])})


def listed(records):
    return [row for batch in records for row in (batch.to_rows() if isinstance(batch, Columns) else [batch])]


@pytest.mark.parametrize("form", [None, as_columns], ids=["rows", "columns"])
@pytest.mark.parametrize("batch_size", [1, 100])
@pytest.mark.parametrize("stops", [False, True])
@pytest.mark.parametrize("by", [("k",), ("k", "one")])
def test_keys_are_instants(state, form, batch_size, stops, by):
    """Two instants of the hour that comes twice were one key, until a restart told them apart."""
    rows = [{"k": moment, "one": 1} for moment in MOMENTS]
    if stops:
        rows[2:2] = [EOF]
    flow = Dataflow("flow")
    stream = flow.source("in", TestingSource(rows, batch_size=batch_size))
    if form is not None:
        stream = stream.map_batch(form)
    keyed = stream.key_by(*by)
    sinks = {name: TransactionalTestingSink() for name in ("final", "map", "process", "distinct")}
    keyed.aggregate("final", emit="final", n=count()).sink("final-out", sinks["final"])
    keyed.stateful_map("map", lambda n, row: ((n or 0) + 1, (n or 0) + 1)).sink("map-out", sinks["map"])
    keyed.process("process", Visits).sink("process-out", sinks["process"])
    stream.drop_duplicates("distinct", list(by), horizon=timedelta(days=1)).sink("distinct-out", sinks["distinct"])
    while not run(flow, state).finished:
        pass
    assert [(row["k"], row["n"]) for row in listed(sinks["final"].records)] == list(
        zip(INSTANTS[:3], (2, 1, 1), strict=True)
    )
    assert sinks["map"].records == sinks["process"].records == [1, 1, 1, 2]
    assert [row["k"].astimezone(UTC) for row in listed(sinks["distinct"].records)] == INSTANTS[:3]


@pytest.mark.parametrize("form", [None, as_columns], ids=["rows", "columns"])
@pytest.mark.parametrize("batch_size", [1, 100])
@pytest.mark.parametrize("backwards", [False, True])
def test_the_least_and_the_greatest_instant(state, form, batch_size, backwards):
    """The least was later than the greatest where the clock showed less; also within tuples."""
    moments = MOMENTS[:3][:: -1 if backwards else 1]
    flow, sink = Dataflow("flow"), TransactionalTestingSink()
    source = TestingSource([{"k": moment, "one": 1} for moment in moments], batch_size=batch_size)
    stream = flow.source("in", source)
    if form is not None:
        stream = stream.map_batch(form)
    stream.key_by("one").aggregate(
        "t",
        emit="final",
        least=min("k"),
        greatest=max("k"),
        least_pair=min(lambda row: (1, row["k"])),
        greatest_pair=max(lambda row: (1, row["k"])),
    ).sink("out", sink)
    run(flow, state)
    [row] = listed(sink.records)
    found = [row["least"], row["least_pair"][1], row["greatest"], row["greatest_pair"][1]]
    assert [moment.astimezone(UTC) for moment in found] == [INSTANTS[0]] * 2 + [INSTANTS[2]] * 2


def test_either_end_of_the_years(state):
    """What UTC has no datetime for still has an order; as a key it is refused."""
    far = [datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))), datetime(1, 1, 1, tzinfo=ZoneInfo("Asia/Tokyo"))]
    flow, sink = Dataflow("flow"), TransactionalTestingSink()
    flow.source("in", TestingSource([*far, MOMENTS[0]], batch_size=3)).key_by(lambda _: 1).aggregate(
        "t", emit="final", least=min(lambda moment: moment), greatest=max(lambda moment: moment)
    ).sink("out", sink)
    run(flow, state)
    assert sink.records == [{"key": 1, "least": far[0], "greatest": MOMENTS[0]}]
    with pytest.raises(UserFunctionError, match=r"step 't'.* has the key .*record 1 of the batch"):
        run_keyed([MOMENTS[0], far[1]], state / "keyed")


class Nanoseconds(datetime):
    """As ``pandas.Timestamp``: a datetime with nanoseconds, which ``==`` of datetimes leaves aside."""

    nanosecond = 1


class NoTime(datetime):
    """As ``pandas.NaT``: a datetime that is none."""

    nanosecond = math.nan

    def utcoffset(self):
        raise ValueError("NaTType does not support utcoffset")


def run_keyed(keys, state, step=lambda keyed: keyed.aggregate("t", emit="final", n=count())):
    flow, sink = Dataflow("keyed"), TransactionalTestingSink()
    step(flow.source("in", TestingSource(keys, batch_size=len(keys))).key_by(lambda key: key)).sink("out", sink)
    run(flow, state, resume_from="none")
    return sink.records


STEPS = {
    "aggregate": lambda keyed: keyed.aggregate("t", emit="final", n=count()),
    "stateful_map": lambda keyed: keyed.stateful_map("t", lambda n, row: ((n or 0) + 1, row)),
    "process": lambda keyed: keyed.process("t", Visits),
}


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("zone", [None, UTC, NEW_YORK])
@pytest.mark.parametrize("shape", [lambda key: key, lambda key: (1, key)], ids=["single", "tuple"])
@pytest.mark.parametrize("row", [0, 1])
@pytest.mark.parametrize(
    ("kind", "reason"), [(Nanoseconds, "parts below a microsecond"), (NoTime, "keys are int, str")]
)
def test_times_that_are_no_keys(state, step, zone, shape, row, kind, reason):
    """Times one nanosecond apart were one key; no time at all ended the run with a bare ValueError."""
    keys = [datetime(2024, 1, 1, tzinfo=zone)] * 2
    keys[row] = kind(2024, 1, 2, tzinfo=zone)
    with pytest.raises(UserFunctionError, match=rf"step 't'.*{reason}.*record {row} of the batch is"):
        run_keyed(list(map(shape, keys)), state, step)


class Subclass(datetime):
    """Of another library."""


@pytest.mark.parametrize("zone", [None, UTC, NEW_YORK])
def test_subclasses_are_keys_as_the_moments_that_they_are(state, zone):
    """A key comes out as a plain datetime, whichever class it is first seen as."""
    keys = [Subclass(2024, 11, 3, 1, 30, 5, 7, zone), datetime(2024, 11, 3, 1, 30, 5, 7, zone)]
    [record] = run_keyed(keys, state)
    expected = keys[1] if zone is None else keys[1].astimezone(UTC)
    assert record == {"key": expected, "n": 2}
    assert type(record["key"]) is datetime


@pytest.mark.parametrize("aggregate", [min, max])
def test_nanoseconds_are_not_cut_from_values(state, aggregate):
    """State keeps microseconds: a time with parts below is refused."""
    flow = Dataflow("flow")
    flow.source("in", TestingSource([Nanoseconds(2024, 1, 1)])).key_by(lambda _: 1).aggregate(
        "t", emit="final", v=aggregate(lambda value: value)
    ).sink("out", TransactionalTestingSink())
    with pytest.raises(OnceflowError, match=r"step 't'.*Nanoseconds"):
        run(flow, state)
