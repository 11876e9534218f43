"""A log with topics, and its clients, closed when the test ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import Program

from onceflow.log import Consumer, Log, Producer


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Of the log."""
    return tmp_path / "log"


@pytest.fixture
def log(directory: Path) -> Iterator[Log]:
    """A log with the topics ``one`` (1 partition) and ``four`` (4 partitions)."""
    with Log.open(directory, upkeep_interval_s=None) as opened:
        opened.create_topic("one")
        opened.create_topic("four", partitions=4)
        yield opened


@pytest.fixture
def producer(log: Log) -> Iterator[Producer]:
    """An idempotent one."""
    with Producer(log) as made:
        yield made


@pytest.fixture
def transactional(log: Log) -> Iterator[Producer]:
    """A transactional one, initialised."""
    with Producer(log, transactional_id="tx") as made:
        made.init_transactions()
        yield made


@pytest.fixture
def consumer(log: Log) -> Iterator[Consumer]:
    """One of the group ``readers`` that reads nothing yet."""
    with Consumer(log, "readers", session_timeout_ms=2_000) as made:
        yield made


@pytest.fixture
def start() -> Iterator[Callable[..., Program]]:
    """Starts a program of this directory; it is gone when the test ends."""
    running: list[Program] = []

    def run(script: str, *arguments: object) -> Program:
        running.append(Program(script, *arguments))
        return running[-1]

    yield run
    for program in running:
        program.close()
