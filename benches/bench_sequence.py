"""How fast are the deduplicator's verdicts?

Batches of many producers in a random order, now and then a retry, judged 4,096 at a time; next to a dict in Python that
follows the same rules. Both must give the same verdicts.
"""

from __future__ import annotations

import time

import numpy as np
import pytest

from harness.figures import Table
from harness.pure_python import PythonDeduplicator
from harness.rounds import best_time, interleave
from harness.workload import label
from onceflow.embed import Deduplicator

TABLE = Table(
    "sequence",
    "Deduplicator: verdicts on batches of idempotent producers",
    {"producers": "text", "onceflow": "rate", "Python dict": "rate", "faster by": "times"},
    "Batches a second, best of interleaved rounds: 4,096 batches a call, one in twenty a retry. The dict gets lists.",
)

SIZES = (1_000, 100_000)
CALL = 4096
RECORDS = 100
RETRIES = 0.05


def traffic(producers: int, batches: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Columns of calls; within a call a producer comes at most a few times, each time with its next batch."""
    random = np.random.default_rng(1)
    following = np.zeros(producers, dtype=np.int64)
    calls = []
    for _ in range(batches // CALL):
        chosen = random.integers(0, producers, CALL)
        retry = random.random(CALL) < RETRIES
        firsts = np.empty(CALL, dtype=np.int32)
        for row, (producer, again) in enumerate(zip(chosen.tolist(), retry.tolist(), strict=True)):
            first = following[producer]
            if again and first:
                first -= RECORDS
            firsts[row] = first
            following[producer] = first + RECORDS
        calls.append(
            (chosen * 7919 + 1_000_000, np.zeros(CALL, dtype=np.int64), firsts, firsts + np.int32(RECORDS - 1))
        )
    return calls


@pytest.mark.parametrize("producers", SIZES, ids=label)
def test_verdicts(producers, benchmark, record, scale):
    calls = traffic(producers, 1_000_000 if scale.name == "full" else 100_000)
    lists = [tuple(column.tolist() for column in call) for call in calls]
    batches = len(calls) * CALL
    answers: dict[str, list[int]] = {}

    def ours() -> float:
        dedupe = Deduplicator()
        start = time.perf_counter()
        found = [dedupe.check_many(*call) for call in calls]
        took = time.perf_counter() - start
        answers["ours"] = np.concatenate([verdicts.codes for verdicts in found]).tolist()
        return took

    def python() -> float:
        dedupe = PythonDeduplicator()
        start = time.perf_counter()
        found = [dedupe.check_many(*call) for call in lists]
        took = time.perf_counter() - start
        answers["python"] = [code for codes in found for code in codes]
        return took

    seconds = interleave(benchmark, {"ours": ours, "python": python}, scale.rounds)
    assert answers["ours"] == answers["python"]
    ours_s, python_s = best_time(seconds["ours"]), best_time(seconds["python"])
    record(
        TABLE,
        {
            "producers": label(producers),
            "onceflow": batches / ours_s,
            "Python dict": batches / python_s,
            "faster by": python_s / ours_s,
        },
    )
