"""The checkpoint coordinator and recovery plans through Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from onceflow._native import CoordinatorEffect, RecoveryPlan, recovery_plan
from onceflow.embed import CheckpointCoordinator
from onceflow.exceptions import CheckpointStateError, ConfigurationError, UnknownNameError


def short(effects: list[CoordinatorEffect]) -> list[tuple[object, ...]]:
    return [(effect.kind, effect.checkpoint_id, *([effect.sink] if effect.sink else [])) for effect in effects]


def position(coordinator: CheckpointCoordinator) -> tuple[str, int | None, int | None]:
    return coordinator.state, coordinator.checkpoint_id, coordinator.last_completed


def until_decision(coordinator: CheckpointCoordinator, checkpoint_id: int) -> None:
    coordinator.trigger(checkpoint_id, now_s=0.0)
    coordinator.acknowledge("map", checkpoint_id, now_s=1.0)
    effects = coordinator.prepared("files", checkpoint_id)
    assert short(effects) == [("decide", checkpoint_id)]


def test_from_trigger_to_complete() -> None:
    coordinator = CheckpointCoordinator(["source", "map"], ["files", "log"])
    assert position(coordinator) == ("AwaitingTrigger", None, None)
    assert short(coordinator.trigger(1, now_s=0.0)) == [("inject_barrier", 1)]
    assert position(coordinator) == ("AwaitingAcknowledgements", 1, None)
    assert coordinator.acknowledge("map", 1, now_s=1.0) == []
    assert short(coordinator.task_finished("source", now_s=2.0)) == [("prepare_sinks", 1)]
    assert position(coordinator) == ("AwaitingPrepares", 1, None)
    assert coordinator.prepared("log", 1) == []
    assert short(coordinator.prepared("files", 1)) == [("decide", 1)]
    assert position(coordinator) == ("AwaitingDecision", 1, None)
    commits = [("commit_sink", 1, "files"), ("commit_sink", 1, "log")]
    assert short(coordinator.decided(1)) == commits
    assert position(coordinator) == ("AwaitingSinkCommits", 1, None)
    assert coordinator.committed("log", 1) == []
    assert short(coordinator.committed("files", 1)) == [("complete", 1)]
    assert position(coordinator) == ("AwaitingTrigger", None, 1)


ABORTS: dict[str, Callable[[CheckpointCoordinator], list[CoordinatorEffect]]] = {
    "decline": lambda coordinator: coordinator.decline("map", 1, "disk full"),
    "prepare_failed": lambda coordinator: coordinator.prepare_failed("files", 1, "disk full"),
    "tick": lambda coordinator: coordinator.tick(600.0),
    "late_acknowledge": lambda coordinator: coordinator.acknowledge("map", 1, now_s=600.0),
}


@pytest.mark.parametrize("how", ABORTS)
def test_before_the_decision_a_failure_aborts(how: str) -> None:
    coordinator = CheckpointCoordinator(["map"], ["files"])
    coordinator.trigger(1, now_s=0.0)
    assert coordinator.tick(599.0) == []
    [effect] = ABORTS[how](coordinator)
    assert (effect.kind, coordinator.state) == ("abort", "AwaitingTrigger")
    assert effect.reason and ("disk full" in effect.reason or "600 s" in effect.reason)
    assert coordinator.acknowledge("map", 1, now_s=601.0) == [], "late: ignored"
    assert short(coordinator.trigger(2, now_s=700.0)) == [("inject_barrier", 2)]


def test_a_decision_that_failed_for_sure_aborts() -> None:
    coordinator = CheckpointCoordinator(["map"], ["files"])
    until_decision(coordinator, 1)
    assert short(coordinator.decision_failed(1, "map full", indefinite=False)) == [("abort", 1)]
    until_decision(coordinator, 2)


def test_a_decision_that_may_be_durable_stops_the_job() -> None:
    coordinator = CheckpointCoordinator(["map"], ["files"])
    until_decision(coordinator, 1)
    [effect] = coordinator.decision_failed(1, "EIO")
    assert (effect.kind, coordinator.state) == ("fail", "AwaitingRecovery")
    assert repr(effect) == ("<CoordinatorEffect fail 1: the decision may or may not be durable: EIO>")


def test_after_the_decision_nothing_aborts() -> None:
    coordinator = CheckpointCoordinator(["map"], ["files"])
    until_decision(coordinator, 1)
    assert coordinator.tick(1e9) == []
    [commit] = coordinator.decided(1)
    assert repr(commit) == '<CoordinatorEffect commit_sink 1 in "files">'
    assert coordinator.tick(2e9) == []
    assert short(coordinator.commit_failed("files", 1, "no route")) == [("fail", 1)]
    with pytest.raises(CheckpointStateError, match="recover"):
        coordinator.trigger(2, now_s=0.0)


def test_what_no_correct_peer_sends_is_refused() -> None:
    coordinator = CheckpointCoordinator(["map"], ["files"])
    with pytest.raises(CheckpointStateError, match="never triggered"):
        coordinator.acknowledge("map", 1, now_s=0.0)
    coordinator.trigger(1, now_s=0.0)
    with pytest.raises(CheckpointStateError):
        coordinator.trigger(2, now_s=0.0)
    with pytest.raises(UnknownNameError, match="map"):
        coordinator.acknowledge("reduce", 1, now_s=0.0)
    with pytest.raises(UnknownNameError, match="files"):
        coordinator.prepared("log", 1)
    with pytest.raises(CheckpointStateError):
        coordinator.decided(1)
    with pytest.raises(ConfigurationError):
        CheckpointCoordinator([], [])
    with pytest.raises(ConfigurationError):
        CheckpointCoordinator(["map", "map"], [])
    with pytest.raises(ConfigurationError):
        CheckpointCoordinator(["map"], [], timeout_s=0.0)


def plan(**facts: Any) -> RecoveryPlan:
    defaults: dict[str, Any] = {
        "restored": 5,
        "decided_after": [],
        "applied": {"files": 5},
        "replayable_to_position": True,
    }
    return recovery_plan(**(defaults | facts))


@pytest.mark.parametrize(
    ("facts", "kind", "roll_forward", "abort", "until"),
    [
        ({}, "resume", [], [], None),
        ({"restored": None, "applied": {"files": 0}}, "resume", [], [], None),
        ({"applied": {"files": 5, "log": 4}}, "resume", [5], [], None),
        ({"applied": {"files": None}}, "resume", [5], [], None),
        ({"decided_after": [6]}, "resume", [], [6], None),
        ({"decided_after": [6], "replayable_to_position": False}, "resume", [], [6], None),
        ({"unreadable": [6]}, "resume", [], [6], None),
        ({"decided_after": [6], "applied": {"files": 6}}, "replay_suppressed", [], [], 6),
        ({"decided_after": [6], "applied": {"a": 6, "b": 5}}, "replay_suppressed", [6], [], 6),
        ({"decided_after": [6], "applied": {"a": None}}, "replay_suppressed", [5, 6], [], 6),
        (
            {"decided_after": [6], "unreadable": [7], "applied": {"a": 6}},
            "replay_suppressed",
            [],
            [7],
            6,
        ),
        ({"unreadable": [6], "applied": {"a": 6}}, "stop", [], [], None),
        ({"applied": {"a": 9}}, "stop", [], [], None),
    ],
)
def test_recovery_plan(
    facts: dict[str, Any],
    kind: str,
    roll_forward: list[int],
    abort: list[int],
    until: int | None,
) -> None:
    result = plan(**facts)
    assert (result.kind, result.until) == (kind, until)
    assert (result.roll_forward, result.abort) == (roll_forward, abort)
    assert (result.reason is not None) == (kind == "stop")
    assert kind in repr(result)


def test_recovery_without_replay_stops_and_says_why() -> None:
    result = plan(decided_after=[6], applied={"files": 6}, replayable_to_position=False)
    assert result.kind == "stop"
    assert result.reason is not None
    assert 'sink "files" has applied checkpoint 6' in result.reason


def test_facts_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="newer than the restored checkpoint 5"):
        plan(decided_after=[4])
