"""Two copies of a job's state that write to one target: A, which is behind, and S, from which it was taken.

Both give their checkpoints the same numbers, whatever these are of. Nothing may be missing because the output of one of
them passes for the other's, nothing may be there twice without a word, and what a refusal advises must lead on.
"""

from __future__ import annotations

import json
import pickle
import re
import shutil
import time
import warnings
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psycopg
import pytest
import sqlalchemy  # noqa: F401 - once, instead of in each life
from lives import Life
from outbox_table import rows_sink, shown_rows, sql_sink

from onceflow import Dataflow, run
from onceflow._native import Log
from onceflow.connectors.files import JsonLinesSink, read_parts
from onceflow.connectors.log import LogSink
from onceflow.connectors.postgres import PostgresSink
from onceflow.embed import StateBackend
from onceflow.exceptions import MissingOutputWarning, OnceflowError, RepeatedOutputWarning
from onceflow.testing import EOF, PAUSE, TestingSource

KINDS = ("files", "log", "outbox", "sql", "postgres")
COUNT = 9

pytestmark = pytest.mark.usefixtures("crash_points")


@dataclass
class Job:
    """A job that is run from one copy of its state or another.

    Attributes:
        root: Where the states lie, and the output.
        kind: Of the sink.
        dsn: Of PostgreSQL, for that kind.
        told: Names of the warnings of all lives.
    """

    root: Path
    kind: str
    dsn: str = ""
    told: list[str] = field(default_factory=list)

    @property
    def out(self) -> Path:
        return self.root / "out"

    def sink(self):
        if self.kind == "files":
            return JsonLinesSink(self.out)
        if self.kind == "log":
            return LogSink(self.out, "out", partitions=1)
        if self.kind == "postgres":
            return PostgresSink(self.dsn, "written")
        return (rows_sink if self.kind == "outbox" else sql_sink)(self.out, ("user", "i"))

    def shown(self) -> list[int]:
        if self.kind == "files":
            return [json.loads(line)["i"] for line in read_parts(self.out).split()]
        if self.kind == "log":
            with Log.open(self.out, create=False) as log:
                return [json.loads(value)["i"] for value in log.fetch("out", 0, 0).values]
        if self.kind == "postgres":
            with psycopg.connect(self.dsn) as session:
                return [i for (i,) in session.execute("select i from written")]
        return [i for _, i in shown_rows(self.out)]

    def live(self, name: str, until: int, resume_from: object = "newest", clock_s: float = 0.0, **crash: str) -> str:
        """One run from a copy of the state, up to a number of records; how it ended: the error's text if by one."""
        said = self.root / "said"
        said.unlink(missing_ok=True)
        life = Life(partial(self._run, said, name, until, resume_from, clock_s), **crash)
        end = life.wait()
        if end == "killed":
            return end
        error, told = pickle.loads(said.read_bytes())
        assert end == "done", life.error
        self.told += told
        return error or "done"

    def _run(self, said: Path, name: str, until: int, resume_from: object, clock_s: float) -> None:
        items = []
        for number in range(COUNT):
            items += [{"user": "u", "i": number}, EOF if number + 1 == until else PAUSE]
        flow, error = Dataflow("two"), None
        # One checkpoint, at the end of the run.
        flow.source("in", TestingSource(items, batch_size=1)).sink("out", self.sink())
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                if clock_s:
                    begin_lineage_ahead(self.root / name, resume_from, clock_s)
                run(flow, self.root / name, checkpoint_interval_s=3600, retain=20, resume_from=resume_from)
            except OnceflowError as failure:
                error = f"{type(failure).__name__}: {failure}"
        said.write_bytes(pickle.dumps((error, [f"{one.category.__name__}: {one.message}" for one in caught])))

    def newest(self, name: str) -> int:
        with StateBackend.open(self.root / name, read_only=True, resume_from="none") as backend:
            return backend.checkpoints()[-1].id

    def lineage(self, name: str) -> int:
        with StateBackend.open(self.root / name, read_only=True, resume_from="none") as backend:
            return backend.checkpoints()[-1].lineage

    def led_on(self, name: str, until: int, resume_from: object = "newest") -> None:
        """Runs a copy of the state, and as its refusals and warnings advise, until it gets through."""
        for _ in range(6):
            before = len(self.told)
            said = self.live(name, until, resume_from)
            lost = [text for text in self.told[before:] if text.startswith(MissingOutputWarning.__name__)]
            if said == "done" and lost:
                # "resume from the checkpoint before", which is the one that both have.
                resume_from = self.base
                continue
            if said == "done":
                return
            if number := re.search(r"resume_from=(\d+) ", said):
                resume_from = int(number[1])
            self._move_away(said)
        raise AssertionError(f"it is refused for ever: {said}")

    def _move_away(self, said: str) -> None:
        """Part files, as a message says."""
        parts = sorted(self.out.glob("part-*")) if self.kind == "files" else []
        if named := re.search(r"part files from (\S+) to (\S+) away", said):
            parts = parts[[part.name for part in parts].index(named[1]) :]
        elif after := re.search(r"part files that came after checkpoint (\d+) away", said):
            parts = [part for part in parts if int(part.stem.split("-")[2]) > int(after[1])]
        else:
            parts = []
        for part in parts:
            part.unlink()

    def check(self) -> None:
        """That nothing is missing, and nothing twice without a word."""
        shown = self.shown()
        assert sorted(set(shown)) == list(range(COUNT))
        if len(shown) > COUNT:
            assert any(text.startswith(RepeatedOutputWarning.__name__) for text in self.told), shown

    def begin(self) -> None:
        """Three records from S, of which A becomes a copy."""
        assert self.live("s", 3) == "done"
        shutil.copytree(self.root / "s", self.root / "a")
        self.base = self.newest("s")


def begin_lineage_ahead(state: Path, resume_from: object, ahead_s: float) -> None:
    """As a run does that is told to go back where the clock is ahead, and that ends right after it has begun."""
    lineage = int((time.time() + ahead_s) * 1000) * 1_000_000
    with StateBackend.open(state, job="two", resume_from=resume_from, lineage=lineage, retain=20) as backend:
        backend.begin_lineage()


@pytest.fixture(params=KINDS)
def job(request, tmp_path):
    made = Job(tmp_path, request.param)
    if made.kind == "postgres":
        made.dsn = request.getfixturevalue("postgres_dsn")
        with psycopg.connect(made.dsn) as session:
            session.execute('create table written ("user" text, i integer)')
    made.begin()
    return made


@pytest.mark.parametrize("is_committed", [False, True], ids=["decided", "committed"])
@pytest.mark.parametrize("of_s", ["s plain", "s goes back"])
@pytest.mark.parametrize("of_a", ["a plain", "a goes back"])
def test_two_copies_of_a_state_lose_nothing(job, of_a, of_s, is_committed):
    """Kind (Q4, Q14): output of one copy is taken for that of another with the same checkpoint's number, and what the
    other one has decided is never written; advice that is refused when followed."""
    point = "sink.post_commit:1" if is_committed else "sink.pre_commit:1"
    assert job.live("s", 6, CRASH_AT=point) == "killed"
    there = 6 if is_committed else 3
    assert sorted(job.shown()) == list(range(there))
    if of_a == "a plain":
        # At the tenth attempt as at the first.
        for _ in range(3):
            said = job.live("a", 4)
            assert re.search("another copy of the state|older than its output", said), said
        assert sorted(job.shown()) == list(range(there))
    else:
        job.led_on("a", 4, job.base)
        assert job.shown()[-1] == 3
    if of_s == "s plain" and of_a == "a goes back":
        said = job.live("s", COUNT)
        assert "of lineage" in said, said
    job.led_on("s", COUNT, "newest" if of_s == "s plain" else job.newest("s"))
    job.check()
    # The target is its own now.
    assert job.live("s", COUNT) == "done"
    assert re.search("of lineage|another copy|older than", job.live("a", COUNT))


def test_a_lineage_without_output_yet_loses_none(job):
    """Kind (Q4): S goes back on purpose, and is killed before the first output of its new lineage is in the target;
    then A goes back too, and S again."""
    assert job.live("s", 6, job.base, CRASH_AT="sink.pre_commit:1") == "killed"
    job.led_on("a", 4, job.base)
    assert "of lineage" in job.live("s", COUNT)
    job.led_on("s", COUNT)
    job.check()


@pytest.mark.parametrize("job", ["files"], indirect=True)
def test_part_files_of_another_copys_lineage_are_named(job):
    """Kind (Q4): records are there twice without a word, where part files that were moved away for the one copy are put
    back for the other."""
    assert job.live("s", 6) == "done"
    (part,) = job.out.glob(f"part-0001-{job.newest('s'):012d}*")
    part.rename(job.root / part.name)
    assert job.live("a", 4, job.base) == "done"
    (job.root / part.name).rename(part)
    (other,) = job.out.glob(f"part-{job.lineage('a')}-*")
    said = job.live("s", COUNT, job.newest("s"))
    assert f"move the part files from {other.name} to {other.name} away" in said
    job.led_on("s", COUNT, job.newest("s"))
    assert job.shown() == list(range(COUNT))


def test_a_copy_that_was_first_shuts_the_other_one_out(job):
    """Kind (Q4): both copies are stopped in peace at the same checkpoint, and run by turns in one lineage."""
    assert job.live("a", 5) == "done"
    for _ in range(3):
        assert re.search("another copy of the state|older than its output", job.live("s", 7))
    assert job.shown() == list(range(5))
    job.led_on("s", COUNT)
    job.check()


@pytest.mark.parametrize("job", ["files", "log", "outbox"], indirect=True)
def test_going_back_works_where_another_copys_clock_was_ahead(job):
    """Kind (Q9): the number of a lineage comes from a clock, and one that was ahead shuts the rest out for ever."""
    assert job.live("a", 4, job.base, clock_s=7 * 86400.0) == "done"
    ahead = job.lineage("a")
    job.led_on("s", COUNT)
    job.check()
    assert job.lineage("s") > ahead > time.time() * 1e9
