"""What several workers tell of their work, put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import msgspec

from onceflow.events import PartsStats, Progress
from onceflow.exceptions import SinkError, TypeMismatchError
from onceflow.operators.keys import AgreedType, agree, same_kind
from onceflow.runtime.workers.messages import Progressed
from onceflow.types import Plain

__all__ = ["agreed_by_all", "check_learnt_alike", "cost_of_all", "progress_of_all", "summed"]

_SUMMED = ("delta_rows", "base_rows", "bytes_written")


def summed(before: Mapping[str, int], of_workers: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """Counts by name: those of earlier runs, and those of all workers."""
    names = dict.fromkeys([*before, *(name for counts in of_workers for name in counts)])
    return {name: before.get(name, 0) + sum(counts.get(name, 0) for counts in of_workers) for name in names}


def agreed_by_all(of_workers: Sequence[Mapping[str, Mapping[str, Plain]]]) -> dict[str, dict[str, Plain]]:
    """What all have agreed on, by step and name.

    Raises:
        TypeMismatchError: Two have seen different things first.
    """
    agreed: dict[str, dict[str, Plain]] = {}
    for rank, each in enumerate(of_workers):
        for step_id, kept in each.items():
            mine = agreed.setdefault(step_id, {})
            for name, value in kept.items():
                before = mine.setdefault(name, value)
                if name == "key" and same_kind(_key_type(before), _key_type(value)):
                    # Elements that have been None so far are of any type.
                    both = agree(_key_type(before), _key_type(value))
                    mine[name] = list(both) if isinstance(both, tuple) else both
                elif before != value:
                    raise TypeMismatchError(
                        f"step {step_id!r}: worker {rank} has taken {name} for {value!r}, and one before it for "
                        f"{before!r}: the records have values of both, so say which it is, such as with key_type= "
                        "or an aggregate's type="
                    )
    return agreed


def _key_type(kept: Any) -> AgreedType:
    return tuple(kept) if isinstance(kept, list) else kept


def check_learnt_alike(of_workers: Sequence[Mapping[str, bytes]]) -> None:
    """That sinks have learnt the same from their first records, such as columns.

    Raises:
        SinkError: They have not: what one of them wrote would not fit beside what another one did.
    """
    first: dict[str, tuple[int, Plain]] = {}
    for rank, each in enumerate(of_workers):
        for step_id, blob in each.items():
            told = msgspec.msgpack.decode(blob)
            learnt = told.get("learnt") if isinstance(told, dict) else None
            if learnt is None:
                continue
            other, known = first.setdefault(step_id, (rank, learnt))
            if _differ(known, learnt):
                raise SinkError(
                    f"sink {step_id!r} has learnt different things of the first records of workers {other} and {rank}: "
                    f"{_shown(known)} and {_shown(learnt)}. Say which it is to be, such as with columns= of a CsvSink "
                    "or types= of a ParquetSink, or hand out records that are alike",
                    step_id=step_id,
                )


def _differ(one: Plain, other: Plain) -> bool:
    """Whether two have learnt what does not go together: of dicts what both have learnt counts, and no bytes do, which
    are for the sink alone."""
    if isinstance(one, dict) and isinstance(other, dict):
        return any(_differ(one[name], other[name]) for name in one.keys() & other.keys())
    return one != other and not isinstance(one, bytes)


def _shown(learnt: Plain) -> str:
    """Without what is for the sink alone."""
    if not isinstance(learnt, dict):
        return repr(learnt)
    shown = {name: value for name, value in learnt.items() if not isinstance(value, bytes)}
    return ", ".join(f"{name}={value!r}" for name, value in shown.items())


def progress_of_all(counts: Mapping[str, int], late: Mapping[str, int], told: Sequence[Progressed]) -> Progress:
    """How far a job is.

    Args:
        counts, late: Of all workers.
        told: By each of them.
    """
    times = [each.event_time for each in told if each.event_time is not None]
    return Progress(
        counts["records_in"],
        counts["records_out"],
        late,
        rejected=counts["rejected"],
        skipped=counts["skipped"],
        raised=counts["raised"],
        busy=sum(each.busy for each in told) / len(told),
        backpressured=sum(each.backpressured for each in told) / len(told),
        event_time_s=min(times) / 1_000_000 if times else None,
        held_bytes=summed({}, [each.held_bytes for each in told]),
    )


def cost_of_all(parts: Sequence[PartsStats]) -> PartsStats:
    """What the parts of a checkpoint cost: rows and bytes of all, times of the slowest."""
    found: dict[str, Any] = {
        each.name: (sum if each.name in _SUMMED else max)(asdict(part)[each.name] for part in parts)
        for each in fields(PartsStats)
    }
    return PartsStats(**found)
