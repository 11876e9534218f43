"""The sequence rules S1 to S34 on the log through Python: the same table as the Rust core's tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from onceflow._native import Log
from onceflow.exceptions import ERRORS_BY_KIND

TABLE = json.loads(Path(__file__).with_name("log_rules.json").read_text())
PARTITIONS = 3


class Case:
    def __init__(self, path: Path, limits: dict[str, int]) -> None:
        self.path = path
        self.limits = limits
        self.log = self.open()
        self.log.create_topic("t", partitions=PARTITIONS)
        self.names: dict[str, tuple[int, int]] = {}

    def open(self) -> Log:
        return Log.open(self.path, map_size_bytes=64 << 20, **self.limits)

    def producer(self, name: str | list[Any]) -> tuple[int, int]:
        if isinstance(name, str):
            return self.names[name]
        producer_id, epoch = self.names[name[0]]
        return producer_id, epoch + name[1]

    def given(self, step: dict[str, Any], got: tuple[int, int]) -> None:
        """Checks and keeps an id and epoch that a call gave."""
        if "epoch" in step:
            assert got[1] == step["epoch"]
        if "same_as" in step:
            assert got == self.producer(step["same_as"])
        if "other_id_than" in step:
            assert got[0] != self.producer(step["other_id_than"])[0]
        if "as" in step:
            self.names[step["as"]] = got

    def run(self, step: dict[str, Any]) -> Any:
        now_ms = step.get("now_ms", 0)
        match step["do"]:
            case "init":
                expected = self.producer(step["expected"]) if "expected" in step else None
                timeout_ms = step.get("timeout_ms", 60_000)
                got = self.log.init_producer(step.get("tid"), now_ms=now_ms, timeout_ms=timeout_ms, expected=expected)
                self.given(step, got)
                return None
            case "append":
                parts = [("t", *part[:2], rows(part[2])) for part in step["parts"]]
                placed = self.log.append(parts, now_ms=now_ms, producer=self.producer(step["by"]))
                return [list(place) for place in placed]
            case "stage":
                self.log.stage(
                    step["tid"],
                    self.producer(step["by"]),
                    started_ms=step.get("started_ms", 0),
                    first_sequence=step["first"],
                    parts=in_transaction(step),
                    now_ms=now_ms,
                )
                return None
            case "end":
                offsets = [("t", *pair, "") for pair in step.get("offsets", [])]
                producer_id, epoch, placed = self.log.end_transaction(
                    step["tid"],
                    self.producer(step["by"]),
                    commit=step["commit"],
                    started_ms=step.get("started_ms", 0),
                    now_ms=now_ms,
                    first_sequence=step.get("first", 0),
                    parts=in_transaction(step),
                    group="g" if offsets else None,
                    offsets=offsets,
                )
                self.given(step, (producer_id, epoch))
                return [list(place[1:]) for place in placed]
            case "ends":
                return [self.log.partition("t", partition).end for partition in range(PARTITIONS)]
            case "committed":
                found = [self.log.committed("g", "t", partition) for partition in range(PARTITIONS)]
                return [one and one[0] for one in found]
            case "staged":
                return any(producer.started_ms is not None for producer in self.log.producers())
            case "maintain":
                done = self.log.maintain(now_ms=now_ms)
                return {name: getattr(done, name) for name in step["out"]}
            case "alter":
                topic = self.log.topic("t")
                self.log.alter_topic(
                    "t",
                    partitions=topic.partitions,
                    retention_ms=step["settings"]["retention_ms"],
                    retention_bytes=None,
                    cleanup_policy=topic.cleanup_policy,
                    delete_retention_ms=topic.delete_retention_ms,
                    max_record_bytes=topic.max_record_bytes,
                )
                return None
            case "reopen":
                self.log.close()
                self.log = self.open()
                return None
        raise AssertionError(f"unknown step {step}")


def rows(count: int) -> list[bytes]:
    return [str(row).encode() for row in range(count)]


def in_transaction(step: dict[str, Any]) -> list[tuple[str, int, int, list[bytes]]]:
    return [("t", partition, 0, rows(count)) for partition, count in step.get("parts", [])]


@pytest.mark.parametrize("case", [pytest.param(case, id=f"{case['rule']}-{case['name']}") for case in TABLE["cases"]])
def test_rule(case: dict[str, Any], tmp_path: Path) -> None:
    state = Case(tmp_path / "log", case.get("limits", {}))
    for step in case["steps"]:
        if "error" in step:
            with pytest.raises(ERRORS_BY_KIND[step["error"]]) as raised:
                state.run(step)
            assert type(raised.value).kind == step["error"]
        else:
            assert state.run(step) == step.get("out"), step
    state.log.close()


def test_every_rule_is_tested_or_has_a_reason_not_to_be() -> None:
    tested = {case["rule"] for case in TABLE["cases"]}
    excused = {entry["rule"]: entry["reason"] for entry in TABLE["not_applicable"]}
    assert len(excused) == len(TABLE["not_applicable"])
    assert all(excused.values())
    assert not tested & excused.keys()
    assert tested | excused.keys() == {f"S{number}" for number in range(1, 35)}
