"""Pairs of runs: one is stopped at each point, replaced by another that is let to each of its points, and woken there.

A pair is played like this:

1. The first run is stopped (SIGSTOP) at its point: in its recovery, in a checkpoint, at its end.
2. The second run takes over and is stopped at its own point.
3. The first one is woken (SIGCONT) and goes as far as it can.
4. The second one is woken and goes on, or is killed there.
5. A third run comes to the end, and the output is exactly what an undisturbed job shows.

Or the second run begins anew, on purpose, after what was visible was moved away: then the first one is of a timeline
that was left.

One of the two must have been refused, by an error that says why. It is the first, unless it was stopped before it had
taken the job's epoch: then it may be the newer one.

Some points lie within a lock that the other run waits for: an LMDB transaction, or the lock of a sink's directory. Then
nobody moves until the one that holds it is woken, so it is.
"""

from __future__ import annotations

import random
import shutil
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from counting_job import run, shown, write_input
from lives import Life, no_survivors

__all__ = ["SITUATIONS", "Pair", "Tally", "pairs_of", "play", "prepare", "sample_of"]

#: What the first run finds → where the run before it was killed.
SITUATIONS = {"fresh": None, "decided": "sink.pre_commit:2", "staged": "decide.pre:2"}

#: A run that is stopped here holds a lock that the other one waits for.
LOCKED = {
    "decide.pre_sync",
    "env.create.mid_rename",
    "env.create.pre_dirsync",
    "env.create.pre_header",
    "env.create.pre_rename",
    "env.create.pre_sync",
    "gc.mid_delete",
    "gc.pre_delete",
    "log.append.partial",
    "log.append.pre_ack",
    "log.append.pre_sync",
    "manifest.replace.pre_rename",
    "owner.replace.pre_rename",
    "producer.epoch.pre_persist",
    "snap.state.pre_commit",
    "txn.end.partial",
}
#: Sinks whose visible output can be moved away, or is replaced.
CAN_BEGIN_ANEW = {"csv", "jsonl", "parquet", "sqlite"}
#: Points that a run passes before it has taken the job's epoch.
BEFORE_THE_EPOCH = {"manifest.replace.pre_rename", "owner.replace.pre_rename", "recover.pre_fence"}
#: How long a run that waits for such a lock is watched before the other one is woken.
_WATCH_S = 0.1
_LONG_S = 60.0


@dataclass(frozen=True, slots=True)
class Pair:
    """Where each of the two runs is stopped.

    Attributes:
        kind: Of sink.
        situation: What the first run finds.
        first: Point and how often to pass it.
        second: The same of the second run.
        killed: The second run is killed at its point instead of woken.
        anew: The second run begins anew, when what was visible has been moved away.
    """

    kind: str
    situation: str
    first: str
    second: str
    killed: bool
    anew: bool = False


@dataclass(slots=True)
class Tally:
    """What was played."""

    pairs: int = 0
    lives: int = 0
    #: Second runs that were at their end before they came to their point.
    early: int = 0
    ends: Counter[str] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        """What another process has played."""
        self.pairs += other.pairs
        self.lives += other.lives
        self.early += other.early
        self.ends += other.ends


@dataclass(frozen=True, slots=True)
class Prepared:
    """A kind of sink: what an undisturbed job shows, and the points that runs pass."""

    calm: object
    #: Of a first run, by situation: points and how often they are passed.
    points: dict[str, dict[str, int]]


def _asked(life: Life) -> str:
    end = life.wait(_LONG_S)
    if life.error:
        raise AssertionError(life.error)
    return end


def _in_child(function, root: Path) -> object:
    """The value of a function, computed in a process of its own: what it opens and loads stays there."""
    import pickle  # noqa: PLC0415

    path = root / "value"
    assert _asked(Life(lambda: path.write_bytes(pickle.dumps(function())))) == "done"
    return pickle.loads(path.read_bytes())


def prepare(top: Path, kind: str) -> Prepared:
    """Makes the situations under ``top`` and finds the points."""
    calm = top / f"{kind}-calm"
    calm.mkdir()
    write_input(top)
    assert _asked(Life(lambda: run(calm, kind), TRACE_POINTS=calm / "points")) == "done"
    points = {situation: _passed(top, kind, situation, crash_at) for situation, crash_at in SITUATIONS.items()}
    return Prepared(_in_child(lambda: shown(calm, kind), calm), points)


def _passed(top: Path, kind: str, situation: str, crash_at: str | None) -> Counter[str]:
    """Makes a situation; the points that a run passes which finds it."""
    root, copy, points = top / f"{kind}-{situation}", top / "copy", top / "points"
    for _ in range(10):
        root.mkdir()
        if crash_at is not None:
            assert Life(lambda: run(root, kind), CRASH_AT=crash_at).wait() == "killed"
        shutil.copytree(root, copy)
        assert _asked(Life(lambda: run(copy, kind), TRACE_POINTS=points)) == "done"
        passed = points.read_text().split()
        points.unlink()
        shutil.rmtree(copy)
        if "recover.post_open" in passed:
            # What comes after the recovery is the same as in a run that begins.
            return Counter(passed if crash_at is None else passed[: passed.index("recover.post_open") + 1])
        # On a busy machine the second checkpoint may have been the last one.
        shutil.rmtree(root)
    raise AssertionError(f"a job that is killed at {crash_at} is always at its end")


def pairs_of(kind: str, prepared: Prepared) -> list[Pair]:
    """All of them. A point that is passed often is taken at the first or the second time, in turn."""
    return [pair for first in firsts_of(kind, prepared) for pair in first]


def sample_of(kind: str, prepared: Prepared, *, one_of: int = 1) -> list[Pair]:
    """Each point of the first run once, each time with another point of the second run; or one of so many of them."""
    firsts = firsts_of(kind, prepared)[::one_of]
    return [pairs[number * 11 % len(pairs)] for number, pairs in enumerate(firsts)]


def firsts_of(kind: str, prepared: Prepared) -> list[list[Pair]]:
    """For each point of a first run, its pairs."""
    fresh = prepared.points["fresh"]
    seconds = [name for name in fresh if not name.startswith("env.create.")]
    # Before it has recovered its sinks nobody knows of the new timeline there.
    later = seconds[seconds.index("recover.post_open") :]
    ways = [(situation, points, seconds, False) for situation, points in prepared.points.items()]
    if kind in CAN_BEGIN_ANEW:
        # One that is woken to let go of a lock may publish once more, and then the second run is right to refuse.
        unlocked = {name: times for name, times in fresh.items() if name not in LOCKED}
        ways.append(("fresh", unlocked, later, True))
    number = 0
    firsts = []
    for situation, points, others, anew in ways:
        for first, times in points.items():
            pairs = []
            for second in others:
                number += 1
                nth, other = 1 + (number % 2 if times > 2 else 0), 1 + (number // 2 % 2 if fresh[second] > 2 else 0)
                pairs.append(Pair(kind, situation, f"{first}:{nth}", f"{second}:{other}", number % 3 == 0, anew))
            firsts.append(pairs)
    return firsts


@no_survivors()
def play(top: Path, pair: Pair, prepared: Prepared, tally: Tally) -> None:
    """Plays a pair in a directory of its own under ``top``, which stays if it goes wrong: AssertionError."""
    root = top / f"{pair.kind}-{random.randrange(1 << 40):x}"
    for attempt in range(5):
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(top / f"{pair.kind}-{pair.situation}", root)
        # Some points need several checkpoints, which take their time on a busy machine.
        first = Life(partial(run, root, pair.kind, pace_s=0.002 * 3**attempt), STOP_AT=pair.first)
        if first.step(_LONG_S) == "stopped":
            break
        assert first.end == "done", f"{pair}: the first run, which nobody disturbed: {first.error}"
    else:
        raise AssertionError(f"{pair}: the first run never came to its point")
    if pair.anew:
        for path in root.glob("out/part-*"):
            path.unlink()
    second = Life(
        partial(run, root, pair.kind, take_over=True, resume_from="none" if pair.anew else "newest"),
        STOP_AT=pair.second,
    )
    came = _watch(second, pair.first)
    first.wake()
    if came is None:
        came = second.step(_LONG_S)
    assert came is not None, f"{pair}: the second run hangs"
    if came == "stopped":
        _watch(first, pair.second)
        if pair.killed:
            second.kill()
        else:
            second.wake()
    else:
        tally.early += 1
    ends = first.wait(_LONG_S), second.wait(_LONG_S)
    for life in (first, second):
        assert _is_expected(life), f"{pair}: {ends}\n{life.error}"
    third = Life(lambda: run(root, pair.kind))
    assert third.wait(_LONG_S) == "done", f"{pair}: {ends}, and the third run: {third.error}"
    found = _in_child(lambda: shown(root, pair.kind), root)
    assert found == prepared.calm, f"{pair}: {ends}, and {root} shows something else: {str(found)[:2000]}"
    left = [path for path in root.glob("out/.onceflow/*") if path.name.startswith(("open-", "staged-"))]
    assert not left, f"{pair}: {ends}, and left behind: {left}"
    # One that waited for the other's lock, or had not taken the epoch yet, may have let the other come to its end.
    waited = _name(pair.first) in LOCKED or _name(pair.second) in BEFORE_THE_EPOCH
    assert ends.count("done") < 2 or waited, f"{pair}: both runs say that they are through"
    tally.pairs += 1
    tally.lives += 3
    tally.ends[f"{ends[0]}, {ends[1]}"] += 1
    shutil.rmtree(root)


def _watch(life: Life, other: str) -> str | None:
    """What it comes to while the other run is stopped at its point; None if it waits for that one's lock."""
    locked = _name(other) in LOCKED
    came = life.step(_WATCH_S if locked else _LONG_S)
    assert locked or came is not None, f"a run waits for one that is stopped at {other}; is that point within a lock?"
    return came


def _is_expected(life: Life) -> bool:
    """Whether a run may end like this: at its end, killed, or refused because of the other one."""
    return life.end in {"done", "killed", "FencedError", "StoreLockedError"}


def _name(point: str) -> str:
    return point.partition(":")[0]
