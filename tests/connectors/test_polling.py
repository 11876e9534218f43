"""A function that is called every so often as a source: when it is called, and where a run resumes."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import threading
import time
from datetime import timedelta

import numpy as np
import pytest

import onceflow as of
from onceflow.clock import ManualClock
from onceflow.connectors.polling import Polled, PollingSource
from onceflow.exceptions import ConfigurationError, DeliveryGuaranteeError, SourceChangedError, SourceError
from onceflow.sources import SourceContext
from onceflow.testing import SourceContract, TransactionalTestingSink

ROWS = [{"n": number, "at": 1_700_000_000 + number} for number in range(40)]
SOON = timedelta(milliseconds=2)
LONG = timedelta(hours=1)


def paged(rows, size=9, calls=None):
    """What gives the rows behind a position, so many at a time, and then that there will never be more."""

    def page(position):
        if calls is not None:
            calls.append(position)
        start = position or 0
        if start >= len(rows):
            return None
        found = rows[start : start + size]
        return Polled(list(found), start + len(found), more=True)

    return page


class TestRows(SourceContract):
    cuts_alike = False

    def make_source(self, directory):
        return PollingSource(paged(ROWS), every=SOON, event_time="at")


class TestColumns(SourceContract):
    cuts_alike = False

    def make_source(self, directory):
        def page(position):
            start = position or 0
            if start >= 40:
                return None
            end = min(start + 9, 40)
            numbers = np.arange(start, end)
            return Polled(of.Columns({"n": numbers, "at": numbers.astype("M8[s]")}), end, more=True)

        return PollingSource(page, every=SOON, event_time="at")


def next_of(reader, size=100):
    """The next batch that holds something; None at the end."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        batch = reader.read(size)
        if batch is None or len(batch.records):
            return batch
        time.sleep(0.001)
    raise TimeoutError


@pytest.mark.parametrize("kind", ["rows", "columns"])
def test_rows_without_a_time(kind):
    """Kind: records without a time that vanish, in one of the two forms."""
    times = [0, None, 5, "noon"]
    rows = [{"n": number, "at": at} for number, at in enumerate(times)]
    columns = of.Columns({"n": np.arange(4), "at": np.array(times, dtype=object)})
    answers = {"rows": rows, "columns": columns}
    settings = {"every": SOON, "event_time": "at", "on_malformed": "dead_letter"}
    reader = PollingSource(lambda position: (answers[kind], 1), **settings).open("0", None)
    batch = next_of(reader)
    reader.close()
    assert batch.event_times.tolist() == [0, 5_000_000]
    assert [(one.position, one.text) for one in batch.rejected] == [
        ("0:record 1", '{"n":1,"at":null}'),
        ("0:record 3", '{"n":3,"at":"noon"}'),
    ]


def test_a_call_comes_when_it_is_due_by_the_clock_of_the_job():
    """Kind: a source that asks all the time, or by another clock than the job's."""
    clock, woken, calls = ManualClock(), threading.Semaphore(0), []

    class Wake:
        def set(self):
            woken.release()

    def poll(position):
        calls.append(clock.monotonic())
        return ([len(calls)], len(calls))

    context = SourceContext(clock=clock, wake=Wake())
    reader = PollingSource(poll, every=timedelta(seconds=10)).open_with_context("0", None, context)
    assert woken.acquire(timeout=30)
    assert next_of(reader).records == [1]
    clock.advance(9.9)
    assert not woken.acquire(timeout=1.5)
    clock.advance(0.2)
    assert woken.acquire(timeout=30)
    assert next_of(reader).records == [2]
    reader.close()
    assert calls == [0.0, 10.1]


def test_a_job_that_waits_for_a_call_does_nothing(state):
    """Kind: a wait that costs a processor."""
    calls, sink = [], TransactionalTestingSink()

    def poll(position):
        calls.append(position)
        return None if len(calls) == 3 else ([len(calls)], len(calls))

    flow = of.Dataflow("job")
    flow.source("in", PollingSource(poll, every=timedelta(seconds=0.7))).sink("out", sink)
    before, begun = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    of.run(flow, state)
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert time.monotonic() - begun > 1.3
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.7
    assert (calls, sink.records) == ([None, 1, 2], [1, 2])


def test_a_call_that_never_returns_keeps_nobody(state):
    """Kind: a service that does not answer keeps the job from its checkpoints and from its end."""
    sink, asked = TransactionalTestingSink(), threading.Event()

    def poll(position):
        if position is None:
            return (list(range(5)), "next")
        asked.set()
        time.sleep(3600)
        raise AssertionError

    def stop():
        asked.wait(30)
        until = time.monotonic() + 30
        while len(sink.records) < 5 and time.monotonic() < until:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    flow = of.Dataflow("job")
    flow.source("in", PollingSource(poll, every=SOON)).sink("out", sink)
    threading.Thread(target=stop).start()
    result = of.run(flow, state, checkpoint_interval_s=0.05)
    assert not result.finished
    assert sink.records == list(range(5))


@pytest.mark.parametrize("size", [1, 4, 100])
def test_a_job_resumes_within_an_answer(state, size):
    """Kind: the rest of an answer that is left out, or its beginning that comes twice."""
    sink, calls = TransactionalTestingSink(), []

    def flow():
        made = of.Dataflow("job")
        source = PollingSource(paged(ROWS, 9, calls), every=SOON)

        def stops(row):
            if len(calls) % 3 == 2 and row["n"] % 7 == 3 and row["n"] not in stopped:
                stopped.add(row["n"])
                os.kill(os.getpid(), signal.SIGTERM)
            return row

        made.source("in", source).map(stops).sink("out", sink)
        return made

    stopped = set()
    while not of.run(flow(), state, batch_size=size, checkpoint_interval_s=1e-6).finished:
        pass
    assert stopped
    assert sink.records == ROWS


def test_an_answer_that_is_another_one_is_refused():
    """Kind: a function that gives something else for a position, of which the job has a part already."""

    def resumed(rows, **settings):
        reader = PollingSource(paged(ROWS), every=SOON).open("0", None)
        assert next_of(reader, 5).records == ROWS[:5]
        position = reader.position()
        reader.close()
        reader = PollingSource(paged(rows), every=SOON, **settings).open("0", position)
        with contextlib.closing(reader):
            assert reader.position() == position
            return next_of(reader).records

    changed = [*ROWS[:4], {"n": 99}, *ROWS[5:]]
    assert resumed(ROWS) == ROWS[5:9]
    assert resumed([*ROWS[:8], {"n": 99}]) == [*ROWS[5:8], {"n": 99}]
    with pytest.raises(SourceChangedError, match="gives other records than the 5 that were handed out"):
        resumed(changed)
    assert resumed(changed, deterministic=False) == ROWS[5:9]
    for rows in (ROWS[:3], []):
        with pytest.raises(SourceChangedError, match=rf"gives {len(rows)} records, and 5 were handed out"):
            resumed(rows)


def test_an_answer_that_does_not_get_on_is_refused(state):
    """Kind: the same records again and again."""
    flow = of.Dataflow("job")
    source = PollingSource(lambda position: ([1, 2], "same"), every=SOON, start="same")
    flow.source("in", source).sink("out", TransactionalTestingSink())
    with pytest.raises(SourceError, match="given 2 records and the same position, so they would come again"):
        of.run(flow, state)


def test_until_caught_up_ends_with_what_is_there():
    """Kind: a run until caught up that leaves something, or waits for what is to come."""

    def ends(*answers):
        left = list(answers)
        source = PollingSource(lambda position: left.pop(0), every=LONG)
        reader = source.open_with_context("0", None, SourceContext(until="caught_up"))
        found = []
        while (batch := next_of(reader)) is not None:
            found += batch.records
        reader.close()
        return found, left, reader.position()

    # A call that gives nothing is the end for now; so is one that says so.
    assert ends(([1], 1), ([2], 2), ([], 2), ([3], 3)) == ([1, 2], [([3], 3)], {"at": 2, "record": 2})
    assert ends(([1], 1), Polled([2], 2, more=False), ([3], 3)) == ([1, 2], [([3], 3)], {"at": 2, "record": 2})
    assert ends(Polled([], 1, more=True), ([2], 2), None) == ([2], [], {"at": 2, "record": 1})


def test_what_cannot_be_asked_for_again_is_handed_out_whole(state):
    """Kind: the rest of an answer is lost where a run stops, though nobody can ask for it again."""
    calls, sink = [], TransactionalTestingSink()

    def flow():
        def meter(position):
            calls.append(position)
            return None if len(calls) == 4 else ([(len(calls), number) for number in range(25)], position)

        made = of.Dataflow("job")
        made.source("in", PollingSource(meter, every=SOON, replayable=False)).sink("out", sink)
        return made

    with pytest.raises(DeliveryGuaranteeError, match="cannot be read again"):
        of.run(flow(), state)
    of.run(flow(), state, guarantee="at_most_once", batch_size=10)
    assert sink.records == [(call, number) for call in (1, 2, 3) for number in range(25)]


def test_positions_are_what_a_later_run_gets():
    """Kind: a position that comes back as something else in the next run, or changes when its owner does."""
    calls, kept = [], {"page": (1, 2)}

    def poll(position):
        calls.append(position)
        if len(calls) == 2:
            return None
        return ([1], kept)

    reader = PollingSource(poll, every=SOON, start=(0, 0)).open("0", None)
    next_of(reader)
    position = reader.position()
    kept["page"] = "changed"
    assert next_of(reader) is None
    reader.close()
    assert calls == [[0, 0], {"page": [1, 2]}]
    assert position == {"at": {"page": [1, 2]}, "record": 1}


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ([1, 2], r"poll gave a list: it gives \(records, next position\)"),
        ((1, 2), "poll gave records as a int"),
        (([1], object()), "the next position is <object.*give plain values"),
        (([1], 1, "yes"), "more='yes'"),
        (ZeroDivisionError("no meter"), "source 'in', partition '0': ZeroDivisionError: no meter"),
    ],
    ids=["list", "no records", "position", "more", "raises"],
)
def test_wrong_answers_are_told(state, answer, told):
    """Kind: an answer of another form that is taken for something."""

    def poll(position):
        if isinstance(answer, Exception):
            raise answer
        return answer

    flow = of.Dataflow("job")
    flow.source("in", PollingSource(poll, every=SOON)).sink("out", TransactionalTestingSink())
    with pytest.raises((SourceError, ConfigurationError), match=told):
        of.run(flow, state)


def test_wrong_settings_are_refused_by_name():
    """Kind: what is wrong is found when the job has run for an hour, or never."""
    right = {"poll": paged(ROWS), "every": SOON}
    wrong = {"poll": 5, "every": 5, "start": object(), "replayable": 1, "deterministic": "no", "event_time": 3}
    for name, value in {**wrong, "on_malformed": "ignore"}.items():
        with pytest.raises(ConfigurationError, match=name):
            PollingSource(**{**right, name: value})
    with pytest.raises(ConfigurationError, match="every"):
        PollingSource(paged(ROWS), every=timedelta(0))
    with pytest.raises(SourceError, match="not a position of a polled source"):
        PollingSource(**right).open("0", {"offset": 1})
