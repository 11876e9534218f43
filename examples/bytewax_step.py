"""A stateful step of Bytewax that keeps its own state in onceflow, without Bytewax's recovery.

Bytewax's recovery keeps a pickle of each key that changed in a SQLite file. This step keeps counts by key in a table,
a whole batch at a time, and makes them durable with the place in the input that they reach to, while the dataflow goes
on. The source asks the same backend where to begin, so that after a crash state and input go on from one moment: each
line is counted once, however the process ended. (What the dataflow hands on after the step it hands on again for the
lines behind that moment, as with Bytewax's recovery: a sink that keeps the newest count of a key ends up right.)

The dataflow runs in one worker, is killed by SIGKILL again and again, and the counts must come out exact.

    pip install onceflow "bytewax==0.21.*"
    python examples/bytewax_step.py
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import run_main

from onceflow.embed import StateBackend

LINES, KILLS = 60_000, 3

#: A word, and where the line after it begins.
Line = tuple[str, int]


class LinesOf(FixedPartitionedSource[Line, int]):
    """Lines of a file from a place on, which is asked of the state and not of Bytewax."""

    def __init__(self, path: Path, place: int) -> None:
        self._path, self._place = path, place

    def list_parts(self) -> list[str]:
        return [self._path.name]

    def build_part(self, _step_id: str, _part: str, _resume_state: int | None) -> StatefulSourcePartition[Line, int]:
        return _LinesOfPart(self._path, self._place)


class _LinesOfPart(StatefulSourcePartition[Line, int]):
    def __init__(self, path: Path, place: int) -> None:
        self._file = path.open("rb")
        self._file.seek(place)

    def next_batch(self) -> list[Line]:
        lines: list[Line] = []
        for line in islice(iter(self._file.readline, b""), 500):
            lines.append((line.decode().strip(), self._file.tell()))
        if not lines:
            raise StopIteration
        return lines

    def snapshot(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()


class Counts:
    """The step: counts of words, durable with the place in the file that they reach to."""

    def __init__(self, state: Path) -> None:
        self._backend = StateBackend.open(state, job="words")
        self._counts = self._backend.table("counts", key="str", columns={"count": "i64"})
        self.place = int(self._backend.positions.get("lines", 0))
        self._batches = 0

    def count(self, lines: list[Line]) -> list[tuple[str, int]]:
        words = [word for word, _ in lines]
        self._counts.count(words, "count")
        self.place = lines[-1][1]
        self._batches += 1
        if self._batches % 5 == 0:
            self._backend.checkpoint({"lines": self.place})  # written while the dataflow goes on
            print("checkpoint", flush=True)
        distinct = list(dict.fromkeys(words))
        return list(zip(distinct, self._counts.get(distinct).columns["count"].tolist(), strict=True))

    def close(self) -> None:
        self._backend.checkpoint({"lines": self.place}).wait()
        self._backend.close()


class Newest(DynamicSink[tuple[str, int]]):
    """Keeps the newest count of each word."""

    def __init__(self, counts: dict[str, int]) -> None:
        self._counts = counts

    def build(self, _step_id: str, _worker: int, _workers: int) -> StatelessSinkPartition[tuple[str, int]]:
        return _NewestPart(self._counts.update)


class _NewestPart(StatelessSinkPartition[tuple[str, int]]):
    def __init__(self, update: Callable[[list[tuple[str, int]]], None]) -> None:
        self._update = update

    def write_batch(self, items: list[tuple[str, int]]) -> None:
        self._update(items)


def count_words(path: Path, state: Path) -> None:
    counts, newest = Counts(state), dict[str, int]()
    flow = Dataflow("words")
    lines = op.input("lines", flow, LinesOf(path, counts.place))
    counted = op.flat_map_batch("count", lines, counts.count)
    op.output("newest", counted, Newest(newest))
    run_main(flow)
    counts.close()


def main(directory: Path) -> None:
    path, state = directory / "words.txt", directory / "state"
    chance = random.Random(1)
    words = [f"word-{int(chance.paretovariate(0.6)) % 1_000}" for _ in range(LINES)]
    path.write_text("".join(f"{word}\n" for word in words))
    for life in range(KILLS + 1):
        command = [sys.executable, __file__, str(path), str(state)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as program:
            stop_at = random.randrange(3, 7) if life < KILLS else -1
            for number, _ in enumerate(program.stdout or ()):
                if number == stop_at:
                    program.kill()
        with StateBackend.open(state, job="words", read_only=True) as backend:
            place = int(backend.positions.get("lines", 0))
            print(f"life {life + 1}: exit code {program.returncode}, byte {place} of {path.stat().st_size}")
            rows = backend.table("counts", key="str", columns={"count": "i64"}).scan()
    found = dict(zip(rows.keys, rows.columns["count"].tolist(), strict=True))
    assert found == Counter(words), "a line was lost or counted twice"
    print(f"{sum(found.values())} lines of {len(found)} words, each counted once")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        count_words(*map(Path, sys.argv[1:]))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            main(Path(scratch))
