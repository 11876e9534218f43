"""The barrier rules B1 to B26 through Python: the same table as the Rust core's tests."""

from __future__ import annotations

import json
import random
import runpy
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import Any

import pytest

from onceflow._native import AlignerAction
from onceflow.embed import BarrierAligner
from onceflow.exceptions import ERRORS_BY_KIND, CapacityExceededError, ConfigurationError

TABLE = json.loads(Path(__file__).with_name("barrier_rules.json").read_text())
EXAMPLE = Path(__file__).parents[2] / "examples" / "embed_aligner.py"
RUNS = [(case, mode) for case in TABLE["cases"] for mode in case["modes"]]


def call(aligner: BarrierAligner, event: list[Any]) -> list[AlignerAction]:
    match event:
        case ["item", channel, item, *size]:
            return aligner.receive(channel, item, *size)
        case ["barrier", channel, checkpoint_id, *times]:
            return aligner.barrier(channel, checkpoint_id, **(times[0] if times else {}))
        case ["cancel", channel, checkpoint_id, *times]:
            return aligner.cancel(channel, checkpoint_id, **(times[0] if times else {}))
        case ["end", channel, *times]:
            return aligner.end(channel, **(times[0] if times else {}))
    raise AssertionError(f"unknown event {event}")


def plain(action: AlignerAction, expected: list[Any]) -> list[Any]:
    """The action in the table's form; of a trigger, the measures that the table asks for."""
    match action:
        case AlignerAction.Deliver(channel, item):
            return ["deliver", channel, item]
        case AlignerAction.Trigger():
            measures = expected[2:] and [{name: getattr(action, name) for name in expected[2]}]
            return ["trigger", action.checkpoint_id, *measures]
        case AlignerAction.Abort(checkpoint_id, reason):
            return ["abort", checkpoint_id, reason]
        case _:
            return ["end"]


def run_step(aligner: BarrierAligner, step: dict[str, Any], channels: int) -> None:
    if "pass" in step:
        event, expected = ["item", *step["pass"]], [["deliver", *step["pass"][:2]]]
    elif "hold" in step:
        event, expected = ["item", *step["hold"]], []
    else:
        event, expected = step["in"], step.get("out", [])
    if "error" in step:
        with pytest.raises(ERRORS_BY_KIND[step["error"]]):
            call(aligner, event)
    else:
        actions = call(aligner, event)
        assert len(actions) == len(expected), actions
        got = [plain(action, want) for action, want in zip(actions, expected, strict=True)]
        assert got == expected
    if "blocked" in step:
        assert [on for on in range(channels) if aligner.is_blocked(on)] == step["blocked"]
    if "pending" in step:
        assert aligner.pending_checkpoint == step["pending"]
    if "buffered_bytes" in step:
        assert aligner.buffered_bytes == step["buffered_bytes"]


@pytest.mark.parametrize(
    ("case", "mode"),
    [pytest.param(case, mode, id=f"{case['rule']}-{case['name']}-{mode}") for case, mode in RUNS],
)
def test_rule(case: dict[str, Any], mode: str) -> None:
    settings = {key: case[key] for key in ("max_buffered_bytes", "finished_channels") if key in case}
    aligner = BarrierAligner(case["channels"], mode=mode, **settings)
    if repeat := case.get("repeat_barriers"):
        for checkpoint_id in range(repeat["first_id"], repeat["last_id"] + 1):
            assert aligner.barrier(repeat["channel"], checkpoint_id) == []
    for index, step in enumerate(case["steps"]):
        try:
            run_step(aligner, step, case["channels"])
        except AssertionError as error:
            error.add_note(f"in step {index}: {step}")
            raise


def test_every_rule_is_tested_or_excused() -> None:
    listed = [{entry["rule"] for entry in TABLE[key]} for key in ("cases", "not_applicable", "tested_elsewhere")]
    assert sum(map(len, listed)) == 26
    assert set.union(*listed) == {f"B{number}" for number in range(1, 27)}


@pytest.mark.parametrize("mode", ["aligned", "at_least_once"])
@pytest.mark.parametrize("max_buffered_bytes", [200, 1_000, 1 << 20])
@pytest.mark.parametrize("seed", range(10))
def test_b26_random_soak(mode: str, max_buffered_bytes: int, seed: int) -> None:
    """Nothing lost, order kept, each cut exact, nothing blocked for ever, bytes bounded."""
    rng = random.Random(seed)
    channels, checkpoints = rng.randint(1, 5), 30
    queues: list[deque[tuple[str, int]]] = []
    cuts: list[dict[int, int]] = []
    for _ in range(channels):
        queue: deque[tuple[str, int]] = deque()
        cut, items = {}, 0
        for checkpoint_id in range(1, checkpoints + 1):
            for _ in range(rng.randrange(8)):
                queue.append(("item", items))
                items += 1
            if rng.random() < 0.05:
                queue.append(("cancel", checkpoint_id))
            elif rng.random() < 0.95:
                queue.append(("barrier", checkpoint_id))
                cut[checkpoint_id] = items
        queue.append(("end", items))
        queues.append(queue)
        cuts.append(cut)
    sizes = [queue[-1][1] for queue in queues]
    aligner = BarrierAligner(channels, mode=mode, max_buffered_bytes=max_buffered_bytes)
    delivered = [0] * channels
    notices: list[int | None] = []
    ends = 0
    now_s = 0.0
    while any(queues):
        now_s += 1.0
        for channel in rng.sample([on for on in range(channels) if queues[on]], k=sum(map(bool, queues))):
            kind, value = queues[channel][0]
            try:
                if kind == "item":
                    actions = aligner.receive(channel, (channel, value), 8)
                elif kind == "barrier":
                    actions = aligner.barrier(channel, value, now_s=now_s)
                elif kind == "cancel":
                    actions = aligner.cancel(channel, value, now_s=now_s)
                else:
                    actions = aligner.end(channel, now_s=now_s)
            except CapacityExceededError:
                assert aligner.is_blocked(channel)
                continue
            queues[channel].popleft()
            break
        else:
            pytest.fail("every channel refuses: nothing can go on")
        assert aligner.buffered_bytes <= max_buffered_bytes
        for action in actions:
            match action:
                case AlignerAction.Deliver(channel, (source, number)):
                    assert (channel, delivered[source]) == (source, number)
                    delivered[source] += 1
                case AlignerAction.Trigger(checkpoint_id):
                    notices.append(checkpoint_id)
                    for on, cut in enumerate(cuts):
                        position = cut.get(checkpoint_id)
                        if position is None:
                            assert not queues[on], "without a barrier it took part by its end"
                        elif mode == "aligned":
                            assert delivered[on] == position
                        else:
                            assert delivered[on] >= position
                case AlignerAction.Abort(checkpoint_id):
                    notices.append(checkpoint_id)
                case AlignerAction.End():
                    ends += 1
    assert delivered == sizes
    assert ends == 1
    assert len(notices) == len(set(notices))
    assert notices, "the soak means nothing without a checkpoint"
    assert aligner.buffered_bytes == 0
    assert not any(aligner.is_blocked(channel) for channel in range(channels))


def test_items_are_handed_over_not_copied() -> None:
    aligner = BarrierAligner(2)
    held, item = object(), object()
    references = sys.getrefcount(held)
    [action] = aligner.receive(0, item)
    assert isinstance(action, AlignerAction.Deliver)
    assert action.item is item
    aligner.barrier(0, 1)
    assert aligner.receive(0, held) == []
    assert sys.getrefcount(held) == references + 1
    trigger, released = aligner.barrier(1, 1)
    assert isinstance(trigger, AlignerAction.Trigger)
    assert isinstance(released, AlignerAction.Deliver)
    assert released.item is held
    del trigger, released
    assert sys.getrefcount(held) == references


def test_a_refused_item_leaves_nothing_behind() -> None:
    aligner = BarrierAligner(2, max_buffered_bytes=100)
    aligner.barrier(0, 1)
    item = object()
    references = sys.getrefcount(item)
    with pytest.raises(CapacityExceededError, match="max_buffered_bytes = 100"):
        aligner.receive(0, item, 37)
    assert sys.getrefcount(item) == references


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"channels": 0}, "1 to 1048576 channels"),
        ({"channels": 1, "mode": "unaligned"}, "mode must be"),
        ({"channels": 1, "finished_channels": "ignore"}, "finished_channels must be"),
    ],
)
def test_settings_that_cannot_be(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        BarrierAligner(**arguments)


def test_calls_that_cannot_be() -> None:
    aligner = BarrierAligner(2)
    with pytest.raises(ConfigurationError, match="channels 0 to 1"):
        aligner.receive(2, "a")
    with pytest.raises(ConfigurationError, match="channels 0 to 1"):
        aligner.is_blocked(2)
    with pytest.raises(ConfigurationError, match="finite"):
        aligner.barrier(0, 1, now_s=float("nan"))
    with pytest.raises(ConfigurationError, match="checkpoint_id is -1"):
        aligner.barrier(0, -1)
    aligner.end(0)
    with pytest.raises(ConfigurationError, match="has ended"):
        aligner.end(0)


def test_actions_say_what_they_are() -> None:
    aligner = BarrierAligner(1)
    assert repr(aligner.receive(0, "a")) == "[AlignerAction.Deliver(channel=0, item='a')]"
    assert repr(aligner.barrier(0, 1)) == "[AlignerAction.Trigger(checkpoint_id=1)]"
    assert repr(aligner.cancel(0, 2)) == '[AlignerAction.Abort(checkpoint_id=2, reason="cancelled")]'
    [end] = aligner.end(0)
    assert repr(end) == "AlignerAction.End()"
    assert not hasattr(end, "channel"), "an action has its own fields only"


def test_example_embed_aligner() -> None:
    result = subprocess.run([sys.executable, EXAMPLE], check=True, capture_output=True, text=True, timeout=60)
    numbers = runpy.run_path(str(EXAMPLE))["numbers"]
    first = sum(sum(numbers(channel, 1)) for channel in range(4))
    lines = result.stdout.splitlines()
    assert lines[0] == f"checkpoint 1: sum {first}"
    assert len(lines) == 5
