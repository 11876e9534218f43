"""What is said while a connector waits: not at once, not all the time, and that it is over."""

from __future__ import annotations

import gc
import threading
import time
import warnings

import pytest

from onceflow.connectors import waiting
from onceflow.connectors.waiting import Waiting
from onceflow.exceptions import SinkWaitingWarning


@pytest.fixture
def clock(monkeypatch):
    """Seconds, as the module sees them."""
    now = [1000.0]
    monkeypatch.setattr(waiting.time, "monotonic", lambda: now[0])
    return now


def said(act):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        act()
    assert all(each.category is SinkWaitingWarning for each in caught)
    return [str(each.message) for each in caught]


def test_a_short_absence_is_not_worth_a_word(clock):
    """Kind: a warning at each restart of a connection."""
    mine = Waiting("sink 'a/b'", "a server", "retry_for_s=9")

    def short():
        for _ in range(3):
            mine.missed("no answer")
            clock[0] += 4.9
            mine.answered()

    assert said(short) == []


def test_a_long_absence_is_told_rarely_and_so_is_its_end(clock):
    """Kind: silence for hours, or a word for each attempt."""
    mine = Waiting("sink 'a/b'", "a server", "retry_for_s=9")

    def away():
        for _ in range(3600):
            mine.missed("no answer")
            clock[0] += 1
        mine.answered()
        mine.answered()

    texts = said(away)
    assert texts[0].startswith("sink 'a/b' waits for a server since 20")
    assert texts[0].endswith(", 5 s: no answer. The bound is retry_for_s=9")
    assert texts[-1] == "sink 'a/b' goes on: a server answers again, after 3600 s"
    assert 5 < len(texts) < 15
    # A new absence is told anew.
    assert said(lambda: mine.missed("no answer")) == []
    clock[0] += 6
    assert len(said(lambda: mine.missed("no answer"))) == 1


def test_an_answer_to_somebody_else_counts(clock):
    """Kind: of many requests one fails for long, and the others are said to have had no answer."""
    mine = Waiting("sink 'a/b'", "a server", "retry_for_s=9")
    clock[0] += 100
    mine.answered()
    assert said(lambda: mine.missed("503", since_s=clock[0] - 50)) == []
    clock[0] += 100
    assert "100 s: 503" in said(lambda: mine.missed("503", since_s=clock[0] - 150))[0]


@pytest.fixture
def soon(monkeypatch):
    """What takes half a minute takes a moment."""
    for name, seconds in {"_PATIENCE_S": 0.05, "_UNANSWERED_S": 0.1, "_LOOK_S": 0.02}.items():
        monkeypatch.setattr(waiting, name, seconds)


def watchers():
    return [each for each in threading.enumerate() if each.name.startswith("onceflow: sink 'a/b'")]


def test_a_call_that_does_not_come_back_is_told(soon):
    """Kind: silence, since nothing fails; or a thread for each call that stays."""
    mine = Waiting("sink 'a/b'", "a server", "retry_for_s=9")

    def calls():
        for _ in range(50):
            with mine.watched():
                pass
        mine.answered()

    def stuck():
        with mine.watched():
            time.sleep(0.5)
        mine.answered()

    assert said(calls) == [] and len(watchers()) == 1
    waits, goes_on = said(stuck)
    assert waits.startswith("sink 'a/b' waits for a server since 20")
    assert "it was asked and has not answered" in waits and "retry_for_s" not in waits
    assert goes_on.startswith("sink 'a/b' goes on: a server answers again, after ")
    mine.close()
    assert watchers() == []


def test_a_thread_ends_with_what_it_watches(soon):
    """Kind: a thread for each connector that nobody has closed."""
    mine = Waiting("sink 'a/b'", "a server", "retry_for_s=9")
    with mine.watched():
        assert len(watchers()) == 1
    del mine
    gc.collect()
    until = time.monotonic() + 10
    while watchers():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_word_that_is_an_error_is_raised_by_the_call(soon):
    """Kind: an error in a thread of ours that nobody sees, or one that takes the place of the call's own."""
    mine = Waiting("sink 'a/b'", "a server", "retry_for_s=9")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(SinkWaitingWarning, match="waits for a server"), mine.watched():
            time.sleep(0.5)
        with pytest.raises(KeyError), mine.watched():
            time.sleep(0.5)
            raise KeyError
        with mine.watched():
            pass
    mine.close()
