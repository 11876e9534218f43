"""A job whose steps agree on types, names of states and event times; its first half wrote ``data/former``.

To write it again with other code: ``PYTHONPATH=... python tests/operators/agreed_job.py DIRECTORY``.
"""

from __future__ import annotations

import sys
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from onceflow import Dataflow, count, run, sum
from onceflow.state import ListState, MapState, Processor, ValueState
from onceflow.testing import EOF, TestingSource, TransactionalTestingSink
from onceflow.windows import Tumbling

SECOND = timedelta(seconds=1)


class Visits(Processor):
    """One state of each kind."""

    total = ValueState(default=0)
    users = ListState()
    cents = MapState()

    def process(self, record):
        self.total.set(self.total.get() + record["cents"])
        self.users.append(record["user"])
        self.cents.put(record["user"], record["cents"])
        yield {"day": self.key, "total": self.total.get(), "users": self.users.get(), "cents": self.cents.items()}


def records(first: int, last: int) -> list[Any]:
    return [
        {"user": "ann" if n % 3 else "bob", "day": date(2024, 1, 1 + n % 2), "cents": n, "at": float(n)}
        for n in range(first, last)
    ]


def build(rows: list[Any], processor: type[Processor] = Visits) -> tuple[Dataflow, dict[str, TransactionalTestingSink]]:
    """The flow, and its sinks by name."""
    sinks = {name: TransactionalTestingSink() for name in ("visits", "windows", "totals", "late", "first")}
    flow = Dataflow("agreed")
    stream = flow.source("in", TestingSource(rows, batch_size=5))
    timed = stream.assign_timestamps("times", lambda record: record["at"], max_out_of_orderness=SECOND)
    by_day = timed.key_by(lambda record: record["day"])
    by_day.process("visits", processor).sink("visits-out", sinks["visits"])
    windows = timed.key_by("user").window("windows", Tumbling(10 * SECOND)).aggregate(n=count(), cents=sum("cents"))
    windows.sink("windows-out", sinks["windows"])
    flow.late("windows").sink("late-out", sinks["late"])
    totals = by_day.aggregate("totals", cents=sum("cents"), emit="changes")
    totals.sink("totals-out", sinks["totals"])
    timed.drop_duplicates("first", lambda record: record["day"], horizon=100 * SECOND).sink("first-out", sinks["first"])
    return flow, sinks


def halves() -> list[Any]:
    """A run ends in the middle. The second half begins with a record that is late."""
    return [*records(0, 25), EOF, *records(3, 4), *records(25, 50)]


if __name__ == "__main__":
    run(build(halves())[0], Path(sys.argv[1]))
