"""What a dead job left in the embedded log: transactions of its ids, and markers of sinks that it has no more."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

from onceflow._native import Log, LogProducer
from onceflow.clock import Clock
from onceflow.connectors.log.owner import group_of
from onceflow.connectors.outbox.leftovers import dropped
from onceflow.connectors.outbox.marker import Standing
from onceflow.exceptions import StoreMissingError
from onceflow.leftovers import Leftover, LeftoverContext
from onceflow.log.log_time import LogTime

__all__ = ["left_in_log"]


def left_in_log(path: Path, context: LeftoverContext) -> Iterator[Leftover]:
    """Of one sink, and of sinks that neither the dataflow nor its checkpoints know."""
    try:
        log = Log.open(path, create=False, read_only=True)
    except StoreMissingError:
        return
    with log:
        yield from _transactions(log, path, context)
        yield from _markers(log, path, context)


def _transactions(log: Log, path: Path, context: LeftoverContext) -> Iterator[Leftover]:
    mine = group_of(context.job, context.sink)
    for producer in log.producers():
        name = producer.transactional_id
        if producer.started_ms is not None and (name == mine or name.startswith(f"{mine}/")):
            text = f"{producer.staged_bytes:,} bytes that were never committed: what was decided is in the job's state"
            abort = functools.partial(_abort, path, name, context.clock)
            yield Leftover("removable", f"open transaction {name!r} of {path}", text, abort)


def _markers(log: Log, path: Path, context: LeftoverContext) -> Iterator[Leftover]:
    for group in sorted(log.groups(), key=lambda each: each.group):
        prefix, _, rest = group.group.partition("/")
        job, _, sink = rest.partition("/")
        sink = sink.partition("/")[0]
        subject = f"marker {group.group!r} of {path}"
        if prefix != "onceflow" or job != context.job:
            continue
        states = {Standing.read(note).state for _, note, _ in group.offsets.values()} - {""}
        if sink == context.sink and states - {context.state_id}:
            text = (
                f"of a state directory with another identity ({', '.join(sorted(states))}): a run with this one is "
                "refused, since it would write that output again. Run the job with that one, or delete the topic"
            )
            yield Leftover("kept", subject, text)
        elif sink in context.dropped_sinks and not states - {context.state_id}:
            yield Leftover("kept", subject, dropped(sink))
        elif sink not in context.known_sinks and not states - {context.state_id}:
            if not context.complete:
                text = f"of sink {sink!r}, which a checkpoint that cannot be read may know"
                yield Leftover("kept", subject, text)
                continue
            text = f"of sink {sink!r}, which neither the dataflow nor one of its checkpoints has"
            yield Leftover("removable", subject, text, functools.partial(_forget, path, group.group))


def _abort(path: Path, transactional_id: str, clock: Clock) -> None:
    """Takes the id, which aborts what is open and fences its producer, as the next run does."""
    with Log.open(path, create=False) as log:
        now_ms = LogTime(log, clock).now_ms()
        producer = LogProducer(log, now_ms=now_ms, transactional_id=transactional_id)
        producer.init_transactions(now_ms=now_ms)
        producer.close()


def _forget(path: Path, group: str) -> None:
    with Log.open(path, create=False) as log:
        if any(known.group == group for known in log.groups()):
            log.delete_group(group)
