"""What a job has read, put back from an older copy, and perhaps written on since: refused, or read exactly.

A position is a number. In a file or a log that has gone back, and forward again with other records, it points into the
middle of something else: records are passed over, and nobody sees that they are missing.
"""

from __future__ import annotations

import os
import pickle
import shutil
import signal
from functools import partial
from pathlib import Path

import pytest
from lives import Life

import onceflow as of
from onceflow.connectors.files import CsvSink, CsvSource, JsonLinesSource, read_parts
from onceflow.connectors.log import LogSource
from onceflow.exceptions import OnceflowError
from onceflow.log import Log, Producer
from onceflow.runtime.run import run as run_flow
from onceflow.sources import Source

ATTEMPTS = 10
SOURCES = ("csv", "jsonl", "log")


def append(top: Path, kind: str, names: list[str]) -> None:
    """Writes names to the source, behind what is there."""
    path = top / "in"
    if kind == "log":
        with Log.open(path) as log, Producer(log) as producer:
            if not any(topic.name == "names" for topic in log.topics()):
                log.create_topic("names")
            producer.produce_many("names", [f'{{"name": "{name}"}}'.encode() for name in names])
        return
    with path.open("a") as file:
        if kind == "csv" and not file.tell():
            file.write("name\n")
        file.writelines(f"{name}\n" if kind == "csv" else f'{{"name": "{name}"}}\n' for name in names)


def source(top: Path, kind: str) -> Source:
    if kind == "log":
        return LogSource(top / "in", "names", decode="json")
    return (CsvSource if kind == "csv" else JsonLinesSource)(top / "in")


def read(top: Path, kind: str, *, batches: int | None) -> None:
    """Reads so many batches, and stops; or all."""
    left = batches

    def count(batch):
        nonlocal left
        if left is not None and len(batch):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGTERM)
        return batch

    flow = of.Dataflow("reading")
    flow.source("in", source(top, kind)).map_batch(count).sink("out", CsvSink(top / "out"))
    result = run_flow(flow, top / "state", batch_size=10)
    assert result.finished == (batches is None)


def attempts(top: Path, kind: str) -> list[str]:
    said: list[str] = []
    while len(said) < ATTEMPTS and said[-1:] != ["finished"]:
        try:
            read(top, kind, batches=None)
            said.append("finished")
        except OnceflowError as error:
            said.append(f"{type(error).__name__}: {error}")
    return said


def value_of(function, top: Path) -> object:
    path = top / "value"
    life = Life(lambda: path.write_bytes(pickle.dumps(function())))
    assert life.wait() == "done", life.error
    return pickle.loads(path.read_bytes())


def done(function, *given, **named) -> None:
    """Does it in a process of its own, so that nothing stays open in this one."""
    life = Life(partial(function, *given, **named))
    assert life.wait() == "done", life.error


def put_back(tmp_path, kind, kept):
    """A source of which a job has read, as it was when it had so many of its names; the names."""
    names = [f"name-{number:03d}" for number in range(60)]
    done(append, tmp_path, kind, names[:kept])
    older, path = tmp_path / "older", tmp_path / "in"
    copy = shutil.copytree if kind == "log" else shutil.copy2
    copy(path, older)
    done(append, tmp_path, kind, names[kept:])
    done(read, tmp_path, kind, batches=4)
    shutil.rmtree(path) if kind == "log" else path.unlink()
    copy(older, path)
    return names


@pytest.mark.parametrize("written_on", [0, 15, 40], ids=["as it was", "and shorter", "and longer"])
@pytest.mark.parametrize("kind", SOURCES)
def test_a_source_that_has_gone_back_is_refused(tmp_path, kind, written_on):
    put_back(tmp_path, kind, 20)
    before = read_parts(tmp_path / "out")
    if written_on:
        done(append, tmp_path, kind, [f"newer-{number:02d}" for number in range(written_on)])
    said = value_of(lambda: attempts(tmp_path, kind), tmp_path)
    assert len(said) == ATTEMPTS, said
    assert not [error for error in said if not error.startswith(("SourceError", "SourceChangedError"))], said
    assert read_parts(tmp_path / "out") == before


@pytest.mark.parametrize("kind", SOURCES)
def test_a_source_that_has_gone_back_to_the_position_is_read_exactly(tmp_path, kind):
    """A copy that has all that was read, and the same records come again: nothing is missing."""
    names = put_back(tmp_path, kind, 40)
    done(append, tmp_path, kind, names[40:])
    assert value_of(lambda: attempts(tmp_path, kind), tmp_path) == ["finished"]
    assert read_parts(tmp_path / "out").decode().split() == ["name", *names]
