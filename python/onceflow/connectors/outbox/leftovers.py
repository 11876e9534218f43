"""Markers that jobs have left in a target: which of them nobody needs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping

from onceflow.connectors.outbox.marker import Standing
from onceflow.leftovers import Leftover, LeftoverContext

__all__ = ["dropped", "left_markers"]


def dropped(sink: str) -> str:
    """Why the marker of a sink is kept that only checkpoints have."""
    return (
        f"of sink {sink!r}, which the dataflow has no more: a run that goes back to a checkpoint that has it needs it"
    )


def left_markers(
    kept: Mapping[str, Mapping[str, str]], where: str, context: LeftoverContext, forget: Callable[[str], None]
) -> Iterator[Leftover]:
    """Of sinks of this job that it has no more, and of this sink with another state directory.

    Args:
        kept: Owner → key → text of the markers in the target.
        where: The target in words.
        context: Who looks.
        forget: Removes the markers of an owner.
    """
    for owner, texts in kept.items():
        job, _, sink = owner.partition("/")
        if job != context.job or not texts:
            continue
        states = {Standing.read(text).state for text in texts.values()} - {""}
        subject = f"{len(texts)} markers of {owner!r} in {where}"
        if states - {context.state_id}:
            if sink == context.sink:
                text = f"of another state directory ({', '.join(sorted(states))}): a run with this one is refused"
                yield Leftover("kept", subject, text)
        elif sink in context.dropped_sinks:
            yield Leftover("kept", subject, dropped(sink))
        elif sink in context.known_sinks:
            continue
        elif context.complete:
            text = f"of sink {sink!r}, which neither the dataflow nor one of its checkpoints has"
            yield Leftover("removable", subject, text, functools.partial(forget, owner))
        else:
            yield Leftover("kept", subject, f"of sink {sink!r}, which a checkpoint that cannot be read may know")
