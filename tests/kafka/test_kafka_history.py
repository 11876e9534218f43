"""A real Kafka keeps its promises while a copier is killed, and the checker sees what it shows to whom.

This is the checker's proof on a log that nobody wrote for it, and the pattern for tests of our own log.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest
from recording import RecordingConsumer, RecordingProducer, create_topics

from onceflow.testing.histories import AnomalyKind, History, Isolation, Poll, Recorder, check

COPIER = Path(__file__).with_name("copier.py")
NUMBERS = 1200
COPIES = [("copies", 0), ("copies", 1)]


@pytest.fixture(scope="module")
def topics(kafka):
    """The topics, and the address."""
    create_topics(kafka.bootstrap, numbers=2, copies=2)
    return kafka.bootstrap


@pytest.fixture(scope="module")
def history(topics, tmp_path_factory):
    """Numbers sent, and copied by a copier of three lives, while a reader follows; then all is read again."""
    directory = tmp_path_factory.mktemp("history")
    source = RecordingProducer(topics, directory, "source")
    for number in range(NUMBERS):
        source.send("numbers", str(number), number % 2)
    source.flush()

    finished = threading.Event()
    with Recorder(directory, "follower") as recorder:
        follower = RecordingConsumer(topics, recorder, COPIES)
        following = threading.Thread(target=follower.read_to_the_end, args=(finished.is_set,))
        following.start()
        try:
            codes = [
                subprocess.run(
                    [sys.executable, str(COPIER), topics, str(directory), str(life), death], check=False, timeout=60
                ).returncode
                for life, death in enumerate(["before-commit", "in-commit", "none"])
            ]
        finally:
            finished.set()
            following.join()
            follower.close()
    assert codes == [-signal.SIGKILL, -signal.SIGKILL, 0]

    values = {}
    for isolation in Isolation:
        with Recorder(directory, f"last-{isolation}") as recorder:
            reader = RecordingConsumer(topics, recorder, COPIES, isolation=isolation)
            values[isolation] = reader.read_to_the_end()
            reader.close()
    with Recorder(directory, "last-numbers") as recorder:
        reader = RecordingConsumer(topics, recorder, [("numbers", 0), ("numbers", 1)])
        reader.read_to_the_end()
        reader.close()
    return History.load(directory), values


def test_nothing_is_wrong(history):
    report = check(history[0], atomic_commits=False)
    report.raise_anomalies()
    assert report.unseen == 0
    assert report.committed > 15
    assert report.aborted > 4
    # One copier was killed before it asked for a commit, the other at about the time of one.
    assert report.abandoned >= 1
    assert report.abandoned + report.indefinite <= 2


def test_each_number_is_copied_once_and_in_order(history):
    numbers = [int(value.rpartition(":")[2]) for value in history[1][Isolation.READ_COMMITTED]]
    assert sorted(numbers) == list(range(NUMBERS))
    for parity in (0, 1):
        copied = [number for number in numbers if number % 2 == parity]
        assert copied == sorted(copied)


def test_records_of_aborted_and_abandoned_transactions_would_be_found(history):
    """What Kafka shows to read_uncommitted, said to have been shown to the only read_committed reader."""
    operations = [
        msgspec.structs.replace(operation, isolation=Isolation.READ_COMMITTED)
        if isinstance(operation, Poll)
        else operation
        for operation in history[0]
        if operation.client not in ("follower", "last-read_committed")
    ]
    report = check(History(operations), atomic_commits=False)
    assert set(report.kinds()) == {AnomalyKind.ABORTED_READ, AnomalyKind.PRECOMMITTED_READ}, str(report)
    assert report.kinds()[AnomalyKind.ABORTED_READ] == report.aborted
    # The second kill may come before the records of a next transaction were delivered.
    assert 1 <= report.kinds()[AnomalyKind.PRECOMMITTED_READ] <= report.abandoned
