"""Event times at the ends of what can be: outside of the years 1 to 9999, or not whole microseconds, is malformed.

The kind of fault: a time that wraps, is cut, or is read as something else without a word. Nanoseconds where
milliseconds are meant, ``timestamp[s]`` of 10**15 and -1 ns became times of other years; the JSON text "1701011112345"
(milliseconds) was read as the year 1701. Every source asks the one place that is tested here.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reading import read

from onceflow._native import Log, LogProducer
from onceflow.connectors.event_time import (
    EventTimeParser,
    arrow_micros,
    arrow_reason,
    micros,
    millis_to_micros,
    out_of_range,
)
from onceflow.connectors.files import CsvSource, JsonLinesSource
from onceflow.connectors.log import LogSource
from onceflow.exceptions import ConfigurationError, MalformedRecordError, SourceError
from onceflow.types import FIRST_MICROS, LAST_MICROS

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY = 86_400_000_000
EAST, WEST = timezone(timedelta(hours=14)), timezone(timedelta(hours=-12))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0001-01-01", FIRST_MICROS),
        ("9999-12-31T23:59:59.999999Z", LAST_MICROS),
        ("1970-01-02", DAY),
        ("19700102", DAY),
        ("1970-W01-5", DAY),
        ("19700102T000000Z", DAY),
        ("1970-01-01T00:00:00.1234560", 123_456),
        ("1970-01-01 00:00:00,5", 500_000),
        ("1970-01-01t00:01", 60_000_000),
        ("1970-01-01T01+01:00", 0),
        ("1970-01-01T00:00:00.000001+05:30", 1 - 19_800_000_000),
        (-62_135_596_800, FIRST_MICROS),
        (253_402_300_799, LAST_MICROS - 999_999),
        (np.int32(1), 1_000_000),
        (np.float32(0.5), 500_000),
        (Decimal("0.000001"), 1),
        (0.1 + 0.2, 300_000),
        (datetime(1970, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))), 0),
        (datetime(1970, 1, 2), DAY),
        (date(1970, 1, 2), DAY),
        (np.datetime64(1000, "ns"), 1),
        (np.datetime64("1970-01-02", "D"), DAY),
    ],
    ids=repr,
)
def test_what_is_a_time(value, expected):
    assert micros(value) == expected
    assert EventTimeParser().parse([value]).tolist() == [expected]


@pytest.mark.parametrize(
    "value",
    [
        "1701011112345",
        "20240101101112",
        "1700000000",
        "2024-01-01x10:11",
        "2024-01-01T10:11.5",
        "2024-01-01T10:11:12.1234567",
        "2024-01-01T101112.1234567",
        "2024-01-01T10:11:12.123456789Z",
        "soon",
        "",
        "10000-01-01",
        datetime(1, 1, 1, tzinfo=EAST),
        datetime(9999, 12, 31, 13, tzinfo=WEST),
        "0001-01-01T00:00:00+14:00",
        1_700_000_000_000,
        10**30,
        -62_135_596_801,
        253_402_300_800,
        float("nan"),
        float("inf"),
        1e300,
        Decimal("0.0000001"),
        Decimal(10) ** 40,
        Decimal("NaN"),
        True,
        None,
        b"2024-01-01",
        np.datetime64(1, "ns"),
        np.datetime64("NaT"),
        np.datetime64(2**62, "s"),
        np.datetime64(2**62, "us"),
    ],
    ids=repr,
)
def test_what_is_none(value):
    with pytest.raises(ValueError):
        micros(value)
    with pytest.raises(ValueError):
        EventTimeParser().parse(["2024-01-01", value] if isinstance(value, str) else [value])


@given(st.datetimes(timezones=st.none() | st.timezones()))
def test_texts_and_datetimes_mean_the_same(moment):
    """ISO text of any moment is read to the microsecond, at a glance or in full."""
    at = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    exact = (at - EPOCH) // timedelta(microseconds=1)
    if FIRST_MICROS <= exact <= LAST_MICROS:
        assert micros(moment) == micros(moment.isoformat()) == micros(moment.isoformat(" ")) == exact
    else:
        with pytest.raises(ValueError):
            micros(moment)


@given(st.integers(-(2**63), 2**63 - 1), st.sampled_from(["s", "ms", "us", "ns"]))
def test_arrow_timestamps_are_exact_or_refused(ticks, unit):
    times, valid = arrow_micros(pa.array([ticks, None], pa.timestamp(unit)))
    scaled, rest = divmod(ticks * 1_000_000, {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit])
    right = rest == 0 and FIRST_MICROS <= scaled <= LAST_MICROS
    assert valid.tolist() == [right, False]
    if right:
        assert times[0] == scaled
    else:
        assert str(ticks) in arrow_reason(pa.array([ticks], pa.timestamp(unit)), 0)


@given(st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=True))
def test_seconds_of_columns_and_rows_mean_the_same(seconds):
    kind = pa.float64() if isinstance(seconds, float) else pa.uint64() if seconds >= 0 else pa.int64()
    times, valid = arrow_micros(pa.array([seconds], kind))
    try:
        expected = micros(seconds)
    except ValueError:
        assert not valid[0]
    else:
        assert (valid[0], times[0]) == (True, expected)


def test_int64_microseconds_outside_of_the_years():
    assert out_of_range(np.array([], np.int64)) is None
    assert out_of_range(np.array([FIRST_MICROS, 0, LAST_MICROS])) is None
    for wrong in (FIRST_MICROS - 1, LAST_MICROS + 1, -(2**63), 2**63 - 1):
        assert out_of_range(np.array([0, wrong])) == 1


def sources(tmp_path, policy):
    (tmp_path / "in.csv").write_text(
        "at,n\n2024-01-01,1\n1701011112345,2\n2024-01-02T00:00:00.1234567,3\n2024-01-03,4\n"
    )
    (tmp_path / "in.jsonl").write_text(
        '{"at": "2024-01-01", "n": 1}\n{"at": "1701011112345", "n": 2}\n{"at": 1701011112345, "n": 3}\n'
        '{"at": "2024-01-03", "n": 4}\n'
    )
    types = {"at": "str"}
    yield CsvSource(tmp_path / "in.csv", event_time="at", types=types, on_malformed=policy)
    yield CsvSource(tmp_path / "in.csv", event_time="at", types=types, on_malformed=policy, as_columns=True)
    yield JsonLinesSource(tmp_path / "in.jsonl", event_time="at", on_malformed=policy)


def test_sources_refuse_them_under_their_policy(tmp_path):
    for source in sources(tmp_path, "skip"):
        reader = source.open(source.partitions()[0], None)
        batch = reader.read(10)
        reader.close()
        records = batch.records if isinstance(batch.records, list) else batch.records.to_rows()
        assert ([record["n"] for record in records], batch.skipped) == ([1, 4], 2)
        assert batch.event_times.tolist() == [micros("2024-01-01"), micros("2024-01-03")]
    for source in sources(tmp_path, "fail"):
        with pytest.raises(MalformedRecordError, match="as event time 'at'"):
            read(source)


@pytest.mark.parametrize("stamp", [LAST_MICROS // 1000 + 1, 2**62, -(2**62)])
def test_timestamps_of_a_log_that_are_no_times(tmp_path, stamp):
    """Milliseconds of far years wrapped when they became microseconds: the log takes none, and nothing of the call."""
    with Log.open(tmp_path / "log") as log:
        log.create_topic("t")
        producer = LogProducer(log, now_ms=1)
        with pytest.raises(ConfigurationError, match=f"record 1 has the timestamp {stamp}, which lies outside of the"):
            producer.produce("t", ["0", "1"], timestamps=np.array([1, stamp]), now_ms=1)
        producer.produce("t", ["0", "1"], timestamps=np.array([1, LAST_MICROS // 1000]), now_ms=1)
    found = read(LogSource(tmp_path / "log", "t", event_time="timestamp"))
    assert found.times == [1_000, LAST_MICROS // 1000 * 1000]


def test_timestamps_of_a_log_of_the_version_before():
    """It took any number; what is no time is told from what is."""
    times, valid = millis_to_micros(np.array([1, LAST_MICROS // 1000 + 1, 2**62, -(2**62), 4]))
    assert valid.tolist() == [True, False, False, False, True]
    assert times[valid].tolist() == [1_000, 4_000]


def test_a_function_for_columns_is_held_to_its_word(tmp_path):
    """Times of another shape or type, or out of range, from a user's function for columns."""
    with Log.open(tmp_path / "log") as log:
        log.create_topic("t")
        LogProducer(log, now_ms=1).produce("t", ["0", "1"], now_ms=1)
    for made, error in (
        (np.array([1, 2**62]), MalformedRecordError),
        (np.array([1]), SourceError),
        (np.array([1.0, 2.0]), SourceError),
        ([1, 2], SourceError),
    ):
        source = LogSource(tmp_path / "log", "t", as_columns=True, event_time=lambda _, made=made: made)
        reader = source.open("0", None)
        with pytest.raises(error, match=r"event[_ ]time"):
            reader.read(10)
        reader.close()
