"""Kills, stops, replaces, wakes and ends the lives of the mixed job and of its producers."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from lives import Life, no_survivors
from mixed_job import PRODUCERS, check, create, produce, run

__all__ = ["Tally", "run_mixed"]

#: Lives of one job, then it comes to its end and is checked.
LIVES_A_JOB = 25
LONGEST_S = 0.25
_LONG_S = 60.0
#: What a life may be told when another one is stopped, or has taken over: it is refused, and says why.
_REFUSED = ("has taken over", "has been committing for", "holds the writer lock")


@dataclass(slots=True)
class Tally:
    """What there was."""

    jobs: int = 0
    lives: int = 0
    inputs: int = 0
    #: How the lives of the job ended.
    ends: Counter[str] = field(default_factory=Counter)
    woken: int = 0


@no_survivors()
def run_mixed(root: Path, *, lives: int, chance: random.Random, tally: Tally) -> None:
    """One job through so many lives of its own, and some of its producers; AssertionError if its output is wrong."""
    assert Life(lambda: create(root)).wait() == "done"
    stop = root / "stop"
    producers = [Life(partial(produce, root, number, stop)) for number in range(PRODUCERS)]
    stopped: list[Life] = []
    awake: list[Life] = []
    for _ in range(lives):
        life = Life(lambda: run(root, follow=True))
        tally.lives += 1
        moment = chance.uniform(0, LONGEST_S)
        if stopped and chance.random() < 0.7:
            # One that was replaced wakes while its successor recovers or runs.
            time.sleep(moment * chance.random())
            woken = stopped.pop(chance.randrange(len(stopped)))
            woken.wake()
            tally.woken += 1
            awake.append(woken)
            time.sleep(moment / 2)
        else:
            time.sleep(moment)
        how = chance.choices(["kill", "stop", "end"], [60, 30, 10])[0]
        if how == "stop" and life.step(0) is None:
            os.kill(life.pid, signal.SIGSTOP)
            stopped.append(life)
            continue
        if how == "end" and life.step(0) is None:
            os.kill(life.pid, signal.SIGTERM)
            life.step(0.5)
        life.kill()
        note_end(life, tally)
        if chance.random() < 0.2:
            number = chance.randrange(PRODUCERS)
            producers[number].kill()
            producers[number] = Life(partial(produce, root, number, stop))
            tally.lives += 1
    for life in stopped:
        life.wake()
    stop.touch()
    for life in producers:
        assert life.wait(_LONG_S) in ("done", "killed") or is_refusal(life), life.error
    last = Life(lambda: run(root, follow=False))
    while last.wait(_LONG_S) == "FencedError" and stopped + awake:
        # One that was stopped before it had taken the epoch takes it now, and is the newer run: it ends here.
        life = (stopped or awake).pop()
        life.kill()
        note_end(life, tally)
        last = Life(lambda: run(root, follow=False))
    assert last.end == "done", last.error
    for life in stopped + awake:
        # One whose successor was killed before it took over is the run of the job until the last one takes over.
        life.kill()
        note_end(life, tally)
    tally.jobs += 1
    report = root / "report"
    checked = Life(lambda: report.write_text("\n".join(map(str, check(root)))))
    assert checked.wait(_LONG_S) == "done", checked.error
    wrong, _, inputs = report.read_text().rpartition("\n")
    assert not wrong, f"{root}: {wrong}"
    tally.inputs += int(inputs)


def note_end(life: Life, tally: Tally) -> None:
    end = life.wait(_LONG_S)
    # SIGTERM ends a process that has not begun to run the job yet.
    expected = ("done", "killed", "SIGTERM", "FencedError", "StoreLockedError")
    assert end in expected or is_refusal(life), f"{end}: {life.error}"
    tally.ends[end] += 1


def is_refusal(life: Life) -> bool:
    return any(text in life.error for text in _REFUSED)
