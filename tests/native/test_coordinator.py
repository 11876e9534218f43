"""The checkpoint coordinator and recovery plans through Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from onceflow._native import RecoveryPlan, recovery_plan
from onceflow.embed import CheckpointCoordinator
from onceflow.embed import CoordinatorEffect as Effect
from onceflow.exceptions import CheckpointStateError, ConfigurationError, UnknownNameError


def position(coordinator: CheckpointCoordinator) -> tuple[str, int | None, int | None]:
    return coordinator.state, coordinator.checkpoint_id, coordinator.last_completed


def until_decision(coordinator: CheckpointCoordinator, checkpoint_id: int) -> None:
    coordinator.trigger(checkpoint_id, now_s=0.0)
    coordinator.acknowledge("map", checkpoint_id, now_s=1.0)
    effects = coordinator.prepared("files", checkpoint_id)
    assert effects == [Effect.Decide(checkpoint_id)]


def test_from_trigger_to_complete() -> None:
    coordinator = CheckpointCoordinator(["source", "map"], ["files", "log"])
    assert position(coordinator) == ("AwaitingTrigger", None, None)
    assert coordinator.trigger(1, now_s=0.0) == [Effect.InjectBarriers(1)]
    assert position(coordinator) == ("AwaitingAcknowledgements", 1, None)
    assert coordinator.acknowledge("map", 1, now_s=1.0) == []
    assert coordinator.task_finished("source", now_s=2.0) == [Effect.PrepareSinks(1)]
    assert position(coordinator) == ("AwaitingPrepares", 1, None)
    assert coordinator.prepared("log", 1) == []
    assert coordinator.prepared("files", 1) == [Effect.Decide(1)]
    assert position(coordinator) == ("AwaitingDecision", 1, None)
    assert coordinator.decided(1) == [Effect.CommitSink(1, "files"), Effect.CommitSink(1, "log")]
    assert position(coordinator) == ("AwaitingSinkCommits", 1, None)
    assert coordinator.committed("log", 1) == []
    assert coordinator.committed("files", 1) == [Effect.Complete(1)]
    assert position(coordinator) == ("AwaitingTrigger", None, 1)


ABORTS: dict[str, Callable[[CheckpointCoordinator], Sequence[Effect]]] = {
    "decline": lambda coordinator: coordinator.decline("map", 1, "disk full"),
    "task_failed": lambda coordinator: coordinator.task_failed("map", "disk full"),
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
    assert coordinator.state == "AwaitingTrigger"
    assert isinstance(effect, Effect.Abort)
    assert effect.checkpoint_id == 1
    assert "disk full" in effect.reason or "600 s" in effect.reason
    assert coordinator.acknowledge("map", 1, now_s=601.0) == [], "late: ignored"
    if how == "task_failed":
        with pytest.raises(CheckpointStateError, match="has failed"):
            coordinator.trigger(2, now_s=700.0)
    else:
        assert coordinator.trigger(2, now_s=700.0) == [Effect.InjectBarriers(2)]


def test_a_decision_that_failed_for_sure_aborts() -> None:
    coordinator = CheckpointCoordinator(["map"], ["files"])
    until_decision(coordinator, 1)
    reason = "not decided: map full"
    assert coordinator.decision_failed(1, "map full", indefinite=False) == [Effect.Abort(1, reason)]
    until_decision(coordinator, 2)


def test_a_decision_that_may_be_durable_stops_the_job() -> None:
    coordinator = CheckpointCoordinator(["map"], ["files"])
    until_decision(coordinator, 1)
    [effect] = coordinator.decision_failed(1, "EIO")
    assert coordinator.state == "AwaitingRecovery"
    assert effect == Effect.Fail(1, "the decision may or may not be durable: EIO")
    assert eval(repr(effect), {"CoordinatorEffect": Effect}) == effect


def test_after_the_decision_nothing_aborts() -> None:
    coordinator = CheckpointCoordinator(["map"], ["files"])
    until_decision(coordinator, 1)
    assert coordinator.tick(1e9) == []
    [commit] = coordinator.decided(1)
    assert repr(commit) == 'CoordinatorEffect.CommitSink(checkpoint_id=1, sink="files")'
    assert coordinator.tick(2e9) == []
    [failed] = coordinator.commit_failed("files", 1, "no route")
    assert isinstance(failed, Effect.Fail)
    assert "no route" in failed.reason
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


Resume, Replay = RecoveryPlan.Resume, RecoveryPlan.ReplaySuppressed


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, Resume([], [])),
        ({"restored": None, "applied": {"files": 0}}, Resume([], [])),
        ({"applied": {"files": 5, "log": 4}}, Resume([5], [])),
        ({"applied": {"files": None}}, Resume([5], [])),
        ({"decided_after": [6]}, Resume([], [6])),
        ({"decided_after": [6], "replayable_to_position": False}, Resume([], [6])),
        ({"unreadable": [6]}, Resume([], [6])),
        ({"decided_after": [6], "applied": {"files": 6}}, Replay([], [], 6)),
        ({"decided_after": [6], "applied": {"a": 6, "b": 5}}, Replay([6], [], 6)),
        ({"decided_after": [6], "applied": {"a": None}}, Replay([5, 6], [], 6)),
        ({"decided_after": [6], "unreadable": [7], "applied": {"a": 6}}, Replay([], [7], 6)),
    ],
    ids=str,
)
def test_recovery_plan(facts: dict[str, Any], expected: RecoveryPlan) -> None:
    result = plan(**facts)
    assert result == expected
    assert eval(repr(result), {"RecoveryPlan": RecoveryPlan}) == expected


@pytest.mark.parametrize("facts", [{"unreadable": [6], "applied": {"a": 6}}, {"applied": {"a": 9}}], ids=str)
def test_no_plan_stops_and_says_why(facts: dict[str, Any]) -> None:
    result = plan(**facts)
    assert isinstance(result, RecoveryPlan.Stop)
    assert 'sink "a" has applied checkpoint' in result.reason


def test_recovery_without_replay_stops_and_says_why() -> None:
    result = plan(decided_after=[6], applied={"files": 6}, replayable_to_position=False)
    assert isinstance(result, RecoveryPlan.Stop)
    assert 'sink "files" has applied checkpoint 6' in result.reason


def test_facts_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="newer than the restored checkpoint 5"):
        plan(decided_after=[4])
