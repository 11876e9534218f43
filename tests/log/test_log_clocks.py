"""Durations are measured by the log's own clock: what the wall clock is set to expels, expires and removes nothing."""

from __future__ import annotations

import pytest

from onceflow.exceptions import ConfigurationError, TransactionTimedOutError, UnknownMemberError
from onceflow.log import Consumer, Log, Producer, TopicPartition

HOUR, DAY, YEAR = 3600, 24 * 3600, 365 * 24 * 3600


class SetClock:
    """A clock whose wall time can be set; what passes, passes for both."""

    def __init__(self) -> None:
        self.passed = 1_000.0
        self.wall = 1_750_000_000.0

    def monotonic(self) -> float:
        return self.passed

    def now(self) -> float:
        return self.wall

    def advance(self, seconds: float) -> None:
        self.passed += seconds
        self.wall += seconds

    def set(self, seconds: float) -> None:
        """Sets the wall clock forward, or back."""
        self.wall += seconds


@pytest.fixture
def clock():
    return SetClock()


@pytest.fixture
def log(directory, clock):
    with Log.open(directory, clock=clock, upkeep_interval_s=None) as opened:
        opened.create_topic("t")
        yield opened


def maintained(log):
    """All that is due."""
    done = [log.maintain()]
    while done[-1].more:
        done.append(log.maintain())
    return done


def join(log, member, session_timeout_ms=10_000):
    return log.native.join_group("readers", member, ["t"], now_ms=log.now_ms(), session_timeout_ms=session_timeout_ms)


def beat(log, member):
    return log.native.heartbeat("readers", member, now_ms=log.now_ms())


def members(log):
    return [member.member for group in log.groups() for member in group.members]


# -- the clock is set (12) -----------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [HOUR, -HOUR, 30 * DAY, -30 * DAY])
def test_living_members_live_and_dead_ones_die_whatever_the_clock_is_set_to(log, clock, seconds):
    """Liveness by the wall clock: set back, a dead member kept its partitions; forward, living ones lost theirs."""
    join(log, "a")
    join(log, "b")
    clock.set(seconds)
    maintained(log)
    assert members(log) == ["a", "b"]
    beat(log, "a")
    clock.advance(8)
    beat(log, "a")
    clock.advance(8)
    beat(log, "a")
    assert members(log) == ["a"]
    with pytest.raises(UnknownMemberError):
        beat(log, "b")


@pytest.mark.parametrize("seconds", [HOUR, -HOUR, 30 * DAY])
def test_an_open_transaction_lasts_as_long_as_it_may(log, clock, seconds):
    """Liveness by the wall clock: set forward, open transactions were aborted and their producers fenced."""
    producer = Producer(log, transactional_id="tx", max_buffered_bytes=1000)
    producer.init_transactions()
    with producer.transaction():
        producer.produce_many("t", [b"x" * 500] * 5)
        clock.set(seconds)
        assert [done.timed_out for done in maintained(log)] == [0]
    assert log.partition("t", 0).records == 5
    producer.begin_transaction()
    producer.produce_many("t", [b"x" * 500] * 5)
    clock.set(-seconds)
    clock.advance(61)
    assert sum(done.timed_out for done in maintained(log)) == 1
    with pytest.raises(TransactionTimedOutError):
        producer.commit_transaction()


def test_offsets_of_a_group_are_forgotten_when_their_time_is_over(log, clock):
    """Liveness by the wall clock: set forward, the offsets of a group were forgotten, and it began anew."""
    with Consumer(log, "readers") as consumer:
        consumer.assign([TopicPartition("t", 0, 0)])
        consumer.commit(offsets=[TopicPartition("t", 0, 0)])
    clock.set(YEAR)
    maintained(log)
    assert [group.group for group in log.groups()] == ["readers"]
    clock.set(-2 * YEAR)
    clock.advance(8 * DAY)
    maintained(log)
    assert log.groups() == []


def test_a_producer_that_lives_is_known(log, clock):
    """Liveness by the wall clock: set forward, the log forgot the sequences of a producer that was at work."""
    with Producer(log) as producer:
        producer.produce_many("t", [b"1"])
        clock.set(YEAR)
        assert [done.forgotten for done in maintained(log)] == [0]
        producer.produce_many("t", [b"2"])
        assert log.partition("t", 0).records == 2


def test_records_are_not_removed_because_the_clock_was_set(log, clock):
    """Liveness by the wall clock: set forward by a month, retention of a week removed what was a minute old."""
    log.alter_topic("t", retention_ms=7 * DAY * 1000)
    with Producer(log) as producer:
        producer.produce_many("t", [b"before"])
        clock.set(30 * DAY)
        maintained(log)
        assert log.partition("t", 0).records == 1
        producer.produce_many("t", [b"meanwhile"])
        clock.set(-30 * DAY)
        producer.produce_many("t", [b"after"])
    clock.advance(6 * DAY)
    maintained(log)
    assert log.partition("t", 0).records == 3
    clock.advance(2 * DAY)
    maintained(log)
    assert log.partition("t", 0).records == 0


def test_processes_and_handles_share_the_clock(directory, clock):
    """The wall clock of each process is its own; the log's clock goes on where it was."""
    with Log.open(directory, clock=clock, upkeep_interval_s=None) as log:
        began = log.now_ms()
        assert began == 1_750_000_000_000
    clock.set(YEAR)
    clock.advance(5)
    with Log.open(directory, clock=clock, upkeep_interval_s=None) as log:
        assert log.now_ms() == began + 5_000
    with Log.open(directory, clock=clock, read_only=True) as log:
        assert log.now_ms() == began + 5_000


@pytest.mark.parametrize("time", [float("nan"), float("inf"), 1e300])
def test_no_time_is_refused(log, time):
    """A clock that is broken gets a typed error, not a time at the end of the range."""
    with pytest.raises(ConfigurationError, match="not a time"):
        log.native.time_ms(time, 1.0)
    with pytest.raises(ConfigurationError, match="not a time"):
        log.native.time_ms(1.0, time)


# -- retention and records of other times (14) -----------------------------------------------------------


@pytest.mark.parametrize("in_a_transaction", [False, True])
def test_a_record_from_the_future_goes_with_its_neighbours(log, clock, in_a_transaction):
    """One record from the future stopped retention by time for all that came after it, for ever."""
    log.alter_topic("t", retention_ms=DAY * 1000)
    future = 253_402_300_799_999  # the year 9999
    producer = Producer(log, transactional_id="tx" if in_a_transaction else None, max_buffered_bytes=1000)
    if in_a_transaction:
        producer.init_transactions()
        producer.begin_transaction()
    producer.produce_many("t", [b"x" * 600] * 3, timestamps=future)
    if in_a_transaction:
        producer.commit_transaction()
        producer.begin_transaction()
    producer.produce_many("t", [b"now"] * 3)
    if in_a_transaction:
        producer.commit_transaction()
    clock.advance(DAY - 60)
    maintained(log)
    assert log.partition("t", 0).records == 6
    clock.advance(120)
    maintained(log)
    assert (log.partition("t", 0).start, log.partition("t", 0).records) == (6, 0)


def test_a_record_that_was_old_when_it_came_goes_at_its_own_time(log, clock):
    """Retention counts from the record's timestamp where that is older than the append."""
    log.alter_topic("t", retention_ms=10 * DAY * 1000)
    with Producer(log) as producer:
        producer.produce_many("t", [b"old"], timestamps=int(clock.now() * 1000) - 8 * DAY * 1000)
        clock.advance(DAY)
        maintained(log)
        assert log.partition("t", 0).records == 1
        clock.advance(DAY + 60)
        maintained(log)
        assert log.partition("t", 0).records == 0


# -- deletes in a compacted topic (5) ---------------------------------------------------------------------


@pytest.fixture
def table(log):
    log.create_topic("table", cleanup_policy="compact", delete_retention_ms=HOUR * 1000)
    return log


def contents(log):
    start = log.partition("table", 0).start
    found = log.native.fetch("table", 0, start)
    return list(zip(found.keys, found.values, strict=True))


@pytest.mark.parametrize("timestamp", [1_000, 1_600_000_000_000, None, 253_402_300_799_999])
def test_a_delete_is_kept_until_readers_had_time_to_see_it(table, clock, timestamp):
    """Deletes went by the record's own timestamp: one with an old event time was gone before a reader saw it, one from
    the future never went. Their time counts from when compaction first saw them (KIP-534)."""
    with Producer(table) as producer:
        producer.produce_many("table", [b"1", b"2"], [b"k", b"other"])
        producer.produce_many("table", [None], [b"k"], timestamps=timestamp)
        maintained(table)
        assert contents(table) == [(b"other", b"2"), (b"k", None)]
        clock.advance(HOUR - 60)
        producer.produce_many("table", [b"3"] * 5, [b"other"] * 5)
        maintained(table)
        assert (b"k", None) in contents(table)
        clock.advance(120)
        # Nothing new has come: that the time is over is enough.
        maintained(table)
        assert contents(table) == [(b"other", b"3")]


def test_a_delete_of_a_transaction_too(table, clock):
    """The same where the batch was staged on the disk and is only referred to."""
    producer = Producer(table, transactional_id="tx", max_buffered_bytes=100)
    producer.init_transactions()
    with producer.transaction():
        producer.produce_many("table", [b"x" * 500, b"y"], [b"k", b"other"])
        producer.produce_many("table", [None], [b"k"], timestamps=1_000)
    maintained(table)
    assert contents(table) == [(b"other", b"y"), (b"k", None)]
    clock.advance(HOUR + 1)
    maintained(table)
    assert contents(table) == [(b"other", b"y")]


def test_deletes_that_came_later_stay_longer(table, clock):
    """Each delete has its own time, however often the batches around it are rewritten."""
    with Producer(table) as producer:
        producer.produce_many("table", [None], [b"first"])
        maintained(table)
        clock.advance(HOUR / 2)
        producer.produce_many("table", [None, None], [b"second", b"third"])
        maintained(table)
        clock.advance(HOUR / 2 + 1)
        maintained(table)
        assert contents(table) == [(b"second", None), (b"third", None)]
        clock.advance(HOUR / 2)
        maintained(table)
        assert contents(table) == []


# -- timestamps that are none (m, 6) ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "timestamp", [10**18, -(10**18), 253_402_300_800_000, -62_135_596_800_001, 2**63 - 1, -(2**63), 2**70]
)
def test_timestamps_of_other_units_are_refused(log, timestamp):
    """Times wrap or are cut silently: nanoseconds given where milliseconds are meant were taken, and wrapped later."""
    with Producer(log) as producer:
        with pytest.raises(ConfigurationError, match="years 1 to 9999"):
            producer.produce_many("t", [b"x"], timestamps=timestamp)
        if abs(timestamp) < 2**63:
            with pytest.raises(ConfigurationError, match=r"record 1 .*years 1 to 9999"):
                producer.produce_many("t", [b"x", b"y"], timestamps=[0, timestamp])
        reports = []
        with pytest.raises(ConfigurationError, match="years 1 to 9999"):
            producer.produce("t", b"x", timestamp=timestamp, on_delivery=lambda *report: reports.append(report))
        producer.flush()
    assert reports == []
    assert log.partition("t", 0).records == 0


def test_timestamps_at_both_ends_and_none(log, clock):
    """Zero is a moment of 1970 and not now; the ends of the years are timestamps as any others."""
    given = [-62_135_596_800_000, -1, 0, 253_402_300_799_999]
    with Producer(log) as producer:
        for timestamp in given:
            producer.produce("t", b"x", timestamp=timestamp)
        producer.produce("t", b"now")
    found = log.native.fetch("t", 0, 0).timestamps.tolist()
    assert found == [*given, int(clock.now() * 1000)]


@pytest.mark.parametrize(
    ("unit", "times", "millis"),
    [
        ("s", [0, -1, 253_402_300_799], [0, -1000, 253_402_300_799_000]),
        ("us", [1_999, -1], [1, -1]),
        ("ns", [1_999_999, -1, None], None),
        ("s", [10**15], None),
        ("s", [2**62], None),
    ],
)
def test_arrow_timestamps_in_any_unit(log, unit, times, millis):
    """Times wrap or are cut silently: a timestamp[s] of 10**15 became null and then 1970, -1 ns became 0."""
    pa = pytest.importorskip("pyarrow")
    with Producer(log) as producer:
        column = pa.array(times, pa.timestamp(unit))
        if millis is None:
            with pytest.raises(ConfigurationError, match=r"years 1 to 9999|is null"):
                producer.produce_many("t", ["x"] * len(times), timestamps=column)
        else:
            producer.produce_many("t", ["x"] * len(times), timestamps=column)
            assert log.native.fetch("t", 0, 0).timestamps.tolist() == millis
