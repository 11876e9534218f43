"""A damaged checkpoint is found, told, and worked around exactly; or the job stops and says what can be done."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
import warnings
from datetime import timedelta
from pathlib import Path

import disk
import pytest

from onceflow import Dataflow, count, run, sum
from onceflow.embed import StateBackend
from onceflow.events import Recovered
from onceflow.exceptions import DamagedCheckpointWarning, StoreCorruptError
from onceflow.state import ListState, Processor, ValueState
from onceflow.testing import (
    ABORT,
    EOF,
    PAUSE,
    AbortedError,
    IdempotentTestingSink,
    TestingSource,
    TransactionalTestingSink,
)
from onceflow.windows import Tumbling


def slowly(batch):
    """So that a few checkpoints fall within a run."""
    time.sleep(0.002)
    return batch


class Last(Processor):
    seen = ValueState(default=0, ttl=timedelta(microseconds=300))
    numbers = ListState()

    def process(self, record):
        self.seen.set(self.seen.get() + 1)
        self.numbers.append(record["n"])
        yield (self.key, self.seen.get(), len(self.numbers.get()))


class Job:
    """A job with all kinds of state and a mark at a record of its second partition."""

    def __init__(self, mark=PAUSE, at=100, short_first=False, idempotent=False):
        parts = [[{"n": n, "k": f"k{n % 7}", "t": n * 3 + p} for n in range(p, 400, 2)] for p in range(2)]
        if short_first:
            del parts[0][80:]
        parts[1].insert(at, mark)
        self.sinks = []
        self.flow = Dataflow("damage", deterministic=True)
        rows = self.flow.source("rows", TestingSource(*parts, event_time=lambda row: row["t"], batch_size=5))
        rows = rows.map_batch(slowly)
        keyed = rows.key_by("k")
        windows = keyed.window("windows", Tumbling(timedelta(microseconds=100))).aggregate(n=count(), total=sum("n"))
        streams = [
            keyed.aggregate("totals", n=count(), total=sum("n")),
            keyed.stateful_map("nth", lambda state, row: ((state or 0) + 1, (row["k"], (state or 0) + 1))),
            keyed.process("last", Last),
            windows,
            self.flow.late("windows"),
            rows.drop_duplicates("distinct", "k", horizon=timedelta(microseconds=100)),
            rows.key_by("k").aggregate("final", emit="final", n=count()),
        ]
        for number, stream in enumerate(streams):
            sink = TransactionalTestingSink() if not idempotent else IdempotentTestingSink(key=repr)
            self.sinks.append(sink)
            stream.sink(f"out-{number}", sink)

    def run(self, state, **settings):
        return run(self.flow, state, checkpoint_interval_s=1e-9, **settings)

    def crash(self, state):
        with pytest.raises(AbortedError):
            self.run(state)
        return checkpoints(state)

    def finish(self, state):
        """Two runs with a checkpoint at the end of each."""
        assert not run(self.flow, state, checkpoint_interval_s=1e9).finished
        return run(self.flow, state, checkpoint_interval_s=1e9)

    @property
    def output(self):
        return [sink.records for sink in self.sinks]


def known(state):
    with StateBackend.open(state, job="damage", read_only=True, resume_from="none") as backend:
        return backend.checkpoints()


def checkpoints(state):
    return [info.id for info in known(state) if info.damage is None]


def undisturbed(tmp_path, **settings):
    """Output and result of the job when nothing happens."""
    job = Job(**settings)
    result = job.run(tmp_path / "calm")
    return job.output, result


@pytest.mark.parametrize("at", [80, 101, 150])
def test_replayed_with_outputs_suppressed(state, tmp_path, at):
    calm = undisturbed(tmp_path, at=at)
    job = Job(ABORT, at)
    *_, before, newest = job.crash(state)
    disk.damage(state, "chunks", newest)
    events = []
    with pytest.warns(
        DamagedCheckpointWarning, match=f"recovered from checkpoint {before}.*Up to checkpoint {newest}"
    ) as told:
        result = job.run(state, on_event=events.append)
    assert Path(told[0].filename).name == Path(__file__).name
    assert events[0].replaying_to == newest
    assert "checksum" in events[0].damage[0]
    assert job.output == calm[0]
    assert (result.records_in, result.records_out) == (calm[1].records_in, calm[1].records_out)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DamagedCheckpointWarning)
        assert job.run(state).finished
    assert job.output == calm[0]


def test_two_checkpoints_damaged(state, tmp_path):
    calm = undisturbed(tmp_path)
    job = Job(ABORT)
    with pytest.raises(AbortedError):
        job.run(state, retain=4)
    *_, third, second, newest = checkpoints(state)
    for number in (second, newest):
        disk.damage(state, "chunks", number)
    with pytest.warns(DamagedCheckpointWarning, match=f"from checkpoint {third}"):
        assert job.run(state, retain=4).finished
    assert job.output == calm[0]


def test_killed_again_while_it_replays(state, tmp_path):
    calm = undisturbed(tmp_path)
    job = Job(ABORT)
    newest = job.crash(state)[-1]
    disk.damage(state, "chunks", newest)

    def interrupt(event):
        if isinstance(event, Recovered):
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.warns(DamagedCheckpointWarning), pytest.raises(KeyboardInterrupt):
            job.run(state, on_event=interrupt)
    with pytest.warns(DamagedCheckpointWarning):
        assert job.run(state).finished
    assert job.output == calm[0]


def test_the_last_checkpoint_of_a_finished_job(state, tmp_path):
    calm = undisturbed(tmp_path)
    job = Job(EOF)
    finished = job.finish(state)
    disk.damage(state, "chunks", finished.last_checkpoint)
    with pytest.warns(DamagedCheckpointWarning):
        again = job.run(state)
    assert again.finished
    assert again.last_checkpoint > finished.last_checkpoint
    assert job.output == calm[0]


@pytest.mark.parametrize("at", range(78, 98, 4))
def test_a_partition_that_had_ended(state, tmp_path, at):
    calm = undisturbed(tmp_path, at=at, short_first=True)
    job = Job(ABORT, at, short_first=True)
    disk.damage(state, "chunks", job.crash(state)[-1])
    with pytest.warns(DamagedCheckpointWarning):
        assert job.run(state).finished
    assert job.output == calm[0]


def test_an_idempotent_sink(state, tmp_path):
    calm = undisturbed(tmp_path, idempotent=True)
    job = Job(ABORT, idempotent=True)
    disk.damage(state, "chunks", job.crash(state)[-1])
    with pytest.warns(DamagedCheckpointWarning):
        assert job.run(state).finished
    assert job.output == calm[0]


def test_the_newest_record_damaged_stops_the_job(state):
    """Nobody knows how far the sinks are, so only a person can choose."""
    job = Job(ABORT)
    *_, before, newest = job.crash(state)
    disk.damage(state, "records", newest)
    with pytest.raises(StoreCorruptError, match=f"no exact recovery is possible.*{newest}.*resume_from"):
        job.run(state)
    output = job.output
    assert job.run(state, resume_from=before).finished
    assert [rows[: len(old)] for rows, old in zip(job.output, output, strict=True)] == output


def test_a_savepoint_of_a_lineage_that_was_left_is_no_way_back(state):
    """It is intact, but what the sinks hold since then did not come from it."""
    Job(EOF).run(state, savepoint="former")
    job = Job(ABORT)
    with pytest.raises(AbortedError):
        job.run(state, resume_from="none")
    _, *later = checkpoints(state)
    for number in later:
        disk.damage(state, "chunks", number)
    with pytest.raises(
        StoreCorruptError, match=f"none of its {len(later)} checkpoints can be restored.*resume_from='none'"
    ):
        job.run(state)
    for sink in job.sinks:
        sink.committed.clear()
    assert job.run(state, resume_from="none").finished


def test_all_checkpoints_damaged(state, tmp_path):
    calm = undisturbed(tmp_path)
    job = Job(ABORT)
    *_, before, newest = job.crash(state)
    for number in (before, newest):
        disk.damage(state, "records", number)
    for settings in ({}, {"resume_from": newest}, {"resume_from": before}):
        with pytest.raises(StoreCorruptError, match=r"use a backup, or start over|checkpoint"):
            job.run(state, **settings)
    for sink in job.sinks:
        sink.committed.clear()
    assert job.run(state, resume_from="none").finished
    assert job.output == calm[0]


@pytest.mark.parametrize("database", ["chunks", "records"])
@pytest.mark.parametrize("end", [ABORT, EOF, PAUSE], ids=["crashed", "stopped", "finished"])
def test_the_only_checkpoint_damaged_stops_the_job(state, tmp_path, database, end):
    """It says how to start over, and does nothing by itself, until somebody does."""
    calm = undisturbed(tmp_path)
    job = Job(end)
    if end is ABORT:
        with pytest.raises(AbortedError):
            job.run(state, retain=1)
    else:
        assert run(job.flow, state, checkpoint_interval_s=1e9, retain=1).finished == (end is PAUSE)
    (only,) = checkpoints(state)
    disk.damage(state, database, only)
    output = [list(rows) for rows in job.output]
    for _ in range(2):
        with pytest.raises(
            StoreCorruptError, match=r"none of its 1 checkpoints can.*move away what the sinks hold.*resume_from='none'"
        ):
            job.run(state)
    assert job.output == output
    assert [info.id for info in known(state)] == [only]
    again = Job()
    assert again.run(state, resume_from="none").finished
    assert again.output == calm[0]


def test_a_directory_that_is_damaged_as_a_whole_is_told_as_it_is(state):
    """No checkpoint would be known after starting over either."""
    Job().run(state)
    (state / "manifest.json").write_text("{")
    with pytest.raises(StoreCorruptError) as caught:
        Job().run(state)
    assert "resume_from='none'" not in str(caught.value)


def test_the_warning_is_seen_without_asking_for_it(tmp_path):
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        sys.path.insert(0, sys.argv[1])
        from test_damage import EOF, Job, disk
        state = Path(sys.argv[2])
        job = Job(EOF)
        disk.damage(state, "chunks", job.finish(state).last_checkpoint)
        job.run(state)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(Path(__file__).parent), str(tmp_path / "state")],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "DamagedCheckpointWarning" in done.stderr
    assert "checksum" in done.stderr
