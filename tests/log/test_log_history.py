"""Random work by many processes that are killed and stopped again and again: the history of it all shows no anomaly."""

from __future__ import annotations

import random
import time

import pytest
from processes import Program
from workload import PLACES

from onceflow.log import Log
from onceflow.testing.histories import History, Recorder, check
from onceflow.testing.log import RecordingConsumer

CLIENTS = [
    ("tx-0", "transactor"),
    ("tx-1", "transactor"),
    ("send-0", "sender"),
    ("copy-0", "copier"),
    ("copy-1", "copier"),
    ("read-0", "reader"),
]
FAULTS = 12


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    """Twelve are killed and followed by a successor, or stand still for a while; at the end all is read once more."""
    root = tmp_path_factory.mktemp("workload")
    chance = random.Random()
    with Log.open(root / "log") as log:
        log.create_topic("numbers", partitions=3)
        log.create_topic("copies", partitions=2)
        lives = dict.fromkeys(dict(CLIENTS), 0)

        def start(name: str) -> Program:
            lives[name] += 1
            return Program("workload.py", root / "log", root / "history", name, lives[name], dict(CLIENTS)[name])

        running = {name: start(name) for name in lives}
        try:
            for _ in range(FAULTS):
                time.sleep(chance.uniform(0.2, 1.0))
                name = chance.choice(list(running))
                if chance.random() < 0.3:
                    # For longer than a session: a copier is declared dead meanwhile.
                    running[name].stop()
                    time.sleep(1.5)
                    running[name].go_on()
                else:
                    running[name].close()
                    running[name] = start(name)
            time.sleep(2)
            for program in running.values():
                program.process.stdin.close()
            codes = {name: program.process.wait(60) for name, program in running.items()}
        finally:
            for program in running.values():
                program.close()
        assert set(codes.values()) == {0}, codes
        with Recorder(root / "history", "last") as recorder:
            reader = RecordingConsumer(log, recorder)
            reader.resume(PLACES)
            reader.read_to_the_end()
            reader.close()
    return History.load(root / "history")


def test_nothing_is_wrong(history):
    report = check(history, atomic_commits=True)
    report.raise_anomalies()
    assert report.unseen == 0
    assert report.read > 1000
    assert report.committed > 20
    assert report.aborted > 5
