"""How fast is the barrier aligner, fed event by event from Python?

Four channels that run apart, a barrier every 200 items; next to an aligner in pure Python with the same semantics. Both
must give the same actions in the same order. An item may stand for a whole batch: this is the price of an event.
"""

from __future__ import annotations

import random
import time

import pytest

from harness.figures import Table
from harness.pure_python import PythonAligner
from harness.rounds import best_time, interleave
from onceflow.embed import AlignerAction, BarrierAligner

TABLE = Table(
    "aligner",
    "Barrier aligner: events one by one from Python",
    {"channels": "text", "onceflow": "rate", "pure Python": "rate", "faster by": "times"},
    "Events a second, best of interleaved rounds; both must give the same actions.",
)

ITEMS = 200


def traffic(channels: int, events: int) -> list[tuple[int, int | None, int]]:
    """``(channel, checkpoint id or None, item)``; each channel is in order, and they take random turns."""
    source = random.Random(1)
    sent = [0] * channels
    made: list[tuple[int, int | None, int]] = []
    for number in range(events):
        channel = source.randrange(channels)
        sent[channel] += 1
        barrier = sent[channel] // ITEMS if sent[channel] % ITEMS == 0 else None
        made.append((channel, barrier, number))
    return made


def fed(make, channels: int, events):
    """The list of actions after each event."""
    aligner = make(channels)
    receive, barrier = aligner.receive, aligner.barrier
    for channel, checkpoint, item in events:
        yield receive(channel, item) if checkpoint is None else barrier(channel, checkpoint)


def actions_of(make, channels: int, events) -> list[tuple]:
    """All actions in order, as the aligner in Python gives them."""
    actions = [action for some in fed(make, channels, events) for action in some]
    if make is PythonAligner:
        return actions
    return [
        ("deliver", action.channel, action.item)
        if isinstance(action, AlignerAction.Deliver)
        else (type(action).__name__.lower(), None, action.checkpoint_id)
        for action in actions
    ]


@pytest.mark.parametrize("channels", [2, 4, 16])
def test_events(channels, benchmark, record, scale):
    events = traffic(channels, 300_000 if scale.name == "full" else 30_000)
    assert actions_of(BarrierAligner, channels, events) == actions_of(PythonAligner, channels, events)

    def timed(make) -> float:
        start = time.perf_counter()
        # Actions are dropped at once, as by somebody who has carried them out.
        for _ in fed(make, channels, events):
            pass
        return time.perf_counter() - start

    contenders = {"ours": lambda: timed(BarrierAligner), "python": lambda: timed(PythonAligner)}
    seconds = interleave(benchmark, contenders, scale.rounds)
    ours_s, python_s = best_time(seconds["ours"]), best_time(seconds["python"])
    record(
        TABLE,
        {
            "channels": str(channels),
            "onceflow": len(events) / ours_s,
            "pure Python": len(events) / python_s,
            "faster by": python_s / ours_s,
        },
    )
