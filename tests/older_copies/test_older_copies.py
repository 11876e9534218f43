"""State, its data file, the sink's directory, the log: each put back alone from an older copy is refused, or exact.

People restore what they have a backup of, and file systems come back without their last minutes. What is older than
the rest must never be taken for the present, at the first attempt or at the tenth: with older state what the sinks hold
would be written again, with an older sink what the state has behind it would be missing.
"""

from __future__ import annotations

import os
import pickle
import re
import shutil
import signal
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from counting_job import run, shown, write_input
from lives import Life

from onceflow.exceptions import OnceflowError

ATTEMPTS = 10
#: What can be put back alone, by kind of sink.
PARTS = {
    "csv": ("state", "state/data/data.mdb", "out", "out/.onceflow"),
    "parquet": ("state", "out"),
    "log": ("state", "state/data/data.mdb", "out", "out/data/data.mdb"),
    "outbox": ("state", "state/data/data.mdb", "out"),
    "sqlite": ("state", "state/data/data.mdb"),
}
#: How a life ends, one after the other: killed at a point, stopped after so many batches, or at the job's end.
LIVES: tuple[str | int | None, ...] = ("sink.pre_commit:1", 2, "decide.pre:1", 2, None)
#: A copy of which moment is put back, and when.
MOMENTS = [(old, new) for new in (2, 3, 4) for old in range(new)]

pytestmark = pytest.mark.usefixtures("crash_points")


@dataclass(frozen=True, slots=True)
class History:
    """A job's directory after each of its lives, and what it shows in the end."""

    top: Path
    calm: object


def value_of(function, job: Path, kind: str) -> object:
    """The value of a function, computed in a process of its own."""
    path = job.with_name("value")
    life = Life(lambda: path.write_bytes(pickle.dumps(function(job, kind))))
    assert life.wait() == "done", life.error
    return pickle.loads(path.read_bytes())


@pytest.fixture(scope="module", params=PARTS)
def history(request, tmp_path_factory):
    kind = request.param
    top = tmp_path_factory.mktemp(kind)
    write_input(top)
    job = top / "job"
    job.mkdir()
    for number, how in enumerate(LIVES):
        life = Life(
            partial(live, job, kind, how if isinstance(how, int) else None),
            CRASH_AT=how if isinstance(how, str) else None,
        )
        assert life.wait() == ("killed" if isinstance(how, str) else "done"), life.error
        shutil.copytree(job, top / str(number))
    return kind, History(top, value_of(shown, job, kind))


def live(job: Path, kind: str, stop_after: int | None) -> None:
    def stop(number: int) -> None:
        if number == stop_after:
            os.kill(os.getpid(), signal.SIGTERM)

    result = run(job, kind, on_batch=stop)
    assert result.finished == (stop_after is None)


def attempts(job: Path, kind: str) -> list[str]:
    """Runs the job up to ten times, as often as it fails; the errors, and "finished" if it came to that."""
    said: list[str] = []
    while len(said) < ATTEMPTS and said[-1:] != ["finished"]:
        try:
            assert run(job, kind).finished
            said.append("finished")
        except OnceflowError as error:
            said.append(f"{type(error).__name__}: {error}")
    return said


def shown_or_refused(job: Path, kind: str) -> object:
    try:
        return shown(job, kind)
    except OnceflowError as error:
        return f"{type(error).__name__}: {error}"


def put_back(history: History, part: str, old: int, new: int) -> Path:
    """The job's directory as of ``new``, with a part of it as of ``old``."""
    job = history.top / "job"
    shutil.rmtree(job)
    shutil.copytree(history.top / str(new), job)
    path, copy = job / part, history.top / str(old) / part
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    if copy.is_dir():
        shutil.copytree(copy, path)
    elif copy.exists():
        shutil.copy2(copy, path)
    return job


@pytest.mark.parametrize(("old", "new"), MOMENTS)
def test_an_older_copy_is_refused_or_exact(history, old, new):
    kind, history = history
    wrong = []
    for part in PARTS[kind]:
        job = put_back(history, part, old, new)
        before = value_of(shown_or_refused, job, kind)
        said = value_of(attempts, job, kind)
        found = value_of(shown_or_refused, job, kind)
        # What refuses changes nothing that anybody sees.
        right = found == history.calm if said[-1] == "finished" else found == before or not part.startswith("state")
        if not right:
            wrong.append(f"{part}: {said[0]} … {len(said)}: {said[-1]}")
    assert not wrong


@pytest.mark.parametrize("history", ["csv"], indirect=True)
def test_older_state_of_a_file_sink_goes_on_as_the_message_says(history):
    """The advice to move away what came later and to go on from the state's checkpoint gives the exact output."""
    kind, history = history
    job = put_back(history, "state", 1, 3)
    said = value_of(attempts, job, kind)[-1]
    advised = re.search(r"part files that came after checkpoint (\d+) away, .*with resume_from=(\d+) ", said)
    assert advised is not None, said
    for path in (job / "out").glob("part-*"):
        if int(path.stem.rpartition("-")[2]) > int(advised[1]):
            path.unlink()
    life = Life(partial(run, job, kind, resume_from=int(advised[2])))
    assert life.wait() == "done", life.error
    assert value_of(shown, job, kind) == history.calm


def gone_on_as_said(kind, history, advice):
    """The job with an older state, run once as the refusal advises; where it lies."""
    job = put_back(history, "state", 1, 3)
    said = value_of(attempts, job, kind)[-1]
    advised = re.search(advice, said)
    assert advised is not None, said
    life = Life(partial(run, job, kind, resume_from=int(advised[1])))
    assert life.wait() == "done", life.error
    return job


@pytest.mark.parametrize("history", ["outbox"], indirect=True)
def test_older_state_of_an_outbox_goes_on_as_the_message_says(history):
    """A table keeps what was written later, as the message says, and all of it comes again."""
    kind, history = history
    job = gone_on_as_said(kind, history, r"run it once with resume_from=(\d+) .*stays in the output of sink 'out'")
    found = value_of(shown, job, kind)
    assert len(found) > len(history.calm)
    assert list(dict.fromkeys(found)) == history.calm


@pytest.mark.parametrize("history", ["log"], indirect=True)
def test_older_state_of_a_topic_goes_on_as_the_message_says(history):
    """A topic keeps what was written later, as the message says, and all of it comes again."""
    kind, history = history
    advice = r"run it once with resume_from=(\d+) .*stays in the topic, and is written again"
    job = gone_on_as_said(kind, history, advice)
    for (_, found), (_, calm) in zip(value_of(shown, job, kind), history.calm, strict=True):
        assert len(found) > len(calm)
        assert list(dict.fromkeys(found)) == calm
