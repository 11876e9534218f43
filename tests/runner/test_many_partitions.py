"""More partitions than may be open at a time."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from onceflow import Dataflow, run
from onceflow.connectors.files import JsonLinesSink, TextSource, read_parts
from onceflow.exceptions import SourceError
from onceflow.sources import Source, SourceBatch, SourceReader
from onceflow.testing import TransactionalTestingSink

FILES = 300
LINES = 5
DESCRIPTORS = 128


def job(directory: Path) -> Dataflow:
    flow = Dataflow("many")
    flow.source("lines", TextSource(directory / "in" / "*.txt")).sink("out", JsonLinesSink(directory / "out"))
    return flow


def test_more_files_than_descriptors(tmp_path):
    """Limits: 2,500 files at 1,024 descriptors were too many open files; here 300 at 128, through kills and resumes.

    Each line is written once.
    """
    (tmp_path / "in").mkdir()
    for number in range(FILES):
        (tmp_path / "in" / f"{number:03d}.txt").write_text("".join(f"{number}-{n}\n" for n in range(LINES)))
    program = [sys.executable, __file__, str(tmp_path)]
    for crash_at in ("task.post_snapshot:2", "decide.post:2", ""):
        env = {**os.environ, "CRASH_AT": crash_at}
        if not crash_at:
            del env["CRASH_AT"]
        code = subprocess.run(program, env=env, check=False, timeout=300).returncode
        assert code == (-9 if crash_at else 0)
    lines = read_parts(tmp_path / "out").decode().splitlines()
    assert len(lines) == len(set(lines)) == FILES * LINES


class Counted(Source):
    """Partitions of three records each; says how many are open."""

    max_open_partitions = 3
    has_event_time = True

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions
        self.open_now = self.most_open = 0
        self.restored: list[dict] = []

    def partitions(self) -> list[str]:
        return [f"p{number}" for number in range(self._partitions)]

    def restore(self, positions) -> None:
        self.restored.append(dict(positions))

    def open(self, partition, position) -> SourceReader:
        self.open_now += 1
        self.most_open = max(self.open_now, self.most_open)
        return _CountedReader(self, int(partition[1:]), position or 0)


class _CountedReader(SourceReader):
    def __init__(self, source: Counted, partition: int, position: int) -> None:
        self._source, self._partition, self._next = source, partition, position

    def read(self, max_records: int) -> SourceBatch | None:
        if self._next == 3:
            return None
        self._next += 1
        return SourceBatch([(self._partition, self._next)], np.array([self._next * 1_000_000]))

    def position(self):
        return self._next

    def close(self) -> None:
        self._source.open_now -= 1


def test_no_more_are_open_than_the_source_says_and_all_are_closed(state):
    """Limits: partitions are opened when it is their turn, and closed where they end."""
    source, sink = Counted(10), TransactionalTestingSink()
    flow = Dataflow("counted")
    flow.source("in", source).sink("out", sink)
    assert run(flow, state).finished
    assert (source.open_now, source.most_open) == (0, 3)
    assert sorted(sink.records) == [(partition, n) for partition in range(10) for n in (1, 2, 3)]


@pytest.mark.parametrize("stop_after", range(1, 30, 4))
def test_a_resumed_job_takes_records_in_the_order_of_one_that_was_not_interrupted(tmp_path, stop_after):
    """Determinism: which partitions are read beside which does not depend on where the job was stopped."""

    def build(sink, stop_at):
        flow = Dataflow("order")
        seen = 0

        def count(record):
            nonlocal seen
            seen += 1
            if seen == stop_at:
                raise RuntimeError("stop here")
            return record

        source = Counted(10)
        flow.source("in", source).map(count).sink("out", sink)
        return flow, source

    whole, broken = TransactionalTestingSink(), TransactionalTestingSink()
    run(build(whole, 0)[0], tmp_path / "whole", batch_size=1)
    with pytest.raises(Exception, match="stop here"):
        run(build(broken, stop_after)[0], tmp_path / "broken", batch_size=1, checkpoint_interval_s=1e-9)
    flow, source = build(broken, 0)
    run(flow, tmp_path / "broken", batch_size=1)
    assert broken.records == whole.records
    (positions,) = source.restored
    assert set(positions) in (set(), set(source.partitions()))


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["a", "b", "a"], r"names partitions twice: \['a'\]"),
        ([7], "partition 7 is not a str"),
        (["\udcff"], r"the name of partition '\\udcff' cannot be written in UTF-8"),
    ],
)
def test_names_of_partitions_that_no_checkpoint_can_hold(state, names, reason):
    """Typed errors: twice the same name would have been one position for two readers."""

    class Named(Counted):
        def partitions(self):
            return names

    flow = Dataflow("named")
    flow.source("in", Named(3)).sink("out", TransactionalTestingSink())
    with pytest.raises(SourceError, match=f"source 'in'.*{reason}"):
        run(flow, state)


def test_an_error_of_a_source_names_its_step(tmp_path, state):
    """Typed errors: of several file sources it was not told which one it was."""
    (tmp_path / "one.txt").write_text("1")
    flow = Dataflow("two")
    one = flow.source("first", TextSource(tmp_path / "one.txt"))
    one.union(flow.source("second", TextSource(tmp_path / "two.txt"))).sink("out", TransactionalTestingSink())
    with pytest.raises(SourceError, match=r"two\.txt does not exist") as caught:
        run(flow, state)
    assert "in source 'second'" in caught.value.__notes__


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    run(job(Path(sys.argv[1])), Path(sys.argv[1]) / "state", batch_size=2, checkpoint_interval_s=0.001)
