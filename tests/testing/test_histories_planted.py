"""Every kind of anomaly is found in a log with that bug, nothing else is, and nothing in a log without bugs."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_log import Client, EagerLog, ModelLog, run

from onceflow.testing.histories import AnomalyKind, History, check

#: Bug → what must be found, and nothing besides.
PLANTED = {
    "lose_acknowledged": AnomalyKind.LOST_WRITE,
    "lose_transaction": AnomalyKind.LOST_WRITE,
    "duplicate_on_retry": AnomalyKind.DUPLICATE,
    "repeat": AnomalyKind.DUPLICATE,
    "expose_aborted": AnomalyKind.ABORTED_READ,
    "expose_before_commit": AnomalyKind.PRECOMMITTED_READ,
    "tear_transaction": AnomalyKind.TORN_TRANSACTION,
    "tear_in_time": AnomalyKind.TORN_TRANSACTION,
    "reuse_offset": AnomalyKind.INCONSISTENT_OFFSETS,
    "reorder_sends": AnomalyKind.NONMONOTONIC_SEND,
    "swap_in_poll": AnomalyKind.INTERNAL_NONMONOTONIC_POLL,
    "swap_between_polls": AnomalyKind.EXTERNAL_NONMONOTONIC_POLL,
    "skip_in_poll": AnomalyKind.INTERNAL_SKIPPED_POLL,
    "skip_between_polls": AnomalyKind.EXTERNAL_SKIPPED_POLL,
    "invent": AnomalyKind.UNKNOWN_VALUE,
    "lose_positions": AnomalyKind.STALE_POSITION,
}


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 14_399), max_size=120))
def test_a_log_without_bugs_is_clean(steps):
    with tempfile.TemporaryDirectory() as directory:
        run(Path(directory), steps, ModelLog())
        report = check(History.load(directory), atomic_commits=True)
    report.raise_anomalies()
    assert report.unseen == 0


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 14_399), max_size=120))
def test_a_log_that_mixes_transactions_as_kafka_does_is_clean(steps):
    with tempfile.TemporaryDirectory() as directory:
        run(Path(directory), steps, EagerLog())
        report = check(History.load(directory), atomic_commits=False)
    report.raise_anomalies()
    assert report.unseen == 0


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_found_for_what_it_is(tmp_path, bug):
    found = 0
    for seed in range(12):
        rng = random.Random(seed)
        log = ModelLog(bug, every=rng.randrange(1, 6))
        directory = tmp_path / str(seed)
        run(directory, [rng.randrange(14_400) for _ in range(400)], log)
        report = check(History.load(directory), atomic_commits=True)
        kinds = set(report.kinds())
        assert kinds <= {PLANTED[bug]}, str(report)
        assert all(anomaly.evidence for anomaly in report.anomalies)
        found += bool(kinds)
        # Positions that were lost show only if somebody resumes from them before others are committed.
        if bug != "lose_positions":
            assert bool(kinds) == bool(log.planted), f"the bug struck {log.planted} times and was not found"
    assert found > 6


def test_offsets_taken_before_the_commit_make_transactions_precede_each_other(tmp_path):
    log = ModelLog("offsets_at_produce")
    first, second = Client(log, tmp_path, "first"), Client(log, tmp_path, "second")
    first.begin()
    first.send(("orders", 0), 0)
    second.begin()
    second.send(("orders", 0), 0)
    second.send(("orders", 1), 0)
    second.end(0)
    first.reader.poll(("orders", 1), 5)
    first.end(0)
    run(tmp_path, [], log)
    history = History.load(tmp_path)
    report = check(history, atomic_commits=True)
    assert report.kinds() == {AnomalyKind.CIRCULAR_INFORMATION_FLOW: 1}, str(report)
    text = str(report.anomalies[0])
    assert "first-1:0 read" in text
    assert "second-1:0 wrote" in text
    # Kafka does just this, and promises nothing else.
    check(history, atomic_commits=False).raise_anomalies()
