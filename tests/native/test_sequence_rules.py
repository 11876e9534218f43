"""The sequence rules S1 to S34 through Python: the same table as the Rust core's tests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onceflow.embed import Deduplicator, Verdicts
from onceflow.exceptions import ERRORS_BY_KIND

TABLE = json.loads(Path(__file__).with_name("sequence_rules.json").read_text())
NAMES = {
    Verdicts.ACCEPT: "accept",
    Verdicts.DUPLICATE: "duplicate",
    Verdicts.TOO_OLD: "too_old",
    Verdicts.GAP: "gap",
    Verdicts.FENCED: "fenced",
}


def plain(verdicts: Verdicts) -> list[Any]:
    """The verdicts in the table's form."""
    rows = zip(verdicts.codes.tolist(), verdicts.details.tolist(), strict=True)
    named = [(NAMES[code], detail) for code, detail in rows]
    return [[name, detail] if name not in {"accept", "too_old"} else name for name, detail in named]


def check(dedupe: Deduplicator, batches: list[list[int]], now_s: float) -> list[Any]:
    ids, epochs, firsts, lasts = np.array([batch[:4] for batch in batches], np.int64).T
    positions = [batch[4] if len(batch) > 4 else -1 for batch in batches]
    verdicts = dedupe.check_many(
        ids,
        epochs,
        firsts,
        lasts.astype(np.int32),
        positions=positions if set(positions) != {-1} else None,
        now_s=now_s,
    )
    assert len(verdicts) == len(batches)
    assert verdicts.accepted.tolist() == [code == Verdicts.ACCEPT for code in verdicts.codes]
    return plain(verdicts)


def damaged(snapshot: bytes, how: str | None) -> Iterator[bytes]:
    match how:
        case None:
            yield snapshot
        case "empty":
            yield b""
        case "truncated":
            yield from (snapshot[:end] for end in range(1, len(snapshot)))
        case "flipped":
            for bit in range(len(snapshot) * 8):
                flipped = bytearray(snapshot)
                flipped[bit // 8] ^= 1 << bit % 8
                yield bytes(flipped)
        case "foreign":
            yield bytes(len(snapshot))
            yield b"\xa5" * 4096
        case _:
            raise AssertionError(f"unknown damage {how}")


def run_step(dedupe: Deduplicator, step: dict[str, Any], saved: bytes) -> Iterator[Any]:
    """Makes the step's calls; gives what each returns."""
    now_s = step.get("now_s", 0.0)
    match step:
        case {"check": batches}:
            yield check(dedupe, batches, now_s)
        case {"expire": at_s}:
            yield dedupe.expire(at_s)
        case {"restore": how}:
            for blob in damaged(saved, how):
                if "error" in step:
                    with pytest.raises(ERRORS_BY_KIND[step["error"]]):
                        dedupe.restore(blob, now_s=now_s)
                else:
                    yield dedupe.restore(blob, now_s=now_s)
        case _:
            raise AssertionError(f"unknown step {step}")


@pytest.mark.parametrize("case", [pytest.param(case, id=f"{case['rule']}-{case['name']}") for case in TABLE["cases"]])
def test_rule(case: dict[str, Any]) -> None:
    dedupe = Deduplicator(**case["settings"])
    saved = b""
    for step in case["steps"]:
        before = dedupe.snapshot()
        if "len" in step:
            assert len(dedupe) == step["len"]
        elif "save" in step:
            saved = before
        elif "error" in step and "restore" not in step:
            with pytest.raises(ERRORS_BY_KIND[step["error"]]):
                list(run_step(dedupe, step, saved))
        else:
            for got in run_step(dedupe, step, saved):
                assert got == step.get("out")
        if "error" in step:
            assert dedupe.snapshot() == before, "an error changed the state"


def test_every_rule_is_tested_or_has_a_reason_not_to_be() -> None:
    tested = {case["rule"] for case in TABLE["cases"]}
    excused = {entry["rule"]: entry["reason"] for entry in TABLE["not_applicable"]}
    assert len(excused) == len(TABLE["not_applicable"])
    assert all(excused.values())
    assert not tested & excused.keys()
    assert tested | excused.keys() == {f"S{number}" for number in range(1, 35)}
