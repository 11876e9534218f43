"""A list, a function of the position, an iterator as a source: what is promised, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

import onceflow as of
from onceflow.connectors.iterable import IterableSource
from onceflow.exceptions import (
    ConfigurationError,
    DeliveryGuaranteeError,
    MalformedRecordError,
    SourceChangedError,
    SourceError,
)
from onceflow.sources import SourceContext
from onceflow.testing import EOF, SourceContract, TestingSource, TransactionalTestingSink

ROWS = [{"n": number, "at": f"2024-01-01T00:00:{number:02d}Z"} for number in range(30)]
#: One without a time, one with something else.
ODD_ROWS = [*ROWS[:10], {"n": 10}, {"n": 11, "at": "noon"}, *ROWS[12:]]


def numbers(position):
    """Thirty rows."""
    for number in range(position, 30):
        yield ROWS[number]


class TestList(SourceContract):
    def make_source(self, directory):
        return IterableSource(ODD_ROWS, event_time="at", on_malformed="dead_letter")


class TestFunction(SourceContract):
    def make_source(self, directory):
        return IterableSource(numbers, event_time=lambda row: row["at"])


def read_all(source, position=None, size=7):
    reader = source.open("0", position)
    batches = []
    while (batch := reader.read(size)) is not None:
        batches.append(batch)
    reader.close()
    return [record for batch in batches for record in batch.records], batches


def position_after(source, count):
    reader = source.open("0", None)
    reader.read(count)
    return reader.position()


def test_event_times_and_records_without_one():
    """Kind: records without a time that vanish, or stop a job that was told to go on."""
    records, batches = read_all(IterableSource(ODD_ROWS, event_time="at", on_malformed="skip"))
    assert [row["n"] for row in records] == [*range(10), *range(12, 30)]
    assert sum(batch.skipped for batch in batches) == 2
    assert np.concatenate([batch.event_times for batch in batches])[0] == 1_704_067_200_000_000
    _, batches = read_all(IterableSource(ODD_ROWS, event_time="at", on_malformed="dead_letter"))
    rejected = [one for batch in batches for one in batch.rejected]
    assert [(one.position, one.text) for one in rejected] == [
        ("0:record 10", '{"n":10}'),
        ("0:record 11", '{"n":11,"at":"noon"}'),
    ]
    with pytest.raises(MalformedRecordError, match=r"0:record 10: has no event time by .*KeyError"):
        read_all(IterableSource(ODD_ROWS, event_time="at"))


@pytest.mark.parametrize(
    ("records", "told"),
    [
        ([*ROWS[:3], {"n": 99}, *ROWS[4:]], "first 5 records of the list are not those"),
        (ROWS[:4], "has 4 records, and 5 of it were read"),
        (lambda position: iter(ROWS), r"first record that <lambda>\(4\) gives is not the one"),
        (lambda position: iter(ROWS[:0]), r"<lambda>\(4\) gives nothing, and 5 records were read"),
    ],
    ids=["changed", "shorter", "deaf", "empty"],
)
def test_what_is_not_what_was_read_is_refused(records, told):
    """Kind: a list that was edited, a function that does not look at its position: other records, or twice the same."""
    like = ROWS if isinstance(records, list) else numbers
    with pytest.raises(SourceChangedError, match=told):
        IterableSource(records).open("0", position_after(IterableSource(like), 5))


def test_a_list_that_has_grown_is_read_on():
    """Kind: the rest of a list that has grown is left out, or its beginning comes again."""
    kept = position_after(IterableSource(ROWS[:5]), 5)
    assert read_all(IterableSource(ROWS), kept)[0] == ROWS[5:]


def test_records_that_differ_each_time_are_let_through_if_told():
    """Kind: a check that cannot be right for a function which puts the time into its records."""
    calls = iter(range(1000))

    def made(position):
        return ({"n": number, "call": next(calls)} for number in range(position, 8))

    source = IterableSource(made)
    with pytest.raises(SourceChangedError, match="give deterministic=False"):
        source.open("0", position_after(source, 5))
    source = IterableSource(made, deterministic=False)
    assert [row["n"] for row in read_all(source, position_after(source, 5))[0]] == [5, 6, 7]
    assert [IterableSource(made, deterministic=given).deterministic for given in (True, False, None)] == [
        True,
        False,
        False,
    ]
    assert IterableSource(ROWS).deterministic
    assert not IterableSource(ROWS, event_time=lambda row: row["at"]).deterministic


def test_sets_have_one_digest_and_objects_the_one_of_their_type():
    """Kind: a digest that goes by the order of a set, or by an address, is another one in the next process."""

    class Thing:
        pass

    records = [{"tags": {f"tag {number}" for number in range(50)}, "thing": Thing(), 1: 1 << 70}, Thing(), np.int32(4)]
    again = [{"tags": {f"tag {number}" for number in reversed(range(50))}, "thing": Thing(), 1: 1 << 70}, Thing(), 4]
    IterableSource(again).open("0", position_after(IterableSource(records), 3))


def test_functions_that_change_what_they_were_given_do_not_change_the_list(state):
    """Kind: the list that a resumed run reads is not the one that was given, because the first run has changed it."""
    given = [{"n": number} for number in range(20)]

    def changed(row):
        row["n"] *= 2
        return row

    def flow(sink):
        made = of.Dataflow("job")
        made.source("stop", TestingSource([EOF])).sink("nothing", TransactionalTestingSink())
        made.source("in", IterableSource(given)).map(changed).sink("out", sink)
        return made

    sink = TransactionalTestingSink()
    while not of.run(flow(sink), state, batch_size=3).finished:
        pass
    assert sink.records == [{"n": 2 * number} for number in range(20)]
    assert given == [{"n": number} for number in range(20)]


def test_an_iterator_is_for_jobs_that_may_lose(state):
    """Kind: an iterator, which nobody can read again, in a job that claims more."""

    def flow(sink):
        made = of.Dataflow("job")
        made.source("in", IterableSource(iter(range(20)))).sink("out", sink)
        return made

    sink = TransactionalTestingSink()
    with pytest.raises(DeliveryGuaranteeError, match="cannot be read again"):
        of.run(flow(sink), state)
    of.run(flow(sink), state, guarantee="at_most_once")
    assert sink.records == list(range(20))


def test_a_run_until_caught_up_comes_back(state):
    """Kind: a partition that is taken for ended for good when it was caught up with."""
    sink, given = TransactionalTestingSink(), list(range(5))

    def caught_up():
        flow = of.Dataflow("job")
        flow.source("in", IterableSource(given)).sink("out", sink)
        return of.run(flow, state, until="caught_up")

    assert not caught_up().finished
    given += range(5, 9)
    caught_up()
    caught_up()
    assert sink.records == list(range(9))
    reader = IterableSource(given).open_with_context("0", None, SourceContext(until="caught_up"))
    given.append(9)
    assert reader.read(100).records == list(range(9))
    assert reader.read(100) is None


def test_wrong_settings_are_refused_by_name():
    """Kind: characters of a text, or keys of a dict, taken for records; a setting that is found wrong after an hour."""
    for given in ("text", b"bytes", {"a": 1}, {1, 2}, 5, np.arange(3)):
        with pytest.raises(ConfigurationError, match="IterableSource: records is a"):
            IterableSource(given)
    with pytest.raises(
        ConfigurationError, match=r"nothing must take the position.*IterableSource\(iter\(nothing\(\)\)\)"
    ):

        def nothing():
            yield 1

        IterableSource(nothing)
    import pyarrow as pa  # noqa: PLC0415

    with pytest.raises(ConfigurationError, match="is read by an ArrowSource"):
        IterableSource(pa.table({"a": [1]}))
    for wrong in ({"event_time": 5}, {"on_malformed": "ignore"}, {"deterministic": "yes"}):
        with pytest.raises(ConfigurationError, match=next(iter(wrong))):
            IterableSource([1], **wrong)
    with pytest.raises(SourceError, match="not a position in an iterable"):
        IterableSource([1]).open("0", 5)


def test_what_the_function_raises_names_the_source(state):
    """Kind: an error without a word about where it comes from."""

    def broken(position):
        yield 1
        raise ValueError("no more")

    flow = of.Dataflow("job")
    flow.source("in", IterableSource(broken)).sink("out", TransactionalTestingSink())
    with pytest.raises(SourceError, match="source 'in', partition '0': ValueError: no more"):
        of.run(flow, state)
