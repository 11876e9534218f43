"""Dataflows that several workers run as one does: by kind, over files of a few partitions."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Set
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

import onceflow as of
from onceflow.connectors.files import CsvSource, JsonLinesSink, JsonLinesSource
from onceflow.sources import SourceContext
from onceflow.state import Processor, ValueState
from onceflow.windows import Tumbling


def write_inputs(root: Path, *, partitions: int = 3, records: int = 600) -> None:
    """The same records for all kinds, as JSON Lines and as CSV."""
    root.mkdir(parents=True, exist_ok=True)
    for part in range(partitions):
        rows = [
            # The time of every twentieth lies far behind.
            {"part": part, "id": n, "user": f"u{n * 7 % 53}", "value": n % 10, "at": (n - 300 * (n % 20 == 19)) * 10**6}
            for n in range(records)
        ]
        (root / f"in-{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        lines = ["part,id,user,value,at", *(",".join(map(str, row.values())) for row in rows)]
        (root / f"in-{part}.csv").write_text("\n".join(lines) + "\n")


class Arriving(JsonLinesSource):
    """Files that come while a job runs, until there is one that is called done."""

    def __init__(self, root: Path, **settings: Any) -> None:
        super().__init__(str(root / "in-*.jsonl"), **settings)
        self._root = root

    def new_partitions(self, known: Set[str], context: SourceContext) -> list[str] | None:
        is_done = (self._root / "done").exists()
        come = sorted(set(map(str, self._root.glob("in-*.jsonl"))) - known)
        return come if come or not is_done else None


class EveryThird(Processor):
    """Hands out every third record of a key."""

    seen = ValueState(default=0)

    def process(self, record):
        self.seen.set(self.seen.get() + 1)
        if self.seen.get() % 3 == 0:
            yield {"user": self.key, "third": self.seen.get()}


def _count(state: Any, record: Any) -> Any:
    number = (state or 0) + 1
    return number, (record["user"], number)


def build(root: Path, kind: str) -> of.Dataflow:
    """The dataflow of a kind."""
    flow = of.Dataflow(f"workers-{kind}")
    _BUILDERS[kind](flow, root).sink("sink", JsonLinesSink(root / "out"))
    return flow


def _rows(flow: of.Dataflow, root: Path, name: str = "in") -> Any:
    return flow.source(name, JsonLinesSource(str(root / "in-*.jsonl"), event_time="at"))


def _doubled(flow: of.Dataflow, root: Path) -> Any:
    return _rows(flow, root).map(lambda row: {**row, "double": row["value"] * 2}).key_by("user")


def _totals(emit: Any) -> Any:
    return lambda flow, root: _doubled(flow, root).aggregate("out", emit=emit, n=of.count(), total=of.sum("double"))


def _windows(keyed: Any) -> Any:
    return keyed.window("out", Tumbling(seconds=60)).aggregate(n=of.count(), total=of.sum("double"))


def _chain(flow: of.Dataflow, root: Path) -> Any:
    pairs = _doubled(flow, root).stateful_map("first", _count)
    return pairs.key_by(lambda pair: pair[1] % 5).aggregate("out", emit="final", n=of.count())


def _two_sources(flow: of.Dataflow, root: Path) -> Any:
    both = _rows(flow, root).union(_rows(flow, root, "other"))
    return both.key_by("user").window("out", Tumbling(seconds=60)).aggregate(n=of.count())


def _columns(flow: of.Dataflow, root: Path) -> Any:
    stream = flow.source("in", CsvSource(str(root / "in-*.csv"), as_columns=True, event_time="at"))
    doubled = stream.map_batch(lambda some: some.with_columns(double=np.asarray(some.numpy("value")) * 2))
    return _windows(doubled.key_by("user"))


def _distinct(flow: of.Dataflow, root: Path) -> Any:
    return _rows(flow, root).drop_duplicates("out", ["user", "value"], horizon=timedelta(days=400))


_BUILDERS: dict[str, Any] = {
    "final": _totals("final"),
    "changes": _totals("changes"),
    "windows": lambda flow, root: _windows(_doubled(flow, root)),
    "stateful": lambda flow, root: _doubled(flow, root).stateful_map("out", _count),
    "distinct": _distinct,
    "process": lambda flow, root: _doubled(flow, root).process("out", EveryThird),
    "chain": _chain,
    "two_sources": _two_sources,
    "columns": _columns,
}

KINDS = tuple(_BUILDERS)


def results(root: Path, kind: str) -> Counter[str]:
    """What was written, whatever the order; of changes the last one of each key."""
    rows: Iterable[Any] = (
        json.loads(line) for path in sorted((root / "out").glob("*.jsonl")) for line in path.read_text().splitlines()
    )
    if kind == "changes":
        newest: dict[str, Any] = {}
        for row in rows:
            if row["n"] > newest.get(row["user"], {"n": 0})["n"]:
                newest[row["user"]] = row
        rows = newest.values()
    elif kind == "distinct":
        # Which of equal ones comes first depends on who reads first.
        rows = ([row["user"], row["value"]] for row in rows)
    return Counter(json.dumps(row, sort_keys=True) for row in rows)
