"""What is said while a connector waits: not at once, not all the time, and that it is over."""

from __future__ import annotations

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
