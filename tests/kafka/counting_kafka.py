"""A small job for lives that are killed, stopped and woken: reads CSV, counts by user, writes to topics of Kafka."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import topics

import onceflow as of
from onceflow.connectors.files import CsvSource
from onceflow.connectors.kafka import KafkaSink
from onceflow.exceptions import FinishedJobWarning, MissingOutputWarning, RepeatedOutputWarning
from onceflow.runtime.run import run as run_flow

__all__ = ["ROWS", "Job"]

ROWS = 120
_BATCH = 20
_USERS = 7


@dataclass(frozen=True)
class Job:
    """A job with a name, a state directory and topics of its own.

    Attributes:
        bootstrap: Of the broker.
        root: Its state and its input.
        name: Of the job, and of its first topic.
        options: Of its sinks.
        topics: How many topics it writes to, one a sink.
        rows: Of its input.
    """

    bootstrap: str
    root: Path
    name: str
    options: dict[str, Any]
    topics: int = 1
    rows: int = ROWS

    @classmethod
    def make(cls, bootstrap: str, root: Path, *, topics_: int = 1, rows: int = ROWS, **options: Any) -> Job:
        root.mkdir(parents=True, exist_ok=True)
        lines = "".join(f"{number},u{number * 7919 % _USERS}\n" for number in range(rows))
        (root / "in.csv").write_text(f"id,user\n{lines}")
        return cls(bootstrap, root, topics.name("counting"), options, topics_, rows)

    def topic(self, number: int = 0) -> str:
        return f"{self.name}-out-{number}"

    def run(
        self,
        *,
        take_over: bool = False,
        resume_from: int | str = "newest",
        pace_s: float = 0.002,
        on_batch: Callable[[], None] | None = None,
        tells: bool = False,
        **options: Any,
    ) -> of.JobResult:
        """One life of it, in this process; with ``tells`` one that says what is there twice, or missing."""

        def slowly(batch):
            time.sleep(pace_s)
            if on_batch is not None and len(batch):
                on_batch()
            return batch

        flow = of.Dataflow(self.name)
        counted = (
            flow.source("rows", CsvSource(self.root / "in.csv"))
            .map_batch(slowly)
            .key_by("user")
            .stateful_map(
                "counts",
                lambda nth, row: ((nth or 0) + 1, {"user": row["user"], "id": row["id"], "nth": (nth or 0) + 1}),
            )
        )
        given = {"key": "user", "partitions": 2, "timeout_s": 60, **self.options, **options}
        for number in range(self.topics):
            counted.sink(f"out-{number}", KafkaSink(self.bootstrap, **{"topic": self.topic(number), **given}))
        with warnings.catch_warnings():
            # Many a life finds that the job was at its end.
            for category in (FinishedJobWarning, *(() if tells else (RepeatedOutputWarning, MissingOutputWarning))):
                warnings.simplefilter("ignore", category)
            return run_flow(
                flow,
                self.root / "state",
                checkpoint_interval_s=1e-6,
                batch_size=_BATCH,
                take_over=take_over,
                resume_from=resume_from,
            )

    def shown(self, number: int = 0) -> list[tuple[str, int, int]]:
        """What a reader of committed records finds: user, id and number in the order of each partition."""
        found = [json.loads(message.value()) for message in topics.read(self.bootstrap, self.topic(number))]
        return [(record["user"], record["id"], record["nth"]) for record in found]

    def check(self) -> None:
        """Every topic has every record once, and those of a user in order."""
        expected = []
        counts: dict[str, int] = {}
        for number in range(self.rows):
            user = f"u{number * 7919 % _USERS}"
            counts[user] = counts.get(user, 0) + 1
            expected.append((user, number, counts[user]))
        for number in range(self.topics):
            # A user's records lie in one partition.
            shown = self.shown(number)
            assert sorted(shown, key=lambda one: one[1]) == expected
            by_user: dict[str, list[int]] = {}
            for user, _, nth in shown:
                by_user.setdefault(user, []).append(nth)
            assert all(nths == sorted(nths) for nths in by_user.values())
